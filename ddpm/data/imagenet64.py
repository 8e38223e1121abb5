"""ImageNet at 64 pixels from its official downsampled archives, into a folder of PNG files or into one .npz file.

An archive is a zip file of train_data_batch_1.npz to train_data_batch_10.npz, or of val_data.npz; a folder of these
will do, and so will one of them.  Each holds `data` uint8 [N, 12288], planes of red, green and blue, and `labels`
from 1 to 1000.  They are read in place, a few pictures at a time.
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

from ddpm.data import archives as prepare
from ddpm.data.archives import DAMAGE, Blocks, Picture, Progress
from ddpm.data.npz_files import npy_header
from ddpm.errors import UserError
from ddpm.formatting import plural

DATA, LABELS = "data.npy", "labels.npy"  # in an .npz file
SIZE = 64
BYTES = 3 * SIZE * SIZE  # of a picture
CLASSES = 1000
MOST = 2**20  # pictures in a batch; the real ones have 128,117 or less
BLOCK = 1024  # pictures read at once: 12 MB
NAMES = {"train": re.compile(r"train_data_batch_(\d{1,2})\.npz"), "val": re.compile(r"val_data(\b)\.npz")}
WANTED = "the official Imagenet64_train_part1_npz.zip, Imagenet64_train_part2_npz.zip or Imagenet64_val_npz.zip"


class Batch(NamedTuple):
    """One of the official .npz files, looked at but not read."""

    path: Path  # of it, or of the zip file that holds it
    entry: str  # its name in that
    number: str  # "01" to "10", or "val"
    labels: np.ndarray  # int64 [N], from 1 on

    @property
    def title(self) -> str:
        return f"{self.entry} in {self.path}" if self.entry else str(self.path)


def find_batches(archives: Sequence[Path], split: str) -> list[Batch]:
    """The batches of a split, "train" or "val", that the archives hold, in order.

    Raises UserError when there are none, one is there twice, damaged, or not of the official layout.
    """
    found: dict[str, Batch] = {}
    for archive in archives:
        for path, entry in _files(archive):
            match = NAMES[split].fullmatch(prepare.base_name(entry or path.name))
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
            f"There is none of {named} in {', '.join(map(str, archives))}: use {WANTED}.", code="wrong-archive"
        )
    return [found[number] for number in sorted(found)]


def write_folder(batches: Sequence[Batch], folder: Path, progress: Progress | None = None) -> None:
    """Write LABEL_BATCH_NUMBER.png for each picture: 0001_01_000000.png.

    Raises UserError when the archive is damaged or `folder` holds something else; DiskFull.
    """
    count = sum(len(batch.labels) for batch in batches)
    origin = {"data": "imagenet64", "split": "val" if batches[0].number == "val" else "train"}
    prepare.write_pictures(folder, itertools.chain.from_iterable(map(_named, batches)), count, origin, progress)


def _named(batch: Batch) -> Iterator[Picture]:
    pixels = itertools.chain.from_iterable(_pixels(batch))
    for k, (label, one) in enumerate(zip(batch.labels, pixels, strict=True)):
        yield Picture(f"{label:04d}_{batch.number}_{k:06d}", partial(np.asarray, one))


def write_npz(batches: Sequence[Batch], path: Path, progress: Progress | None = None) -> None:
    """Write one .npz file with arr_0 uint8 [N, 64, 64, 3] and arr_1, the labels; not compressed, whole or not at all.

    Raises UserError when an archive is damaged or `path` is there already; DiskFull.
    """
    if path.exists():
        raise UserError(f"{path} is there already: delete it, or name another file.", code="already-exists")
    labels = np.concatenate([batch.labels for batch in batches])
    pictures = Blocks((len(labels), SIZE, SIZE, 3), _counted(batches, len(labels), progress))
    try:
        prepare.write_npz(path, {"arr_0": pictures, "arr_1": labels})
    except PermissionError as error:
        raise UserError(
            f"Cannot write in {path.parent} ({error.strerror}): name another file.", code="not-writable"
        ) from error


def _counted(batches: Sequence[Batch], total: int, progress: Progress | None) -> Iterator[np.ndarray]:
    done = 0
    for pixels in itertools.chain.from_iterable(map(_pixels, batches)):
        yield pixels
        done += len(pixels)
        if progress:
            progress(done, total)


def _files(archive: Path) -> Iterator[tuple[Path, str]]:
    """(file, entry in it, if it is a zip file of files) of everything in a folder, a zip file, or an .npz file."""
    if archive.is_dir():
        yield from ((path, "") for path in sorted(archive.rglob("*.npz")))
    elif archive.suffix == ".npz":
        yield archive, ""
    else:
        with prepare.opened_zip(archive, WANTED) as zipped:
            yield from ((archive, name) for name in zipped.namelist())


@contextlib.contextmanager
def _opened(batch: Batch) -> Iterator[zipfile.ZipFile]:
    """The .npz file of a batch, wherever it lies."""
    with contextlib.ExitStack() as stack:
        source: IO[bytes] | None = None
        if batch.entry:
            source = stack.enter_context(stack.enter_context(prepare.opened_zip(batch.path, WANTED)).open(batch.entry))
        try:
            yield stack.enter_context(zipfile.ZipFile(source) if source else prepare.opened_zip(batch.path, WANTED))
        except DAMAGE as error:
            raise UserError(
                f"{batch.title} is cut short or damaged ({error}): get it again, {WANTED}.", code="damaged-archive"
            ) from error


def _labels(batch: Batch) -> np.ndarray:
    """The labels of a batch, which fit the pictures that its header promises."""
    with _opened(batch) as npz:
        names = npz.namelist()
        if DATA not in names or LABELS not in names:
            raise UserError(
                f"{batch.title} holds {', '.join(names) or 'nothing'}, not data.npy and labels.npy: use {WANTED}.",
                code="wrong-archive",
            )
        with npz.open(DATA) as member:
            shape, dtype, fortran = npy_header(member)
            held = npz.getinfo(DATA).file_size - member.tell()
        if dtype != np.uint8 or len(shape) != 2 or shape[1] != BYTES or fortran or not 0 < shape[0] <= MOST:
            raise UserError(
                f"The data of {batch.title} is {dtype} {list(shape)}, not uint8 [N, {BYTES}]: use {WANTED}.",
                code="wrong-archive",
            )
        if held != shape[0] * BYTES:
            raise UserError(
                f"{batch.title} holds {held:,} bytes for {plural(shape[0], 'picture')}, not {BYTES:,} for each: get it"
                f" again, {WANTED}.",
                code="damaged-archive",
            )
        with npz.open(LABELS) as member:
            size, kind, _ = npy_header(member)
            if size != shape[:1] or kind.kind not in "iu":
                raise UserError(
                    f"The labels of {batch.title} are {kind} {list(size)}, not a whole number for each of"
                    f" {plural(shape[0], 'picture')}: use {WANTED}.",
                    code="bad-labels",
                )
        with npz.open(LABELS) as member:
            labels = np.lib.format.read_array(member, allow_pickle=False).astype(np.int64)
    if labels.min() < 1 or labels.max() > CLASSES:
        raise UserError(
            f"The labels of {batch.title} go from {labels.min()} to {labels.max()}, not from 1 to {CLASSES}: use"
            f" {WANTED}.",
            code="bad-labels",
        )
    return labels


def _pixels(batch: Batch) -> Iterator[np.ndarray]:
    """All pictures of a batch in blocks, uint8 [<=BLOCK, 64, 64, 3]."""
    with _opened(batch) as npz, npz.open(DATA) as member:
        npy_header(member)
        for start in range(0, len(batch.labels), BLOCK):
            count = min(BLOCK, len(batch.labels) - start)
            planes = np.frombuffer(member.read(count * BYTES), np.uint8).reshape(count, 3, SIZE, SIZE)
            yield np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
