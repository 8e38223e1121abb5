"""Tar shards as webdataset writes them: what is in them, hostile ones, the index, training and evaluating on them."""

import errno
import hashlib
import io
import json
import os
import tarfile
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm.checkpoints import checkpoint_files
from ddpm.cli import main
from ddpm.config import codec
from ddpm.config.model import ModelConfig
from ddpm.config.training import Config, DataConfig
from ddpm.data import checked, datasets, distances, shard_entries, shard_index, sources, splits, stream
from ddpm.data.datasets import Dataset
from ddpm.data.encoded import Encoded
from ddpm.data.stream import Stream
from ddpm.data.tar_shards import expanded
from ddpm.errors import UserError
from ddpm.runs import runs
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.training.loop import TrainingLoop
from ddpm.training.trainer import Trainer
from pages.ui.forms import data_form, image_check


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


def png(level: int, side: int = 8, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (level, level, level)).save(buffer, kind)
    return buffer.getvalue()


def shard(path: Path, *entries: tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 0.5  # type: ignore[assignment]  # which has an extended header
            archive.addfile(member, io.BytesIO(content))
    return path


def sample(number: int, label: int | None = None, key: str = "") -> list[tuple[str, bytes]]:
    key = key or f"{number:06d}"
    return [(f"{key}.png", png(number)), *([] if label is None else [(f"{key}.cls", b"%d" % label)])]


def many(folder: Path, shards: int = 3, each: int = 4, labels: bool = True) -> Path:
    """Image k is k everywhere, and has the label 5 (k mod 2)."""
    for number in range(shards):
        numbers = range(number * each, (number + 1) * each)
        entries = [entry for k in numbers for entry in sample(k, 5 * (k % 2) if labels else None)]
        shard(folder / f"train-{number:06d}.tar", *entries)
    return folder


def opened(data_dir: object, size: int = 8, split: Any = "train", seed: int = 0, **settings: Any) -> Dataset:
    return datasets.open_dataset(
        DataConfig(str(data_dir), **settings), ModelConfig(image_size=size), split=split, seed=seed
    )


def levels(dataset: Dataset) -> list[int]:
    return dataset.take(np.arange(len(dataset)))[0][:, 0, 0, 0].tolist()


def refused(data_dir: object, **settings: Any) -> UserError:
    with pytest.raises(UserError) as raised:
        opened(data_dir, **settings)
    return raised.value


# --- what is found


def test_images_and_labels(tmp_path: Path) -> None:
    data = opened(many(tmp_path / "data"))
    assert isinstance(data.images, Encoded)
    assert levels(data) == list(range(12))
    assert data.class_names == ("0", "5")
    assert data.take(np.array([3, 0, 10]))[1].tolist() == [1, 0, 0]
    about = datasets.describe(str(tmp_path / "data"))
    assert (about.count, about.counts, about.size) == (12, (6, 6), (8, 8))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_entries_are_where_tarfile_finds_them(form: int, tmp_path: Path) -> None:
    deep = "/".join(["folder" * 4] * 5)
    names = ["a", f"{deep}/{'long' * 10}", "sub/b.c", "./d"]
    entries = [
        (f"{name}.{end}", png(k)) for k, (name, end) in enumerate(zip(names, ["png", "PNG", "x", "png"], strict=True))
    ]
    path = shard(tmp_path / "a.tar", *entries, form=form)
    found = shard_entries.scan(path, Counter())
    with tarfile.open(path) as archive:
        members = {member.name: member for member in archive.getmembers()}
    wanted = [members[name] for name, _ in (entries[0], entries[1], entries[3])]
    assert found.entries["at"].tolist() == [member.offset_data for member in wanted]
    assert found.entries["size"].tolist() == [member.size for member in wanted]
    assert found.identities[1].tobytes() == hashlib.sha256(png(1)).digest()
    assert not found.wrong


def test_labels_in_json_and_kinds_of_images(tmp_path: Path) -> None:
    labelled = [json.dumps(one).encode() for one in ({"label": 7}, {"cls": "cat"}, {"text": "a cat"}, [1])]
    entries = [
        ("a.jpg", png(0, kind="JPEG")), ("a.json", labelled[0]),
        ("b.json", labelled[1]), ("b.webp", png(1, kind="WEBP")), ("b.txt", b"words"),
        ("c.png", png(2)), ("c.json", labelled[2]),
        ("d.json", labelled[3]), ("d.png", png(3)), ("d.seg.png", png(9)),
        (".hidden.png", png(9)), ("LICENSE", b"words"), ("e.txt", b"no image"),
    ]  # fmt: skip
    path = shard(tmp_path / "a.tar", *entries)
    data = opened(path)
    assert data.class_names == ("7", "cat")
    assert data.take(np.arange(4))[1].tolist() == [0, 1, -1, -1]
    conditional = datasets.open_dataset(DataConfig(str(path)), ModelConfig(image_size=8, class_cond=True))
    assert len(conditional) == 2
    assert conditional.take(np.arange(2))[1].tolist() == [0, 1]
    assert datasets.describe(str(path)).counts == (1, 1)


def test_a_kind_that_its_name_alone_tells(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", ("0.tga", png(30, kind="TGA")), ("1.tga", png(60, kind="TGA")))
    assert levels(opened(path)) == [30, 60]


def test_test_shards_without_a_label_here_and_there(tmp_path: Path) -> None:
    """They are measured with their classes, and the others not at all."""
    train = [entry for k in range(3) for entry in sample(k, k)]
    shard(tmp_path / "train-000.tar", *train)
    shard(tmp_path / "val-000.tar", *sample(3, 2), ("4.png", png(4)), *sample(5, 0))
    conditional = ModelConfig(image_size=8, class_cond=True)
    test = datasets.open_dataset(DataConfig(str(tmp_path)), conditional, split="test")
    labels = test.take(np.arange(len(test)))[1]
    assert labels is not None
    assert (labels.tolist(), test.class_names) == ([2, 0], ("0", "1", "2"))
    assert len(datasets.open_dataset(DataConfig(str(tmp_path)), ModelConfig(image_size=8), split="test")) == 3


def test_a_shard_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shard(tmp_path / "a.tar", *sample(0, 0))

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(shard_entries.untrusted, "open_regular", refuse)
    with pytest.raises(UserError) as caught:
        opened(path)
    assert (caught.value.code, str(path) in str(caught.value)) == ("system-refused", True)


def test_numbers_are_in_order_of_their_value(tmp_path: Path) -> None:
    entries = [entry for k, label in enumerate((10, 9, -1, 200)) for entry in sample(k, label)]
    data = opened(shard(tmp_path / "a.tar", *entries))
    assert data.class_names == ("-1", "9", "10", "200")
    assert data.take(np.arange(4))[1].tolist() == [2, 1, 0, 3]


def test_patterns(tmp_path: Path) -> None:
    many(tmp_path, shards=12, each=1)
    assert levels(opened(tmp_path / "train-{000002..000010}.tar")) == list(range(2, 11))
    assert levels(opened(tmp_path / "train-00000{4,1}.tar")) == [4, 1]
    assert levels(opened(tmp_path / "train-000003.tar")) == [3]
    assert sources.exists(str(tmp_path / "train-{000000..000011}.tar"))
    assert not sources.exists(str(tmp_path / "train-{000000..000012}.tar"))
    assert refused(tmp_path / "train-{000000..000012}.tar").code == "not-found"
    assert refused(tmp_path / "train-{000000..999999999}.tar").code == "bad-value"
    assert refused(tmp_path / "train-{000009..000001}.tar").code == "bad-value"
    assert [path.name for path in expanded(str(tmp_path / "train-{000000..000001}.tar"))] == [
        "train-000000.tar",
        "train-000001.tar",
    ]


def test_splits_are_told_from_names(tmp_path: Path) -> None:
    many(tmp_path / "data")
    shard(tmp_path / "data" / "val-000000.tar", *sample(100, 5), *sample(101, 5))
    assert levels(opened(tmp_path / "data")) == list(range(12))
    test = opened(tmp_path / "data", split="test")
    assert levels(test) == [100, 101]
    assert test.take(np.arange(2))[1].tolist() == [1, 1]
    assert datasets.describe(str(tmp_path / "data")).test_count == 2
    assert test.digest == opened(tmp_path / "data").digest
    shard(tmp_path / "data" / "val-000000.tar", *sample(100, 6))
    assert refused(tmp_path / "data").code == "bad-labels"


def test_a_folder_with_images_is_a_folder_of_images(tmp_path: Path) -> None:
    many(tmp_path / "data")
    (tmp_path / "data" / "own.png").write_bytes(png(77))
    assert levels(opened(tmp_path / "data")) == [77]


# --- hostile archives


def with_member(path: Path, **changes: Any) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in sample(1):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        member = tarfile.TarInfo("b.png")
        for name, value in changes.items():
            setattr(member, name, value)
        archive.addfile(member)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        dict(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        dict(type=tarfile.LNKTYPE, linkname="000001.png"),
        dict(type=tarfile.FIFOTYPE),
        dict(type=tarfile.CHRTYPE),
        dict(type=tarfile.GNUTYPE_SPARSE),
        dict(name="../b.png"),
        dict(name="/etc/b.png"),
        dict(name="C:/b.png"),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_unsafe_archives_are_refused(changes: dict[str, Any], skip: bool, tmp_path: Path) -> None:
    assert refused(with_member(tmp_path / "a.tar", **changes), skip_broken=skip).code == "unsafe-archive"


BROKEN: dict[str, list[tuple[str, bytes]]] = {
    "no image": [("b.cls", b"1")],
    "two images": [("b.png", png(1)), ("b.jpg", png(2))],
    "twice": [("b.png", png(1)), ("b.png", png(2)), ("b.png", png(3))],
    "twice, apart": [*sample(8, key="a"), ("a.cls", b"1")],
    "label of letters": [("b.png", png(1)), ("b.cls", b"cat")],
    "label of many digits": [("b.png", png(1)), ("b.cls", b"1" * 50)],
    "damaged json": [("b.png", png(1)), ("b.json", b'{"label": ')],
    "deep json": [("b.png", png(1)), ("b.json", b"[" * 100_000)],
    "json with a list": [("b.png", png(1)), ("b.json", b'{"label": [1]}')],
    "empty image": [("b.png", b"")],
}


@pytest.mark.parametrize("what", BROKEN)
def test_bad_samples_are_refused_or_left_out(what: str, tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", *sample(5, 1, "a"), *BROKEN[what], *sample(6, 1, "z"))
    assert refused(path).code == "broken-image"
    found = levels(opened(path, skip_broken=True))
    assert (found[0], found[-1]) == (5, 6)
    assert len(found) <= 3


@pytest.mark.parametrize("kept", [700, 1600, -1, 3000])
def test_a_shard_that_is_cut_short(kept: int, tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", *[entry for k in range(5) for entry in sample(k)], form=tarfile.USTAR_FORMAT)
    ends = [member.offset_data + member.size for member in tarfile.open(path).getmembers()]
    kept = ends[-1] - 1 if kept < 0 else kept
    path.write_bytes(path.read_bytes()[:kept])
    whole = sum(end <= kept for end in ends)
    assert refused(path).code == "broken-image"
    assert levels(opened(path, skip_broken=True)) == list(range(whole))


def test_a_size_beyond_the_archive(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", *sample(1), form=tarfile.USTAR_FORMAT)
    member = tarfile.TarInfo("b.png")
    member.size = 2**60
    content = path.read_bytes()
    end = 512 + 512
    path.write_bytes(content[:end] + member.tobuf(tarfile.GNU_FORMAT) + content[end:])
    assert refused(path).code == "broken-image"
    assert levels(opened(path, skip_broken=True)) == [1]


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, bytes(2048), b"\x1f\x8b" + bytes(600)])
def test_what_is_no_tar(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    assert refused(tmp_path / "a.tar", skip_broken=True).code in ("no-images", "not-data")


def test_offsets_beyond_four_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:  # a sparse file: a hole of 5 GB
        member = tarfile.TarInfo("a.bin")
        member.size = 5 * 2**30
        archive.addfile(member)
        at = archive.offset + member.size
    with open(path, "r+b") as file:
        file.seek(at)
        member = tarfile.TarInfo("b.png")
        member.size = len(png(9))
        file.write(member.tobuf() + png(9) + bytes(-member.size % 512 + 1024))
    assert levels(opened(path)) == [9]


# --- images that are broken inside, or small


def test_a_broken_image_is_met_when_it_is_taken(tmp_path: Path) -> None:
    entries = [*sample(0), ("b.png", png(1)[:40] + b"x" * 40), *sample(2)]
    path = shard(tmp_path / "a.tar", *entries)
    data = opened(path)
    assert data.take(np.array([0, 2]))[0][:, 0, 0, 0].tolist() == [0, 2]
    with pytest.raises(UserError) as raised:
        data.take(np.array([0, 1]))
    assert raised.value.code in datasets.BROKEN
    assert levels(opened(path, skip_broken=True)) == [0, 2, 2], "the next takes its place"


def test_none_that_can_be_read(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", ("a.png", b"x"), ("b.png", b"y"))
    with pytest.raises(UserError) as raised:
        opened(path, skip_broken=True).take(np.array([0]))
    assert raised.value.code == "not-an-image"


def test_small_images_are_refused_or_enlarged(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", *sample(3), ("b.png", png(4, side=4)))
    assert refused(path, size=16).code == "small-images"
    assert levels(opened(path, size=16, enlarge=True)) == [3, 4]
    with pytest.raises(UserError) as raised:
        opened(path).take(np.array([1]))
    assert raised.value.code == "small-images"


def test_pixels_are_those_of_a_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "folder").mkdir()
    entries = []
    for k in range(6):
        image = Image.fromarray(rng.integers(0, 256, (20 + k, 30, 3), np.uint8))
        image.save(path := tmp_path / "folder" / f"{k}.png")
        entries.append((f"{k}.png", path.read_bytes()))
    shard(tmp_path / "a.tar", *entries)
    one, other = (opened(tmp_path / name, size=12, hold_out=0.4, seed=3) for name in ("folder", "a.tar"))
    assert np.array_equal(one.take(np.arange(len(one)))[0], other.take(np.arange(len(one)))[0])
    assert one.digest == other.digest
    model, random = ModelConfig(image_size=12), np.random.default_rng(1).random((4, 3))
    cut = []
    for name in ("folder", "a.tar"):
        data = datasets.open_dataset(DataConfig(str(tmp_path / name), crop="random"), model, training=True)
        cut.append(data.crop(np.array([4, 0, 3, 3]), random)[0])
    assert np.array_equal(*cut)


def test_all_images_can_be_looked_at(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", *sample(0), ("b.png", b"x"), ("c.png", png(1, side=5)))
    found = checked.check(str(path))
    assert (found.total, found.broken, found.sides) == (3, 1, {8: 1, 5: 1})


# --- the index


def test_the_index_is_made_once_and_anew_after_a_change(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned = []
    scan = shard_entries.scan
    monkeypatch.setattr(shard_entries, "scan", lambda path, seen: scanned.append(path.name) or scan(path, seen))
    folder = many(tmp_path / "data")
    first = levels(opened(folder))
    assert levels(opened(folder)) == first
    assert len(scanned) == 3
    shard(folder / "train-000001.tar", *sample(200, 5), *sample(201, 0))
    assert levels(opened(folder)) == [0, 1, 2, 3, 200, 201, 8, 9, 10, 11]
    assert len(scanned) == 6
    (folder / "train-000002.tar").unlink()
    assert levels(opened(folder)) == [0, 1, 2, 3, 200, 201]
    assert len(list(own_cache.glob("*-shards-*.entries"))) <= 2, "that of shards which changed is gone"


@pytest.mark.parametrize("suffix", [".entries", ".labels", ".json", ".identities"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "empty"])
def test_a_damaged_index_is_made_anew(suffix: str, damage: str, tmp_path: Path, own_cache: Path) -> None:
    folder = many(tmp_path / "data")
    before = opened(folder, hold_out=0.4)
    was, digest = levels(before), before.digest
    (path,) = own_cache.glob(f"*-shards-*{suffix}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    match damage:
        case "flip":
            path.unlink()
            path.write_bytes(content)
        case "cut":
            path.unlink()
            path.write_bytes(content[:-1])
        case "gone":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
    if (suffix, damage) == (".identities", "flip"):
        assert refused(folder, hold_out=0.4).code == "changed-data"
    after = opened(folder, hold_out=0.4)
    assert levels(after) == was
    assert after.digest == digest


def test_a_shard_that_changes_while_it_is_trained_on(tmp_path: Path) -> None:
    folder = many(tmp_path / "data")
    data = opened(folder, skip_broken=True)
    os.utime(folder / "train-000000.tar", (1, 1))
    assert data.take(np.array([4]))[0][0, 0, 0, 0] == 4
    with pytest.raises(UserError) as raised:
        data.take(np.array([0]))
    assert raised.value.code == "changed-data"


def test_making_an_index_can_be_cancelled(tmp_path: Path, own_cache: Path) -> None:
    class Cancelled(Exception):
        pass

    def progress(done: int, total: int) -> None:
        assert 0 <= done <= total
        raise Cancelled

    folder = many(tmp_path / "data")
    with pytest.raises(Cancelled):
        sources.open_source(str(folder), progress)
    assert not list(own_cache.glob("*-shards-*.json"))
    assert not list(own_cache.glob(".tmp-*"))
    assert levels(opened(folder)) == list(range(12))


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the index there, opening and taking a batch."""
    monkeypatch.setattr(splits, "LARGE", 100)
    taken = []
    content = png(1)
    for count in (5000, 20_000):
        folder = tmp_path / str(count)
        for number in range(2):
            each = range(number * count // 2, (number + 1) * count // 2)
            entries = [(f"{k:07d}.png", content + k.to_bytes(4, "little")) for k in each]
            shard(folder / f"{number}.tar", *entries, form=tarfile.USTAR_FORMAT)
        opened(folder, hold_out=0.1)
        shard_index._checked.cache_clear()
        tracemalloc.start()
        data = opened(folder, hold_out=0.1)
        assert 0.8 * count < len(data) < count
        Stream(data, 1, order="computed").next(16)
        taken.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert taken[1] < 1.2 * taken[0], taken


# --- many images count as many


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_parts_of_many_images_are_those_of_few(share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = many(tmp_path / "data", each=20)
    few = {split: opened(folder, split=split, hold_out=share) for split in ("train", "test" if share else "all")}
    monkeypatch.setattr(splits, "LARGE", 10)
    monkeypatch.setattr(splits, "BLOCK", 7)
    for _ in range(2):  # made, and opened again
        for split, before in few.items():
            now = opened(folder, split=split, hold_out=share)
            assert levels(now) == levels(before)
            assert now.digest == before.digest
            assert now.train_ids is None


def test_parts_that_are_damaged_are_found_again(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "LARGE", 10)
    folder = many(tmp_path / "data", each=20)
    before = levels(opened(folder, hold_out=0.3))
    for path in own_cache.glob("*.split-*"):
        path.write_bytes(path.read_bytes()[:-8])
    assert levels(opened(folder, hold_out=0.3)) == before


def test_copies_of_one_cannot_be_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shard(tmp_path / "a.tar", *[(f"{k}.png", png(1)) for k in range(30)])
    for large in (10, 100):
        monkeypatch.setattr(splits, "LARGE", large)
        assert refused(path, hold_out=0.5).code == "too-few-images"


def test_an_npz_of_many_images_is_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=pixels, arr_1=np.arange(60) % 3)
    before = opened(tmp_path / "a.npz", hold_out=0.3)
    monkeypatch.setattr(splits, "LARGE", 10)
    now = opened(tmp_path / "a.npz", hold_out=0.3)
    assert np.array_equal(now.indices, before.indices)
    assert now.digest == before.digest
    assert opened(tmp_path / "a.npz", split="test", hold_out=0.3).digest == before.digest


# --- training


def train(run: Run, until: int) -> None:
    with Worker(run.folder, run.config.train.total_steps) as worker:
        loop = TrainingLoop(run, worker)
        for report in loop.train():
            if report.step == until - 1:  # it is heard after the next one
                run.request("stop")


@pytest.mark.parametrize("large", [3, 1000])
def test_training_goes_on_exactly(
    large: int, runs_dir: Path, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an epoch, with held-out images, and with the index made anew meanwhile."""
    for module in (stream, splits):
        monkeypatch.setattr(module, "LARGE", large)
    folder = many(tmp_path / "data", each=7)
    settings = dict(total_steps=8, save_interval=2, class_cond=True, hold_out=0.3, random_flip=True)
    config = datasets.resolve(codec.replace(tiny, {"data_dir": str(folder), **settings}))
    straight, stopped = (runs.create_run(runs_dir, name, config) for name in ("straight", "stopped"))
    train(straight, 100)
    train(stopped, 4)
    assert Run(stopped.folder).checkpoints()[-1].step == 4
    state = checkpoint_files.read(stopped.checkpoint(4).path("state"))
    assert state["trainer"]["order"] == ("computed" if large == 3 else "sorted")
    assert ("learnt" in state) == (large == 1000)
    for path in (tmp_path / "cache" / "images").glob("*.json"):
        path.unlink()
    monkeypatch.setattr(stream, "LARGE", 1000 + 3 - large)  # the order is that of the run
    train(Run(stopped.folder), 100)
    one, other = (checkpoint_files.load_weights(run.checkpoint(8).path("model")).tensors for run in (straight, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_of_an_earlier_version_keeps_its_order(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LARGE", 10)
    data = Dataset(np.zeros((20, 8, 8, 3), np.uint8), None, (), ())
    config = codec.replace(tiny, {"image_size": 8})
    trainer = Trainer(config, data, torch.device("cpu"))
    assert trainer.stream.order == "computed"
    state = trainer.state()
    assert state.pop("order") == "computed"
    trainer.load(trainer.weights(), None, state)
    assert trainer.stream.order == "sorted"


def test_ddpm_data_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = many(tmp_path / "data")
    assert main.main(["data", "index", str(folder)]) == 0
    monkeypatch.setattr(shard_entries, "scan", None)
    assert levels(opened(folder)) == list(range(12))
    assert main.main(["data", "index", str(tmp_path / "gone.tar")]) != 0


def test_a_page_makes_no_long_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(image_check, "LONGEST", -1.0)
    monkeypatch.setattr(image_check, "begin_index", lambda data_dir, state: begun.append(state))
    folder = many(tmp_path / "data")
    found = data_form.inspect(str(folder))
    assert (found.code, begun) == ("unindexed-data", [found.state])
    sources.open_source(str(folder))
    about = data_form.inspect(str(folder)).description
    assert about is not None
    assert about.count == 12


def test_a_page_reads_only_the_images_that_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sources.open_source(str(many(tmp_path / "data", each=40)))
    monkeypatch.setattr(type(source), "items", None)
    assert [item.identify() for item in source.some_items([0, 77, 119], 8, 3)] == [
        hashlib.sha256(png(k)).digest() for k in (0, 77, 119)
    ]


def test_the_nearest_of_many_are_looked_for_in_some(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)
    data = Dataset(pixels, None, (), ())
    monkeypatch.setattr(distances, "LARGE", 10)
    assert distances.searched(data) == 10
    found = distances.nearest(data, np.full((1, 1, 1), 52, np.uint8), 3)
    assert [one.number for one in found] == [50, 60, 40]
