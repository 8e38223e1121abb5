"""Distances between images, pixel by pixel: the nearest training images of a sample, and two samples that differ.

The distance is the root mean square difference of pixel values, 0 to 255.  No torch.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ddpm.data.datasets import LARGE, Dataset

BLOCK = 2**25  # bytes of float32 that are compared at once
MARGIN = 4  # more neighbours than asked for are kept until their exact distances are known


class Neighbour(NamedTuple):
    """A training image that is near to another image."""

    number: int  # within the split
    distance: float  # root mean square difference of pixel values, 0 to 255
    flipped: bool  # True if its mirror image is the nearer one


class Neighbours(NamedTuple):
    """The training images that are nearest to each of N images, nearest first."""

    numbers: np.ndarray  # int64 [N, n], within the split
    distances: np.ndarray  # float64 [N, n], root mean square differences of pixel values, 0 to 255
    flipped: np.ndarray  # bool [N, n]: the mirror image is the nearer one


def nearest(
    dataset: Dataset, image: np.ndarray, count: int = 8, progress: Callable[[int, int], None] | None = None
) -> list[Neighbour]:
    """Finds the `count` images of a split that are nearest to `image`, uint8 [H, W, C], mirrored or not; nearest first.

    Every image of the split is looked at, with calls of `progress(done, total)`; see `searched`.
    """
    found = nearest_to_each(dataset, image[None], count, progress)
    return [
        Neighbour(int(number), float(distance), bool(flipped))
        for number, distance, flipped in zip(*(values[0] for values in found), strict=True)
    ]


def searched(dataset: Dataset) -> int:
    """How many images of a split are looked at: all, or LARGE of more, evenly spread."""
    return min(len(dataset), LARGE)


def nearest_to_each(
    dataset: Dataset, pixels: np.ndarray, count: int = 8, progress: Callable[[int, int], None] | None = None
) -> Neighbours:
    """Finds the min(`count`, len(dataset)) images of a split that are nearest to each of `pixels`, uint8 [N, H, W, C].

    Like `nearest`, for many images at once: by |x - y|^2 = |x|^2 - 2 x y + |y|^2, whose products are of blocks; the
    distances that are returned are exact.
    """
    total, size, many = searched(dataset), pixels[0].size, len(pixels)
    kept = min(count + MARGIN, total)
    wanted = _centred(pixels)
    block = max(1, BLOCK // (4 * max(size, many)))
    squares = np.full((many, kept), np.inf, np.float32)
    numbers = np.zeros((many, kept), np.int64)
    for start in range(0, total, block):
        done = min(start + block, total)
        looked_at = np.arange(start, done) * len(dataset) // total
        images = dataset.take(looked_at)[0]
        both = [_centred(images), _centred(images[:, :, ::-1])]
        lengths = np.square(both[0]).sum(axis=1)
        found = lengths - 2 * np.maximum(*(wanted @ one.T for one in both))  # and |x|^2, which orders nothing
        joined = np.concatenate([squares, found], axis=1)
        best = np.argpartition(joined, kept - 1, axis=1)[:, :kept]
        squares = np.take_along_axis(joined, best, axis=1)
        whose = np.concatenate([numbers, np.broadcast_to(looked_at, found.shape)], axis=1)
        numbers = np.take_along_axis(whose, best, axis=1)
        if progress:
            progress(done, total)
    rows = [_exact(dataset, pixels[k], np.sort(numbers[k]), min(count, total)) for k in range(many)]
    return Neighbours(*(np.stack(column) for column in zip(*rows, strict=True)))


def _centred(images: np.ndarray) -> np.ndarray:
    """Pixel values about 0, which are multiplied with less rounding: float32 [n, H W C] of uint8 [n, H, W, C]."""
    return images.reshape(len(images), -1).astype(np.float32) - np.float32(127.5)


def _exact(dataset: Dataset, image: np.ndarray, numbers: np.ndarray, count: int) -> Neighbours:
    """The `count` images nearest to `image`, uint8 [H, W, C], among `numbers`, int64 [n], by exact distances."""
    difference = dataset.take(numbers)[0].astype(np.float32) - np.stack([image, image[:, ::-1]])[:, None]
    means = np.square(difference).reshape(2, len(numbers), -1).mean(axis=2, dtype=np.float64)
    best = means.min(axis=0)
    order = np.argsort(best, kind="stable")[:count]  # of equal ones the first
    return Neighbours(numbers[order], np.sqrt(best[order]), means[1, order] < means[0, order])


def most_different(pixels: np.ndarray, labels: np.ndarray | None = None) -> tuple[int, int] | None:
    """Numbers of the two images of `pixels`, uint8 [N, H, W, C], that differ most; None if there are no two.

    labels: int64 [N], with which both are of one class.
    """
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    squares = np.square(flat).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * flat @ flat.T
    allowed = np.triu(np.ones(distances.shape, bool), 1)
    if labels is not None:
        allowed &= labels[:, None] == labels[None, :]
    if not allowed.any():
        return None
    first, second = np.unravel_index(np.argmax(np.where(allowed, distances, -np.inf)), distances.shape)
    return int(first), int(second)
