"""Imports CIFAR-10 from its official archive, as the data set `cifar10` or as the folders of improved-diffusion.

The archive is a tar of pickles.  It is read in place, member by member, with an unpickler that is restricted to
numbers, strings and arrays.
"""

import io
import pickle
import tarfile
import zlib
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ddpm.data import archives
from ddpm.data.archives import PendingImage, Progress
from ddpm.data.download import CHUNK, MD5
from ddpm.data.sources import cifar10_path
from ddpm.errors import UserError

FOLDER = PurePosixPath("cifar-10-batches-py")
TRAIN = tuple(f"data_batch_{k}" for k in range(1, 6))
TEST, META = "test_batch", "batches.meta"
LARGEST = 2**28  # bytes of a member; the official ones have 31 MB
OFFICIAL = "the official cifar-10-python.tar.gz"
SHORTER = {"airplane": "plane", "automobile": "car"}  # class names in the file names of improved-diffusion


def import_archive(archive: Path, progress: Progress | None = None) -> Path:
    """Reads the official archive, or one of the same layout; returns the .npz file of the data set `cifar10`.

    Its arrays are train and test, uint8 [N, 32, 32, 3], train_labels and test_labels, int64 [N], and class_names.

    Raises UserError if the archive is missing, damaged, truncated or something else; DiskFull.
    """
    parts = _read_archive(archive, progress)
    class_names = _class_names(archive, parts[META])
    train = [_batch(archive, name, parts[name], len(class_names)) for name in TRAIN]
    test = _batch(archive, TEST, parts[TEST], len(class_names))
    arrays = dict(
        train=np.concatenate([pixels for pixels, _ in train]),
        train_labels=np.concatenate([labels for _, labels in train]),
        test=test[0],
        test_labels=test[1],
        class_names=class_names,
    )
    archives.write_npz(cifar10_path(), arrays)
    return cifar10_path()


def write_folders(folder: Path, progress: Progress | None = None) -> list[Path]:
    """Writes the imported data set as the folders of improved-diffusion, cifar_train and cifar_test (plane_00042.png).

    Returns both folders.  Raises UserError if they hold something else; DiskFull.
    """
    with np.load(cifar10_path()) as arrays:
        names = [SHORTER.get(name, name) for name in arrays["class_names"].tolist()]
        parts = [(part, arrays[part], arrays[f"{part}_labels"]) for part in ("train", "test")]
    total, written = sum(len(pixels) for _, pixels, _ in parts), list[Path]()
    before = 0
    for part, pixels, labels in parts:
        pending = (
            PendingImage(f"{names[label]}_{k:05d}", partial(np.asarray, one))
            for k, (one, label) in enumerate(zip(pixels, labels, strict=True))
        )

        def more(done: int, _: int, before: int = before) -> None:
            if progress:
                progress(before + done, total)

        written.append(folder / f"cifar_{part}")
        archives.write_images(written[-1], pending, len(pixels), {"data": "cifar10", "part": part}, more)
        before += len(pixels)
    return written


def _read_archive(archive: Path, progress: Progress | None) -> dict[str, dict[str, Any]]:
    """Unpickles the seven members, by name."""
    wanted = {str(FOLDER / name): name for name in (*TRAIN, TEST, META)}
    parts: dict[str, dict[str, Any]] = {}
    try:
        total = archive.stat().st_size
        with open(archive, "rb") as file, tarfile.open(fileobj=file) as tar:
            for member in tar:
                archives.check_entry(archive, member.name, member.issym() or member.islnk(), OFFICIAL)
                if member.size > LARGEST:
                    raise UserError(
                        f"{archive} has an entry {member.name} of {member.size / 1e6:,.0f} MB, more than any part of"
                        f" CIFAR-10: use {OFFICIAL}.",
                        code="unsafe-archive",
                    )
                name = wanted.get(str(PurePosixPath(member.name)))
                content = tar.extractfile(member) if name and member.isfile() else None
                if name and content:
                    parts[name] = _unpickle(archive, name, content.read())
                if progress:
                    progress(file.tell(), total)
            while tar.fileobj and tar.fileobj.read(CHUNK):  # to the end, where gzip stores its checksum
                pass
    except FileNotFoundError:
        raise UserError(f"There is no file {archive}: check the path.", code="not-found") from None
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(
            f"{archive} cannot be read ({error.strerror}): name the file cifar-10-python.tar.gz itself.",
            code="unreadable-file",
        ) from error
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"{archive} is truncated, damaged or not a tar archive ({len(parts)} of {len(wanted)} parts are readable): "
            f"download it again, and compare its md5 with {MD5}.",
            code="damaged-archive",
        ) from error
    missing = [member for member, name in wanted.items() if name not in parts]
    if missing:
        raise UserError(
            f"{archive} has no {missing[0]} ({len(parts)} of {len(wanted)} parts are there): "
            f"use {OFFICIAL}, the Python version of CIFAR-10.",
            code="wrong-archive",
        )
    return parts


class _Unpickler(pickle.Unpickler):
    """Unpickler restricted to the types of a CIFAR-10 batch; raises UnpicklingError for any other."""

    ALLOWED = {  # noqa: RUF012
        ("multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        ("numeric", "_frombuffer"): np._core.numeric._frombuffer,  # type: ignore[attr-defined]
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
        ("builtins", "bytearray"): bytearray,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith(("numpy.core.", "numpy._core.")):
            module = module.rpartition(".")[2]
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it contains {module}.{name}") from None


def _unpickle(archive: Path, name: str, data: bytes) -> dict[str, Any]:
    """Unpickles a dict, its keys as str: Python 2 wrote the official files, so they may be bytes."""
    try:
        value = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else str(key): item for key, item in value.items()}
    except Exception as error:  # unpickling damaged data can raise any exception
        raise UserError(
            f"{FOLDER / name} in {archive} is not a part of CIFAR-10 ({error}): download the archive again.",
            code="damaged-archive",
        ) from error


def _batch(archive: Path, name: str, part: dict[str, Any], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32, 3] and labels int64 [N] of one batch."""
    planes = np.asarray(part.get("data", ()))
    labels = [
        label for label in part.get("labels", ()) if isinstance(label, (int, np.integer)) and 0 <= label < classes
    ]
    if planes.dtype != np.uint8 or planes.shape != (len(labels), 3 * 32 * 32) or not labels:
        raise UserError(
            f"{FOLDER / name} in {archive} holds {planes.dtype} {list(planes.shape)} and {len(labels)} valid labels,"
            f" not uint8 [N, 3072] and N labels: use {OFFICIAL}.",
            code="wrong-archive",
        )
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), np.array(labels, np.int64)


def _class_names(archive: Path, meta: dict[str, Any]) -> np.ndarray:
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in meta.get("label_names", ())]
    if not names:
        raise UserError(f"{FOLDER / META} in {archive} has no class names: use {OFFICIAL}.", code="wrong-archive")
    return np.array(names)
