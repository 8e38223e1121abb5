"""From an archive of pictures to a folder of PNG files: safely, with progress, and taken up where it broke off."""

import contextlib
import hashlib
import itertools
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.storage import files, images

Progress = Callable[[int, int], None]  # (done, total), in pictures or bytes

CHUNK = 2**20  # bytes between two calls of `progress`
BLOCK = 64  # pictures between two calls of `progress`
ORIGIN = ".origin.json"  # in a folder of pictures: what they are made from

# Beyond both, what a zip says that it holds is no picture: those hardly get smaller by packing.
BOMB_BYTES, BOMB_RATIO = 2**26, 200

DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)  # what reading a bad zip raises


class Picture(NamedTuple):
    """A picture that is not decoded yet."""

    name: str  # of its file, without .png
    pixels: Callable[[], np.ndarray]  # gives uint8 [H, W, 3]; raises UserError when it is broken; any thread may call


def write_pictures(
    folder: Path, pictures: Iterator[Picture], count: int, origin: Mapping[str, Any], progress: Progress | None = None
) -> None:
    """Write each picture to `folder` as NAME.png.  Files that are there already stay, and are not decoded again.

    count: of the pictures, for `progress`.  origin: what they are made from, as JSON; another time it must be the same.

    Raises UserError when `folder` holds something else, or when pictures are broken, after all others; DiskFull.
    """
    claim(folder, origin)
    files.sweep(folder, seconds=0)
    done, broken = 0, list[str]()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while block := list(itertools.islice(pictures, BLOCK)):
            broken += [wrong for wrong in pool.map(lambda one: _write(folder, one), block) if wrong]
            done += len(block)
            if progress:
                progress(done, count)
    if broken:
        raise UserError(
            f"{len(broken):,} of {plural(count, 'picture')}"
            f" {'is broken and was' if len(broken) == 1 else 'are broken and were'} left out of {folder} (the first:"
            f" {broken[0]}): train without them, or get the archive again.",
            code="broken-image",
        )


def _write(folder: Path, picture: Picture) -> str:
    """What is wrong with it, if anything."""
    path = folder / f"{picture.name}.png"
    if _is_whole(path):
        return ""
    try:
        pixels = picture.pixels()
    except UserError as error:
        return str(error)
    files.write_bytes(path, images.encode_png(pixels), durable=False)
    return ""


def _is_whole(path: Path) -> bool:
    """Whether a PNG file is there to its end: a power cut may have left one empty or half."""
    try:
        with open(path, "rb") as file:
            file.seek(-12, os.SEEK_END)
            return file.read()[4:8] == b"IEND"
    except OSError:  # it is not there, or shorter than that
        return False


def check_free(folder: Path) -> None:
    """Raises UserError when `folder` holds files that no preparation wrote."""
    if (folder / ORIGIN).exists() or not folder.is_dir():
        return
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder} holds other files already: name a new folder, or an empty one.", code="not-empty")


def claim(folder: Path, origin: Mapping[str, Any]) -> None:
    """Note in `folder`, made where it is not there, what its pictures are made from.

    Raises UserError when it holds something else, or cannot be written.
    """
    try:
        check_free(folder)
        found = files.read_json(folder / ORIGIN)
        if found is None:
            files.write_json(folder / ORIGIN, origin)
        elif found != json.loads(json.dumps(origin)):
            was, now = (", ".join(f"{k} {v}" for k, v in what.items()) for what in (dict(found), origin))
            raise UserError(
                f"{folder} was begun from something else ({was}; now {now}): name another folder.", code="not-empty"
            )
    except OSError as error:
        raise UserError(
            f"Cannot write in {folder} ({error.strerror}): name another folder.", code="not-writable"
        ) from error


@contextlib.contextmanager
def opened_zip(path: Path, wanted: str) -> Iterator[zipfile.ZipFile]:
    """A zip file, looked through before anything of it is read; damage that shows later becomes a UserError too.

    wanted: what to use instead, for the sentence when it is missing, damaged, cut short or not to be trusted.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                check_entry(path, entry.filename, stat.S_ISLNK(entry.external_attr >> 16), wanted)
                if entry.file_size > max(BOMB_BYTES, BOMB_RATIO * entry.compress_size):
                    raise UserError(
                        f"{path} says that its {entry.filename} of {entry.compress_size / 1e6:.3g} MB grows to "
                        f"{entry.file_size / 1e6:,.0f} MB, which no pictures do: use {wanted}.",
                        code="unsafe-archive",
                    )
            yield archive
    except FileNotFoundError:
        raise UserError(f"There is no file {path}: check the path.", code="not-found") from None
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): name {wanted} itself.", code="unreadable-file"
        ) from error
    except DAMAGE as error:
        raise UserError(
            f"{path} is cut short, damaged or no zip file ({error}): get it again, {wanted}.", code="damaged-archive"
        ) from error


def check_entry(archive: Path, name: str, is_link: bool, wanted: str) -> None:
    """Raises UserError for an entry of an archive that points outside the folder it would be unpacked into."""
    windows = PureWindowsPath(name)  # which takes both slashes
    if is_link or windows.drive or windows.root or ".." in windows.parts:
        what = "is a link" if is_link else "points outside of it"
        raise UserError(
            f"{archive} is not to be trusted, as its entry {name!r} {what}: use {wanted}.", code="unsafe-archive"
        )


def check_md5(path: Path, md5: str, progress: Progress | None = None) -> None:
    """Raises UserError unless the file has this checksum."""
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
            f"The checksum of {path} cannot be taken ({error.strerror}): name an archive file.", code="unreadable-file"
        ) from error
    if digest.hexdigest() != md5.lower():
        raise UserError(
            f"{path} is damaged, or another file (md5 {digest.hexdigest()}, not {md5.lower()}): get it again.",
            code="wrong-checksum",
        )


class Blocks(NamedTuple):
    """An array of uint8 that is never in memory as a whole."""

    shape: tuple[int, ...]
    parts: Iterator[np.ndarray]  # along the first axis


def write_npz(path: Path, arrays: Mapping[str, np.ndarray | Blocks]) -> None:
    """Write an .npz file, not compressed, whole or not at all.  Raises DiskFull."""

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
    """The last part of an entry's path."""
    return PurePosixPath(name).name
