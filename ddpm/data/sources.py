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


<<<<<<< HEAD
=======
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
        """What the images at this place depended on when the source was opened, as JSON:
        another value, and they may be others.
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


>>>>>>> main
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
                " need"
                " none."
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
<<<<<<< HEAD
=======


class Files(Source):
    """Image files of a folder, in the order of their paths."""

    def __init__(
        self, folder: Path, found: Sequence[File], kind: str, labels: np.ndarray | None, class_names: tuple[str, ...]
    ):
        self.folder, self.kind = folder, kind
        self.files = found
        self.count = len(found)
        self.labels, self.class_names = labels, class_names
        self.size = image_files.size(self.path(found[0]))
        self.test: Files | None = None

    def path(self, file: File) -> Path:
        return self.folder.joinpath(*file.parts)

    def test_part(self) -> Source | None:
        return self.test

    def labelled(self) -> Source:
        if self.labels is None or self.labels.min() >= 0:
            return self
        kept = np.flatnonzero(self.labels >= 0).tolist()
        found = Files(
            self.folder, [self.files[place] for place in kept], self.kind, self.labels[kept], self.class_names
        )
        found.test, found.left_out, found.notices, found.subset = self.test, self.left_out, self.notices, "labelled"
        return found

    def stamps(self) -> Any:
        return ["/".join((*file.parts, file.stamp)) for file in self.files]

    def has_changed(self) -> bool:
        return any(is_rewritten(file.stamp, _stamp(self.path(file))) for file in self.files)

    def items(self, size: int, channels: int) -> Iterator[Item]:
        for file in self.files:
            path = self.path(file)
            yield Item(printable("/".join(file.parts)), partial(_open_file, path, size), partial(_identify_file, path))


def open_folder(folder: Path) -> Files:
    """The images in a folder and in all folders in it, sorted into classes and parts: see `ddpm.data.labelling`.

    Classes are numbered in the sorted order of their names.  Raises UserError when there is no image, or when the
    folder is one of samples or of a run.
    """
    listing = look(folder)
    if not listing.files:
        without = f" ({', '.join(listing.left_out)} left out)" if listing.left_out else ""
        raise UserError(
            f"There are no images in {folder}{without}: put some there, or into folders in it ({', '.join(FORMATS)}).",
            code="no-images",
        )
    sorted_ = label([file.parts for file in listing.files])
    if sorted_.unclear:
        raise UserError(
            f"It is not clear which images of {folder} to learn from and which to test on, as"
            f" {some([printable(name) for name in sorted_.unclear], 6)} do not make one pair, or other images lie"
            " beside them: name one of these folders, or keep one to learn from and one to test on.",
            code="unclear-parts",
        )
    named = sorted_.rule != NO_CLASSES
    learnt = sorted([*sorted_.train, *sorted_.unlabelled])
    labels, names = _number([printable(name) for name in sorted_.train.values()]) if named else (None, ())
    numbers = {name: number for number, name in enumerate(names)}
    if named:
        labels = np.array(
            [numbers[printable(sorted_.train[place])] if place in sorted_.train else -1 for place in learnt]
        )
    where = f" in {sorted_.train_name}" if sorted_.test_name else ""
    source = Files(
        folder,
        [listing.files[place] for place in learnt],
        f"Folder{', ' if named else ' '}{sorted_.rule}{where}",
        labels,
        names,
    )
    if sorted_.test:
        of_test = np.array([numbers[printable(name)] for name in sorted_.test.values()]) if named else None
        source.test = Files(
            folder, [listing.files[place] for place in sorted_.test], f"Folder, {sorted_.test_name}", of_test, names
        )
    source.left_out = listing.left_out
    source.notices = tuple(_notices(listing, sorted_))
    return source


def _is(of: Sized) -> str:
    return "is" if len(of) == 1 else "are"


def _notices(listing: Listing, sorted_: Labelling) -> Iterator[str]:
    """Sentences on the images that are not used."""

    def named(places: Iterable[int]) -> str:
        return some([printable("/".join(listing.files[place].parts)) for place in places], 5)

    if without := sorted_.unlabelled:
        which = "outside of the class folders" if sorted_.rule == BY_FOLDER else "without a class in the name"
        yield (
            f"{plural(len(without), 'image')} {which} {_is(without)} learnt from only without classes (class_cond"
            f" False): {named(without)}."
        )
    others = sorted(set(sorted_.outside) - set(sorted_.unlabelled))
    of_test = [place for place in others if sorted_.test_name and sorted_.test_name in listing.files[place].parts]
    beside = sorted(set(others) - set(of_test))
    if of_test:
        yield (
            f"{plural(len(of_test), 'image')} in {printable(sorted_.test_name)} {_is(of_test)} not tested on, having"
            f" none of the classes: {named(of_test)}."
        )
    if beside:
        yield f"{plural(len(beside), 'image')} outside of the parts {_is(beside)} left out: {named(beside)}."
    if sorted_.unused:
        unused = ", ".join(map(printable, sorted_.unused))
        why = (
            f"{printable(sorted_.test_name)} is what is tested on"
            if sorted_.test_name
            else "its images have none of the classes; set hold_out to measure on images that are set apart"
        )
        yield f"What is in {unused} is not used: {why}."
    if sorted_.beside:
        yield (
            f"The folders are not taken for classes, as {plural(sorted_.beside, 'image')} of {len(listing.files):,}"
            f" {'is' if sorted_.beside == 1 else 'are'} not in them."
        )
    if listing.unread:
        yield (
            f"Not read: {', '.join(listing.unread)}; to train on their images, convert them to PNG or JPEG, or unpack"
            " archives."
        )


class Npz(Source):
    """An .npz file with arr_0 [arr_1], images [labels] or train [train_labels], and perhaps class_names.

    Images are uint8 [N, H, W, C] (or [N, H, W], or a single [H, W, C] in colour), labels [N].  With class_names, labels
    are places in it; otherwise each value that occurs is a class, numbered in sorted order.  Beside them, test and
    test_labels may be its test part.

    Raises UserError when it is anything else.
    """

    numbered = False  # its labels are numbers and it has no names for them
    KEYS = (("arr_0", "arr_1"), ("images", "labels"), ("train", "train_labels"))
    TEST = ("test", "test_labels")

    def __init__(self, path: Path, kind: str, test_of: "Npz | None" = None):
        self.path, self.kind, self.test_of = path, kind, test_of
        self._stamp = _stamp(path)
        with _npz(self.path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
            keys = (self.TEST,) if test_of else self.KEYS
            self.key, label_key = next((pair for pair in keys if pair[0] in names), ("", ""))
            if not self.key:
                raise UserError(
                    f"{path} holds {', '.join(sorted(names)) or 'nothing'}: name its array of images arr_0, images or"
                    " train.",
                    code="bad-array",
                )
            with archive.open(f"{self.key}.npy") as file:
                self.shape, dtype, self.fortran = npy_header(file)
            if len(self.shape) == 3 and self.shape[2] in (3, 4) and self.shape[1] != self.shape[2]:
                self.shape = (1, *self.shape)  # one image in colour, and not many grey ones so narrow
            self._check_images(dtype)
            self.count, self.size = self.shape[0], (self.shape[2], self.shape[1])
            self.has_test = self.TEST[0] in names and self.key != self.TEST[0]
            if label_key in names and not (test_of and test_of.labels is None):
                labels = self._words(archive, label_key)
                known = self._words(archive, "class_names") if "class_names" in names else None
                self._set_labels(labels, known)

    def _check_images(self, dtype: np.dtype) -> None:
        what = f"{self.key} in {self.path} is {dtype} {list(self.shape)}"
        if dtype != np.uint8:
            raise UserError(f"{what}: images must be uint8, 0 to 255; convert them.", code="bad-array")
        if len(self.shape) not in (3, 4) or (len(self.shape) == 4 and self.shape[3] not in (1, 3, 4)):
            raise UserError(
                f"{what}: images must be [N, height, width, channels] with 1, 3 or 4 channels; rearrange it.",
                code="bad-array",
            )
        if 0 in self.shape:
            raise UserError(f"{what}, which is no image at all: put some in.", code="bad-array")
        if self.shape[1] * self.shape[2] > image_files.MOST_PIXELS:
            raise UserError(
                f"{what}, and an image of more than {image_files.MOST_PIXELS // 10**6} million pixels is not decoded:"
                " make them smaller.",
                code="image-too-large",
            )

    def _words(self, archive: zipfile.ZipFile, key: str) -> np.ndarray:
        """An array of numbers or words.  Raises UserError for one of Python's objects,
        which might run a program when read.
        """
        with archive.open(f"{key}.npy") as file:
            shape, dtype, _ = npy_header(file)
        if dtype.hasobject:
            raise UserError(
                f"{key} in {self.path} is an array of Python objects, which are not read, as they can run programs:"
                f" save it again as plain text or numbers, as with {key}.astype(str).",
                code="bad-array",
            )
        found = _array(archive, key)
        if dtype.kind == "S":
            found = np.char.decode(found, "utf-8", "backslashreplace")
        return found.reshape(-1) if len(shape) == 2 and shape[1] == 1 else found

    def _set_labels(self, labels: np.ndarray, known: np.ndarray | None) -> None:
        what = f"The labels in {self.path} are {labels.dtype} {list(labels.shape)}"
        if labels.shape != (self.count,) or labels.dtype.kind not in "iuU":
            raise UserError(
                f"{what}: there must be one whole number or word for each of its {plural(self.count, 'image')}; correct"
                " them.",
                code="bad-labels",
            )
        if known is not None and known.ndim != 1:
            raise UserError(
                f"class_names in {self.path} is {known.dtype} {list(known.shape)}: there must be a name for each class;"
                " correct it.",
                code="bad-labels",
            )
        if known is None and self.test_of:
            self.labels, self.class_names = self._as_in_training(labels), self.test_of.class_names
        elif known is None:
            self.labels, self.class_names = _number(labels)
            self.numbered = labels.dtype.kind != "U"
        elif labels.dtype.kind == "U" or labels.min() < 0 or labels.max() >= len(known):
            raise UserError(
                f"{what} and not all of them are places in its {len(known)} class_names: correct either.",
                code="bad-labels",
            )
        else:
            self.labels, self.class_names = labels.astype(np.int64), tuple(printable(str(name)) for name in known)

    def _as_in_training(self, labels: np.ndarray) -> np.ndarray:
        assert self.test_of is not None
        places = {name: place for place, name in enumerate(self.test_of.class_names)}
        unknown = sorted({str(label) for label in labels} - set(places))
        if unknown:
            raise UserError(
                f"test_labels in {self.path} has {', '.join(unknown[:5])}, which no picture to train on has: correct"
                " the labels.",
                code="bad-labels",
            )
        return np.array([places[str(label)] for label in labels], dtype=np.int64)

    def test_part(self) -> Source | None:
        return Npz(self.path, self.kind, test_of=self) if self.has_test else None

    def stamps(self) -> Any:
        return self._stamp

    def has_changed(self) -> bool:
        return is_rewritten(self._stamp, _stamp(self.path))

    def items(self, size: int, channels: int) -> Iterator[Item]:
        for place, pixels in enumerate(self._arrays()):
            yield Item(f"{self.key}[{place}]", partial(self._open, pixels), partial(self._identify, pixels))

    def _arrays(self) -> Iterator[np.ndarray]:
        with _npz(self.path) as archive:
            if self.fortran:
                yield from _array(archive, self.key).reshape(self.shape)
                return
            with archive.open(f"{self.key}.npy") as file:
                npy_header(file)
                shape = self.shape[1:]
                for _ in range(self.count):
                    yield np.frombuffer(file.read(math.prod(shape)), np.uint8).reshape(shape)

    @contextlib.contextmanager
    def _open(self, pixels: np.ndarray) -> Iterator[Read]:
        yield Read(images.from_pixels(pixels), self._identify(pixels))

    def _identify(self, pixels: np.ndarray) -> bytes:
        identity = hashlib.sha256(f"{pixels.shape}".encode())
        identity.update(pixels.tobytes())
        return identity.digest()


@contextlib.contextmanager
def _npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """The .npz file, open; damage to it that shows while it is read becomes a UserError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise UserError(f"There is no file {path}: check the path.", code="not-found") from None
    except PermissionError as error:
        raise as_user_error(error) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, RuntimeError) as error:
        raise UserError(
            f"{path} is damaged, or no .npz file ({error}): copy or make it again.", code="damaged-archive"
        ) from error


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
    return labels.astype(np.int64), tuple(printable(str(name)) for name in classes)


@contextlib.contextmanager
def _open_file(path: Path, size: int) -> Iterator[Read]:
    with image_files.opened(path) as file:
        identity = hashlib.file_digest(file, "sha256").digest()
        file.seek(0)
        with image_files.read(file, path, size) as image:
            yield Read(image, identity)


def _identify_file(path: Path) -> bytes:
    try:
        with image_files.opened(path) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise as_user_error(error) from error


def _stamp(path: Path) -> str:
    try:
        return stamp(os.stat(path))
    except FileNotFoundError:
        return "missing"
>>>>>>> main
