"""Converts ImageNet at 64 x 64 from its official downsampled archives to a folder of PNG files or to one .npz file.

An archive is a zip file of train_data_batch_1.npz to train_data_batch_10.npz, or of val_data.npz; a folder of these
files, or one of them, is accepted too.  Each holds `data`, uint8 [N, 12288], planes of red, green and blue, and
`labels` from 1 to 1000.  They are read in place, a block of images at a time.
"""

import contextlib
import itertools
import re
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ddpm.data import archives
from ddpm.data.archives import DAMAGE, Blocks, PendingImage, Progress
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.storage import arrays, zip_files

DATA, LABELS = "data.npy", "labels.npy"  # in an .npz file
SIZE = 64
BYTES = 3 * SIZE * SIZE  # of an image
CLASSES = 1000
MOST = 2**20  # images in a batch; the official ones have at most 128,117
BLOCK = 1024  # images read at once: 12 MB
TRAIN_BATCHES = 10
NAMES = {"train": re.compile(r"train_data_batch_(\d{1,2})\.npz"), "val": re.compile(r"val_data(\b)\.npz")}
WANTED = "the official Imagenet64_train_part1_npz.zip, Imagenet64_train_part2_npz.zip or Imagenet64_val_npz.zip"


class Batch(NamedTuple):
    """One of the official .npz files; its images are not read yet."""

    path: Path  # of the .npz file, or of the zip file that contains it
    entry: str  # its name in the zip file, or empty
    number: str  # "01" to "10", or "val"
    labels: np.ndarray  # int64 [N], 1 to 1000

    @property
    def title(self) -> str:
        return f"{self.entry} in {self.path}" if self.entry else str(self.path)


def find_batches(paths: Sequence[Path], split: str) -> list[Batch]:
    """Finds the batches of a split, "train" or "val", in archives or folders, in order.

    Raises UserError if there is none, or if one occurs twice, is damaged or does not have the official layout.
    """
    found: dict[str, Batch] = {}
    for archive in paths:
        for path, entry in _files(archive):
            match = NAMES[split].fullmatch(archives.base_name(entry or path.name))
            if not match:
                continue
            number = match[1].zfill(2) if split == "train" else split
            if number in found:
                raise UserError(
                    f"{entry or path.name} is in {found[number].path} and in {path}: name each archive once.",
                    code="conflicting-settings",
                )
            batch = Batch(path, entry, number, np.empty(0, np.int64))
            found[number] = batch._replace(labels=_labels(batch))
    if not found:
        named = "train_data_batch_1.npz to train_data_batch_10.npz" if split == "train" else "val_data.npz"
        raise UserError(
            f"There is none of {named} in {', '.join(map(str, paths))}: use {WANTED}.", code="wrong-archive"
        )
    return [found[number] for number in sorted(found)]


def missing(batches: Sequence[Batch]) -> str:
    """Says in a sentence which batches of the training images are not there; empty where none is missing."""
    there = {batch.number for batch in batches}
    lost = [] if "val" in there else [f"{k:02d}" for k in range(1, TRAIN_BATCHES + 1) if f"{k:02d}" not in there]
    if not lost:
        return ""
    return (
        f"Only {len(batches)} of the {TRAIN_BATCHES} batches of training images are there (missing: {', '.join(lost)}):"
        " name both zip files, or a folder with both, for all of ImageNet-64."
    )


def write_folder(batches: Sequence[Batch], folder: Path, progress: Progress | None = None) -> None:
    """Writes each image as LABEL_BATCH_NUMBER.png, for example 0001_01_000000.png.

    Raises UserError if an archive is damaged or `folder` holds something else; DiskFull.
    """
    count = sum(len(batch.labels) for batch in batches)
    origin = {"data": "imagenet64", "split": "val" if batches[0].number == "val" else "train"}
    archives.write_images(folder, itertools.chain.from_iterable(map(_named, batches)), count, origin, progress)


def _named(batch: Batch) -> Iterator[PendingImage]:
    pixels = itertools.chain.from_iterable(_pixels(batch))
    for k, (label, one) in enumerate(zip(batch.labels, pixels, strict=True)):
        yield PendingImage(f"{label:04d}_{batch.number}_{k:06d}", partial(np.asarray, one))


def write_npz(batches: Sequence[Batch], path: Path, progress: Progress | None = None) -> None:
    """Writes an uncompressed .npz file of arr_0, uint8 [N, 64, 64, 3], and arr_1, labels int64 [N], atomically.

    Raises UserError if an archive is damaged or `path` exists; DiskFull.
    """
    if path.exists():
        raise UserError(f"{path} already exists: delete it, or name another file.", code="already-exists")
    labels = np.concatenate([batch.labels for batch in batches])
    pixels = Blocks((len(labels), SIZE, SIZE, 3), _counted(batches, len(labels), progress))
    try:
        archives.write_npz(path, {"arr_0": pixels, "arr_1": labels})
    except PermissionError as error:
        raise UserError(
            f"Cannot write to {path.parent} ({error.strerror}): name another file.", code="not-writable"
        ) from error


def _counted(batches: Sequence[Batch], total: int, progress: Progress | None) -> Iterator[np.ndarray]:
    done = 0
    for pixels in itertools.chain.from_iterable(map(_pixels, batches)):
        yield pixels
        done += len(pixels)
        if progress:
            progress(done, total)


def _files(archive: Path) -> Iterator[tuple[Path, str]]:
    """Pairs (file, entry) of a folder, a zip file or an .npz file; entry is empty outside of a zip file.

    A folder with none of the .npz files is looked through for the official zip files of them.
    """
    if archive.is_dir():
        known = NAMES.values()
        found = [(path, "") for path in sorted(archive.rglob("*.npz")) if any(n.fullmatch(path.name) for n in known)]
        yield from found or itertools.chain.from_iterable(map(_files, sorted(archive.glob("Imagenet64_*_npz.zip"))))
    elif archive.suffix == ".npz":
        yield archive, ""
    else:
        with archives.opened_zip(archive, WANTED) as zipped:
            yield from ((archive, name) for name in zipped.namelist())


@contextlib.contextmanager
def _opened(batch: Batch) -> Iterator[zipfile.ZipFile]:
    """Opens the .npz file of a batch, on disk or inside a zip file."""
    with contextlib.ExitStack() as stack:
        source: IO[bytes] | None = None
        if batch.entry:
            source = stack.enter_context(stack.enter_context(archives.opened_zip(batch.path, WANTED)).open(batch.entry))
        try:
            yield stack.enter_context(
                zip_files.opened(source, batch.title, f"use {WANTED}")
                if source
                else archives.opened_zip(batch.path, WANTED)
            )
        except DAMAGE as error:
            raise UserError(
                f"{batch.title} is truncated or damaged ({error}): download it again, {WANTED}.", code="damaged-archive"
            ) from error


def _labels(batch: Batch) -> np.ndarray:
    """Labels int64 [N] of a batch, checked against the shape of its images."""
    with _opened(batch) as npz:
        names = npz.namelist()
        if DATA not in names or LABELS not in names:
            raise UserError(
                f"{batch.title} holds {', '.join(names) or 'nothing'}, not data.npy and labels.npy: use {WANTED}.",
                code="wrong-archive",
            )
        with npz.open(DATA) as member:
            shape, dtype, fortran = arrays.read_header(member)
            held = npz.getinfo(DATA).file_size - member.tell()
        if dtype != np.uint8 or len(shape) != 2 or shape[1] != BYTES or fortran or not 0 < shape[0] <= MOST:
            raise UserError(
                f"The data of {batch.title} is {dtype} {list(shape)}, not uint8 [N, {BYTES}]: use {WANTED}.",
                code="wrong-archive",
            )
        if held != shape[0] * BYTES:
            raise UserError(
                f"{batch.title} holds {held:,} bytes for {plural(shape[0], 'image')}, not {BYTES:,} for each:"
                f" download it again, {WANTED}.",
                code="damaged-archive",
            )
        with npz.open(LABELS) as member:
            size, kind, _ = arrays.read_header(member)
            if size != shape[:1] or kind.kind not in "iu":
                raise UserError(
                    f"The labels of {batch.title} are {kind} {list(size)}, not an integer for each of"
                    f" {plural(shape[0], 'image')}: use {WANTED}.",
                    code="bad-labels",
                )
        labels = arrays.read_entry(npz, LABELS.removesuffix(".npy"), batch.title).astype(np.int64)
    if labels.min() < 1 or labels.max() > CLASSES:
        raise UserError(
            f"The labels of {batch.title} go from {labels.min()} to {labels.max()}, not from 1 to {CLASSES}: use"
            f" {WANTED}.",
            code="bad-labels",
        )
    return labels


def _pixels(batch: Batch) -> Iterator[np.ndarray]:
    """Yields the images of a batch in blocks, uint8 [<=BLOCK, 64, 64, 3]."""
    with _opened(batch) as npz, npz.open(DATA) as member:
        arrays.read_header(member)
        for start in range(0, len(batch.labels), BLOCK):
            count = min(BLOCK, len(batch.labels) - start)
            planes = np.frombuffer(member.read(count * BYTES), np.uint8).reshape(count, 3, SIZE, SIZE)
            yield np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
