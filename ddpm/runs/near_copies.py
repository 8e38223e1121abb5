"""Samples that are near-copies of training images, as found: copies.json, and copies.png with the closest pairs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from ddpm import formatting
from ddpm.config import records
from ddpm.config.records import Count
from ddpm.errors import UserError
from ddpm.runs import run_folder
from ddpm.runs.run_folder import JobFolder
from ddpm.storage import files, image_files, images

NAME = "copies.json"
PAIRS = "copies.png"
MOST_PAIRS = 64

Number = Annotated[float, Meta(ge=0, le=1e6)]
Share = Annotated[float, Meta(ge=-1, le=1)]


@dataclass(frozen=True)
class Pair:
    """A sample and the training image nearest to it; see `ddpm.quality.copies` for distance and ratio."""

    sample: Count  # its number, from 0
    training: Count  # number of the training image, from 0
    distance: Number
    ratio: Number
    mirrored: bool  # the sample is near to its mirror image
    copied: bool  # it counts as a copy


@dataclass(frozen=True)
class NearCopies:
    """How many of some samples are near-copies of training images, and which are nearest to one."""

    checked: Count  # samples
    copied: Count  # of these
    threshold: Number  # score below which a sample counts as a copy
    training: Count  # training images
    compared: Count  # of these: all of them, unless there are many
    duplicates: Count  # of those that were compared, equal to an earlier one
    unseen: Count  # real images that decided the threshold
    unseen_copied: Count  # of these: how many count as copies, too
    held_out: bool  # True if those were held out; False if they were training images, compared with the others
    step: Count = 0  # of the training
    pairs: Annotated[list[Pair], Meta(max_length=MOST_PAIRS)] = field(default_factory=list)  # the closest first
    # Of an evaluation: the share of samples less that of unseen images, with its 95 % interval.
    excess: tuple[Share, Share, Share] | None = None
    by_pixels: tuple[Count, Count] | None = None  # samples, and unseen images, by the ratio of plain pixel distances
    by_features: tuple[Count, Count] | None = None  # the same by the ratio of distances of features
    crops: bool = False  # the training images were seen in random crops, of which the middle one was compared


def read(folder: JobFolder, name: str = NAME) -> NearCopies | None:
    """What was found; None before anything was.  Raises UserError if the file is damaged."""
    found = files.json_in(folder.content, name, run_folder.MOST_RESULT)
    return None if found is None else records.read(NearCopies, found, str(folder.folder / name))


def words(found: NearCopies) -> str:
    """A sentence on the previews of a step, or on samples."""
    checked = formatting.plural(found.checked, "preview" if found.step else "sample")
    which = f"{checked} of step {found.step:,}" if found.step else checked
    training = formatting.plural(found.training, "training image")
    if found.compared < found.training:
        training = f"{found.compared:,} of {training}"
    verb = "is a near-copy of a training image" if found.copied == 1 else "are near-copies of training images"
    crops = " Of these only the middle was compared: copies of other crops are not found." if found.crops else ""
    return f"{found.copied:,} of {which} {verb}, compared with {training}.{crops}"


def in_words(recorded: Mapping[str, Any]) -> str:
    """Sentences on samples that were evaluated, of what a result.json holds."""
    found = records.read(NearCopies, recorded, "A result")
    kind = "held-out images" if found.held_out else "training images, compared with the others,"
    sentences = [words(found), f"Of {found.unseen:,} {kind} {found.unseen_copied:,} would count as near-copies."]
    if found.excess:
        value, low, high = (f"{100 * share:+.1f}" for share in found.excess)
        sentences.append(f"In excess of these: {value} % of the samples (95 % interval {low} to {high}).")
    if found.by_features:
        sentences.append(
            f"By the ratio of feature distances, {found.by_features[0]:,} of the samples and {found.by_features[1]:,}"
            " of these stand out."
        )
    if found.by_pixels:
        sentences.append(
            f"By the ratio of plain pixel distances below 1/3, {found.by_pixels[0]:,} and {found.by_pixels[1]:,}."
        )
    if found.duplicates:
        sentences.append(
            f"{formatting.plural(found.duplicates, 'training image')} of those compared equal an earlier one, and count"
            " once."
        )
    return " ".join(sentences)


def save_pairs(path: Path, samples: np.ndarray, training: np.ndarray) -> None:
    """Writes pairs one below the other: samples uint8 [n, H, W, C] on the left, training images on the right.

    Raises DiskFull, OSError.
    """
    both = np.concatenate([samples, training], axis=2)
    images.save_png(path, both.reshape(-1, *both.shape[2:]))


def pairs_in(folder: JobFolder, count: int) -> np.ndarray:
    """The pairs of `save_pairs`, uint8 [count, 2, H, W, C].  Raises UserError if the file is missing or another one."""
    path = folder.folder / PAIRS
    wrong = UserError(
        f"{path} does not hold {formatting.plural(count, 'pair')} of images: delete it.", code="wrong-file"
    )
    try:
        pixels = np.asarray(image_files.decode(folder.read(path), str(path)))
    except FileNotFoundError:
        raise wrong from None
    height, width = pixels.shape[0] // max(count, 1), pixels.shape[1] // 2
    if not count or pixels.shape[:2] != (height * count, 2 * width):
        raise wrong
    return pixels.reshape(count, height, 2, width, -1).swapaxes(1, 2)
