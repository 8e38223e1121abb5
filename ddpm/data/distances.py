"""Distances between images, pixel by pixel: the nearest training images of a sample, and two samples that differ.

The distance is the root mean square difference of pixel values, 0 to 255.  No torch.
"""

import heapq
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ddpm.data.datasets import Dataset

BLOCK = 2**25  # bytes of float32 that are compared at once


class Neighbour(NamedTuple):
    """A training image that is near to another image."""

    number: int  # within the split
    distance: float  # root mean square difference of pixel values, 0 to 255
    flipped: bool  # True if its mirror image is the nearer one


def nearest(
    dataset: Dataset, image: np.ndarray, count: int = 8, progress: Callable[[int, int], None] | None = None
) -> list[Neighbour]:
    """Finds the `count` images of a split that are nearest to `image`, uint8 [H, W, C], mirrored or not; nearest first.

    Every image of the split is looked at, with calls of `progress(done, total)`.
    """
    total, size = len(dataset), image.size
    block = max(1, BLOCK // (4 * size))
    both = np.stack([image, image[:, ::-1]]).reshape(2, size).astype(np.float32)
    found: list[Neighbour] = []
    for start in range(0, total, block):
        numbers = np.arange(start, min(start + block, total))
        pixels = dataset.take(numbers)[0].reshape(len(numbers), size).astype(np.float32)
        means = np.stack([np.square(pixels - one).mean(axis=1) for one in both])
        best = means.min(axis=0)
        for k in np.argsort(best, kind="stable")[:count]:
            flipped = bool(means[1, k] < means[0, k])
            found.append(Neighbour(int(numbers[k]), float(np.sqrt(best[k])), flipped))
        found = heapq.nsmallest(count, found, key=lambda neighbour: (neighbour.distance, neighbour.number))
        if progress:
            progress(int(numbers[-1]) + 1, total)
    return found


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
