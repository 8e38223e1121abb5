"""Converts LSUN from its official lmdb database, or the zip file of it, to a folder of PNG files.

The values of the database are WebP files; the keys carry no information.
"""

import itertools
import re
import shutil
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.config.tasks import LsunConfig
from ddpm.data import archives, lmdb_files
from ddpm.data.archives import CHUNK, PendingImage, Progress
from ddpm.data.lmdb_files import Database, Value
from ddpm.errors import UserError
from ddpm.storage import files, image_files, image_limits, images

DATA = "data.mdb"  # the data file of an lmdb database
WANTED = "an official LSUN archive such as bedroom_train_lmdb.zip, or the folder that it unpacks to"
UNPACKED = ".lmdb"  # subfolder of the image folder, until all images are written


def write(
    archive: Path, folder: Path, config: LsunConfig, unpacking: Progress | None = None, progress: Progress | None = None
) -> None:
    """Writes the images of a database as PREFIX_0000000.png, scaled and cropped to `config.image_size`.

    archive: the folder of a database, or its zip file, which is unpacked into `folder` for the time being.
    unpacking, progress: called with bytes unpacked and images written.

    Raises UserError if the archive is missing, damaged, truncated or something else, or if `folder` holds other files;
    DiskFull.
    """
    if not re.fullmatch(r"[^/\\_.][^/\\_]*", config.prefix):
        raise UserError(
            f"prefix is {config.prefix!r}: use a word without '_', '/' and '\\', as it begins the file names and names"
            " the class.",
            code="bad-value",
        )
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


def _write(archive: Path, folder: Path, target: Path, config: LsunConfig, progress: Progress | None) -> None:
    data = folder / DATA
    if not data.is_file():
        raise UserError(f"There is no lmdb database in {folder} (no {DATA}): name {WANTED}.", code="wrong-archive")
    with lmdb_files.opened(data, WANTED) as database:
        values = database.values()
        first = next(values, None)
        if first is None:
            raise UserError(f"The database in {archive} is empty: use {WANTED}.", code="wrong-archive")
        origin = {
            "data": "lsun",
            "first": first.key.decode("latin1"),
            "count": database.entries,
            "image_size": config.image_size,
            "prefix": config.prefix,
        }
        pending = _pending(database, itertools.chain([first], values), config)
        archives.write_images(target, pending, database.entries, origin, progress)


def _unpack(archive: Path, folder: Path, progress: Progress | None) -> Path:
    """Unpacks the database, in which is read to and fro; an earlier complete copy is used again."""
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


def _pending(database: Database, values: Iterator[Value], config: LsunConfig) -> Iterator[PendingImage]:
    """Yields all images in the order of their keys; their bytes stay in the database until they are decoded."""
    for k, value in enumerate(values):
        yield PendingImage(f"{config.prefix}_{k:07d}", partial(_decode, database, value, k, config.image_size))


def _decode(database: Database, value: Value, k: int, size: int) -> np.ndarray:
    name = f"image {k} of the database"
    image_limits.check_bytes(value.size, name)
    return images.boxed(image_files.decode(database.read(value), name), size)
