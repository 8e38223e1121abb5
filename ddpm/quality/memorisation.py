"""How many of a set of samples are near-copies of training images, against real images that the model never saw.

for step in measure(samples, training, held_out, load(), seed=0):
    print(step.done, step.total)
found = step.found
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from ddpm.data import distances
from ddpm.data.datasets import Dataset
from ddpm.errors import UserError
from ddpm.quality import copies
from ddpm.quality.features import FeatureNet
from ddpm.runs.near_copies import NearCopies, Pair

MOST_UNSEEN = 2000  # unseen images that are compared
MOST_BYTES = 2**30  # of training images that are compared; of more, so many are chosen at random
SHOWN = 32  # pairs that are kept
PIXEL_RATIO = 1 / 3  # of plain pixel distances: Gu et al. 2023, arXiv:2310.02664
PART = 100  # images between two reports of progress
FEATURES = 500  # training images whose features are computed between two
BLOCK = 2**27  # bytes of distances that are computed at once


class Pairs(NamedTuple):
    """The samples nearest to a training image, and these, nearest first: uint8 [n, H, W, C] each."""

    samples: np.ndarray
    training: np.ndarray


class Progress(NamedTuple):
    """Images that were looked at."""

    done: int
    total: int
    found: tuple[NearCopies, Pairs] | None = None  # at the end


def measure(
    samples: np.ndarray, training: Dataset, held_out: Dataset | None, net: FeatureNet | None = None, seed: int = 0
) -> Iterator[Progress]:
    """Compares samples uint8 [N, H, W, C] with the training images.

    held_out: images that the model never saw; where there are none, or fewer than copies.LEAST_UNSEEN, training images
    are compared with the others.  Those that equal a training image are left out, as they were seen.  net: of features,
    in which they are compared too.  Raises UserError if there are too few different training images.
    """
    rng = np.random.default_rng(seed)
    most = MOST_BYTES // training.values
    chosen = None if len(training) <= most else np.sort(rng.choice(len(training), most, replace=False))
    references = copies.References(training, chosen)
    own = None
    if held_out is not None and len(held_out) < copies.LEAST_UNSEEN:
        held_out = None
    if held_out is None:
        count = len(references.numbers)
        own = np.sort(rng.choice(count, min(MOST_UNSEEN, count), replace=False))
        unseen = training.take(references.numbers[own])[0]
    else:
        numbers = np.sort(rng.choice(len(held_out), min(MOST_UNSEEN, len(held_out)), replace=False))
        unseen = held_out.take(numbers)[0]
    both = [samples, unseen]
    featured = len(references.numbers) + len(samples) + len(unseen) if net else 0
    total = 2 * (len(samples) + len(unseen)) + featured
    done = 0

    found = []
    for images, left_out in zip(both, (None, own), strict=True):
        parts = []
        for start in range(0, len(images), PART):
            part = slice(start, start + PART)
            if left_out is None:
                parts.append(references.nearest(images[part]))
            else:
                parts.append(references.nearest_others(left_out[part]))
            done += len(parts[-1].numbers)
            yield Progress(done, total)
        found.append(copies.Matches(*(np.concatenate(column) for column in zip(*parts, strict=True))))
    new = found[1].scores > copies.EQUAL
    if not new.any():
        raise UserError(
            f"All {len(new):,} unseen images equal a training image, so there is nothing to compare copies with: use"
            " data without doubles, or hold other images out.",
            code="too-few-images",
        )
    found[1] = copies.Matches(*(column[new] for column in found[1]))
    both[1] = unseen = unseen[new]
    own = None if own is None else own[new]
    threshold = copies.calibrate(found[1].scores)
    copied, unseen_copied = (int((one.scores < threshold).sum()) for one in found)

    by_pixels = []
    for images, left_out in zip(both, (None, own), strict=True):
        ratios = _pixel_ratios(references.different, images, left_out)
        by_pixels.append(int((ratios < PIXEL_RATIO).sum()))
        done += len(images)
        yield Progress(min(done, total - 1), total)

    by_features = None
    if net:
        of_training = []
        for start in range(0, len(references.numbers), FEATURES):
            pixels = training.take(references.numbers[start : start + FEATURES])[0]
            of_training.append(net.features(pixels))
            done += len(pixels)
            yield Progress(min(done, total - 1), total)
        known = np.concatenate(of_training)
        of_samples, of_unseen = (
            _feature_ratios(net, one, known, left) for one, left in zip(both, (None, own), strict=True)
        )
        limit = copies.calibrate(of_unseen)
        by_features = int((of_samples < limit).sum()), int((of_unseen < limit).sum())

    order = np.argsort(found[0].scores, kind="stable")[:SHOWN]
    matches = found[0]
    result = NearCopies(
        checked=len(samples),
        copied=copied,
        threshold=threshold,
        training=len(training),
        compared=references.looked_at,
        duplicates=references.duplicates,
        unseen=len(unseen),
        unseen_copied=unseen_copied,
        held_out=held_out is not None,
        pairs=pairs_of(matches, order, threshold),
        excess=copies.excess(copied, len(samples), unseen_copied, len(unseen)),
        by_pixels=(by_pixels[0], by_pixels[1]),
        by_features=by_features,
    )
    nearest = Pairs(samples[order], training.take(matches.numbers[order])[0])
    yield Progress(total, total, (result, nearest))


def pairs_of(matches: copies.Matches, order: np.ndarray, threshold: float) -> list[Pair]:
    """The records of some samples, int64 [n]."""
    return [
        Pair(
            int(k),
            int(matches.numbers[k]),
            float(matches.distances[k]),
            float(matches.ratios[k]),
            bool(matches.mirrored[k]),
            bool(matches.scores[k] < threshold),
        )
        for k in order
    ]


def _pixel_ratios(different: Dataset, pixels: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """Ratios of the plain pixel distances of images from the nearest two training images: float64 [N].

    own: int64 [N], training images that are not compared with images 0 .. N-1.
    """
    found = distances.nearest_to_each(different, pixels, 2 if own is None else 3)
    if own is not None:
        kept = [row[numbers != k][:2] for row, numbers, k in zip(found.distances, found.numbers, own, strict=True)]
        return _quotients(np.stack(kept))
    return _quotients(found.distances)


def _quotients(nearest: np.ndarray) -> np.ndarray:
    """First over second of distances [N, 2]; 1 where both are 0."""
    first, second = nearest[:, 0], nearest[:, 1]
    return np.divide(first, second, out=np.ones(len(nearest)), where=second > 0)


def _feature_ratios(net: FeatureNet, pixels: np.ndarray, known: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """Ratios of the distances of images, mirrored or not, from the nearest two of features known [M, d]: float64 [N].

    own: int64 [N], training images that are not compared with images 0 .. N-1.
    """
    both = [torch.from_numpy(net.features(one)).double() for one in (pixels, pixels[:, :, ::-1])]
    y = torch.from_numpy(known).double()
    found = []
    rows = max(1, BLOCK // (8 * len(known)))
    for start in range(0, len(pixels), rows):
        part = slice(start, start + rows)
        each = [x[part].square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2 * x[part] @ y.T for x in both]
        squares = torch.minimum(*each)
        if own is not None:
            squares[torch.arange(len(squares)), torch.from_numpy(own[part])] = torch.inf
        found.append(squares.clamp(min=0).topk(2, dim=1, largest=False).values.sqrt().numpy())
    return _quotients(np.concatenate(found))
