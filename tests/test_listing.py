"""Which files of a folder are images, what is left out, and that it is told."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raising import raises_error

from ddpm.config.training import Config
from ddpm.data.datasets import describe
from ddpm.data.listing import list_folder
from ddpm.runs import runs
from ddpm.runs.worker import Worker
from ddpm.storage import image_files, images


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of images, PNG in content whatever they are called."""

    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(path, "PNG")
        return tmp_path / "data"

    return make


def found(place: Path) -> list[str]:
    return ["/".join(file.parts) for file in list_folder(place).files]


def test_images_are_known_by_content_where_their_names_do_not_tell(folder: Callable[..., Path]) -> None:
    place = folder("a.TIF", "b.jfif", "hashed", "c.jpg_large", "d.0001", "e.avif")
    (place / "README").write_text("no image")
    (place / "labels.csv").write_text("a,b")
    (place / "notes.weird").write_text("nothing")
    assert found(place) == ["a.TIF", "b.jfif", "c.jpg_large", "d.0001", "e.avif", "hashed"]
    assert set(list_folder(place).left_out) == {"1 file without an extension", "1 .csv file", "1 .weird file"}
    assert not list_folder(place).unread


def test_images_that_cannot_be_read_here_are_counted_by_kind(folder: Callable[..., Path]) -> None:
    place = folder("a.png")
    for name in ("b.heic", "c.HEIC", "d.nef", "clip.mp4", "rest.zip"):
        (place / name).write_bytes(b"?")
    assert list_folder(place).unread == ("2 .heic files", "1 .mp4 file", "1 .nef file", "1 .zip file")
    assert any("2 .heic files" in notice for notice in describe(str(place)).notices)


MADE_BY_SYSTEMS = [
    "@eaDir/a.png",
    "#recycle/b.png",
    "$RECYCLE.BIN/c.png",
    "System Volume Information/d.png",
    "__MACOSX/._e.png",
    ".thumbnails/f.png",
    "lost+found/g.png",
    ".Trash-1000/h.png",
    ".ipynb_checkpoints/i.png",
    "@Recycle/j.png",
    "@Recently-Snapshot/n.png",
    "~snapshot/o.png",
    "RECYCLED/p.png",
    ".snapshot/q.png",
    ".snapshots/r.png",
    "cat/._k.png",
    "cat/SYNOFILE_THUMB_M.png",
]


@pytest.mark.parametrize("name", MADE_BY_SYSTEMS)
def test_what_systems_made_is_left_out(folder: Callable[..., Path], name: str) -> None:
    place = folder("cat/1.png", "dog/1.png", name, f"cat/{name}")
    (place / "Thumbs.db").touch()
    (place / ".DS_Store").touch()
    assert found(place) == ["cat/1.png", "dog/1.png"]
    assert describe(str(place)).class_names == ("cat", "dog")
    assert list_folder(place).left_out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
def test_special_files_are_never_opened(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder("a.png")
    os.mkfifo(place / "pipe.png")  # opening it would wait for ever
    os.mkfifo(place / "pipe")
    os.symlink(place / "pipe", place / "link.png")
    os.symlink(tmp_path / "nowhere.png", place / "dead.png")
    monkeypatch.chdir(place)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s.png")
        assert found(place) == ["a.png"]
    assert set(list_folder(place).left_out) == {"4 pipes, sockets and devices", "1 link that leads nowhere"}
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("pipe.npz", "data/pipe.png"):
        with raises_error("not-data"):
            describe(str(tmp_path / name))
    with raises_error("not-a-file"):
        image_files.load(place / "pipe.png")


def sampled(place: Path) -> None:
    """What a sampling leaves in its folder."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    for name in ("images/00000.png", "given/00000.png", "grid.png", "preview.png"):
        images.save_png(place / name, pixels, {"seed": 0})
    (place / "settings.json").write_text("{}")
    (place / "status.json").write_text("{}")


def trained(runs_dir: Path, name: str) -> Path:
    """A run with a preview and a sampling."""
    run = runs.create_run(runs_dir, name, Config())
    with Worker(run.folder, 1):
        images.save_png(run.folder / "samples" / "000010.png", np.zeros((8, 8, 3), np.uint8))
        sampled(run.folder / "samples" / "20260101-000000")
    return run.folder


def test_what_this_program_makes_is_no_data(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder("cat/1.png", "dog/1.png")
    trained(place / "runs", "one")
    trained(place / "cat", "two")
    sampled(place / "dog" / "drawn")
    old = place / "theirs"  # one of improved-diffusion, with images in it
    old.mkdir()
    for name in ("progress.csv", "model000010.pt"):
        (old / name).touch()
    images.save_png(old / "sheet.png", np.zeros((8, 8, 3), np.uint8))
    images.save_png(place / "cache" / "images" / "x.png", np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setenv("DDPM_CACHE", str(place / "cache"))
    images.save_png(place / "dog" / "grid.png", np.zeros((8, 8, 3), np.uint8), {"seed": 0})  # taken home
    assert found(place) == ["cat/1.png", "dog/1.png"]
    ours = next(phrase for phrase in list_folder(place).left_out if "this program" in phrase)
    assert all(name in ours for name in ("runs/one", "cat/two", "dog/drawn", "theirs", "cache"))
    assert "1 sheet of samples" in list_folder(place).left_out


def test_samples_that_are_named_are_trained_from(folder: Callable[..., Path], tmp_path: Path) -> None:
    sampled(tmp_path / "drawn")
    assert describe(str(tmp_path / "drawn" / "images")).count == 1
    with raises_error("not-data", os.path.join("drawn", "images")):
        describe(str(tmp_path / "drawn"))
    with raises_error("no-images"):
        describe(str(trained(tmp_path / "runs", "one")))
    with raises_error("no-images"):
        describe(str(tmp_path / "runs"))


def test_a_run_in_the_very_folder_of_its_data_trains_from_the_data(folder: Callable[..., Path]) -> None:
    place = folder("cat/1.png", "dog/1.png")
    run = runs.create_run_in(place, Config())
    with Worker(run.folder, 1):
        images.save_png(place / "samples" / "000010.png", np.zeros((8, 8, 3), np.uint8))
        sampled(place / "samples" / "20260101-000000")
    assert found(place) == ["cat/1.png", "dog/1.png"]


def test_a_folder_of_ones_own_that_looks_a_little_like_ours(folder: Callable[..., Path]) -> None:
    place = folder("a/grid.png", "a/preview.png", "b/images/1.png", "samples/1.png")
    (place / "b" / "config.json").write_text("{}")
    (place / "config.json").write_text('{"model_type": "vit"}')
    assert found(place) == ["a/grid.png", "a/preview.png", "b/images/1.png", "samples/1.png"]


class Shuffled:
    """What os.scandir gives, in another order."""

    def __init__(self, place: str, backwards: bool):
        with os.scandir(place) as entries:
            self.entries = sorted(entries, key=lambda entry: entry.name, reverse=backwards)

    def __enter__(self) -> list[os.DirEntry]:
        return self.entries

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_names_do_not_depend_on_the_order_of_a_disk(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, backwards: bool
) -> None:
    place = folder("real/cat/1.png", "real/dog/1.png", "other/1.png")
    os.symlink(place / "real", place / "a link")
    os.symlink(place / "real" / "dog", place / "z link")
    os.symlink(place / "real" / "cat", place / "real" / "0")
    outside = place.parent / "outside"
    outside.mkdir()
    Image.new("RGB", (8, 8)).save(outside / "1.png")
    for name in ("one", "two"):
        os.symlink(outside, place / name)
    scan = os.scandir
    expected = ["one/1.png", "other/1.png", "real/cat/1.png", "real/dog/1.png"]
    assert found(place) == expected

    def shuffled(where: str) -> Shuffled:
        monkeypatch.setattr(os, "scandir", scan)
        entries = Shuffled(where, backwards)
        monkeypatch.setattr(os, "scandir", shuffled)
        return entries

    monkeypatch.setattr(os, "scandir", shuffled)
    assert found(place) == expected


@pytest.mark.parametrize("text", ["{}", "[]", "not JSON", '{"editor.fontSize": 12}', '{"sample": "rate"}'])
def test_settings_of_another_program_make_no_samples(folder: Callable[..., Path], text: str) -> None:
    place = folder("images/1.png", "cat/images/1.png", "cat/grid.png", "dog/images/1.png")
    for name in (".", "cat", "dog"):
        (place / name / "settings.json").write_text(text)
    assert found(place) == ["cat/grid.png", "cat/images/1.png", "dog/images/1.png", "images/1.png"]


def test_settings_of_ours_make_samples(folder: Callable[..., Path]) -> None:
    place = folder("cat/1.png", "dog/images/1.png", "dog/grid.png", "fox/preview.png")
    for name in ("dog", "fox"):
        (place / name / "settings.json").write_text('{"sample": {"seed": 0}, "checkpoint": {}}')
    assert found(place) == ["cat/1.png"]


def test_images_among_many_other_files_without_an_extension_are_found(folder: Callable[..., Path]) -> None:
    place = folder("z1", "z2", "m", "a.odd")
    for k in range(150):
        (place / f"note{k}").write_text("text")
        (place / f"note{k}.odd").write_text("text")
    assert found(place) == ["a.odd", "m", "z1", "z2"]
    assert set(list_folder(place).left_out) == {"150 files without an extension", "150 .odd files"}
