"""Data sets from folders, .npz files and by name; and the stream of batches."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from raising import raises_error
from waiting import PATIENCE

import ddpm
from ddpm.config.codec import replace
from ddpm.config.model import ModelConfig
from ddpm.config.training import Config, DataConfig
from ddpm.data import datasets, decoded, image_folders, listing, npz_files, shapes, sources, splits
from ddpm.data.datasets import Dataset, Digest, Split, describe, open_dataset, resolve
from ddpm.data.stream import Stream
from ddpm.errors import Code
from ddpm.storage import image_files, images

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of images, each of one grey level of its own."""

    def make(*names: str, size: tuple[int, int] = (8, 8)) -> Path:
        for k, name in enumerate(names):
            path = tmp_path / "pictures" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, (10 * k, 10 * k, 10 * k)).save(path, "PNG")
        return tmp_path / "pictures"

    return make


def opened(data_dir: object, size: int = 8, channels: int = 3, **settings: Any) -> Dataset:
    progress = settings.pop("progress", None)
    model = ModelConfig(image_size=size, image_channels=channels, class_cond=settings.pop("class_cond", False))
    return open_dataset(DataConfig(data_dir=str(data_dir), **settings), model, progress)


def levels(dataset: Dataset) -> list[int]:
    return [int(pixels[0, 0, 0]) for pixels in dataset.images]


# --- folders


def test_a_folder_in_the_order_of_its_paths(folder: Callable[..., Path]) -> None:
    place = folder("b.png", "a.JPG", "deep/er/c.WebP", ".hidden.png", ".git/d.png", "notes.png.txt", "._a.jpg")
    dataset = opened(place)
    assert levels(dataset) == [10, 0, 20]
    assert dataset.images.shape == (3, 8, 8, 3)
    assert dataset.labels is None
    assert not dataset.images.flags.writeable
    assert "Only 3 images" in dataset.notices[0]


def test_classes_by_folder_come_before_names(folder: Callable[..., Path]) -> None:
    place = folder("all/dog/x_1.png", "all/cat/y_1.png", "all/cat/x_2.png")
    dataset = opened(place)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels is not None
    assert list(zip(levels(dataset), dataset.labels, strict=True)) == [(20, 0), (10, 0), (0, 1)]
    assert describe(str(place)).counts == (2, 1)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("dog_1.png", "cat_1.png", "dog_2.png"), ("cat", "dog")),
        (("sub/dog_1.png", "sub/cat_1.png", "sub/dog_2.png"), ("cat", "dog")),
        (("10_a.png", "9_a.png", "9_b.png"), ("10", "9")),  # sorted as text, as in improved-diffusion
        (("IMG_1.png", "IMG_2.png"), ()),
        (("1_a.png", "2_a.png", "3_a.png"), ()),  # each a class of its own: no classes
        (("dog_1.png", "cat_1.png", "dog_2.png", "other.png"), ()),
        (("_1.png", "a_2.png", "_3.png"), ()),
        (("dog/1.png", "cat/1.png", "1.png"), ()),
        (("dog/1.png", "dog/2.png"), ()),
    ],
)
def test_which_names_are_classes(folder: Callable[..., Path], names: tuple[str, ...], classes: tuple[str, ...]) -> None:
    place = folder(*names)
    assert describe(str(place)).class_names == classes
    assert opened(place).class_names == classes


def test_links_in_a_circle_end(folder: Callable[..., Path]) -> None:
    place = folder("a.png", "sub/b.png")
    os.symlink(place, place / "sub" / "again", target_is_directory=True)
    assert describe(str(place)).count == 2


def test_a_class_that_is_a_link_to_another_is_said_to_be_left_out(folder: Callable[..., Path]) -> None:
    place = folder("cat/a.png", "dog/b.png")
    os.symlink(place / "cat", place / "kitten", target_is_directory=True)
    assert describe(str(place)).class_names == ("cat", "dog")
    assert listing.list_folder(place).left_out == ("1 link to a folder that is listed already",)


def test_the_size_is_that_of_the_first_image_that_can_be_read(folder: Callable[..., Path]) -> None:
    place = folder("a.png", "b.png", size=(40, 30))
    (place / "a.png").write_bytes(b"")
    assert describe(str(place)).size == (40, 30)


def test_as_many_classes_as_no_settings_can_hold_are_none(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz_files, "MOST_CLASSES", 3)
    monkeypatch.setattr(image_folders, "MOST_CLASSES", 3)
    each = npz(tmp_path, train=PIXELS, train_labels=np.arange(6), test=PIXELS, test_labels=np.arange(6))
    for place in (each, folder(*(f"{k}/a.png" for k in range(6)))):
        dataset = opened(place)
        assert (dataset.labels, dataset.class_names) == (None, ())
    assert opened(npz(tmp_path, images=PIXELS, labels=np.arange(6) % 3)).class_names == ("0", "1", "2")


def test_test_images_without_labels_have_no_classes(tmp_path: Path) -> None:
    place = npz(tmp_path, train=PIXELS, train_labels=LABELS, test=PIXELS[::-1])
    data, model = DataConfig(data_dir=str(place)), ModelConfig(image_size=8, class_cond=True)
    assert open_dataset(data, model).class_names == ("3", "7")
    assert open_dataset(data, model, split="test").class_names == ()


def test_classes_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    names = np.array(["crane", "dog", "crane"])
    place = npz(tmp_path, images=PIXELS, labels=np.arange(6) % 3, class_names=names)
    config = replace(Config(), dict(class_cond=True, num_classes=3, class_names=tuple(names.tolist())))
    numbers = datasets.class_numbers(config, opened(place).class_names)
    assert numbers is not None
    assert numbers.tolist() == [0, 1, 2]


def test_images_are_decoded_once(folder: Callable[..., Path], own_cache: Path) -> None:
    place = folder(*(f"{k}.png" for k in range(decoded.BLOCK + 3)))
    calls: list[tuple[int, int]] = []
    first = opened(place, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(decoded.BLOCK, decoded.BLOCK + 3), (decoded.BLOCK + 3, decoded.BLOCK + 3)]
    again = opened(place, progress=lambda done, total: calls.append((done, total)))
    assert len(calls) == 2, "nothing is decoded again"
    assert opened(os.path.relpath(place), progress=lambda done, total: calls.append((done, total)))
    assert len(calls) == 2, "not under another name either"
    assert np.array_equal(first.images, again.images)
    assert again.notices == first.notices


def test_of_a_large_file_the_first_images_are_within_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are packed one behind the other: those at the end of 15 GB take minutes."""
    np.savez(tmp_path / "a.npz", np.zeros((10, 4, 4, 3), np.uint8))
    assert sources.open_source(str(tmp_path / "a.npz")).within_reach == 10
    monkeypatch.setattr(npz_files, "REACH", 3 * 48)
    assert sources.open_source(str(tmp_path / "a.npz")).within_reach == 3
    assert sources.open_source("shapes").within_reach == shapes.COUNT


def test_questions_of_one_block_are_about_the_same_files(folder: Callable[..., Path]) -> None:
    place = str(folder("a.png", "b.png"))
    with sources.opened_once():
        assert describe(place).count == 2
        with sources.opened_once():  # belongs to the outer one
            assert describe(place).count == 2
        folder("a.png", "b.png", "c.png")
        assert describe(place).count == 2
        assert describe("shapes").count == shapes.COUNT
    assert describe(place).count == 3


def test_a_training_lists_its_folder_twice(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once before there is a run, and once in it; a large folder takes seconds each time."""
    calls: list[Path] = []

    def listed(place: Path) -> listing.Listing:
        calls.append(place)
        return listing.list_folder(place)

    monkeypatch.setattr(sources, "list_folder", listed)
    place = folder(*(f"{k}.png" for k in range(12)))
    tiny = dict(image_size=8, num_channels=32, num_res_blocks=1, channel_mult="1", batch_size=1, hold_out=0.4)
    where = dict(data_dir=str(place), run="r", runs_dir=tmp_path)
    assert [report.step for report in ddpm.train("cifar10-cpu", total_steps=1, **tiny, **where)] == [1]
    assert len(calls) == 2


def test_changed_images_are_decoded_again_and_old_ones_deleted(folder: Callable[..., Path], own_cache: Path) -> None:
    place = folder("a.png", "b.png")
    opened(place)
    opened(place, size=4)
    Image.new("RGB", (8, 8), "white").save(place / "b.png")
    assert levels(opened(place)) == [0, 255]
    assert len(list(own_cache.glob("images/*-8x3-*.raw"))) == 1
    assert len(list(own_cache.glob("images/*-4x3-*.raw"))) == 1, "another size is another matter"


@pytest.mark.parametrize("damage", ["cut", "empty", "identities", "notices"])
def test_a_torn_cache_is_made_again(folder: Callable[..., Path], own_cache: Path, damage: str) -> None:
    place = folder("a.png", "b.png")
    opened(place)
    (path,) = own_cache.glob("images/*.raw")
    if damage == "notices":
        path.with_suffix(".json").write_text("{")
    else:
        path = path.with_suffix(".identities.npy") if damage == "identities" else path
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:-1])
    assert levels(opened(place)) == [0, 10]


@pytest.mark.slow
def test_two_at_once_decode_once(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder("a.png", "b.png")
    decoded: list[int] = []
    begun, release = threading.Event(), threading.Event()

    def slow(done: int, total: int) -> None:
        decoded.append(done)
        begun.set()
        release.wait(PATIENCE)

    one = threading.Thread(target=opened, args=(place,), kwargs=dict(progress=slow))
    one.start()
    begun.wait(PATIENCE)
    code = (
        "import sys; from ddpm.config.training import *; from ddpm.config.model import *; from ddpm.data.datasets"
        " import open_dataset;open_dataset(DataConfig(data_dir=sys.argv[1]), ModelConfig(image_size=8), lambda done,"
        " total: sys.exit(3))"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(place)], cwd=Path(__file__).parents[1])
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(1.0)  # it waits for the first
    release.set()
    one.join()
    assert other.wait(PATIENCE) == 0, "it uses what the first one made"
    assert decoded == [2]


def test_notices_tell_what_was_done(folder: Callable[..., Path]) -> None:
    place = folder("a.png")
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(place / "deep.png")
    Image.new("RGBA", (8, 8)).save(place / "glass.png")
    Image.new("RGB", (4, 4)).save(place / "small.png")
    dataset = opened(place, enlarge=True)
    assert levels(dataset) == [0, 255, 255, 0]
    for words in ("1 of 4 images have 16 bits", "1 of 4 images were smaller", "1 of 4 images are transparent"):
        assert sum(words in notice for notice in dataset.notices) == 1
    assert opened(place, enlarge=True).notices == dataset.notices, "from the cache too"
    assert not any("transparent" in notice for notice in opened(place, channels=4, enlarge=True).notices)


def test_opaque_images_are_not_called_transparent(folder: Callable[..., Path]) -> None:
    place = folder(*(f"{k}.png" for k in range(datasets.FEW)))
    Image.new("RGBA", (8, 8), (9, 9, 9, 255)).save(place / "0.png")
    palette = Image.new("P", (8, 8))
    palette.save(place / "1.png", transparency=7)  # a colour that no pixel has
    assert opened(place).notices == ()


# --- whose images they are


def contents(dataset: Dataset) -> list[tuple[str, int]]:
    assert dataset.labels is not None
    return [(dataset.class_names[label], level) for label, level in zip(dataset.labels, levels(dataset), strict=True)]


def test_folders_that_swap_their_names_are_decoded_again(folder: Callable[..., Path]) -> None:
    place = folder("a/0.bmp", "b/0.bmp")
    for path in place.glob("*/*"):
        os.utime(path, (1e9, 1e9))  # as unpacked from an archive: one size, one time
    assert contents(opened(place)) == [("a", 0), ("b", 10)]
    for old, new in (("a", "x"), ("b", "a"), ("x", "b")):
        os.rename(place / old, place / new)
    assert contents(opened(place)) == [("a", 10), ("b", 0)]


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no time of change that cannot be put back")
def test_files_that_are_written_over_with_their_time_put_back_are_decoded_again(folder: Callable[..., Path]) -> None:
    place = folder("a.bmp", "b.bmp")
    before = (place / "a.bmp").stat()
    assert levels(opened(place)) == [0, 10]
    changed = (place / "b.bmp").read_bytes()
    while (place / "a.bmp").stat().st_ctime_ns == before.st_ctime_ns:  # the clock of some disks ticks slowly
        with open(place / "a.bmp", "rb+") as file:
            file.write(changed)
        os.utime(place / "a.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert levels(opened(place)) == [10, 10]


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no time of change that cannot be put back")
def test_hard_links_that_change_places_are_decoded_again(folder: Callable[..., Path], tmp_path: Path) -> None:
    place = folder("a.bmp", "b.bmp")
    for path in place.glob("*"):
        os.utime(path, (1e9, 1e9))
        os.link(path, tmp_path / path.name)
    assert levels(opened(place)) == [0, 10]
    for name, other in (("a.bmp", "b.bmp"), ("b.bmp", "a.bmp")):
        (place / name).unlink()
        os.link(tmp_path / other, place / name)
    assert levels(opened(place)) == [10, 0]


def test_an_npz_that_is_exchanged_is_decoded_again(tmp_path: Path) -> None:
    for k, name in enumerate(("one", "two")):
        path = npz(tmp_path, images=np.full((2, 8, 8, 3), k, np.uint8))
        os.utime(path, (1e9, 1e9))
        path.rename(tmp_path / f"{name}.npz")
    assert levels(opened(tmp_path / "one.npz")) == [0, 0]
    os.replace(tmp_path / "two.npz", tmp_path / "one.npz")
    assert levels(opened(tmp_path / "one.npz")) == [1, 1]


def test_what_changes_while_it_is_read_is_not_kept(folder: Callable[..., Path], own_cache: Path) -> None:
    place = folder("a.png", "b.png")

    def write_over(done: int, total: int) -> None:
        Image.new("RGB", (20, 20), "white").save(place / "a.png")

    with raises_error("changed-data"):
        opened(place, progress=write_over)
    assert levels(opened(place)) == [255, 10]


def digest(data_dir: object, size: int = 8, split: Split = "train", seed: int = 0, **settings: Any) -> Digest:
    wanted = DataConfig(data_dir=str(data_dir), enlarge=True, **settings)
    return open_dataset(wanted, ModelConfig(image_size=size), split=split, seed=seed).digest


def test_the_digest_follows_from_the_images_alone(folder: Callable[..., Path], tmp_path: Path) -> None:
    place = folder("cat/1.png", "cat/2.png", "dog/1.png")
    first = digest(place)
    assert (first.count, first.held_out) == (3, "")
    assert len(first.images) == 64
    for path in place.glob("*/*"):
        os.utime(path, (1e9, 1e9))
    assert digest(place) == first
    assert digest(place, size=16) == first
    shutil.copytree(place, tmp_path / "moved")
    assert digest(tmp_path / "moved") == first
    os.rename(tmp_path / "moved" / "dog", tmp_path / "moved" / "fox")
    assert digest(tmp_path / "moved").images != first.images, "another class"
    Image.new("RGB", (8, 8), "white").save(place / "dog" / "1.png")
    assert digest(place).images != first.images, "another image"
    assert digest("cifar10-mini") == digest("cifar10-mini", size=32)


def test_the_digest_is_of_the_whole_data(tmp_path: Path) -> None:
    parts: list[Split] = ["all", "train", "test"]
    assert len({digest("cifar10-mini", split=split, hold_out=0.2) for split in parts}) == 1
    assert digest("cifar10-mini", hold_out=0.2).count == 1000
    assert digest("cifar10-mini", hold_out=0.2) != digest("cifar10-mini", hold_out=0.2, seed=1)
    assert digest("cifar10-mini", hold_out=0.2).images == digest("cifar10-mini").images
    own = npz(tmp_path, train=PIXELS[:4], test=PIXELS[4:])
    assert len({digest(own, split=split) for split in parts}) == 1
    before = digest(own)
    after = digest(npz(tmp_path, train=PIXELS[:4], test=PIXELS[:2]))
    assert (before.images, before.count) == (after.images, after.count)
    assert before.held_out != after.held_out


def held_out(place: Path, share: float = 0.3) -> set[int]:
    part = open_dataset(DataConfig(data_dir=str(place), hold_out=share), ModelConfig(image_size=8), split="test")
    return {int(pixels[0, 0, 0]) for pixels in part.take(np.arange(len(part)))[0]}


def test_no_image_changes_sides_because_of_others(folder: Callable[..., Path]) -> None:
    place = folder(*(f"{k:02}.png" for k in range(25)))
    before = held_out(place)
    assert 1 < len(before) < 20
    Image.new("RGB", (8, 8), "white").save(place / "000.png")
    assert held_out(place) - {255} == before
    (place / "24.png").rename(place / "00a.png")
    assert held_out(place) - {255} == before
    (place / "03.png").unlink()
    assert held_out(place) - {255} == before - {30}


def test_some_are_held_out_and_never_all() -> None:
    rows = np.arange(40, dtype=np.uint8).repeat(32).reshape(40, 32)
    for seed in range(20):
        assert splits.held_out(rows[:2], 0.001, seed).sum() == 1
        assert splits.held_out(rows[:2], 0.9, seed).sum() == 1
        twice = splits.held_out(np.concatenate([rows, rows]), 0.4, seed)
        assert np.array_equal(twice[:40], twice[40:]), "copies are on the same side"
    assert not splits.held_out(rows[[5, 5, 5]], 0.5, 0).any()
    assert not splits.held_out(rows, 0.0, 0).any()
    many = np.random.default_rng(0).integers(0, 256, (2000, 32), np.uint8)
    assert 0.22 < splits.held_out(many, 0.25, 1).mean() < 0.28


# --- parts and names


def test_a_test_folder_is_the_test_part(folder: Callable[..., Path]) -> None:
    place = folder("train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "test/dog/1.png")
    (place / "train" / "note.txt").touch()
    about = describe(str(place))
    assert (about.class_names, about.counts, about.test_count) == (("cat", "dog"), (2, 1), 1)
    assert about.left_out == ("1 .txt file",)
    config = DataConfig(data_dir=str(place))
    test = open_dataset(config, ModelConfig(image_size=8), split="test")
    assert contents(test) == [("dog", 30)]
    assert contents(open_dataset(config, ModelConfig(image_size=8))) == [("cat", 0), ("cat", 10), ("dog", 20)]
    assert datasets.part_of(config, "auto") == "test"


@pytest.mark.parametrize("class_cond", [False, True])
def test_images_without_a_class_are_left_out_only_where_classes_are_trained(
    folder: Callable[..., Path], class_cond: bool
) -> None:
    named = [f"{name}_{k}.png" for name in ("IMG", "DSC") for k in range(10)]
    place = folder(*(f"train/{name}" for name in [*named, "one.png", "two.png"]), "test/IMG_1.png", "test/other.png")
    assert len(opened(place, class_cond=class_cond)) == (20 if class_cond else 22)
    notices = describe(str(place)).notices
    assert sum("train/one.png, train/two.png" in notice and "class_cond" in notice for notice in notices) == 1
    assert sum("test/other.png" in notice and "none of the classes" in notice for notice in notices) == 1


def test_a_test_folder_without_the_classes_is_said_to_be_of_no_use(folder: Callable[..., Path]) -> None:
    about = describe(str(folder("train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "test/1.png")))
    assert (about.count, about.test_count) == (3, 0)
    (reported,) = [notice for notice in about.notices if "test" in notice]
    assert "none of the classes" in reported
    assert "hold_out" in reported


@pytest.mark.parametrize(("broken", "split"), [("test", "train"), ("train", "test")])
@pytest.mark.parametrize("how", ["broken", "small"])
def test_a_bad_image_matters_only_in_the_part_it_lies_in(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, broken: str, split: Split, how: str
) -> None:
    place = folder(*(f"{part}/{k}.png" for part in ("train", "test") for k in range(3)))
    bad = place / broken / "1.png"
    if how == "broken":
        bad.write_bytes(b"no image")
    else:
        Image.new("RGB", (2, 2)).save(bad)
    config, model = DataConfig(data_dir=str(place)), ModelConfig(image_size=8)
    decoded_ones: list[Path | str] = []
    read = image_files.read
    monkeypatch.setattr(
        image_files, "read", lambda file, path, size: decoded_ones.append(path) or read(file, path, size)
    )  # type: ignore[func-returns-value]
    found = open_dataset(config, model, split=split)
    assert (len(found), {Path(path).parent.name for path in decoded_ones}) == (3, {split})
    error: tuple[Any, ...] = ("broken-image", "1.png") if how == "broken" else ("small-images",)
    with raises_error(*error):
        open_dataset(config, model, split="test" if broken == "test" else "train")


def test_the_digest_is_the_same_whether_or_not_broken_images_are_decoded(folder: Callable[..., Path]) -> None:
    place = folder(*(f"{part}/{k}.png" for part in ("train", "test") for k in range(3)))
    for part in ("train", "test"):
        (place / part / "1.png").write_bytes(part.encode())
    found = [digest(place, split=split, skip_broken=True) for split in ("train", "test", "all")]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("change", ["link", "mode"])
def test_a_backup_while_images_are_read_disturbs_nobody(
    folder: Callable[..., Path], tmp_path: Path, change: str
) -> None:
    place = folder("a.png", "b.png")
    before = (place / "a.png").stat().st_ctime_ns

    def touch(done: int, total: int) -> None:
        for k in range(10**6):
            if change == "link":
                os.link(place / "a.png", tmp_path / f"backup {k}.png")
            else:
                (place / "a.png").chmod(0o600 if k % 2 else 0o644)
            if (place / "a.png").stat().st_ctime_ns != before or os.name == "nt":
                return

    assert levels(opened(place, progress=touch)) == [0, 10]


def test_parts_that_do_not_pair_are_refused_and_named(folder: Callable[..., Path]) -> None:
    place = folder(*(f"{name}/{k}.png" for name in ("trainA", "trainB", "testA", "testB") for k in range(2)))
    with raises_error("unclear-parts"):
        describe(str(place))
    assert describe(str(place / "trainA")).count == 2


def test_what_is_outside_of_the_rule_is_named(folder: Callable[..., Path]) -> None:
    place = folder("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "sheet.png")
    dataset = opened(place, class_cond=True)
    assert [name for name, _ in contents(dataset)] == ["cat", "cat", "dog", "dog"]
    assert dataset.digest.count == 4
    assert any("1 image outside" in notice and "sheet.png" in notice for notice in dataset.notices)
    assert "cat 2, dog 2" in dataset.about[0]
    plain = opened(place)
    assert (levels(plain), plain.digest.count) == ([0, 10, 20, 30, 40], 5), "without classes all are learned from"
    assert describe(str(place)).counts == (2, 2)
    again: list[int] = []
    for class_cond in (True, False):
        opened(place, class_cond=class_cond, progress=lambda done, total: again.append(done))
    assert not again, "the two are kept side by side"
    beside = describe(str(folder("one.png", "two.png", "three.png")))
    assert any("4 images" in notice and "not taken for classes" in notice for notice in beside.notices)


@pytest.mark.skipif(sys.platform != "linux", reason="names must be text elsewhere")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    for name in (b"cl\xe9", b"new\nline", b"plain"):
        folder = os.path.join(os.fsencode(tmp_path), b"data", name)
        os.makedirs(folder)
        Image.new("RGB", (8, 8)).save(os.fsdecode(os.path.join(folder, b"\xff.png")))
    dataset = opened(tmp_path / "data")
    assert set(dataset.class_names) == {"cl\\xe9", "new\\x0aline", "plain"}
    with open(os.path.join(os.fsencode(tmp_path), b"data", b"cl\xe9", b"\xff.png"), "wb"):
        pass
    with raises_error("broken-image") as failure:
        opened(tmp_path / "data")
    assert "cl" in str(failure.value).encode().decode(), "it can be sent and logged"


# --- bad folders


def test_bad_folders(folder: Callable[..., Path], tmp_path: Path, own_cache: Path) -> None:
    place = folder("a.png", "b.png", "c.png")
    (place / "b.png").write_bytes(b"no")
    with raises_error("broken-image", "b.png"):
        opened(place)
    (place / "c.png").write_bytes((place / "c.png").read_bytes()[:45])
    with raises_error("broken-image", 2, 3, "(b.png, c.png)", "b.png"):
        opened(place)
    assert not list(own_cache.glob("images/*.npy")), "nothing half-made is left"
    assert not list(own_cache.glob("images/.tmp*"))

    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    codes: dict[str, Code] = {"none": "not-found", "empty": "no-images", "file.txt": "not-data"}
    for name, code in codes.items():
        with raises_error(code, name):
            describe(str(tmp_path / name))
    for name in ("x" * 5000, "~nobody-of-that-name/pictures", "a\0b"):
        with raises_error("not-found"):
            describe(name)
    with raises_error("no-data-named"):
        describe(" ")


def broken_ones(folder: Callable[..., Path]) -> Path:
    """30 images in two classes, 25 of them broken."""
    place = folder(*(f"{'cat' if k % 2 else 'dog'}_{k:02}.png" for k in range(30)))
    for path in sorted(place.iterdir())[:25]:
        path.write_bytes(path.read_bytes()[:40])
    return place


def test_all_broken_images_are_named_at_once(folder: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    place = broken_ones(folder)
    names = sorted(path.name for path in place.iterdir())
    with raises_error("broken-image", 25, 30, 5, "skip_broken") as failure:
        opened(place)
    assert [name in str(failure.value) for name in names] == [True] * 20 + [False] * 10
    assert [name in caplog.text for name in names] == [True] * 25 + [False] * 5, "the log has all"


def test_broken_images_are_left_out_when_asked_to(
    folder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    place = broken_ones(folder)
    calls: list[int] = []
    for _ in range(2):  # decoded, and from the cache
        dataset = opened(place, skip_broken=True, progress=lambda done, total: calls.append(done))
        assert dataset.images.shape == (5, 8, 8, 3)
        assert [name for name, _ in contents(dataset)] == ["dog"] * 5
        assert dataset.digest.count == 5
        assert any("25 of 30 images" in notice and "left out" in notice for notice in dataset.notices)
        assert any("no images of 1 of the classes: cat" in notice for notice in dataset.notices)
    assert calls == [30]
    before = dataset.digest
    for path in place.iterdir():
        if path.stat().st_size == 40:
            path.unlink()
    assert opened(place, skip_broken=True).digest.count == before.count
    for path in place.iterdir():
        path.write_bytes(b"")
    with raises_error("broken-image", 5):
        opened(place, skip_broken=True)


def test_small_images_are_refused_or_enlarged(folder: Callable[..., Path]) -> None:
    place = folder("a.png", "b.png", size=(20, 9))
    Image.new("RGB", (6, 30)).save(place / "c.png")
    with raises_error("small-images", "3 of 3", 6, "enlarge"):
        opened(place, size=16)
    assert opened(place, size=16, enlarge=True).images.shape == (3, 16, 16, 3)
    with raises_error("small-images", "3 of 3"):
        opened(place, size=16)


def test_a_cache_that_cannot_be_written(folder: Callable[..., Path], own_cache: Path) -> None:
    own_cache.touch()  # a file where the folder should be
    with raises_error("not-writable", "DDPM_CACHE"):
        opened(folder("a.png"))


# --- .npz files


def npz(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
LABELS = np.array([3, 7, 7, 3, 7, 3])


@pytest.mark.parametrize("keys", [("arr_0", "arr_1"), ("images", "labels"), ("train", "train_labels")])
@pytest.mark.parametrize("compressed", [False, True])
def test_npz_files(tmp_path: Path, keys: tuple[str, str], compressed: bool) -> None:
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "data.npz", **{keys[0]: PIXELS, keys[1]: LABELS})
    dataset = opened(tmp_path / "data.npz")
    assert np.array_equal(dataset.images, PIXELS)
    assert dataset.class_names == ("3", "7")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1, 1, 0, 1, 0]
    save(tmp_path / "data.npz", **{keys[0]: PIXELS})
    assert opened(tmp_path / "data.npz").labels is None


def test_npz_of_other_sizes_layouts_and_labels(tmp_path: Path) -> None:
    assert opened(npz(tmp_path, images=np.zeros((2, 40, 30), np.uint8)), size=16).images.shape == (2, 16, 16, 3)
    assert np.array_equal(opened(npz(tmp_path, images=np.asfortranarray(PIXELS))).images, PIXELS)
    assert opened(npz(tmp_path, images=PIXELS), channels=1).images.shape == (6, 8, 8, 1)
    named = npz(tmp_path, images=PIXELS, labels=np.array([0, 2, 2, 0, 0, 0]), class_names=np.array(["a", "b", "c"]))
    assert describe(str(named)).class_names == ("a", "b", "c")
    assert describe(str(named)).counts == (4, 0, 2)
    assert any("no images of 1 of the classes: b" in notice for notice in describe(str(named)).notices)
    text = npz(tmp_path, images=PIXELS, labels=np.array(list("xyxyxy")))
    assert describe(str(text)).class_names == ("x", "y")


@pytest.mark.parametrize(("shape", "count"), [((9, 8, 3), 1), ((9, 8, 4), 1), ((4, 4, 4), 4), ((3, 8, 8), 3)])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray])
def test_a_single_image_is_not_taken_for_many(
    tmp_path: Path, shape: tuple[int, ...], count: int, layout: Callable
) -> None:
    pixels = layout(np.random.default_rng(1).integers(0, 256, shape, np.uint8))
    dataset = opened(npz(tmp_path, images=pixels), size=4)
    assert dataset.images.shape == (count, 4, 4, 3)
    if count == 1:
        assert np.array_equal(dataset.images[0], images.prepare(Image.fromarray(pixels), 4, 3))


def test_npz_labels_as_other_programs_write_them(tmp_path: Path) -> None:
    column = opened(npz(tmp_path, images=PIXELS, labels=LABELS[:, None]))
    assert column.labels is not None
    assert column.labels.tolist() == [0, 1, 1, 0, 1, 0]
    assert describe(str(npz(tmp_path, images=PIXELS, labels=np.array([b"x", b"y"] * 3)))).class_names == ("x", "y")


@pytest.mark.parametrize(
    ("arrays", "error"),
    [
        (dict(images=PIXELS, labels=np.array(["a", "b"] * 3, object)), ("bad-array", "labels", "labels.astype(str)")),
        (
            dict(images=PIXELS, labels=LABELS % 2, class_names=np.array(["a", "b"], object)),
            ("bad-array", "class_names"),
        ),
        (dict(images=PIXELS, labels=LABELS % 2, class_names=np.array("a")), ("bad-labels", "class_names")),
        (dict(weights=PIXELS), ("bad-array", "weights")),
        (dict(images=PIXELS / np.float32(255)), ("bad-array", "float32 [6, 8, 8, 3]", "uint8")),
        (dict(images=PIXELS.transpose(0, 3, 1, 2)), ("bad-array", "[6, 3, 8, 8]", "[N, height, width, channels]")),
        (dict(images=PIXELS[0, 0]), ("bad-array", "[N, height, width, channels]")),
        (dict(images=PIXELS[:0]), ("bad-array", 0)),
        (dict(images=np.array([{}])), ("bad-array", "object")),
        (dict(images=PIXELS, labels=LABELS[:3]), ("bad-labels", "int64 [3]", 6)),
        (dict(images=PIXELS, labels=LABELS / 2), ("bad-labels", "float64")),
        (dict(images=PIXELS, labels=LABELS, class_names=np.array(["a", "b"])), ("bad-labels", "class_names")),
    ],
)
def test_bad_npz_files(tmp_path: Path, arrays: dict[str, Any], error: tuple[Any, ...]) -> None:
    with raises_error(*error):
        describe(str(npz(tmp_path, **arrays)))


def test_too_large_an_image_in_an_npz_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDPM_MAX_PIXELS", str(8 * 8 - 1))
    with raises_error("image-too-large"):
        describe(str(npz(tmp_path, images=PIXELS)))


def test_damaged_npz_files(tmp_path: Path) -> None:
    path = npz(tmp_path, images=PIXELS)
    whole = path.read_bytes()
    path.write_bytes(whole[:400])
    with raises_error("damaged-archive"):
        describe(str(path))
    path.write_bytes(whole[:500] + bytes(100) + whole[600:])
    with raises_error("damaged-archive"):
        opened(path)


# --- by name


def test_shapes_are_sampled_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "COUNT", 24)
    dataset = opened("shapes", size=32)
    assert dataset.images.shape == (24, 32, 32, 3)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == list(range(8)) * 3
    assert dataset.class_names == shapes.NAMES
    assert np.array_equal(dataset.images[5], np.asarray(shapes.render(5, 32)))
    assert len({pixels.tobytes() for pixels in dataset.images}) == 24
    for size, channels in ((4, 3), (48, 1), (20, 4)):
        assert opened("shapes", size=size, channels=channels).images.shape == (24, size, size, channels)


def test_shapes_are_large_and_distinct() -> None:
    for k, name in enumerate(shapes.NAMES):
        for index in range(k, 200, len(shapes.NAMES)):
            pixels = np.asarray(shapes.render(index, 32)).astype(int)
            inked = np.abs(pixels - pixels[0, 0]).sum(axis=-1) > 40
            assert 0.08 < inked.mean() < 0.6, name
            inked[1:-1, 1:-1] = False
            assert not inked.any(), "none touches the edge"


def test_cifar10_mini() -> None:
    description = describe("cifar10-mini")
    assert description.counts == (100,) * 10
    assert description.class_names[3] == "cat"
    assert description.text == "CIFAR-10 mini: 1,000 images, 10 classes"
    assert sources.MINI.stat().st_size < 3e6
    assert opened("cifar10-mini", size=32).images.shape == (1000, 32, 32, 3)
    with raises_error("small-images", "1,000", "1,000", "cifar10-mini"):
        opened("cifar10-mini", size=64)


def test_cifar10_says_how_to_get_it() -> None:
    with raises_error("not-downloaded", "`ddpm data cifar10`"):
        describe("cifar10")


@pytest.mark.parametrize("name", ["lsun", "imagenet64"])
def test_what_is_prepared_says_how(name: str) -> None:
    with raises_error("not-found", f"`ddpm data {name} --help`"):
        describe(name)


def test_neither_torch_nor_streamlit_is_imported() -> None:
    code = (
        "import sys, ddpm.data.datasets, ddpm.data.download; sys.exit(bool({'torch', 'streamlit'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)


# --- settings that follow from the data


def test_classes_follow_from_the_data(folder: Callable[..., Path]) -> None:
    config = replace(Config(), dict(data_dir="cifar10-mini", class_cond=True))
    assert resolve(config).model.num_classes == 10
    assert resolve(config).class_names[0] == "airplane"
    assert resolve(replace(config, dict(num_classes=1000))).model.num_classes == 1000
    assert resolve(resolve(config)) == resolve(config)
    plain = resolve(replace(config, dict(class_cond=False, num_classes=5)))
    assert (plain.model.num_classes, len(plain.class_names)) == (0, 10)
    with raises_error("bad-value", "num_classes", 9, "cifar10-mini", 10):
        resolve(replace(config, dict(num_classes=9)))
    with raises_error("no-classes"):
        resolve(replace(config, dict(data_dir=str(folder("a.png")))))


# --- the stream


def numbered(count: int, labels: bool = True) -> Dataset:
    """Image k is k on its left and 200 on its right."""
    pixels = np.full((count, 1, 2, 1), 200, np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count)
    return Dataset(pixels, np.arange(count) * 10 if labels else None, (), ())


def test_an_epoch_is_every_image_once() -> None:
    stream = Stream(numbered(50), seed=1)
    epochs = [stream.next(50)[1] for _ in range(3)]
    for labels in epochs:
        assert labels is not None
        assert sorted(labels // 10) == list(range(50))
    assert not np.array_equal(epochs[0], epochs[1])
    assert stream.position == 150
    pixels, labels = Stream(numbered(50), seed=1).next(50)
    assert np.array_equal(pixels[:, 0, 0, 0].astype(int) * 10, labels)
    assert np.array_equal(labels, epochs[0])
    assert not np.array_equal(Stream(numbered(50), seed=2).next(50)[1], labels)
    assert Stream(numbered(5, labels=False), seed=0).next(2)[1] is None


def test_the_order_of_a_seed_never_changes() -> None:
    pixels, _ = Stream(numbered(8), seed=7, random_flip=True, position=4).next(8)
    assert pixels[:, 0].max(axis=1).ravel().tolist() == [200] * 8
    assert pixels.min(axis=(1, 2, 3)).tolist() == [2, 7, 5, 1, 1, 3, 2, 7]
    assert (pixels[:, 0, 1, 0] < 200).tolist() == [False, False, True, True, False, True, False, False]


@settings(deadline=None)
@given(
    count=st.integers(1, 9),
    batches=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    again=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    seed=st.integers(0, 2**32 - 1),
    flip=st.booleans(),
)
def test_continuing_gives_what_an_uninterrupted_stream_gives(
    count: int, batches: list[int], again: list[int], seed: int, flip: bool
) -> None:
    dataset = numbered(count)
    straight, straight_labels = Stream(dataset, seed, flip).next(sum(batches) + sum(again))
    stream = Stream(dataset, seed, flip)
    parts = [stream.next(n) for n in batches]
    assert stream.position == sum(batches)
    resumed = Stream(dataset, seed, flip, stream.position)
    parts += [resumed.next(n) for n in again]
    assert np.array_equal(np.concatenate([pixels for pixels, _ in parts]), straight)
    assert np.array_equal(np.concatenate([labels for _, labels in parts]), straight_labels)
    assert np.array_equal(dataset.images, numbered(count).images), "the data is never changed"


def test_flips_mirror_half_of_the_images() -> None:
    flipped = Stream(numbered(200), seed=3, random_flip=True).next(200)[0]
    plain = Stream(numbered(200), seed=3).next(200)[0]
    mirrored = (flipped != plain).any(axis=(1, 2, 3))
    assert 70 < mirrored.sum() < 130
    assert np.array_equal(flipped[mirrored], plain[mirrored][:, :, ::-1])


def test_broken_images_leave_the_digest_alone_whatever_is_cached(
    folder: Callable[..., Path], own_cache: Path, tmp_path: Path
) -> None:
    """A training image that cannot be decoded, when the test split is evaluated on another machine."""
    place = folder(*(f"{part}/{k}.png" for part in ("train", "test") for k in range(12)))
    cut = (place / "train" / "3.png").read_bytes()
    (place / "train" / "3.png").write_bytes(cut[: len(cut) // 2])
    model = ModelConfig(image_size=8)
    data = DataConfig(data_dir=str(place), skip_broken=True)
    trained_on = open_dataset(data, model).digest
    shutil.rmtree(own_cache)
    assert open_dataset(data, model, split="test").digest.same(trained_on, False)
