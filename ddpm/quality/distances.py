"""Distances between two sets of images, in their features float32 or float64 [N, d]: Fréchet and kernel distance.

All is computed in float64 with one order of summation, so that the same features give the same bits.  Intervals are of
95 %, and say how far a figure would move with other samples and other reference images, as many of each.
"""

from typing import NamedTuple

import numpy as np

RESAMPLES = 200  # of a bootstrap
PARTS = (1, 2, 3, 4)  # numbers of equal parts that sets are divided into, for the extrapolation, at most
ORDERS = 4  # random divisions of each
GROUPS = 20  # of the jackknife


class Measure(NamedTuple):
    """A figure and its 95 % interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


class Gaussian(NamedTuple):
    """Mean [d] and covariance [d, d] of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray


def gaussian(x: np.ndarray, counts: np.ndarray | None = None) -> Gaussian:
    """Returns mean and unbiased covariance of features x [N, d].  counts: float64 [N], how often each is there."""
    x = x.astype(np.float64)
    counts = np.ones(len(x)) if counts is None else counts
    total = counts.sum()
    mean = counts @ x / total
    centred = (x - mean) * np.sqrt(counts)[:, None]
    return Gaussian(mean, centred.T @ centred / (total - 1))


def root(covariance: np.ndarray) -> np.ndarray:
    """Returns the symmetric root of a covariance [d, d]."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet(a: Gaussian, b: Gaussian, root_of_b: np.ndarray | None = None) -> float:
    """Returns the Fréchet distance of two normal distributions (Heusel et al. 2017, Eq. 6; squared, as all do).

    a, b: means [F] and covariances [F, F].  root_of_b: the root of b's covariance, [F, F], where it is known.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)); the trace of the root is the sum of the roots of the eigenvalues
    of R C_a R, R = C_b^(1/2), which is symmetric.
    """
    r = root(b.covariance) if root_of_b is None else root_of_b
    values = np.linalg.eigvalsh(r @ a.covariance @ r)
    apart = a.mean - b.mean
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return float(apart @ apart + traces - 2 * np.sqrt(np.maximum(values, 0)).sum())


def frechet_distance(x: np.ndarray, y: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> Measure:
    """Returns the Fréchet distance of features x [N, d] from y [M, d].

    A bootstrap draws both sets anew.  What it draws has repetitions, which raise the distance as fewer images would:
    the interval has the spread of its distances around their mean, about the distance itself.  resamples: of it; 0 for
    no interval.
    """
    value = frechet(gaussian(x), gaussian(y))
    if not resamples:
        return Measure(value)
    rng = np.random.default_rng(seed)
    draws = [frechet(gaussian(x, _drawn(rng, len(x))), gaussian(y, _drawn(rng, len(y)))) for _ in range(resamples)]
    moved = np.array(draws) - np.mean(draws)
    return Measure(value, *(float(value + q) for q in np.quantile(moved, (0.025, 0.975))))


def _drawn(rng: np.random.Generator, count: int) -> np.ndarray:
    """How often each of `count` is drawn, in `count` draws."""
    return np.bincount(rng.integers(0, count, count), minlength=count).astype(np.float64)


def frechet_at_infinity(x: np.ndarray, y: np.ndarray, seed: int = 0, interval: bool = True) -> Measure:
    """Returns the Fréchet distance of features x [N, d] from y [M, d], extrapolated to infinitely many images.

    The distance of finite sets is too large by about a constant over their size (Chong & Forsyth 2020): it is measured
    between whole sets, halves, thirds and quarters of both, and a line in 1/size is read off at 0.  Parts of fewer than
    d images are left out, but for halves: there the error is no longer a constant over the size.  The interval is that
    of a jackknife, which leaves out a twentieth of both sets at a time.
    """
    rng = np.random.default_rng(seed)
    # The same images are left out of every division: the line's terms move together, as with other images they would.
    groups = [np.random.default_rng((seed, k)).permutation(len(z)) % GROUPS for k, z in enumerate((x, y))]
    centre = y.mean(axis=0, dtype=np.float64)
    used = PARTS[: max(2, min(len(x), len(y)) // x.shape[1])]
    means = np.zeros((GROUPS + 1, len(used)))  # of the distances between parts: the last of all, others without one
    for column, parts in enumerate(used):
        orders = ORDERS if parts > 1 else 1
        for _ in range(orders):
            moments = [_moments(z - centre, of_each, parts, rng) for z, of_each in zip((x, y), groups, strict=True)]
            for left_out in range(GROUPS + 1 if interval else 1):
                group = left_out - 1  # -1: none
                for part in range(parts):
                    a, b = (_without(m, part, group) for m in moments)
                    means[group, column] += frechet(a, b) / (parts * orders)
    at_0 = np.array([np.polynomial.Polynomial.fit(used, row, 1).convert().coef[0] for row in means if row.any()])
    value = float(at_0[-1])
    if not interval:
        return Measure(value)
    without = at_0[:-1]
    half = 1.96 * float(np.sqrt((GROUPS - 1) / GROUPS * ((without - without.mean()) ** 2).sum()))
    return Measure(value, value - half, value + half)


class _Moments(NamedTuple):
    """Sums over the images of each part and group of features [N, d]."""

    images: np.ndarray  # how many, [parts, GROUPS]
    first: np.ndarray  # [parts, GROUPS, d]
    second: np.ndarray  # [parts, GROUPS, d, d]


def _moments(x: np.ndarray, groups: np.ndarray, parts: int, rng: np.random.Generator) -> _Moments:
    """Divides features x [N, d] at random into equal parts, and these by the groups of the images, int [N]."""
    order = rng.permutation(len(x))
    chosen = [order[part::parts] for part in range(parts)]
    cells = [[x[part[groups[part] == group]] for group in range(GROUPS)] for part in chosen]
    return _Moments(
        np.array([[len(cell) for cell in row] for row in cells], np.float64),
        np.array([[cell.sum(axis=0) for cell in row] for row in cells]),
        np.array([[cell.T @ cell for cell in row] for row in cells]),
    )


def _without(moments: _Moments, part: int, group: int) -> Gaussian:
    """Mean and covariance of a part without a group; with all for -1."""
    kept = np.arange(GROUPS) != group
    count, first, second = (values[part][kept].sum(axis=0) for values in moments)
    mean = first / count
    return Gaussian(mean, (second - count * np.outer(mean, mean)) / (count - 1))


def kernel_distance(x: np.ndarray, y: np.ndarray, of_y: np.ndarray | None = None) -> Measure:
    """Returns the kernel distance of features x [N, d] from y [M, d]: unbiased, and so also for few images.

    The squared maximum mean discrepancy with the kernel (x . y / d + 1)^3 (Binkowski et al. 2018, Eq. 4 and section
    3.1), of all pairs.  The interval is that of a jackknife over single images of both sets.  of_y: what
    `kernel_sums(y)` returns, where it is known.
    """
    of_x = kernel_sums(x)
    of_y = kernel_sums(y) if of_y is None else of_y
    x, y = x.astype(np.float64), y.astype(np.float64)
    n, m = len(x), len(y)
    cross_x, cross_y = _sums(x, y)
    total_x, total_y, cross = of_x.sum(), of_y.sum(), cross_x.sum()
    value = total_x / (n * (n - 1)) + total_y / (m * (m - 1)) - 2 * cross / (n * m)
    without_x = (total_x - 2 * of_x) / ((n - 1) * (n - 2)) - 2 * (cross - cross_x) / ((n - 1) * m)
    without_y = (total_y - 2 * of_y) / ((m - 1) * (m - 2)) - 2 * (cross - cross_y) / (n * (m - 1))
    variance = (n - 1) / n * ((without_x - without_x.mean()) ** 2).sum()
    variance += (m - 1) / m * ((without_y - without_y.mean()) ** 2).sum()
    half = 1.96 * float(np.sqrt(variance))
    return Measure(float(value), float(value) - half, float(value) + half)


def kernel_sums(x: np.ndarray) -> np.ndarray:
    """Returns the sum of the kernel of each of x [N, d] with all others: [N]."""
    x = x.astype(np.float64)
    own: np.ndarray = ((x * x).sum(axis=1) / x.shape[1] + 1) ** 3
    return _sums(x, x)[0] - own


def _sums(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the kernel of each of x [N, d] with all of y [M, d], [N], and of each of y with all of x, [M]."""
    rows, columns = [], np.zeros(len(y))
    for part in np.array_split(x, max(1, len(x) // 500)):
        kernel = part @ y.T / x.shape[1] + 1
        kernel = kernel * kernel * kernel  # a power takes ten times as long
        rows.append(kernel.sum(axis=1))
        columns += kernel.sum(axis=0)
    return np.concatenate(rows), columns
