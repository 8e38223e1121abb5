"""Opens data sources: folders, .npz files, tar shards and the data sets known by name."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.data import shapes, shard_index
from ddpm.data.decoded import Progress
from ddpm.data.image_folders import open_folder
from ddpm.data.listing import file_stamp, list_folder
from ddpm.data.npz_files import Npz
from ddpm.data.source import Item, Read, Source
from ddpm.data.tar_shards import expanded, is_pattern, open_shards
from ddpm.data_sets import DATA_SETS
from ddpm.errors import UserError
from ddpm.storage import paths
from ddpm.storage.paths import cache_folder

PREPARED = ("lsun", "imagenet64")  # prepared by `ddpm data`, and opened by path

MINI = Path(__file__).parents[1] / "assets" / "cifar10_mini.npz"


_opened: ContextVar[dict[str, Source] | None] = ContextVar("sources of an opened_once block", default=None)


@contextlib.contextmanager
def opened_once() -> Iterator[None]:
    """While the block lasts, a source is opened once, and then handed out again: a large folder takes seconds to list.

    For what asks several questions of the same data, and should get answers about the same files; also a decorator.
    """
    mark = None if _opened.get() is not None else _opened.set({})  # an outer block goes on
    try:
        yield
    finally:
        if mark:
            _opened.reset(mark)


def cifar10_path() -> Path:
    """Path of the .npz file that `ddpm data cifar10` writes."""
    return cache_folder() / "cifar10" / "cifar10.npz"


def cifar10_mini() -> Source:
    """Opens the 1,000 CIFAR-10 images that come with the program."""
    return Npz(MINI, DATA_SETS["cifar10-mini"].title)


def cifar10() -> Source:
    """Opens the data set that `ddpm data cifar10` prepared.  Raises UserError if that has not been done."""
    if not cifar10_path().exists():
        raise UserError(
            "CIFAR-10 is not on this computer yet: run `ddpm data cifar10` to download it (170 MB), or "
            "`ddpm data cifar10 --archive FILE` for a cifar-10-python.tar.gz that you have.",
            code="not-downloaded",
        )
    return Npz(cifar10_path(), DATA_SETS["cifar10"].title)


def exists(data_dir: str) -> bool:
    """True if there is a file, a folder or a data set of that name; of a pattern of shards, the first."""
    if data_dir in DATA_SETS or os.path.exists(paths.full(data_dir)):
        return True
    try:
        return is_pattern(data_dir) and bool(expanded(data_dir))
    except UserError:
        return False


def open_source(data_dir: str, progress: Progress | None = None) -> Source:
    """Opens the source `data_dir`; of tar shards an index is made once, with calls of `progress`.

    Raises UserError if it does not exist or holds no images.
    """
    opened = _opened.get()
    if opened is None:
        return _open(data_dir, progress)
    if data_dir not in opened:
        opened[data_dir] = _open(data_dir, progress)
    return opened[data_dir]


def _open(data_dir: str, progress: Progress | None) -> Source:
    if data_dir in DATA_SETS:
        source: Source = DATA_SETS[data_dir].open()
        return source
    if not data_dir.strip():
        raise UserError(
            f"data_dir is empty: name a folder of images, an .npz file, or one of {', '.join(DATA_SETS)}.",
            code="no-data-named",
        )
    path = paths.full(data_dir)
    if os.path.isdir(path):  # unlike path.is_dir(), False for an invalid path
        listing = list_folder(path)
        if listing.shards and not listing.files:
            return open_shards([path.joinpath(*shard.parts) for shard in listing.shards], progress)
        return open_folder(path, listing)
    if is_pattern(data_dir):
        return open_shards(expanded(data_dir), progress)
    if not os.path.exists(path):
        raise UserError(
            f"There is no folder or file {data_dir}: run `ddpm data {path.name} --help` to prepare one."
            if path.name in PREPARED
            else (
                f"There is no folder or file {data_dir}: check the path, or use one of the data sets"
                f" {', '.join(DATA_SETS)}."
            ),
            code="not-found",
        )
    if path.suffix.lower() != ".npz" or not path.is_file():
        raise UserError(
            f"{data_dir} is neither a folder, nor an .npz file or .tar shards: name the folder that holds the images.",
            code="not-data",
        )
    return Npz(path, ".npz file")


def shards_state(data_dir: str) -> str:
    """Names the state of the tar shards of a folder or pattern: another name when one was added, removed or written."""
    path = paths.full(data_dir)
    if os.path.isdir(path):
        shards = [path.joinpath(*shard.parts) for shard in list_folder(path).shards]
    else:
        shards = expanded(data_dir)
    return shard_index.path_of(shards, [file_stamp(shard) for shard in shards]).name


class Shapes(Source):
    """Data source: the generated shapes; labels int64 [count]."""

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
        yield Read(shapes.render(index, size, channels), self._identify(index))
