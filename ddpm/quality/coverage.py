"""How much of the reference the samples cover, and how densely they lie in it (Naeem et al. 2020), in features."""

from typing import NamedTuple

import numpy as np

K = 5  # nearest neighbours


class Coverage(NamedTuple):
    """Density and coverage of samples in a reference.

    Equal sets of as many images come to about 1 and 1 - 2^-k = 0.97.
    """

    density: float
    coverage: float


def coverage(x: np.ndarray, y: np.ndarray, k: int = K) -> Coverage:
    """Returns density and coverage of samples x [N, d] in reference images y [M, d] (Eq. 3 and 4).

    A reference image has a ball, which reaches to the k-th nearest other one.  density: mean number of balls that a
    sample lies in, over k.  coverage: share of the balls with a sample in them.  Raises ValueError for k images or
    fewer.
    """
    if len(y) <= k:
        raise ValueError(f"{len(y)} images have no {k}-th nearest neighbour")
    x, y = x.astype(np.float64), y.astype(np.float64)
    inside = np.zeros(len(y), np.int64)  # samples in the ball of each
    for part in np.array_split(np.arange(len(y)), max(1, len(y) // 500)):
        among = _squared(y[part], y)
        among[np.arange(len(part)), part] = np.inf
        radius = np.partition(among, k - 1, axis=1)[:, k - 1]
        inside[part] = (_squared(y[part], x) < radius[:, None]).sum(axis=1)
    return Coverage(float(inside.sum() / (k * len(x))), float((inside > 0).mean()))


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances [N, M] of x [N, d] and y [M, d]."""
    return (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1) - 2 * x @ y.T
