"""Data source: an .npz file of images."""

import contextlib
import hashlib
import math
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.config.codec import MOST_CLASSES
from ddpm.data.listing import file_stamp, is_rewritten
from ddpm.data.source import Item, Read, Source, number_classes
from ddpm.errors import UserError, as_user_error
from ddpm.formatting import memory, plural, printable
from ddpm.storage import arrays, image_limits, images, zip_files

MOST_LABELS = 2**27  # bytes of an array of labels or class names
REACH = 2**28  # bytes of images that are unpacked in a second or two


class Npz(Source):
    """An .npz file with arr_0 (arr_1), images (labels) or train (train_labels), and optionally class_names.

    Images are uint8 [N, H, W, C] (or [N, H, W], or one [H, W, C] in colour), labels [N].  With class_names, labels
    are indices into it; otherwise each value that occurs is a class, numbered in sorted order.  The arrays test and
    test_labels, if present, are its test split.

    Raises UserError for any other content.
    """

    numbered = False  # True if labels are integers without class_names
    KEYS = (("arr_0", "arr_1"), ("images", "labels"), ("train", "train_labels"))
    TEST = ("test", "test_labels")

    def __init__(self, path: Path, kind: str, test_of: "Npz | None" = None):
        self.path, self.kind, self.test_of = path, kind, test_of
        self._stamp = file_stamp(path)
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
            entry = archive.getinfo(f"{self.key}.npy")
            with archive.open(entry) as file:
                self.shape, dtype, self.fortran = header = arrays.read_header(file)
                held = entry.file_size - file.tell()
            if len(self.shape) == 3 and self.shape[2] in (3, 4) and self.shape[1] != self.shape[2]:
                self.shape = (1, *self.shape)  # one colour image rather than many very narrow grey ones
            self._check_images(dtype)
            if held != header.bytes:
                raise ValueError(f"{self.key} has {held:,} bytes instead of the {header.bytes:,} of its shape")
            self.count, self.size = self.shape[0], (self.shape[2], self.shape[1])
            self.has_test = self.TEST[0] in names and self.key != self.TEST[0]
            if label_key in names and not (test_of and test_of.labels is None):
                labels = self._values(archive, label_key)
                known = self._values(archive, "class_names") if "class_names" in names else None
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
            raise UserError(f"{what} and holds no image: add some.", code="bad-array")
        image_limits.check_pixels(self.shape[2], self.shape[1], what)

    def _values(self, archive: zipfile.ZipFile, key: str) -> np.ndarray:
        """Reads an array of numbers or strings.

        Raises UserError for an array of Python objects, as reading it could execute code.
        """
        entry = archive.getinfo(f"{key}.npy")
        if entry.file_size > MOST_LABELS:
            raise UserError(
                f"{key} in {self.path} has {memory(entry.file_size)}, more than the limit of"
                f" {memory(MOST_LABELS)} for labels and names: save them as integers, with short names.",
                code="too-large",
            )
        found = arrays.read_entry(archive, key, str(self.path))
        if found.dtype.kind == "S":
            found = np.char.decode(found, "utf-8", "backslashreplace")
        return found.reshape(-1) if found.ndim == 2 and found.shape[1] == 1 else found

    def _set_labels(self, labels: np.ndarray, known: np.ndarray | None) -> None:
        what = f"The labels in {self.path} are {labels.dtype} {list(labels.shape)}"
        if labels.shape != (self.count,) or labels.dtype.kind not in "iuU":
            raise UserError(
                f"{what}: there must be one integer or string for each of its {plural(self.count, 'image')}; correct"
                " them.",
                code="bad-labels",
            )
        if known is not None and known.ndim != 1:
            raise UserError(
                f"class_names in {self.path} is {known.dtype} {list(known.shape)}: there must be a name for each class;"
                " correct it.",
                code="bad-labels",
            )
        if known is None and self.test_of and self.test_of.labels is None:
            return
        if known is None and self.test_of:
            self.labels, self.class_names = self._training_labels(labels), self.test_of.class_names
        elif known is None:
            self.labels, self.class_names = number_classes(labels)
            self.numbered = labels.dtype.kind != "U"
        elif labels.dtype.kind == "U" or labels.min() < 0 or labels.max() >= len(known):
            raise UserError(
                f"{what} and not all of them are indices into its {len(known)} class_names: correct either.",
                code="bad-labels",
            )
        else:
            self.labels, self.class_names = labels.astype(np.int64), tuple(printable(str(name)) for name in known)
        if len(self.class_names) > MOST_CLASSES:  # each image has its own
            self.labels, self.class_names = None, ()

    def _training_labels(self, labels: np.ndarray) -> np.ndarray:
        """Maps test labels [N] to the class numbers of the training images, int64 [N]."""
        assert self.test_of is not None
        numbers = {name: number for number, name in enumerate(self.test_of.class_names)}
        unknown = sorted({str(label) for label in labels} - set(numbers))
        if unknown:
            raise UserError(
                f"test_labels in {self.path} has {', '.join(unknown[:5])}, which no training image has: correct"
                " the labels.",
                code="bad-labels",
            )
        return np.array([numbers[str(label)] for label in labels], dtype=np.int64)

    def test_part(self) -> Source | None:
        return Npz(self.path, self.kind, test_of=self) if self.has_test else None

    @property
    def within_reach(self) -> int:
        return max(1, min(self.count, REACH // math.prod(self.shape[1:])))  # what is before them is unpacked too

    def stamps(self) -> Any:
        return self._stamp

    def has_changed(self) -> bool:
        return is_rewritten(self._stamp, file_stamp(self.path))

    def items(self, size: int, channels: int) -> Iterator[Item]:
        for index, pixels in enumerate(self._arrays()):
            yield Item(f"{self.key}[{index}]", partial(self._open, pixels), partial(self._identify, pixels))

    def _arrays(self) -> Iterator[np.ndarray]:
        with _npz(self.path) as archive:
            if self.fortran:
                yield from arrays.read_entry(archive, self.key, str(self.path)).reshape(self.shape)
                return
            with archive.open(f"{self.key}.npy") as file:
                arrays.read_header(file)
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
    """Opens an .npz file; damage found while it is read is raised as UserError."""
    try:
        with zip_files.opened(path, str(path), "copy or create it again") as archive:
            yield archive
    except FileNotFoundError:
        raise UserError(f"There is no file {path}: check the path.", code="not-found") from None
    except PermissionError as error:
        raise as_user_error(error) from error
    except arrays.DAMAGE as error:
        raise UserError(
            f"{path} is damaged, or not an .npz file ({error}): copy or create it again.", code="damaged-archive"
        ) from error
