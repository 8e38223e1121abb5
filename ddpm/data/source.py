"""Interface of data sources, as returned by `sources.open_source`.

A source lists its images without decoding them, and reads pixels on demand.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ddpm.formatting import printable

IDENTITY_BYTES = 32  # length of the identity of an image


class Read(NamedTuple):
    """Image in memory."""

    image: Image.Image
    identity: bytes  # SHA-256 of its content in the source: the same for any name and image_size


class Item(NamedTuple):
    """Image that is not read yet."""

    name: str  # name in messages
    open: Callable[[], AbstractContextManager[Read]]  # thread-safe; raises UserError if broken
    identify: Callable[[], bytes]  # identity without decoding; raises UserError if it cannot be read


class Source(ABC):
    """List of images that are not decoded yet."""

    kind: str  # short description
    count: int
    labels: np.ndarray | None = None  # int64 [count], indices into class_names; -1 for none
    subset: str = ""  # name of the subset of images; empty: all
    class_names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None  # width and height of the first image; None: any size
    left_out: tuple[str, ...] = ()  # other files, by kind: "3 .txt files"
    notices: tuple[str, ...] = ()  # sentences on images that are not used

    @abstractmethod
    def stamps(self) -> Any:
        """State of the files when the source was opened, as JSON; a different value means the images may differ."""

    def has_changed(self) -> bool:
        """True if files of the source were written to since it was opened."""
        return False

    @abstractmethod
    def items(self, size: int, channels: int) -> Iterator[Item]:
        """Yields all images in order, not yet read.

        size, channels: for a source that generates its images; others ignore them.
        """

    def some_items(self, indices: Sequence[int], size: int, channels: int) -> Iterator[Item]:
        """Yields some images, by increasing index, not yet read."""
        wanted = set(indices)
        for index, item in enumerate(itertools.islice(self.items(size, channels), max(wanted, default=-1) + 1)):
            if index in wanted:
                yield item

    @property
    def within_reach(self) -> int:
        """How many of the first images can be read in a moment, one by one, whatever lies between them."""
        return self.count

    def class_counts(self) -> tuple[int, ...]:
        """Number of images of each class; empty without labels."""
        return () if self.labels is None else count_classes(self.labels, self.class_names)

    def test_part(self) -> "Source | None":
        """Test split of the data, numbered like the training images; None if there is none."""
        return None

    def labelled(self) -> "Source":
        """The source without images that have no class."""
        return self


def count_classes(labels: np.ndarray, names: Sequence[str]) -> tuple[int, ...]:
    """Number of images of each class; labels: int64 [N], -1 for none."""
    return tuple(int(n) for n in np.bincount(labels[labels >= 0], minlength=len(names)))


def number_classes(names: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers the class names [N] in sorted order; returns labels int64 [N] and the unique names."""
    classes, labels = np.unique(np.asarray(names), return_inverse=True)
    return labels.astype(np.int64), tuple(printable(str(name)) for name in classes)
