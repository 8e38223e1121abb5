"""Imports CIFAR-10 from its official archive, as the data set `cifar10` or as the folders of improved-diffusion.

The archive is a tar of pickles.  It is read in place, member by member, by a reader that knows numbers, strings and
arrays, and calls nothing.
"""

import io
import math
import re
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ddpm.data import archives, tar_files
from ddpm.data.archives import Blocks, PendingImage, Progress
from ddpm.data.download import MD5
from ddpm.data.sources import cifar10_path
from ddpm.errors import UserError
from ddpm.formatting import printable
from ddpm.storage import arrays, pickles
from ddpm.storage.pickles import Call, Name, Unreadable

FOLDER = PurePosixPath("cifar-10-batches-py")
TRAIN = tuple(f"data_batch_{k}" for k in range(1, 6))
TEST, META = "test_batch", "batches.meta"
LARGEST = 2**26  # bytes of a member; the official ones have 31 MB
MOST_CLASSES = 1000
CLASS_NAME = re.compile(r"\w([\w .-]{0,62}\w)?")
OFFICIAL = "the official archive of CIFAR-10, cifar-10-python.tar.gz"
NAMES = {  # all that a pickle of numbers, strings and arrays names
    *(Name(module, name) for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")),
    *(Name(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *(Name(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    *(Name("numpy", name) for name in ("ndarray", "dtype")),
    Name("_codecs", "encode"),
}
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
    count = sum(len(labels) for _, labels in train)
    content: dict[str, np.ndarray | Blocks] = dict(
        train=Blocks((count, 32, 32, 3), (pixels for pixels, _ in train)),
        train_labels=np.concatenate([labels for _, labels in train]),
        test=test[0],
        test_labels=test[1],
        class_names=class_names,
    )
    archives.write_npz(cifar10_path(), content)
    return cifar10_path()


def write_folders(folder: Path, progress: Progress | None = None) -> list[Path]:
    """Writes the imported data set as the folders of improved-diffusion, cifar_train and cifar_test (plane_00042.png).

    Returns both folders.  Raises UserError if they hold something else; DiskFull.
    """
    found = arrays.read_npz(cifar10_path())
    # In the name of a file a class ends with its first underscore.
    names = [SHORTER.get(name, name).replace("_", "-") for name in found["class_names"].tolist()]
    parts = [(part, found[part], found[f"{part}_labels"]) for part in ("train", "test")]
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
    """Reads the seven members, by name."""
    wanted = {str(FOLDER / name): name for name in (*TRAIN, TEST, META)}
    parts: dict[str, dict[str, Any]] = {}
    try:
        total = archive.stat().st_size
        with open(archive, "rb") as file:
            for entry in tar_files.entries(archive, file, OFFICIAL, LARGEST):
                if name := wanted.get(str(PurePosixPath(entry.name))):
                    parts[name] = _read_part(archive, name, entry.read())
                if progress:
                    progress(file.tell(), total)
        if progress:
            progress(total, total)
    except FileNotFoundError:
        raise UserError(f"There is no file {archive}: check the path.", code="not-found") from None
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(
            f"{archive} cannot be read ({error.strerror}): name the file cifar-10-python.tar.gz itself.",
            code="unreadable-file",
        ) from error
    except tar_files.DAMAGE as error:
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


def _read_part(archive: Path, name: str, data: bytes) -> dict[str, Any]:
    """Reads a pickled dict, its keys as str (Python 2 wrote the official files, so they may be bytes), arrays as such.

    No unpickler reads it: see `ddpm.storage.pickles`.
    """
    try:
        found = pickles.read(io.BytesIO(data), len(data), NAMES)
        if not isinstance(found, dict):
            raise Unreadable(f"it is no dict but {type(found).__name__}")
        return {
            key.decode("latin-1") if isinstance(key, bytes) else str(key): _array(value)
            if isinstance(value, Call)
            else value
            for key, value in found.items()
        }
    except Unreadable as error:
        raise UserError(
            f"{FOLDER / name} in {archive} is not a part of CIFAR-10 ({error}): download the archive again.",
            code="damaged-archive",
        ) from error


def _array(call: Call) -> np.ndarray:
    """The array of integers [...] that a pickle of numpy stands for.  Raises Unreadable for any other call."""
    match call:
        case Call(
            (_, "_reconstruct"),
            (("numpy", "ndarray"), (0,), b"b" | "b"),
            (1, shape, Call() as dtype, bool() | 0 | 1 as fortran, bytes() as content),
        ):
            in_fortran_order = bool(fortran)
        case Call((_, "_frombuffer"), (bytes() as content, Call() as dtype, shape, "C" | "F" as order, *_)):
            in_fortran_order = order == "F"
        case _:
            raise Unreadable(f"it calls {call.function} in another way than for an array")
    kind = _dtype(dtype)
    if not isinstance(shape, tuple) or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise Unreadable("an array in it has no shape")
    if len(shape) > 4 or math.prod(shape) * kind.itemsize != len(content):
        raise Unreadable(f"an array {list(shape[:5])} of {kind} in it has {len(content):,} bytes")
    return np.frombuffer(content, kind).reshape(shape, order="F" if in_fortran_order else "C")


def _dtype(call: Call) -> np.dtype:
    """The type of integers that a pickled dtype stands for.  Raises Unreadable for any other."""
    match call:
        case Call(
            ("numpy", "dtype"), (str() | bytes() as text, *_), (3 | 4, str() | bytes() as order, None, None, None, *_)
        ):
            name, sign = (part.decode("latin-1") if isinstance(part, bytes) else part for part in (text, order))
            if re.fullmatch("[iu][1248]", name) and sign in ("|", "<", ">", "="):
                return np.dtype(f"{sign}{name}")
    raise Unreadable("an array in it is of another type than integers")


def _batch(archive: Path, name: str, part: dict[str, Any], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32, 3] and labels int64 [N] of one batch."""
    planes, given = part.get("data"), part.get("labels", ())
    planes = planes if isinstance(planes, np.ndarray) else np.empty(0)
    given = given if isinstance(given, list | tuple | np.ndarray) else ()
    labels = [label for label in given if isinstance(label, (int, np.integer)) and 0 <= label < classes]
    if planes.dtype != np.uint8 or planes.shape != (len(labels), 3 * 32 * 32) or not labels:
        raise UserError(
            f"{FOLDER / name} in {archive} holds {planes.dtype} {list(planes.shape)} and {len(labels)} valid labels,"
            f" not uint8 [N, 3072] and N labels: use {OFFICIAL}.",
            code="wrong-archive",
        )
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), np.array(labels, np.int64)


def _class_names(archive: Path, meta: dict[str, Any]) -> np.ndarray:
    """The names [classes], which become parts of file names.  Raises UserError unless each is a name, and no path."""
    found = meta.get("label_names", ())
    if not isinstance(found, list | tuple) or not 0 < len(found) <= MOST_CLASSES:
        raise UserError(f"{FOLDER / META} in {archive} has no class names: use {OFFICIAL}.", code="wrong-archive")
    names = [name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name for name in found]
    for name in names:
        if not isinstance(name, str) or not CLASS_NAME.fullmatch(name):
            raise UserError(
                f"{FOLDER / META} in {archive} has the class name {printable(str(name)[:80])!r}, which is not a word of"
                f" at most 64 letters, digits, spaces, dots and dashes: use {OFFICIAL}.",
                code="unsafe-archive",
            )
    return np.array(names)
