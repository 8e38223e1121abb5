"""Where pictures come from: folders, .npz files and the data sets known by name.

A source lists what is there without decoding it, and reads pixels when asked.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.data import shapes
from ddpm.data.image_folders import open_folder
from ddpm.data.npz_files import Npz
from ddpm.data.source import Item, Read, Source
from ddpm.data_sets import DATA_SETS
from ddpm.errors import UserError
from ddpm.storage import paths
from ddpm.storage.paths import cache_folder

PREPARED = ("lsun", "imagenet64")  # what `ddpm data` makes a folder or file of, to be named by its path

MINI = Path(__file__).parents[1] / "assets" / "cifar10_mini.npz"


def cifar10_path() -> Path:
    """Where `ddpm data cifar10` puts what it read from the archive."""
    return cache_folder() / "cifar10" / "cifar10.npz"


def cifar10_mini() -> Source:
    """The 1,000 photographs that come with the program."""
    return Npz(MINI, DATA_SETS["cifar10-mini"].title)


def cifar10() -> Source:
    """What `ddpm data cifar10` read from the archive.  Raises UserError where that was not done yet."""
    if not cifar10_path().exists():
        raise UserError(
            "CIFAR-10 is not on this computer yet: run `ddpm data cifar10` to download it (170 MB), or "
            "`ddpm data cifar10 --archive FILE` with a cifar-10-python.tar.gz that you have.",
            code="not-downloaded",
        )
    return Npz(cifar10_path(), DATA_SETS["cifar10"].title)


def open_source(data_dir: str) -> Source:
    """The source that `data_dir` names.  Raises UserError when there is none, or nothing in it."""
    if data_dir in DATA_SETS:
        source: Source = DATA_SETS[data_dir].open()
        return source
    if not data_dir.strip():
        raise UserError(
            f"No data is named: give a folder of images, an .npz file, or one of {', '.join(DATA_SETS)}.",
            code="no-data-named",
        )
    path = paths.full(data_dir)
    if os.path.isdir(path):  # unlike path.is_dir(), False for what cannot be a path at all
        return open_folder(path)
    if not os.path.exists(path):
        raise UserError(
            f"There is no folder or file {data_dir}: run `ddpm data {path.name} --help` to prepare one."
            if path.name in PREPARED
            else (
                f"There is no folder or file {data_dir}: check the path, or use one of {', '.join(DATA_SETS)}, which"
                " need none."
            ),
            code="not-found",
        )
    if path.suffix.lower() != ".npz" or not path.is_file():
        raise UserError(
            f"{data_dir} is neither a folder nor an .npz file: name the folder that holds the images.", code="not-data"
        )
    return Npz(path, ".npz file")


class Shapes(Source):
    """The data set that the program draws."""

    def __init__(self) -> None:
        self.kind = DATA_SETS["shapes"].title
        self.count = shapes.COUNT
        self.class_names = shapes.NAMES
        self.labels = np.arange(self.count) % len(shapes.NAMES)

    def stamps(self) -> Any:
        return shapes.VERSION

    def items(self, size: int, channels: int) -> Iterator[Item]:
        return (
            Item(f"shape {index}", partial(self._open, index, size, channels), partial(self._identify, index))
            for index in range(self.count)
        )

    def _identify(self, index: int) -> bytes:
        return hashlib.sha256(f"shapes {shapes.VERSION} {index}".encode()).digest()

    @contextlib.contextmanager
    def _open(self, index: int, size: int, channels: int) -> Iterator[Read]:
        yield Read(shapes.draw(index, size, channels), self._identify(index))
