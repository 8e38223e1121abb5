"""How sampling timesteps are spread over the process, as data: one function and one row each."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ddpm.schedules import Curve, space_timesteps

MIN_LAM = -5.1  # where spacings by noise begin: linear schedules end there, cosine ones go on to noise without end
RHO = 7.0  # Karras et al. 2022, Eq. 5


class Spacing(NamedTuple):
    """A spacing as forms, flags and charts see it."""

    spread: Callable[[Curve, int, int], list[float]]  # (curve, count, last): increasing timesteps, 0 to about `last`
    words: str  # what it does, as part of a sentence
    whole: bool = False  # True if it gives whole timesteps only, so that there are no more of them than timesteps
    symbol: str = "circle"  # Plotly's marker in charts


def uniform(curve: Curve, count: int, last: int) -> list[float]:
    """`count` whole timesteps, evenly spread from 0 to `last`."""
    return [float(t) for t in space_timesteps(last + 1, str(count))]


def quadratic(curve: Curve, count: int, last: int) -> list[float]:
    """Whole timesteps as the squares of evenly spread numbers, densest at the clean end (Song et al. 2021, D.2).

    Where the squares are closer than timesteps, each has one to itself.
    """
    squares = np.rint(np.linspace(0, math.sqrt(last), count) ** 2)
    index = np.arange(count)
    return (np.maximum.accumulate(squares - index) + index).tolist()


def logsnr(curve: Curve, count: int, last: int) -> list[float]:
    """Evenly over lam, between timesteps where need be (Lu et al. 2022a, Section 3.4)."""
    return _ends(curve.t_of(np.linspace(curve.lam(0.0), _start(curve, last), count)), curve, last)


def karras(curve: Curve, count: int, last: int) -> list[float]:
    """Evenly over the RHO-th root of sigma / alpha (Karras et al. 2022, Eq. 5)."""
    least, most = np.exp(-curve.lam(0.0)), np.exp(-_start(curve, last))
    noise = np.linspace(least ** (1 / RHO), most ** (1 / RHO), count) ** RHO
    return _ends(curve.t_of(-np.log(noise)), curve, last)


def _ends(t: np.ndarray, curve: Curve, last: int) -> list[float]:
    """These timesteps, of which the first is 0 but for rounding; one that is all noise is the last of them."""
    return [0.0, *t[1:-1].tolist(), float(last) if curve.abar(float(last)) == 0 else float(t[-1])][: len(t)]


def _start(curve: Curve, last: int) -> float:
    """lam of the noisiest step: cosine schedules are cut at t / T = 0.9946, as in Lu et al. 2022a."""
    return max(float(curve.lam(float(last))), MIN_LAM)


SPACINGS = {
    "uniform": Spacing(uniform, "evenly over the timesteps", whole=True),
    "quadratic": Spacing(quadratic, "as squares, densest near the clean image", whole=True, symbol="square"),
    "logsnr": Spacing(logsnr, "evenly over the logarithm of the signal-to-noise ratio", symbol="diamond"),
    "karras": Spacing(karras, "evenly over a root of sigma, densest near the clean image", symbol="triangle-up"),
}


def described() -> str:
    """Every spacing with its words, for help texts."""
    return "; ".join(f"{name}: {row.words}" for name, row in SPACINGS.items())
