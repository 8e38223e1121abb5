"""Unpacks image archives to folders of PNG files: safely, with progress, and resumable."""

import contextlib
import hashlib
import itertools
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.storage import files, images, zip_files

Progress = Callable[[int, int], None]  # (done, total), in images or bytes

CHUNK = 2**20  # bytes between two calls of `progress`
BLOCK = 64  # images between two calls of `progress`
ORIGIN = ".origin.json"  # in a folder of images: the source they were made from

# What reading a damaged zip raises; errors of the system are not among them, as of a full disk.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)


class PendingImage(NamedTuple):
    """Image that is not decoded yet."""

    name: str  # file name without .png
    pixels: Callable[[], np.ndarray]  # returns uint8 [H, W, 3]; thread-safe; raises UserError if broken


def write_images(
    folder: Path,
    pending: Iterator[PendingImage],
    count: int,
    origin: Mapping[str, Any],
    progress: Progress | None = None,
) -> None:
    """Writes each image to `folder` as NAME.png.  Existing files are kept and not decoded again.

    count: number of images, for `progress`.  origin: the source of the images, as JSON; the same in every call.

    Raises UserError if `folder` holds something else, or, after all others are written, if images are broken; DiskFull.
    """
    claim(folder, origin)
    files.sweep(folder, seconds=0)
    done, broken = 0, list[str]()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while block := list(itertools.islice(pending, BLOCK)):
            broken += [wrong for wrong in pool.map(lambda one: _write(folder, one), block) if wrong]
            done += len(block)
            if progress:
                progress(done, count)
    if broken:
        raise UserError(
            f"{len(broken):,} of {plural(count, 'image')}"
            f" {'is broken and was' if len(broken) == 1 else 'are broken and were'} left out of {folder} (the first:"
            f" {broken[0]}): train without them, or download the archive again.",
            code="broken-image",
        )


def _write(folder: Path, image: PendingImage) -> str:
    """Writes one image; returns the error message if it is broken, else an empty string."""
    zip_files.check_entry(image.name, is_link=False, where=str(folder), remedy="download the archive again")
    path = folder / f"{image.name}.png"
    if _is_whole(path):
        return ""
    try:
        pixels = image.pixels()
    except UserError as error:
        return str(error)
    files.write_bytes(path, images.encode_png(pixels), durable=False)
    return ""


def _is_whole(path: Path) -> bool:
    """True if a PNG file exists and is complete: a power cut may have left it empty or truncated."""
    try:
        with open(path, "rb") as file:
            file.seek(-12, os.SEEK_END)
            return file.read()[4:8] == b"IEND"
    except OSError:  # missing, or shorter than that
        return False


def check_free(folder: Path) -> None:
    """Raises UserError if `folder` holds files that this module did not write."""
    if (folder / ORIGIN).exists() or not folder.is_dir():
        return
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder} already holds other files: name a new or empty folder.", code="not-empty")


def claim(folder: Path, origin: Mapping[str, Any]) -> None:
    """Records the source of the images in `folder`, which is created if needed.

    Raises UserError if the folder holds something else, or cannot be written.
    """
    try:
        check_free(folder)
        found = files.read_json(folder / ORIGIN)
        if found is None:
            files.write_json(folder / ORIGIN, origin)
        elif found != json.loads(json.dumps(origin)):
            was, now = (", ".join(f"{k} {v}" for k, v in what.items()) for what in (dict(found), origin))
            raise UserError(
                f"{folder} holds images of another source ({was}; now {now}): name another folder.", code="not-empty"
            )
    except OSError as error:
        raise UserError(
            f"Cannot write to {folder} ({error.strerror}): name another folder.", code="not-writable"
        ) from error


@contextlib.contextmanager
def opened_zip(path: Path, wanted: str) -> Iterator[zipfile.ZipFile]:
    """Opens a zip file and checks its entries; damage found while it is read is raised as UserError too.

    wanted: the file to use instead, for the error message.  Raises UserError if the file is missing, damaged, truncated
    or unsafe.
    """
    try:
        with zip_files.opened(path, str(path), f"use {wanted}") as archive:
            yield archive
    except FileNotFoundError:
        raise UserError(f"There is no file {path}: check the path.", code="not-found") from None
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): name the file itself, {wanted}.", code="unreadable-file"
        ) from error
    except DAMAGE as error:
        raise UserError(
            f"{path} is truncated, damaged or not a zip file ({error}): download it again, {wanted}.",
            code="damaged-archive",
        ) from error


def check_md5(path: Path, md5: str, progress: Progress | None = None) -> None:
    """Raises UserError unless the file has this MD5 checksum."""
    digest, done = hashlib.md5(usedforsecurity=False), 0
    try:
        total = path.stat().st_size
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
    except OSError as error:
        raise UserError(
            f"The checksum of {path} cannot be computed ({error.strerror}): name an archive file.",
            code="unreadable-file",
        ) from error
    if digest.hexdigest() != md5.lower():
        raise UserError(
            f"{path} is damaged, or another file (md5 {digest.hexdigest()}, not {md5.lower()}): download it again.",
            code="wrong-checksum",
        )


class Blocks(NamedTuple):
    """Array uint8 of a given shape, delivered in parts so that it never has to fit in memory."""

    shape: tuple[int, ...]
    parts: Iterator[np.ndarray]  # along the first axis


def write_npz(path: Path, arrays: Mapping[str, np.ndarray | Blocks]) -> None:
    """Writes arrays, of any shape [...] and dtype, to an uncompressed .npz file, atomically.  Raises DiskFull."""

    def save(file: Any) -> None:
        with zipfile.ZipFile(file, "w") as zipped:
            for name, array in arrays.items():
                with zipped.open(f"{name}.npy", "w", force_zip64=True) as member:
                    if isinstance(array, np.ndarray):
                        np.lib.format.write_array(member, array, allow_pickle=False)
                        continue
                    header = dict(descr="|u1", fortran_order=False, shape=array.shape)
                    np.lib.format.write_array_header_1_0(member, header)
                    for part in array.parts:
                        member.write(part.tobytes())

    files.write(path, save)


def base_name(name: str) -> str:
    """File name of an archive entry, without its folders."""
    return PurePosixPath(name).name
