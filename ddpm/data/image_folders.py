"""Data source: a folder of image files."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.config.codec import MOST_CLASSES
from ddpm.data.labelling import BY_FOLDER, NO_CLASSES, Labelling, label
from ddpm.data.listing import File, Listing, file_stamp, is_rewritten
from ddpm.data.source import Item, Read, Source, number_classes
from ddpm.errors import UserError, as_user_error
from ddpm.formatting import plural, printable, some
from ddpm.storage import image_files
from ddpm.storage.image_files import FORMATS

TRIED = 100  # files of which one tells how large the images are


class Files(Source):
    """Image files of a folder in the order of their paths; labels are int64 [count], -1 for none, or None."""

    def __init__(
        self, folder: Path, found: Sequence[File], kind: str, labels: np.ndarray | None, class_names: tuple[str, ...]
    ):
        self.folder, self.kind = folder, kind
        self.files = found
        self.count = len(found)
        self.labels, self.class_names = labels, class_names
        sizes = (image_files.size(self.path(file)) for file in found[:TRIED])
        self.size = next(filter(None, sizes), None)
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
            self.folder, [self.files[index] for index in kept], self.kind, self.labels[kept], self.class_names
        )
        found.test, found.left_out, found.notices, found.subset = self.test, self.left_out, self.notices, "labelled"
        return found

    def stamps(self) -> Any:
        return ["/".join((*file.parts, file.stamp)) for file in self.files]

    def has_changed(self) -> bool:
        return any(is_rewritten(file.stamp, file_stamp(self.path(file))) for file in self.files)

    def items(self, size: int, channels: int) -> Iterator[Item]:
        for file in self.files:
            path = self.path(file)
            yield Item(printable("/".join(file.parts)), partial(_open_file, path, size), partial(_identify_file, path))


def open_folder(folder: Path, listing: Listing) -> Files:
    """The images of a folder as they were listed, with classes and splits by the rules of `ddpm.data.labelling`.

    Classes are numbered in the sorted order of their names.  Raises UserError if there is no image, or if the splits
    are ambiguous.
    """
    if not listing.files:
        without = f" ({', '.join(listing.left_out)} left out)" if listing.left_out else ""
        raise UserError(
            f"There are no images in {folder}{without}: add some ({', '.join(FORMATS)}), there or in subfolders.",
            code="no-images",
        )
    sorted_ = label([file.parts for file in listing.files])
    if sorted_.unclear:
        raise UserError(
            f"The training and test images of {folder} cannot be identified, as"
            f" {some([printable(name) for name in sorted_.unclear], 6)} are not one pair of folders, or too many images"
            " are outside of them: name one of these folders, or keep one for training and one for testing.",
            code="unclear-parts",
        )
    named = sorted_.rule != NO_CLASSES
    kept = sorted([*sorted_.train, *sorted_.unlabelled])
    labels, names = number_classes([printable(name) for name in sorted_.train.values()]) if named else (None, ())
    if len(names) > MOST_CLASSES:  # each image has its own
        named, labels, names = False, None, ()
    numbers = {name: number for number, name in enumerate(names)}
    if named:
        labels = np.array(
            [numbers[printable(sorted_.train[index])] if index in sorted_.train else -1 for index in kept]
        )
    where = f" in {sorted_.train_name}" if sorted_.test_name else ""
    source = Files(
        folder,
        [listing.files[index] for index in kept],
        f"Folder{', ' if named else ' '}{sorted_.rule if named else NO_CLASSES}{where}",
        labels,
        names,
    )
    if sorted_.test:
        of_test = np.array([numbers[printable(name)] for name in sorted_.test.values()]) if named else None
        source.test = Files(
            folder, [listing.files[index] for index in sorted_.test], f"Folder, {sorted_.test_name}", of_test, names
        )
    source.left_out = listing.left_out
    source.notices = tuple(_notices(listing, sorted_))
    return source


def _is(of: Sized) -> str:
    return "is" if len(of) == 1 else "are"


def _notices(listing: Listing, sorted_: Labelling) -> Iterator[str]:
    """Sentences on images that are not used."""

    def named(indices: Iterable[int]) -> str:
        return some([printable("/".join(listing.files[index].parts)) for index in indices], 5)

    if without := sorted_.unlabelled:
        which = "outside of the class folders" if sorted_.rule == BY_FOLDER else "without a class in the name"
        yield (
            f"{plural(len(without), 'image')} {which} {_is(without)} used only if class_cond is"
            f" False: {named(without)}."
        )
    others = sorted(set(sorted_.outside) - set(sorted_.unlabelled))
    of_test = [index for index in others if sorted_.test_name and sorted_.test_name in listing.files[index].parts]
    outside = sorted(set(others) - set(of_test))
    if of_test:
        yield (
            f"{plural(len(of_test), 'image')} in {printable(sorted_.test_name)} {_is(of_test)} left out, as they have"
            f" none of the classes: {named(of_test)}."
        )
    if outside:
        yield f"{plural(len(outside), 'image')} outside of the splits {_is(outside)} left out: {named(outside)}."
    if sorted_.unused:
        unused = ", ".join(map(printable, sorted_.unused))
        why = (
            f"{printable(sorted_.test_name)} is the test set"
            if sorted_.test_name
            else "its images have none of the classes; set hold_out to evaluate on held-out images"
        )
        yield f"The images in {unused} are not used: {why}."
    if sorted_.outside_folders:
        yield (
            f"The folders are not taken for classes, as {plural(sorted_.outside_folders, 'image')} of"
            f" {len(listing.files):,} {'is' if sorted_.outside_folders == 1 else 'are'} not in them."
        )
    if listing.unread:
        yield (
            f"Not supported: {', '.join(listing.unread)}; to use their images, convert them to PNG or JPEG, unpack"
            " archives, or name .tar shards alone, as in train-{000000..000099}.tar."
        )


@contextlib.contextmanager
def _open_file(path: Path, size: int) -> Iterator[Read]:
    with image_files.opened(path) as file:
        try:
            identity = hashlib.file_digest(file, "sha256").digest()
        except OSError as error:  # of the disk, which names no file
            error.filename = str(path)
            raise as_user_error(error) from error
        file.seek(0)
        with image_files.read(file, path, size) as image:
            yield Read(image, identity)


def _identify_file(path: Path) -> bytes:
    try:
        with image_files.opened(path) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        error.filename = error.filename or str(path)
        raise as_user_error(error) from error
