"""Where pictures come from: folders, .npz files and the data sets known by name.

A source lists what is there without decoding it, and reads pixels when asked.
"""

import contextlib
import math
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from ddpm import images, shapes
from ddpm.errors import UserError
from ddpm.files import cache_folder

Decode = Callable[[], Image.Image]  # gives one picture; raises UserError when it is broken; any thread may call it


class Named(NamedTuple):
    title: str
    description: str


SOURCES = {
    "shapes": Named("Shapes", f"{shapes.COUNT:,} coloured shapes in {len(shapes.NAMES)} classes, drawn by the program at any size."),
    "cifar10-mini": Named("CIFAR-10 mini", "1,000 small photographs (32 pixels), 100 in each of 10 classes. Part of the program."),
    "cifar10": Named("CIFAR-10", "50,000 small photographs (32 pixels) in 10 classes. Downloaded once (170 MB): ddpm data cifar10."),
}  # fmt: skip

PREPARED = ("lsun", "imagenet64")  # what `ddpm data` makes a folder or file of, to be named by its path

MINI = Path(__file__).with_name("assets") / "cifar10_mini.npz"


def cifar10_path() -> Path:
    """Where `ddpm data cifar10` puts what it read from the archive."""
    return cache_folder() / "cifar10" / "cifar10.npz"


class Source(ABC):
    """A list of pictures, looked through but not decoded."""

    kind: str  # a few words on what it is
    count: int
    labels: np.ndarray | None = None  # int64 [count], each the place of its class in class_names
    class_names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None  # width and height of the first picture; None: any size

    @abstractmethod
    def identity(self) -> Any:
        """What the pictures at this place depend on, as JSON: another value means other pictures."""

    @abstractmethod
    def pictures(self, size: int, channels: int) -> Iterator[Decode]:
        """All pictures in order, not yet decoded.

        size, channels: what is wanted, for a source that draws; others give what they have.
        """

    def test_part(self) -> "Source | None":
        """The pictures that the data sets apart for testing, where it has such a part; labels as in the rest."""
        return None


def open_source(data_dir: str) -> Source:
    """The source that `data_dir` names.  Raises UserError when there is none, or nothing in it."""
    if data_dir == "shapes":
        return Shapes()
    if data_dir == "cifar10-mini":
        return Npz(MINI, SOURCES[data_dir].title)
    if data_dir == "cifar10":
        if not cifar10_path().exists():
            raise UserError(
                "CIFAR-10 is not on this computer yet: run `ddpm data cifar10` to download it (170 MB), or "
                "`ddpm data cifar10 --archive FILE` with a cifar-10-python.tar.gz that you have."
            )
        return Npz(cifar10_path(), SOURCES[data_dir].title)
    if not data_dir.strip():
        raise UserError(f"No data is named: give a folder of images, an .npz file, or one of {', '.join(SOURCES)}.")
    path = Path(os.path.expanduser(data_dir))
    if os.path.isdir(path):  # unlike path.is_dir(), False for what cannot be a path at all
        return Folder(path)
    if not os.path.exists(path):
        raise UserError(
            f"There is no folder or file {data_dir}: run `ddpm data {path.name} --help` to prepare one."
            if path.name in PREPARED
            else f"There is no folder or file {data_dir}: check the path, or use one of {', '.join(SOURCES)}, which need none."
        )
    if path.suffix.lower() != ".npz":
        raise UserError(f"{data_dir} is neither a folder nor an .npz file: name the folder that holds the images.")
    return Npz(path, ".npz file")


class Shapes(Source):
    """The data set that the program draws."""

    def __init__(self) -> None:
        self.kind = SOURCES["shapes"].title
        self.count = shapes.COUNT
        self.class_names = shapes.NAMES
        self.labels = np.arange(self.count) % len(shapes.NAMES)

    def identity(self) -> Any:
        return shapes.VERSION

    def pictures(self, size: int, channels: int) -> Iterator[Decode]:
        return (partial(shapes.draw, index, size, channels) for index in range(self.count))


class Folder(Source):
    """The pictures in a folder and in all folders in it, in the order of their paths.

    Their classes, by the first of these rules that fits:
    1. No picture lies in the folder itself, and they lie in two or more folders: the name of its folder is the
       class of a picture.
    2. The part of each file name up to the first `_` is the class, as improved-diffusion has it, when every name
       has one, there are two or more, and some pictures share one.
    Classes are numbered in the sorted order of their names.

    Raises UserError when there is no picture.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.paths = _find(folder)
        self.count = len(self.paths)
        if not self.paths:
            known = ", ".join(extension.removeprefix(".") for extension in images.EXTENSIONS)
            raise UserError(f"There are no images in {folder}: put some there, or into folders in it ({known}).")
        self.size = images.size(self.paths[0])
        self.kind = "Folder without classes"
        for kind, names in (("classes by folder", self._folder_names()), ("classes by file name", self._prefixes())):
            if names and self.labels is None:
                self.labels, self.class_names = _number(names)
                self.kind = f"Folder, {kind}"

    def _folder_names(self) -> list[str]:
        names = [path.parent.name for path in self.paths]
        return names if self.folder not in {p.parent for p in self.paths} and len(set(names)) > 1 else []

    def _prefixes(self) -> list[str]:
        names = [path.name.partition("_")[0] for path in self.paths if "_" in path.name]
        return names if all(names) and len(names) == self.count and 1 < len(set(names)) < self.count else []

    def identity(self) -> Any:
        return [f"{str(path).removeprefix(str(self.folder))}|{_stamp(path)}" for path in self.paths]

    def pictures(self, size: int, channels: int) -> Iterator[Decode]:
        return (partial(images.load, path) for path in self.paths)


class Npz(Source):
    """An .npz file with arr_0 [arr_1], images [labels] or train [train_labels], and perhaps class_names.

    Pictures are uint8 [N, H, W, C] (or [N, H, W]), labels [N].  With class_names, labels are places in it;
    otherwise each value that occurs is a class, numbered in sorted order.  Beside them, test and test_labels
    may be its test part.

    Raises UserError when it is anything else.
    """

    numbered = False  # its labels are numbers and it has no names for them
    KEYS = (("arr_0", "arr_1"), ("images", "labels"), ("train", "train_labels"))
    TEST = ("test", "test_labels")

    def __init__(self, path: Path, kind: str, test_of: "Npz | None" = None):
        self.path, self.kind, self.test_of = path, kind, test_of
        with _npz(self.path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
            keys = (self.TEST,) if test_of else self.KEYS
            self.key, label_key = next((pair for pair in keys if pair[0] in names), ("", ""))
            if not self.key:
                raise UserError(f"{path} holds {', '.join(sorted(names)) or 'nothing'}: name its array of images arr_0, images or train.")  # fmt: skip
            with archive.open(f"{self.key}.npy") as file:
                self.shape, dtype, self.fortran = npy_header(file)
            self._check_images(dtype)
            self.count, self.size = self.shape[0], (self.shape[2], self.shape[1])
            self.has_test = self.TEST[0] in names and self.key != self.TEST[0]
            if label_key in names and not (test_of and test_of.labels is None):
                labels = _array(archive, label_key)
                known = _array(archive, "class_names") if "class_names" in names else None
                self._set_labels(labels, known)

    def _check_images(self, dtype: np.dtype) -> None:
        what = f"{self.key} in {self.path} is {dtype} {list(self.shape)}"
        if dtype != np.uint8:
            raise UserError(f"{what}: images must be uint8, 0 to 255; convert them.")
        if len(self.shape) not in (3, 4) or (len(self.shape) == 4 and self.shape[3] not in (1, 3, 4)):
            raise UserError(f"{what}: images must be [N, height, width, channels] with 1, 3 or 4 channels; rearrange it.")  # fmt: skip
        if 0 in self.shape:
            raise UserError(f"{what}, which is no image at all: put some in.")

    def _set_labels(self, labels: np.ndarray, known: np.ndarray | None) -> None:
        what = f"The labels in {self.path} are {labels.dtype} {list(labels.shape)}"
        if labels.shape != (self.count,) or labels.dtype.kind not in "iuU":
            raise UserError(f"{what}: there must be one whole number for each of its {self.count} images; correct them.")  # fmt: skip
        if known is None and self.test_of:
            self.labels, self.class_names = self._as_in_training(labels), self.test_of.class_names
        elif known is None:
            self.labels, self.class_names = _number(labels)
            self.numbered = labels.dtype.kind != "U"
        elif labels.dtype.kind == "U" or labels.min() < 0 or labels.max() >= len(known):
            raise UserError(f"{what} and not all of them are places in its {len(known)} class_names: correct either.")
        else:
            self.labels, self.class_names = labels.astype(np.int64), tuple(str(name) for name in known)

    def _as_in_training(self, labels: np.ndarray) -> np.ndarray:
        assert self.test_of is not None
        places = {name: place for place, name in enumerate(self.test_of.class_names)}
        unknown = sorted({str(label) for label in labels} - set(places))
        if unknown:
            raise UserError(f"test_labels in {self.path} has {', '.join(unknown[:5])}, which no picture to train on has: correct the labels.")  # fmt: skip
        return np.array([places[str(label)] for label in labels], dtype=np.int64)

    def test_part(self) -> Source | None:
        return Npz(self.path, self.kind, test_of=self) if self.has_test else None

    def identity(self) -> Any:
        return _stamp(self.path)

    def pictures(self, size: int, channels: int) -> Iterator[Decode]:
        with _npz(self.path) as archive:
            if self.fortran:
                yield from (partial(images.from_pixels, pixels) for pixels in _array(archive, self.key))
                return
            with archive.open(f"{self.key}.npy") as file:
                npy_header(file)
                shape = self.shape[1:]
                for _ in range(self.count):
                    pixels = np.frombuffer(file.read(math.prod(shape)), np.uint8)
                    yield partial(images.from_pixels, pixels.reshape(shape))


@contextlib.contextmanager
def _npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """The .npz file, open; damage to it that shows while it is read becomes a UserError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, RuntimeError) as error:
        raise UserError(f"{path} is damaged, or no .npz file ({error}): copy or make it again.") from error


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, type and whether columns come first, of an array in .npy format; leaves `file` at the values."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, dtype, fortran


def _array(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    with archive.open(f"{key}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _number(names: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes numbered in sorted order: labels int64 [N] and their names."""
    classes, labels = np.unique(np.asarray(names), return_inverse=True)
    return labels.astype(np.int64), tuple(str(name) for name in classes)


def _find(folder: Path) -> list[Path]:
    """All pictures in `folder` and below, in the order of their paths; not what is hidden, no folder twice."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed ({error.strerror}): change its permissions.") from error

    found, seen = [], set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # a link to where we have been
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(place, name)
            for name in names
            if name.lower().endswith(images.EXTENSIONS) and not name.startswith(".")
        ]
    return sorted((Path(path) for path in found), key=lambda path: path.parts)  # the same order on every system


def _stamp(path: Path) -> str:
    """Size and time of change: another one, and the file is another."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return "missing"
    return f"{status.st_size}|{status.st_mtime_ns}"
