"""Converts LSUN from its official lmdb database, or the zip file of it, to a folder of PNG files.

The values of the database are WebP files; the keys carry no information.
"""

import contextlib
import re
import shutil
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.config.tasks import LsunConfig
from ddpm.data import archives
from ddpm.data.archives import CHUNK, PendingImage, Progress
from ddpm.errors import UserError
from ddpm.storage import files, image_files, images

DATA = "data.mdb"  # the data file of an lmdb database
WANTED = "an official LSUN archive such as bedroom_train_lmdb.zip, or the folder that it unpacks to"
UNPACKED = ".lmdb"  # subfolder of the image folder, until all images are written


def write(
    archive: Path, folder: Path, config: LsunConfig, unpacking: Progress | None = None, progress: Progress | None = None
) -> None:
    """Writes the images of a database as PREFIX_0000000.png, scaled and cropped to `config.image_size`.

    archive: the folder of a database, or its zip file, which is unpacked into `folder` for the time being.
    unpacking, progress: called with bytes unpacked and images written.

    Raises UserError if the package lmdb is missing, if the archive is missing, damaged, truncated or something else,
    or if `folder` holds other files; DiskFull.
    """
    if not re.fullmatch(r"[^/\\_.][^/\\_]*", config.prefix):
        raise UserError(
            f"prefix is {config.prefix!r}: use a word without '_', '/' and '\\', as it begins the file names and names"
            " the class.",
            code="bad-value",
        )
    _module()
    archives.check_free(folder)
    database = _unpack(archive, folder, unpacking) if archive.is_file() and archive.name != DATA else archive
    try:
        _write(archive, database.parent if database.name == DATA else database, folder, config, progress)
    except files.DiskFull:
        raise  # the unpacked database is used again once there is room
    except UserError:
        shutil.rmtree(folder / UNPACKED, ignore_errors=True)
        raise
    shutil.rmtree(folder / UNPACKED, ignore_errors=True)


def _write(archive: Path, database: Path, folder: Path, config: LsunConfig, progress: Progress | None) -> None:
    with _opened(database) as transaction:
        count = transaction.stat()["entries"]
        cursor = transaction.cursor()
        if not cursor.first():
            raise UserError(f"The database in {archive} is empty: use {WANTED}.", code="wrong-archive")
        first = bytes(cursor.key()).decode("latin1")
        origin = {
            "data": "lsun",
            "first": first,
            "count": count,
            "image_size": config.image_size,
            "prefix": config.prefix,
        }
        archives.write_images(folder, _images(cursor, config), count, origin, progress)


def _module() -> Any:
    try:
        import lmdb
    except ImportError:
        raise UserError(
            "LSUN is an lmdb database, and the package that reads it is not installed: run pip install lmdb, or install"
            " 'ddpm-workbench[lsun]'.",
            code="missing-package",
        ) from None
    return lmdb


def _unpack(archive: Path, folder: Path, progress: Progress | None) -> Path:
    """Unpacks the database, as lmdb must map it into memory; an earlier complete copy is used again."""
    with archives.opened_zip(archive, WANTED) as zipped:
        found = [entry for entry in zipped.infolist() if archives.base_name(entry.filename) == DATA]
        if len(found) != 1:
            raise UserError(
                f"{archive} has {len(found)} files named {DATA}, not one: use {WANTED}.", code="wrong-archive"
            )
        entry, path = found[0], folder / UNPACKED / DATA
        if path.exists() and path.stat().st_size == entry.file_size:
            return path
        if entry.file_size > files.free_bytes(folder):
            raise files.DiskFull(path)
        files.write(path, lambda file: _copy(zipped, entry, file, progress))
        return path


def _copy(zipped: zipfile.ZipFile, entry: zipfile.ZipInfo, file: Any, progress: Progress | None) -> None:
    done = 0
    with zipped.open(entry) as member:
        while chunk := member.read(CHUNK):
            file.write(chunk)
            done += len(chunk)
            if progress:
                progress(done, entry.file_size)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    """Opens a transaction on the database in `folder`.  Raises UserError if there is none, or it is damaged."""
    lmdb, data = _module(), folder / DATA
    if not data.is_file():
        raise UserError(f"There is no lmdb database in {folder} (no {DATA}): name {WANTED}.", code="wrong-archive")
    try:
        with lmdb.open(str(folder), readonly=True, lock=False, create=False) as database:
            # Reading past the end of a truncated file would crash this process.
            size = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
            if data.stat().st_size < size:
                raise UserError(
                    f"{data} is truncated ({data.stat().st_size / 1e6:.3g} of {size / 1e6:.3g} MB): download it again.",
                    code="damaged-archive",
                )
            with database.begin(buffers=True) as transaction:
                yield transaction
    except lmdb.Error as error:
        raise UserError(
            f"{data} is damaged, or not an lmdb database ({error}): download it again, {WANTED}.",
            code="damaged-archive",
        ) from error


def _images(cursor: Any, config: LsunConfig) -> Iterator[PendingImage]:
    """Yields all images in the order of their keys; their bytes stay in the database until they are decoded."""
    for k, value in enumerate(cursor.iternext(keys=False)):
        yield PendingImage(f"{config.prefix}_{k:07d}", partial(_decode, value, k, config.image_size))


def _decode(value: memoryview, k: int, size: int) -> np.ndarray:
    return images.boxed(image_files.decode(bytes(value), f"image {k} of the database"), size)
