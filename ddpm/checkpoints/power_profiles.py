"""Averages of the weights with a power profile, of which others follow afterwards (Karras et al. 2024, Section 3).

In the average after t updates the weights at time s <= t count by a profile p(s) = (gamma + 1) / t (s / t)^gamma, whose
width, its standard deviation as a share of t, is the same at any time.  Profiles of several averages and several times,
added up, come close to a profile of any other width: the same sum of the averages is that width's average.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

TOLERANCE = 1e-12  # of singular values, as a share of the largest, below which profiles count as alike


class Profile(NamedTuple):
    """The profile of an average after some updates."""

    gamma: float
    updates: int


def gamma_of(width: float) -> float:
    """The exponent of the profile of a width in (0, 0.288] (Karras et al. 2024, Section 3.1).

    width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), solved for the largest gamma.
    """
    inverse = width**-2.0
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def width_of(gamma: float) -> float:
    """The width of the profile with that exponent >= 0: the other way round."""
    return float(np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))))


def rate_at(gamma: float, update: int) -> float:
    """The decay rate of update 1, 2, ...: beta_t = (1 - 1 / t)^(gamma + 1) (Karras et al. 2024, Section 3.1).

    The weights after update s get the integral of p over (s - 1, s], exactly; the first weights get none.
    """
    return (1 - 1 / update) ** (gamma + 1)


def inner_products(one: Sequence[Profile], other: Sequence[Profile]) -> np.ndarray:
    """Integrals of the products of two profiles each, float64 [N, M] (Karras et al. 2024, Appendix C).

    For t_a <= t_b: (gamma_a + 1) (gamma_b + 1) (t_a / t_b)^gamma_b / ((gamma_a + gamma_b + 1) t_b).
    """
    (ga, ta), (gb, tb) = (np.array(profiles, dtype=np.float64).T for profiles in (one, other))
    ga, ta = ga[:, None], ta[:, None]
    share = np.where(ta <= tb, (ta / tb) ** gb, (tb / ta) ** ga)
    return (ga + 1) * (gb + 1) / (ga + gb + 1) * share / np.maximum(ta, tb)


class Combination(NamedTuple):
    """A sum of profiles that comes close to another one."""

    factors: np.ndarray  # float64 [K], which add up to 1
    error: float  # distance from the other profile, as a share of its size (L2)


def combine(known: Sequence[Profile], wanted: Profile) -> Combination:
    """The sum of known profiles that is nearest to the wanted one (Karras et al. 2024, Section 3.2 and
    Appendix C).

    The factors add up to 1, so that weights that do not change stay as they are.
    """
    products, right = inner_products(known, known), inner_products(known, [wanted])[:, 0]
    size = float(inner_products([wanted], [wanted])[0, 0])
    scale = 1 / np.sqrt(np.diag(products))  # profiles of different times are of different sizes
    alike = products * np.outer(scale, scale)
    # The least |sum - wanted|^2, moved to where the factors add up to 1 (its Lagrange equations).
    free, step = np.linalg.lstsq(alike, np.stack([right * scale, scale], axis=1), rcond=TOLERANCE)[0].T
    factors = scale * (free + step * (1 - scale @ free) / (scale @ step))
    square = factors @ products @ factors - 2 * factors @ right + size
    return Combination(factors, float(np.sqrt(max(0.0, square) / size)))
