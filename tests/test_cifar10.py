"""CIFAR-10 from an archive of the official layout."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raising import raises_error

from ddpm.cli import main
from ddpm.config.model import ModelConfig
from ddpm.config.training import DataConfig
from ddpm.data import archives, cifar10, datasets
from ddpm.data.sources import cifar10_path

NAMES = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)  # ten in each of the six batches
LABELS = [(7 * k) % 10 for k in range(60)]

pytestmark = pytest.mark.usefixtures("own_cache")


def parts() -> dict[str, Any]:
    """What the seven members hold."""
    planes = PIXELS.transpose(0, 3, 1, 2).reshape(60, 3072)
    batches = {
        name: {
            b"batch_label": name.encode(),
            b"labels": LABELS[k : k + 10],
            b"data": planes[k : k + 10],
            b"filenames": [b"x.png"] * 10,
        }
        for k, name in zip(range(0, 60, 10), (*cifar10.TRAIN, cifar10.TEST), strict=True)
    }
    return {**batches, cifar10.META: {b"num_cases_per_batch": 10, b"label_names": NAMES, b"num_vis": 3072}}


def packed(contents: dict[str, Any], protocol: int = 2, mode: str = "w:gz") -> bytes:
    """A tar of these members, pickled (unless they are bytes already), among others that do not matter."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, value in {"readme.html": b"<html>", **contents}.items():
            content = value if isinstance(value, bytes) else pickle.dumps(value, protocol)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(packed(parts()))
    return path


# --- reading an archive


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_archive_becomes_the_data_set(archive: Path, protocol: int) -> None:
    archive.write_bytes(packed(parts(), protocol))
    calls: list[tuple[int, int]] = []
    assert cifar10.import_archive(archive, lambda done, total: calls.append((done, total))) == cifar10_path()
    assert calls[-1] == (archive.stat().st_size,) * 2
    with np.load(cifar10_path()) as arrays:
        assert np.array_equal(arrays["train"], PIXELS[:50])
        assert np.array_equal(arrays["test"], PIXELS[50:])
        assert arrays["test_labels"].tolist() == LABELS[50:]
    dataset = datasets.open_dataset(DataConfig(data_dir="cifar10"), ModelConfig(image_size=32))
    assert np.array_equal(dataset.images, PIXELS[:50])
    assert dataset.labels is not None
    assert dataset.labels.tolist() == LABELS[:50]
    assert dataset.class_names == tuple(name.decode() for name in NAMES)


def test_pickles_of_python_2(archive: Path) -> None:
    """As the official archive has them: texts are byte strings, and the array's type is named by one."""
    planes = PIXELS[:10].transpose(0, 3, 1, 2).tobytes()
    string = b"T" + len(planes).to_bytes(4, "little") + planes
    batch = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\nM\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + string
        + b"tbU\x06labels]("
        + b"".join(b"K" + bytes([label]) for label in LABELS[:10])
        + b"eu."
    )
    archive.write_bytes(packed({**parts(), "data_batch_1": batch}))
    with np.load(cifar10.import_archive(archive)) as arrays:
        assert np.array_equal(arrays["train"][:10], PIXELS[:10])
        assert arrays["train_labels"].tolist() == LABELS[:50]


def test_a_plain_tar_is_read_too(archive: Path) -> None:
    archive.write_bytes(packed(parts(), mode="w"))
    assert cifar10.import_archive(archive).exists()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("evil",))


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in parts().items() if key != name}


@pytest.mark.parametrize(
    ("contents", "error"),
    [
        (
            {**parts(), "test_batch": {b"data": Evil()}},
            ("damaged-archive", "test_batch", "mkdir"),
        ),
        ({**parts(), "test_batch": b"noise"}, ("damaged-archive", "CIFAR-10")),
        ({**parts(), "test_batch": [1, 2]}, ("damaged-archive", "CIFAR-10")),
        (
            {**parts(), "test_batch": {b"data": PIXELS[:10], b"labels": LABELS[:10]}},
            ("wrong-archive", "uint8 [10, 32, 32, 3]", 10),
        ),
        ({**parts(), "test_batch": {b"data": PIXELS.reshape(60, 3072), b"labels": [3] * 59}}, ("wrong-archive", 59)),
        ({**parts(), "test_batch": {b"data": PIXELS[:2].reshape(2, 3072), b"labels": [3, 10]}}, ("wrong-archive", 1)),
        ({**parts(), "test_batch": {b"labels": [1]}}, ("wrong-archive", "[0]", 1)),
        ({**parts(), "batches.meta": {b"label_names": []}}, ("wrong-archive",)),
        (without("data_batch_4"), ("wrong-archive", "cifar-10-batches-py/data_batch_4", "6 of 7")),
        ({}, ("wrong-archive", "0 of 7")),
    ],
)
def test_other_archives_are_refused(archive: Path, contents: dict[str, Any], error: tuple[Any, ...]) -> None:
    archive.write_bytes(packed(contents))
    with raises_error(*error):
        cifar10.import_archive(archive)
    assert not cifar10_path().exists()
    assert not Path("evil").exists()


@pytest.mark.parametrize("kept", [0, 10, 0.3, 0.9, -9])
def test_an_archive_cut_short(archive: Path, kept: float) -> None:
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
    with raises_error("damaged-archive", archive.name):
        cifar10.import_archive(archive)


def test_a_flipped_bit(archive: Path) -> None:
    damaged = bytearray(archive.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    archive.write_bytes(damaged)
    with raises_error("damaged-archive"):
        cifar10.import_archive(archive)


def test_no_archive(tmp_path: Path) -> None:
    with raises_error("not-found"):
        cifar10.import_archive(tmp_path / "none.tar.gz")
    with raises_error("unreadable-file", "cifar-10-python"):
        cifar10.import_archive(tmp_path)


def with_member(archive: Path, member: tarfile.TarInfo) -> None:
    archive.write_bytes(gzip.compress(member.tobuf() + bytes(10240)))


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:\\evil", "..\\evil"])
def test_entries_that_point_outside(archive: Path, name: str) -> None:
    with_member(archive, tarfile.TarInfo(name))
    with raises_error("unsafe-archive"):
        cifar10.import_archive(archive)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_refused(archive: Path, kind: bytes) -> None:
    link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    link.type, link.linkname = kind, "elsewhere"
    with_member(archive, link)
    with raises_error("unsafe-archive", "'cifar-10-batches-py/data_batch_1'"):
        cifar10.import_archive(archive)


def test_a_member_of_absurd_size(archive: Path) -> None:
    bomb = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    bomb.size = 10**12
    with_member(archive, bomb)
    with raises_error("unsafe-archive", "data_batch_1", "1.0 TB", "CIFAR-10"):
        cifar10.import_archive(archive)


# --- into folders


def test_the_folders_of_improved_diffusion(archive: Path, tmp_path: Path) -> None:
    assert main.main(["data", "cifar10", "--archive", str(archive), "--folder", str(tmp_path)]) == 0
    train, test = tmp_path / "cifar_train", tmp_path / "cifar_test"
    names = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert {path.name for path in train.glob("*.png")} == {f"{names[LABELS[k]]}_{k:05d}.png" for k in range(50)}
    assert {path.name for path in test.glob("*.png")} == {f"{names[LABELS[50 + k]]}_{k:05d}.png" for k in range(10)}
    dataset = datasets.open_dataset(DataConfig(data_dir=str(train)), ModelConfig(image_size=32))
    assert dataset.class_names == tuple(sorted(names))
    order = sorted(range(50), key=lambda k: f"{names[LABELS[k]]}_{k:05d}")
    assert np.array_equal(dataset.images, PIXELS[order])


def test_a_class_is_not_cut_at_its_underscore(archive: Path, tmp_path: Path) -> None:
    contents = parts()
    contents[cifar10.META][b"label_names"] = [b"big_bird", b"big_cat", *NAMES[2:]]
    archive.write_bytes(packed(contents))
    cifar10.import_archive(archive)
    cifar10.write_folders(tmp_path)
    assert {"big-bird", "big-cat"} <= set(datasets.describe(str(tmp_path / "cifar_train")).class_names)


def test_folders_that_are_there_already(archive: Path, tmp_path: Path) -> None:
    cifar10.import_archive(archive)
    cifar10.write_folders(tmp_path)
    kept = tmp_path / "cifar_train" / "plane_00000.png"
    before = kept.stat().st_mtime_ns
    (tmp_path / "cifar_train" / "ship_00024.png").unlink()
    calls: list[tuple[int, int]] = []
    cifar10.write_folders(tmp_path, lambda done, total: calls.append((done, total)))
    assert kept.stat().st_mtime_ns == before
    assert (tmp_path / "cifar_train" / "ship_00024.png").exists()
    assert calls[-1] == (60, 60)


def test_a_checksum_that_is_asked_for(archive: Path) -> None:
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    assert main.main(["data", "cifar10", "--archive", str(archive), "--md5", md5.upper()]) == 0
    archive.write_bytes(archive.read_bytes() + b"x")
    with raises_error("wrong-checksum", "cifar-10-python.tar.gz", "md5"):
        main.execute(["data", "cifar10", "--archive", str(archive), "--md5", md5])
    with raises_error("unreadable-file"):
        archives.check_md5(archive.parent, md5)
