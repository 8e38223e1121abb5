"""LSUN and ImageNet-64 from small archives of the official layouts, whole, damaged and evil."""

import io
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from PIL import Image
from raising import raises_error

from ddpm.cli import main
from ddpm.config.model import ModelConfig
from ddpm.config.tasks import LsunConfig
from ddpm.config.training import DataConfig
from ddpm.data import archives, datasets, imagenet64, lmdb_files, lsun, sources
from ddpm.data.archives import PendingImage
from ddpm.runs.jobs import Job
from ddpm.storage import files, image_files

rng = np.random.default_rng(0)
SIZES = [(40, 24), (24, 40), (24, 24), (51, 33), (24, 25)]  # width, height
SMALL = LsunConfig(image_size=24)


def webp(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    image.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


VALUES = {b"%040x" % k: webp(size) for k, size in enumerate(SIZES)}  # LSUN's keys are such digests


def make_database(folder: Path, values: dict[bytes, bytes]) -> Path:
    with lmdb.open(str(folder), map_size=2**25) as database, database.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    return folder


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """As bedroom_train_lmdb.zip unpacks."""
    return make_database(tmp_path / "bedroom_train_lmdb", VALUES)


def zipped(database: Path) -> Path:
    path = database.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(database.iterdir()):
            archive.write(file, f"{database.name}/{file.name}")
    return path


def expected(value: bytes, size: int) -> np.ndarray:
    """What improved-diffusion's script makes of a value: scaled by a box filter, and the middle of it."""
    with Image.open(io.BytesIO(value)) as image:
        scale = size / min(image.size)
        scaled = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.BOX)
    pixels = np.array(scaled)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


# --- LSUN


def test_what_is_cancelled_ends_without_a_result(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_bytes(tmp_path / "images" / "0.png", b"")
    monkeypatch.setattr("ddpm.runs.worker.Worker.poll_requests", lambda worker: {"stop"})
    for command in (
        ["lsun", str(database), str(tmp_path / "out"), "--image_size", "16"],
        ["check", str(tmp_path / "images")],
    ):
        with pytest.raises(SystemExit) as ended:
            main.main(["data", *command, "--job", str(tmp_path / command[0])])
        assert ended.value.code == 0
        status = Job(tmp_path / command[0]).status()
        assert status is not None
        assert status.state == "stopped"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("flag", ["--image-size", "--image_size"])
def test_lsun_becomes_a_folder(database: Path, tmp_path: Path, packed: bool, flag: str) -> None:
    archive = zipped(database) if packed else database
    folder = tmp_path / "out"
    more = ["--prefix", "church", "--job", str(tmp_path / "job")]
    assert main.main(["data", "lsun", str(archive), str(folder), flag, "16", *more]) == 0
    status = Job(tmp_path / "job").status()
    assert status is not None
    assert (status.state, status.step, status.total_steps) == ("finished", 5, 5)
    assert sorted(path.name for path in folder.iterdir()) == [
        ".origin.json",
        *(f"church_{k:07d}.png" for k in range(5)),
    ]
    for k, value in enumerate(VALUES.values()):
        assert np.array_equal(pixels_of(folder / f"church_{k:07d}.png"), expected(value, 16)), k
    dataset = datasets.open_dataset(DataConfig(data_dir=str(folder)), ModelConfig(image_size=16))
    assert len(dataset) == 5


def test_its_defaults_are_those_of_the_reference() -> None:
    assert LsunConfig() == LsunConfig(image_size=256, prefix="bedroom")


def test_an_interrupted_preparation_goes_on(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves only whole files; the next call keeps them."""
    folder, decoded = tmp_path / "out", list[str]()
    decode = image_files.decode

    def interrupted(content: bytes, name: str) -> Image.Image:
        decoded.append(name)
        if len(decoded) == 3:
            raise KeyboardInterrupt
        return decode(content, name)

    monkeypatch.setattr(archives, "BLOCK", 1)
    monkeypatch.setattr(image_files, "decode", interrupted)
    assert main.main(["data", "lsun", str(zipped(database)), str(folder), "--image-size", "24"]) == 130
    assert sorted(path.name for path in folder.glob("*.png")) == ["bedroom_0000000.png", "bedroom_0000001.png"]
    assert not list(folder.rglob(".tmp-*"))
    assert (folder / ".lmdb" / "data.mdb").exists(), "need not be unpacked again"
    (folder / "bedroom_0000001.png").write_bytes((folder / "bedroom_0000001.png").read_bytes()[:-1])  # a power cut
    unpacked: list[int] = []
    lsun.write(zipped(database), folder, SMALL, lambda done, total: unpacked.append(done))
    assert not unpacked
    assert decoded[3:] == [f"image {k} of the database" for k in (1, 2, 3, 4)]
    for k, value in enumerate(VALUES.values()):
        assert np.array_equal(pixels_of(folder / f"bedroom_{k:07d}.png"), expected(value, 24)), k


def test_progress_is_reported(database: Path, tmp_path: Path) -> None:
    unpacking: list[tuple[int, int]] = []
    writing: list[tuple[int, int]] = []
    archive = zipped(database)
    size = (database / "data.mdb").stat().st_size
    lsun.write(archive, tmp_path / "out", SMALL, lambda *at: unpacking.append(at), lambda *at: writing.append(at))
    assert unpacking[-1] == (size, size)
    assert writing[-1] == (5, 5)


def test_a_folder_made_from_something_else(database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    lsun.write(database, folder, SMALL)
    with raises_error("not-empty", "image_size 24", "image_size 16"):
        lsun.write(database, folder, LsunConfig(image_size=16))
    other = tmp_path / "mine"
    other.mkdir()
    (other / "holiday.png").write_bytes(b"")
    with raises_error("not-empty"):
        lsun.write(database, other, SMALL)
    with raises_error("not-writable"):
        lsun.write(database, other / "holiday.png", SMALL)


def test_broken_images_are_left_out(tmp_path: Path) -> None:
    database = make_database(
        tmp_path / "db", {**VALUES, b"%040x" % 1: b"no picture", b"%040x" % 3: VALUES[b"%040x" % 3][:50]}
    )
    with raises_error("broken-image", 2, 5, 1):
        lsun.write(database, tmp_path / "out", SMALL)
    assert sorted(path.name[-5] for path in (tmp_path / "out").glob("*.png")) == ["0", "2", "4"]


def test_what_was_unpacked_is_gone_after_broken_images_and_not_there_where_it_may_not(tmp_path: Path) -> None:
    archive = zipped(make_database(tmp_path / "db", {**VALUES, b"%040x" % 1: b"no picture"}))
    with raises_error("broken-image", 1):
        lsun.write(archive, tmp_path / "out", SMALL)
    assert not (tmp_path / "out" / ".lmdb").exists()
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "letter.txt").write_text("mine")
    with raises_error("not-empty"):
        lsun.write(archive, taken, SMALL)
    assert [path.name for path in taken.iterdir()] == ["letter.txt"]


def test_a_database_that_is_none(database: Path, tmp_path: Path) -> None:
    with raises_error("wrong-archive", "data.mdb"):
        lsun.write(tmp_path / "empty", tmp_path / "out", SMALL)
    lsun.write(database / "data.mdb", tmp_path / "fine", SMALL)  # the file itself will do
    (database / "data.mdb").write_bytes(rng.bytes(2**16))
    with raises_error("damaged-archive"):
        lsun.write(database, tmp_path / "out", SMALL)
    with raises_error("wrong-archive"):
        lsun.write(make_database(tmp_path / "nothing", {}), tmp_path / "out", SMALL)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_database_cut_short(database: Path, tmp_path: Path, share: float) -> None:
    """Its metadata say how long it is."""
    file = database / "data.mdb"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with raises_error("damaged-archive"):
        lsun.write(database, tmp_path / "out", SMALL)


@pytest.mark.parametrize("size", [10, 1000, 3000, 20_000])
@pytest.mark.parametrize("count", [1, 2, 30, 1500])
def test_databases_are_read_as_the_library_reads_them(tmp_path: Path, count: int, size: int) -> None:
    """In leaves, below branches of several depths, and in pages of their own, some of them used before."""
    count = min(count, 2**22 // size)
    values = {f"{k:05d}".encode() * (1 + k % 5): bytes([k % 256]) * (size + k % 7) for k in range(count)}
    folder = make_database(tmp_path / "db", values)
    with lmdb.open(str(folder), map_size=2**25) as database, database.begin(write=True) as transaction:
        for key in sorted(values)[::3]:
            transaction.delete(key)
    with lmdb.open(str(folder), map_size=2**25) as database, database.begin(write=True) as transaction:
        transaction.put(b"last", b"")
    with lmdb.open(str(folder), readonly=True, lock=False) as database, database.begin() as transaction:
        expected = list(transaction.cursor())
    with lmdb_files.opened(folder / "data.mdb", "another") as found:
        assert [(value.key, found.read(value)) for value in found.values()] == expected
        assert found.entries == len(expected)


def database_of(*pages: bytes, root: int = 2, depth: int = 1, entries: int = 1) -> bytes:
    """A database of these pages behind its metadata."""

    def meta(transaction: int) -> bytes:
        trees = lmdb_files.TREE.pack(512, 0, 0, 0, 0, 0, 0, lmdb_files.NONE)
        trees += lmdb_files.TREE.pack(0, 0, depth, 0, 0, 0, entries, root)
        head = lmdb_files.PAGE.pack(0, 0, lmdb_files.META_PAGE, 0, 0)
        known = lmdb_files.META.pack(lmdb_files.MAGIC, lmdb_files.VERSION, bytes(16))
        return (head + known + trees + lmdb_files.LAST.pack(1 + len(pages), transaction)).ljust(512, b"\0")

    return meta(0) + meta(1) + b"".join(pages)


def page(number: int, flags: int, *nodes: bytes) -> bytes:
    """A page of a tree, of 512 bytes."""
    at, places = 512, []
    for node in nodes:
        at -= len(node)
        places.append(at)
    head = lmdb_files.PAGE.pack(number, 0, flags, 16 + 2 * len(nodes), at)
    return (head + struct.pack(f"<{len(nodes)}H", *places)).ljust(at, b"\0") + b"".join(reversed(nodes))


def node(low: int, high: int, middle: int, key: bytes = b"", value: bytes = b"") -> bytes:
    return lmdb_files.NODE.pack(low, high, middle, len(key)) + key + value


HOSTILE_DATABASES = {
    "a page that is its own child": database_of(page(2, 1, node(2, 0, 0)), depth=30),
    "branches that multiply": database_of(
        *(page(k, 1, *[node(k + 1, 0, 0)] * 40) for k in range(2, 12)), page(12, 2), depth=20
    ),
    "a leaf twice": database_of(page(2, 1, *[node(3, 0, 0)] * 2), page(3, 2, node(1, 0, 0, b"a", b"x")), depth=2),
    "a page that is not there": database_of(page(2, 1, node(0, 0, 99))),
    "a page of metadata as a leaf": database_of(page(2, 1, node(1, 0, 0)), depth=2),
    "a value beyond its page": database_of(page(2, 2, node(5000, 0, 0, b"a", b"x"))),
    "a value of 4 GB": database_of(page(2, 2, node(0xFFFF, 0xFFFF, 1, b"a", struct.pack("<Q", 2)))),
    "a value far outside": database_of(page(2, 2, node(1, 0, 1, b"a", struct.pack("<Q", 2**60)))),
    "another number of entries": database_of(page(2, 2, node(1, 0, 0, b"a", b"x")), entries=2),
    "10^18 entries": database_of(page(2, 2, node(1, 0, 0, b"a", b"x")), entries=10**18),
    "a leaf of duplicates": database_of(page(2, 2, node(1, 0, 4, b"a", b"x"))),
}


@pytest.mark.parametrize("kind", HOSTILE_DATABASES)
def test_hostile_databases(kind: str, tmp_path: Path) -> None:
    """The library, which maps them, ends the process at some of them."""
    (tmp_path / "data.mdb").write_bytes(HOSTILE_DATABASES[kind])
    with raises_error("damaged-archive"):
        lsun.write(tmp_path, tmp_path / "out", SMALL)


def test_the_smallest_database(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(database_of(page(2, 2, node(1, 0, 0, b"a", b"x"))))
    with lmdb_files.opened(tmp_path / "data.mdb", "another") as found:
        assert [(value.key, found.read(value)) for value in found.values()] == [(b"a", b"x")]


@pytest.mark.parametrize("prefix", ["", "a_b", "../a", "a/b", ".hidden"])
def test_prefixes_that_name_no_class(database: Path, tmp_path: Path, prefix: str) -> None:
    with raises_error("bad-value"):
        lsun.write(database, tmp_path / "out", LsunConfig(prefix=prefix))


# --- zip files that are not to be trusted


def zip_of(path: Path, entries: dict[str, bytes], mode: int = 0, level: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", level) as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            entry.compress_type = level
            archive.writestr(entry, content)
    return path


def into(folder: Path) -> list[Callable[[Path], Any]]:
    """Both readers of zip files."""
    return [lambda path: lsun.write(path, folder, SMALL), lambda path: imagenet64.find_batches([path], "train")]


@pytest.mark.parametrize("name", ["../data.mdb", "/data.mdb", "a/../../data.mdb", "C:/data.mdb", "..\\data.mdb"])
def test_entries_that_point_outside_of_a_zip(tmp_path: Path, name: str) -> None:
    archive = zip_of(tmp_path / "evil.zip", {name: b"x"})
    for read in into(tmp_path / "a" / "b" / "out"):
        with raises_error("unsafe-archive", "evil.zip"):
            read(archive)
    assert not list(tmp_path.rglob("data.mdb"))


def test_links_in_a_zip(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "evil.zip", {"db/data.mdb": b"/etc/passwd"}, stat.S_IFLNK | 0o777)
    for read in into(tmp_path / "out"):
        with raises_error("unsafe-archive", "'db/data.mdb'"):
            read(archive)


def test_zip_bombs(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "bomb.zip", {"db/data.mdb": bytes(2**26 + 1)}, level=zipfile.ZIP_DEFLATED)
    for read in into(tmp_path / "out"):
        with raises_error("unsafe-archive", "bomb.zip", "db/data.mdb", 67):
            read(archive)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kept", [0, 10, 0.5, -5])
def test_zips_cut_short(database: Path, tmp_path: Path, kept: float) -> None:
    archive = zipped(database)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
    for read in into(tmp_path / "out"):
        with raises_error("damaged-archive", "bedroom_train_lmdb.zip"):
            read(archive)


def test_a_flipped_bit_in_a_zip(database: Path, tmp_path: Path) -> None:
    archive = zipped(database)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with raises_error("damaged-archive"):
        lsun.write(archive, tmp_path / "out", SMALL)
    assert not list((tmp_path / "out").rglob("data.mdb"))


def test_no_zip(tmp_path: Path) -> None:
    with raises_error("not-found"):
        imagenet64.find_batches([tmp_path / "none.zip"], "train")
    with raises_error("wrong-archive", 0, "data.mdb"):
        lsun.write(zip_of(tmp_path / "a.zip", {"readme.txt": b""}), tmp_path / "out", SMALL)


def test_no_room_to_unpack(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda folder: 100)
    with pytest.raises(files.DiskFull):
        lsun.write(zipped(database), tmp_path / "out", SMALL)


# --- ImageNet at 64 pixels

COUNTS = {**dict.fromkeys(range(1, 11), 3), 2: 5}  # images in each batch
PIXELS = {k: rng.integers(0, 256, (n, 64, 64, 3), np.uint8) for k, n in COUNTS.items()}
LABELS = {k: rng.integers(1, 1001, n) for k, n in COUNTS.items()}
LABELS[2][0] = LABELS[1][0]  # classes are what some images share
VAL = rng.integers(0, 256, (4, 64, 64, 3), np.uint8)


def npz(pixels: np.ndarray, labels: Any, save: Callable[..., None] = np.savez, **others: Any) -> bytes:
    buffer = io.BytesIO()
    arrays = dict(
        data=pixels.transpose(0, 3, 1, 2).reshape(len(pixels), pixels[0].size if len(pixels) else 12288),
        labels=labels,
        mean=pixels.sum(axis=0) / 1e3,
    )
    save(buffer, **{**arrays, **others})
    return buffer.getvalue()


def parts(folder: Path, level: int = zipfile.ZIP_DEFLATED, save: Callable[..., None] = np.savez) -> list[Path]:
    """The two official archives of training images."""
    batches = {f"train_data_batch_{k}.npz": npz(PIXELS[k], LABELS[k], save) for k in PIXELS}
    names = list(batches)
    return [
        zip_of(folder / f"Imagenet64_train_part{k}_npz.zip", {name: batches[name] for name in half}, level=level)
        for k, half in ((1, names[:5]), (2, names[5:]))
    ]


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    folder = tmp_path / "Imagenet64_train_npz"
    for path in parts(tmp_path):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    (folder / "val_data.npz").write_bytes(npz(VAL, [1, 2, 2, 1000]))
    return folder


def test_imagenet64_becomes_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert main.main(["data", "imagenet64", *map(str, parts(tmp_path)), "--folder", str(folder)]) == 0
    wanted = {f"{label:04d}_{k:02d}_{i:06d}.png": PIXELS[k][i] for k in PIXELS for i, label in enumerate(LABELS[k])}
    assert {path.name for path in folder.glob("*.png")} == set(wanted)
    assert all(np.array_equal(pixels_of(folder / name), pixels) for name, pixels in wanted.items())
    assert sources.open_source(str(folder)).class_names == tuple(sorted({name[:4] for name in wanted}))


def test_the_second_archive_may_come_later(tmp_path: Path) -> None:
    first, second = parts(tmp_path, zipfile.ZIP_STORED, np.savez_compressed)
    folder = tmp_path / "out"
    imagenet64.write_folder(imagenet64.find_batches([first], "train"), folder)
    assert len(list(folder.glob("*.png"))) == 17
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    calls: list[tuple[int, int]] = []
    imagenet64.write_folder(imagenet64.find_batches([first, second], "train"), folder, lambda *at: calls.append(at))
    assert len(list(folder.glob("*.png"))) == 32
    assert calls[-1] == (32, 32)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_a_folder_of_the_two_archives_will_do(tmp_path: Path) -> None:
    parts(tmp_path)
    assert [batch.number for batch in imagenet64.find_batches([tmp_path], "train")] == [f"{k:02d}" for k in PIXELS]


def test_a_folder_of_batches_becomes_an_npz(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet64, "BLOCK", 2)
    target = tmp_path / "imagenet64.npz"
    assert main.main(["data", "imagenet64", str(unpacked), "--npz", str(target)]) == 0
    with zipfile.ZipFile(target) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    source = sources.open_source(str(target))
    everyone = np.concatenate([LABELS[k] for k in range(1, 11)])
    assert source.labels is not None
    assert [int(source.class_names[k]) for k in source.labels] == everyone.tolist()
    dataset = datasets.open_dataset(DataConfig(data_dir=str(target)), ModelConfig(image_size=64))
    assert np.array_equal(dataset.images, np.concatenate([PIXELS[k] for k in range(1, 11)])), "batch 10 comes last"
    with raises_error("already-exists"):
        imagenet64.write_npz(imagenet64.find_batches([unpacked], "train"), target)


def test_the_validation_images(unpacked: Path, tmp_path: Path) -> None:
    assert main.main(["data", "imagenet64", str(unpacked), "--part", "val", "--folder", str(tmp_path / "val")]) == 0
    names = sorted(path.name for path in (tmp_path / "val").glob("*.png"))
    assert names == ["0001_val_000000.png", "0002_val_000001.png", "0002_val_000002.png", "1000_val_000003.png"]
    source = sources.open_source(str(tmp_path / "val"))
    assert source.class_names == ("0001", "0002", "1000")
    with raises_error("not-empty"):
        imagenet64.write_folder(imagenet64.find_batches([unpacked], "train"), tmp_path / "val")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("import os; os.mkdir('evil')",))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (npz(VAL, [1, 2, 3]), ("bad-labels", "int64 [3]", 4)),
        (npz(VAL, [0, 1, 2, 3]), ("bad-labels", 0, 3, 1, 1000)),
        (npz(VAL, [1, 2, 3, 1001]), ("bad-labels", 1, 1001)),
        (npz(VAL, [1.0, 2, 3, 4]), ("bad-labels", "float64")),
        (npz(VAL, np.array([Evil()] * 4)), ("bad-labels", "object [4]")),
        (npz(VAL, [1, 2, 3, 4], data=np.array([Evil()])), ("wrong-archive", "object [1]", "uint8 [N, 12288]")),
        (npz(VAL, [1, 2, 3, 4], data=VAL), ("wrong-archive", "uint8 [4, 64, 64, 3]")),
        (npz(VAL[:, :32, :32], [1, 2, 3, 4]), ("wrong-archive", "uint8 [4, 3072]")),
        (npz(VAL[:0], []), ("wrong-archive", "uint8 [0, 12288]")),
        (npz(VAL, [1, 2, 3, 4])[:-9], ("damaged-archive",)),
        (b"nothing", ("damaged-archive",)),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_other_files_are_refused(tmp_path: Path, content: bytes, error: tuple[Any, ...], packed: bool) -> None:
    archive = tmp_path / "val_data.npz"
    if packed:
        archive = zip_of(tmp_path / "Imagenet64_val_npz.zip", {"val_data.npz": content})
    else:
        archive.write_bytes(content)
    with raises_error(*error):
        imagenet64.find_batches([archive], "val")
    assert not Path("evil").exists()


def test_a_header_that_lies(tmp_path: Path) -> None:
    def batch(shape: tuple[int, ...]) -> Path:
        path = tmp_path / "val_data.npz"
        with zipfile.ZipFile(path, "w") as archive:
            with archive.open("data.npy", "w") as member:
                np.lib.format.write_array_header_1_0(member, dict(descr="|u1", fortran_order=False, shape=shape))
                member.write(bytes(4 * 12288))
            with archive.open("labels.npy", "w") as member:
                np.lib.format.write_array(member, np.ones(shape[0], np.int64))
        return path

    assert imagenet64.find_batches([batch((4, 12288))], "val")[0].labels.tolist() == [1] * 4
    with raises_error("damaged-archive", "49,152", 5):
        imagenet64.find_batches([batch((5, 12288))], "val")
    with raises_error("damaged-archive", "49,152", 3):
        imagenet64.find_batches([batch((3, 12288))], "val")


def test_a_flipped_bit_in_a_batch(unpacked: Path, tmp_path: Path) -> None:
    file = unpacked / "train_data_batch_7.npz"
    content = bytearray(file.read_bytes())
    content[10_000] ^= 1  # in the data
    file.write_bytes(content)
    batches = imagenet64.find_batches([unpacked], "train")
    with raises_error("damaged-archive", "train_data_batch_7.npz"):
        imagenet64.write_npz(batches, tmp_path / "a.npz")
    assert not (tmp_path / "a.npz").exists()


def test_batches_are_named_once_and_there(unpacked: Path, tmp_path: Path) -> None:
    with raises_error("conflicting-settings", "train_data_batch_1.npz"):
        imagenet64.find_batches([unpacked, *parts(tmp_path)], "train")
    empty = tmp_path / "empty"
    empty.mkdir()
    with raises_error("wrong-archive", "train_data_batch_1.npz"):
        imagenet64.find_batches([empty], "train")


def test_sums_for_each_archive(tmp_path: Path) -> None:
    with raises_error("conflicting-settings", "--md5 gives 1", 2):
        main.execute(["data", "imagenet64", "a.zip", "b.zip", "--npz", "c.npz", "--md5", "123"])


# --- what both share


def test_memory_holds_a_block_of_images_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "BLOCK", 4)
    taken, written, most = 0, 0, 0

    def pending() -> Iterator[PendingImage]:
        nonlocal taken, most
        for k in range(30):
            taken += 1
            most = max(most, taken - written)
            yield PendingImage(f"{k}", partial(np.zeros, (4, 4, 3), np.uint8))

    def progress(done: int, total: int) -> None:
        nonlocal written
        written = done

    archives.write_images(tmp_path / "out", pending(), 30, {}, progress)
    assert most == 4
    assert len(list((tmp_path / "out").glob("*.png"))) == 30
