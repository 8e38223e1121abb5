"""Copies of training images among samples: a model that has learnt some by heart.

A sample is compared with the training images regardless of brightness, contrast, mirroring and shifts by a pixel.  It
counts as a copy where it is near to one training image, and far nearer than to the second nearest, a different image:
its score is the geometric mean of the distance d1 from the nearest and of the ratio d1 / d2 (the ratio of Yoon et al.
2023, "Diffusion Probabilistic Models Generalize when They Fail to Memorize", and of Gu et al. 2023, arXiv:2310.02664,
there of plain pixels).  Below which score is decided by real images that the model never saw, some of which are near to
training images too: at most MOST_FALSE of them may count as copies.

    references = References(dataset)
    threshold = calibrate(references.nearest(held_out).scores)
    copied = references.nearest(samples).scores < threshold
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.data.datasets import Dataset
from ddpm.errors import UserError

MOST_FALSE = 0.005  # of unseen real images may count as copies: of others that is below 1 %, with chance allowed for
LEAST_UNSEEN = round(1 / MOST_FALSE)  # of fewer, the nearest one alone would decide, which is too near too often
HIGHEST = 0.4  # score, however far the unseen images are from the training images
CANDIDATES = 64  # training images that are compared in detail with each image
CELLS = 8  # an image is looked up by the means of so many cells, across and down
LARGEST = 64  # pixels across of the detailed comparison; larger images are reduced
EQUAL = 1e-4  # score up to which an image is a training image, or its mirror image, to the last bit
SAME = 0.2  # training images as near to each other as this are one image
FLAT = 2.0  # standard deviation of pixel values, 0 to 255, up to which an image counts as of one colour
ROUNDING = 1e-6  # squared distances below it are rounding errors of float32
BLOCK = 2**25  # bytes of what is compared at once

Progress = Callable[[int, int], None]  # (done, total)


class Matches(NamedTuple):
    """The training images nearest to each of N images.

    The distance of two images is that of their pixel values after those of each were brought to mean 0 and length 1, at
    the best of all shifts, mirrored or not: 0 for a copy, 1.4 for images that have nothing in common.
    """

    numbers: np.ndarray  # int64 [N], of the nearest within the split
    distances: np.ndarray  # float64 [N], from it
    ratios: np.ndarray  # float64 [N], of this distance to that from the nearest other image
    mirrored: np.ndarray  # bool [N]: its mirror image is the nearer one

    @property
    def scores(self) -> np.ndarray:
        """Geometric means of distance and ratio, float64 [N]: the smaller, the more of a copy."""
        return np.sqrt(self.distances * self.ratios)


class References:
    """Training images that others are compared with, each different one once."""

    def __init__(self, dataset: Dataset, chosen: np.ndarray | None = None, progress: Progress | None = None):
        """Reads all images of a split, or the `chosen`, int64 [n], with calls of `progress`.

        Raises UserError if all of them are one.
        """
        chosen = np.arange(len(dataset)) if chosen is None else chosen
        self.looked_at = len(chosen)
        self._dataset = dataset
        seen: set[bytes] = set()
        numbers, keys = [], []
        block = max(1, BLOCK // (4 * dataset.values))
        for start in range(0, len(chosen), block):
            part = chosen[start : start + block]
            images = dataset.take(part)[0]
            new = []
            for k, image in enumerate(images):
                identity = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
                if identity not in seen:
                    seen.add(identity)
                    new.append(k)
            numbers.append(part[new])
            keys.append(_keys(images[new]))
            if progress:
                progress(start + len(part), len(chosen))
        self.numbers = np.concatenate(numbers)  # int64 [M], of the different images
        self._keys = torch.cat(keys)
        if len(self.numbers) < 2:
            raise UserError(
                "The training images are all the same, so a sample cannot be set apart from a copy: use data with"
                " different images.",
                code="too-few-images",
            )

    @property
    def duplicates(self) -> int:
        """Number of training images that equal an earlier one in every pixel."""
        return self.looked_at - len(self.numbers)

    @property
    def different(self) -> Dataset:
        """The training images without duplicates."""
        indices = self._dataset.indices
        return dataclasses.replace(
            self._dataset, indices=self.numbers if indices is None else indices[self.numbers], labels=None
        )

    def nearest(self, pixels: np.ndarray, progress: Progress | None = None) -> Matches:
        """Finds the nearest of the training images to each of `pixels`, uint8 [N, H, W, C]."""
        return self._nearest(pixels, None, progress)

    def nearest_others(self, places: np.ndarray, progress: Progress | None = None) -> Matches:
        """Finds to each of the training images self.numbers[places], int64 [N], the nearest of the others.

        Raises UserError unless there are three different ones.
        """
        if len(self.numbers) < 3:
            raise UserError(
                f"There are {len(self.numbers)} different training images, and each is to be compared with two others:"
                " use data with more images, or hold some out.",
                code="too-few-images",
            )
        return self._nearest(self._dataset.take(self.numbers[places])[0], places, progress)

    def _nearest(self, pixels: np.ndarray, own: np.ndarray | None, progress: Progress | None) -> Matches:
        """own: int64 [N], places of training images that are not compared with images 0 .. N-1."""
        found = []
        step = max(1, BLOCK // (8 * min(len(self._keys), 8192)))
        for start in range(0, len(pixels), step):
            part = slice(start, start + step)
            left_out = None if own is None else own[part]
            places = self._candidates(pixels[part], left_out)
            found += [self._compare(image, row) for image, row in zip(pixels[part], places, strict=True)]
            if progress:
                progress(len(found), len(pixels))
        numbers, distances, ratios, mirrored = zip(*found, strict=True) if found else ((), (), (), ())
        return Matches(np.array(numbers, np.int64), np.array(distances), np.array(ratios), np.array(mirrored, bool))

    def _candidates(self, pixels: np.ndarray, own: np.ndarray | None) -> np.ndarray:
        """Places of the training images with the nearest keys, int64 [N, n], in no order."""
        wanted = [_keys(pixels), _keys(pixels[:, :, ::-1])]
        others = len(self._keys) - (own is not None)
        count = min(CANDIDATES, others)
        best, places = torch.empty(len(pixels), 0), torch.empty(len(pixels), 0, dtype=torch.int64)
        for start in range(0, len(self._keys), 8192):
            keys = self._keys[start : start + 8192]
            products = torch.maximum(*(one @ keys.T for one in wanted))
            if own is not None:
                rows = np.flatnonzero((own >= start) & (own < start + len(keys)))
                products[rows, own[rows] - start] = -torch.inf
            joined = torch.cat([best, products], dim=1)
            numbers = torch.arange(start, start + len(keys)).expand(len(pixels), -1)
            best, chosen = joined.topk(min(count, joined.shape[1]), dim=1)
            places = torch.cat([places, numbers], dim=1).gather(1, chosen)
        kept = places[best > -torch.inf].reshape(len(pixels), count)
        return kept.numpy()

    def _compare(self, image: np.ndarray, places: np.ndarray) -> tuple[int, float, float, bool]:
        """Returns the number of the training image nearest to `image`, its distance and ratio, and if it is mirrored.

        image: uint8 [H, W, C].  places: int64 [n], of the training images that are considered.
        """
        numbers = self.numbers[places]
        images = _reduced(self._dataset.take(numbers)[0])
        centres = _normalised(images[:, *_window(images.shape[1])])
        variants = _variants(_reduced(image[None])[0])
        each = _distances(variants, centres)
        distances = each.min(dim=0).values
        order = torch.argsort(distances, stable=True)
        first = int(order[0])
        # A duplicate that is not one to the last bit, such as a compressed one, is no other image.
        from_first = _distances(_variants(images[first]), centres).min(dim=0).values
        others = order[1:][from_first[order[1:]] > SAME]
        nearest, second = float(distances[first]), float(distances[others[0] if len(others) else order[-1]])
        mirrored = bool(each[:, first].argmin() >= len(variants) // 2)
        tells = second > 0 and image.std() > FLAT  # images of one colour are all alike
        return int(numbers[first]), nearest, nearest / second if tells else 1.0, mirrored


def calibrate(scores: np.ndarray) -> float:
    """Returns the score below which an image counts as a copy: at most MOST_FALSE of unseen images are below it.

    scores: float64 [n], of images that the model never saw.  With fewer than 1 / MOST_FALSE of them none is below it.
    """
    allowed = int(MOST_FALSE * len(scores))
    return min(HIGHEST, float(np.sort(scores)[allowed])) if len(scores) else HIGHEST


class Share(NamedTuple):
    """A share of some images, with its 95 % interval."""

    value: float
    low: float
    high: float


def share(count: int, total: int) -> Share:
    """Returns count / total, with the interval of Wilson 1927."""
    z = NormalDist().inv_cdf(0.975)
    p, q = count / total, z * z / total
    middle, half = p + q / 2, z * math.sqrt(p * (1 - p) / total + q / (4 * total))
    return Share(p, max(0.0, (middle - half) / (1 + q)), min(1.0, (middle + half) / (1 + q)))


def excess(count: int, total: int, null: int, null_total: int) -> Share:
    """Returns count / total - null / null_total, with the interval of Newcombe 1998 (method 10)."""
    one, other = share(count, total), share(null, null_total)
    difference = one.value - other.value
    return Share(
        difference,
        difference - math.hypot(one.value - one.low, other.high - other.value),
        difference + math.hypot(one.high - one.value, other.value - other.low),
    )


def _cells(pixels: np.ndarray, count: int) -> np.ndarray:
    """Means of count x count cells: float32 [n, count, count, C] of uint8 [n, H, W, C]."""
    _, height, width, _ = pixels.shape
    rows, columns = np.arange(count) * height // count, np.arange(count) * width // count
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=1, dtype=np.uint32), columns, axis=2)
    areas = np.diff([*rows, height])[:, None] * np.diff([*columns, width])
    return np.asarray(sums / areas[:, :, None].astype(np.float32), np.float32)


def _keys(pixels: np.ndarray) -> Tensor:
    """What images uint8 [n, H, W, C] are looked up by, float32 [n, m]: shifts by a pixel change it little."""
    return _normalised(_cells(pixels, min(CELLS, pixels.shape[1])))


def _reduced(pixels: np.ndarray) -> np.ndarray:
    """Images as they are compared in detail: [n, h, w, C], at most LARGEST pixels across."""
    return _cells(pixels, LARGEST) if pixels.shape[1] > LARGEST else pixels


def _normalised(values: np.ndarray) -> Tensor:
    """Brings the values of each image to mean 0 and length 1: float32 [n, m] of [n, ...].

    One of nearly one colour stays shorter, so that its noise is not taken for content.
    """
    flat = torch.from_numpy(np.ascontiguousarray(values).reshape(len(values), -1)).float()
    flat = flat - flat.mean(dim=1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True).clamp(min=FLAT * math.sqrt(flat.shape[1]))


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Distances of each of the vectors a [n, d], of length 1 or less, from each of b [m, d]: [n, m]."""
    squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.T
    return torch.where(squares < ROUNDING, 0.0, squares).sqrt()


def _margin(size: int) -> int:
    """Pixels that an image is shifted by, in each direction, at most."""
    return 0 if size < 4 else 1 if size <= 32 else 2


def _window(size: int, dy: int = 0, dx: int = 0) -> tuple[slice, slice]:
    """The part of an image that stays within it at every shift, shifted by (dy, dx)."""
    margin = _margin(size)
    return slice(margin + dy, size - margin + dy), slice(margin + dx, size - margin + dx)


def _variants(image: np.ndarray) -> Tensor:
    """An image [H, W, C] at every shift, then its mirror image: float32 [n, m]."""
    size = image.shape[0]
    shifts = range(-_margin(size), _margin(size) + 1)
    windows = [_window(size, dy, dx) for dy in shifts for dx in shifts]
    return _normalised(np.stack([one[window] for one in (image, image[:, ::-1]) for window in windows]))
