"""Data sets that are known by name, as data: one row each.  To add one: a row here, and what opens it."""

import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple


class DataSet(NamedTuple):
    """A data set as forms, flags and sentences see it."""

    title: str
    description: str
    opener: str | Callable[[], Any]  # "module:name" of what returns its `data.source.Source`; imported when needed
    images: int = 0  # training images and classes, for estimates before it is there; 0: not known
    classes: int = 0

    def open(self) -> Any:
        """Returns the `data.source.Source`.  Raises UserError where it has to be downloaded first."""
        return (pkgutil.resolve_name(self.opener) if isinstance(self.opener, str) else self.opener)()


DATA_SETS = {
    "shapes": DataSet(
        "Shapes",
        "5,000 coloured shapes in 8 classes, rendered by the program at any size.",
        "ddpm.data.sources:Shapes",
        5000,
        8,
    ),
    "cifar10-mini": DataSet(
        "CIFAR-10 mini",
        "1,000 small photographs (32 pixels), 100 in each of 10 classes. Part of the program.",
        "ddpm.data.sources:cifar10_mini",
        1000,
        10,
    ),
    "cifar10": DataSet(
        "CIFAR-10",
        "50,000 small photographs (32 pixels) in 10 classes. Downloaded once (170 MB).",
        "ddpm.data.sources:cifar10",
        50_000,
        10,
    ),
}
"""By name; a folder that is called like one of them is written ./shapes."""
