"""Curves of metrics for the screen: thinned so that they look the same, or in buckets with what they hide."""

import math
from typing import NamedTuple

import numpy as np


def downsample(x: np.ndarray, y: np.ndarray, most: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points of a curve that look the same: see `downsample_indices`.  x, y: [N] -> [M]."""
    kept = downsample_indices(y, most)
    return x[kept], y[kept]


def downsample_indices(y: np.ndarray, most: int) -> np.ndarray:
    """Increasing indices [M] of at most `most` points: first, last, and the extremes of each bucket.  y: [N].

    most: at least 8.  Buckets start at multiples of a power of two, so that points stay the same as new ones are added.
    A bucket of only NaN keeps one, which shows as a gap.
    """
    n = len(y)
    if n <= most:
        return np.arange(n)
    size = 2 ** math.ceil(math.log2(2 * n / (most - 4)))
    padded = np.full(-(-n // size) * size, np.nan)
    padded[:n] = y
    buckets = padded.reshape(-1, size)
    empty = np.asarray(np.isnan(buckets).all(axis=1))
    extremes = np.where(empty[:, None], 0.0, buckets)  # nanarg* reject rows of only NaN
    start = np.arange(len(buckets)) * size
    kept = [start + np.nanargmin(extremes, axis=1), start + np.nanargmax(extremes, axis=1), np.array([0, n - 1])]
    return np.unique(np.concatenate(kept))


# Buckets: a stretch of rows as one place of the screen, with what a line through it would hide.


class Buckets(NamedTuple):
    """A metric in buckets of `size` rows, float64 [N] each; values that are not finite count as missing."""

    values: np.ndarray  # how many it has
    least: np.ndarray  # NaN in an empty one, as are the next two
    most: np.ndarray
    mean: np.ndarray
    first: np.ndarray  # the first that it has


def bucket_size(rows: int, width: int) -> int:
    """Rows a bucket, a power of two: at most two buckets on each of `width` pixels, and 1 where all rows fit."""
    size = 1
    while rows > 2 * width * size:
        size *= 2
    return size


def buckets(values: np.ndarray, size: int) -> Buckets:
    """Values in buckets of `size`, the last of which may be shorter.  values: [N] -> [ceil(N / size)]."""
    finite = np.isfinite(values)
    if size == 1:
        known = np.where(finite, values, np.nan)
        return Buckets(finite.astype(float), known, known, known, known)
    padded = np.full(-(-len(values) // size) * size, np.nan)
    padded[: len(values)] = np.where(finite, values, np.nan)
    rows = padded.reshape(-1, size)
    count = (~np.isnan(rows)).sum(axis=1).astype(float)
    with np.errstate(invalid="ignore"):
        mean = np.where(np.isnan(rows), 0.0, rows).sum(axis=1) / count
    first = rows[np.arange(len(rows)), np.isfinite(rows).argmax(axis=1)]
    return Buckets(count, np.fmin.reduce(rows, axis=1), np.fmax.reduce(rows, axis=1), mean, first)


# Spikes: values that stick out from those around them.

AROUND = 16  # buckets on either side that say what is usual
STICKS_OUT = 8.0  # standard deviations, of the logarithm and of a normal distribution
LEAST_SPREAD = 0.03  # of the logarithm, so that a metric that hardly moves has no spikes


def spike_limits(most: np.ndarray) -> np.ndarray:
    """Above which value a bucket holds a spike, from the highest values of the buckets around it.  most: [N] -> [N].

    Infinite where there are too few to tell: at the beginning, where every metric falls, and if some are not positive.
    """
    limits = np.full(len(most), np.inf)
    usual = most[most > 0]
    if len(usual) < 2 * AROUND + 1 or len(usual) < np.isfinite(most).sum():
        return limits
    there = np.flatnonzero(most > 0)
    logs = np.log(usual)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(logs, AROUND, mode="reflect"), 2 * AROUND + 1)
    middle = np.median(windows, axis=1)
    spread = 1.4826 * np.median(np.abs(windows - middle[:, None]), axis=1)
    limit = middle + STICKS_OUT * np.maximum(spread, LEAST_SPREAD)
    limit[:AROUND] = np.inf
    limits[there] = np.exp(limit)
    return limits


def spikes(values: np.ndarray, most: np.ndarray, size: int) -> np.ndarray:
    """Rows [M] of the values above the limits of their buckets.  values: [N]; most: highest values of its buckets."""
    limits = spike_limits(most)
    found = []
    for bucket in np.flatnonzero(most > limits):
        part = values[bucket * size : (bucket + 1) * size]
        found.append(bucket * size + np.flatnonzero(np.isfinite(part) & (part > limits[bucket])))
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)
