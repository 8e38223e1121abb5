"""Data sets that are known by name, as data: one row each.  To add one: a row here, and what opens it.

Some can be had from their owners alone: `ARCHIVES` says how, and `ddpm data NAME` makes a folder of images of them.
"""

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

WRITING = "Writing images"  # what a job says that counts images; others count bytes


class Archive(NamedTuple):
    """A data set that nobody but its owners may give out, or that only a script of theirs fetches."""

    title: str
    where: str  # how to get it, as a sentence
    wanted: str  # what to name once it is here; empty where its images are used as they are
    images: int  # for training, and their classes
    classes: int
    side: int = 0  # pixels of the images that are made of it


ARCHIVES = {
    "imagenet64": Archive(
        "ImageNet-64",
        "Its licence allows no download without an account: register at image-net.org, and fetch there both parts of"
        " the training images at 64 x 64 as npz.",
        "Imagenet64_train_part1_npz.zip and Imagenet64_train_part2_npz.zip, or the folder with them",
        1_281_167,
        1000,
        64,
    ),
    "imagenet": Archive(
        "ImageNet",
        "Its licence allows no download without an account: register at image-net.org, fetch the training images of"
        " ILSVRC2012, and unpack them into a folder for each class. Then type the path of the folder that has these.",
        "",
        1_281_167,
        1000,
    ),
    "lsun": Archive(
        "LSUN bedrooms",
        "A script of its authors fetches it (43 GB): download.py, at github.com/fyu/lsun, with the category bedroom.",
        "bedroom_train_lmdb.zip, or the folder that it unpacks to",
        3_033_042,
        1,
        256,
    ),
}
"""By the name of a command of `ddpm data`, where it has one."""
