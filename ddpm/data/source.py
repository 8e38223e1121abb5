"""The interface of a data source: what `sources.open_source` returns.

A source lists its images without decoding them, and reads pixels when asked.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ddpm.formatting import printable

IDENTITY_BYTES = 32  # of what an image is known by


class Read(NamedTuple):
    """An image that is in memory."""

    image: Image.Image
    identity: bytes  # SHA-256 of its content as the source has it: the same under any name and at any size


class Item(NamedTuple):
    """An image that is not read yet."""

    name: str  # what sentences call it
    open: Callable[[], AbstractContextManager[Read]]  # raises UserError when it is broken; any thread may call it
    identify: Callable[
        [], bytes
    ]  # its identity without decoding it, broken or not; raises UserError where it cannot be read


class Source(ABC):
    """A list of pictures, looked through but not decoded."""

    kind: str  # a few words on what it is
    count: int
    labels: np.ndarray | None = None  # int64 [count], each the place of its class in class_names; -1 for none
    subset: str = ""  # which of the images these are; empty: all
    class_names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None  # width and height of the first image; None: any size
    left_out: tuple[str, ...] = ()  # what else lies there, by kind: "3 .txt files"
    notices: tuple[str, ...] = ()  # sentences on images that are not used

    @abstractmethod
    def stamps(self) -> Any:
        """What the images at this place depended on when the source was opened, as JSON: another value, and they
        may be others.
        """

    def has_changed(self) -> bool:
        """Whether what the images depend on was written to since the source was opened."""
        return False

    @abstractmethod
    def items(self, size: int, channels: int) -> Iterator[Item]:
        """All images in order, not yet read.

        size, channels: what is wanted, for a source that draws; others give what they have.
        """

    def test_part(self) -> "Source | None":
        """The pictures that the data sets apart for testing, where it has such a part; labels as in the rest."""
        return None

    def labelled(self) -> "Source":
        """Only the images that have a class, where some have none."""
        return self


def number_classes(names: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes numbered in sorted order: labels int64 [N] and their names."""
    classes, labels = np.unique(np.asarray(names), return_inverse=True)
    return labels.astype(np.int64), tuple(printable(str(name)) for name in classes)
