"""How the squared error of a prediction is weighted over the timesteps of training.

A weighting is a function of the signal-to-noise ratio SNR = abar / (1 - abar), float64 [K], and of gamma, and gives the
weight of the squared error of x_start.  What that is for another prediction follows: with x_t given, the squared error
of eps is SNR times, and that of v is (SNR + 1) times, the one of x_start (Salimans & Ho 2022, Section 4).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Weighting(NamedTuple):
    """A weighting, and the gamma that its paper recommends; 0 where it has none."""

    of_x_start: Callable[[np.ndarray, float], np.ndarray]
    gamma: float


NONE = "none"
WEIGHTINGS = {
    # Hang et al. 2023, Eq. 8
    "min-snr": Weighting(lambda snr, gamma: np.minimum(snr, gamma), 5.0),
    # Crowson et al. 2024, Section 4.4: a smooth minimum of the two
    "soft-min-snr": Weighting(lambda snr, gamma: snr * gamma / (snr + gamma), 5.0),
    # Choi et al. 2022, Eq. 8, with k = 1
    "p2": Weighting(lambda snr, gamma: snr / (1 + snr) ** gamma, 1.0),
    # alpha_t times the error of v, which is between the plain error of v and that of eps, alpha_t^2 times that of v
    "alpha": Weighting(lambda snr, gamma: np.sqrt(snr * (1 + snr)), 0.0),
}
NAMES = (NONE, *WEIGHTINGS)


def has_gamma(name: str) -> bool:
    """Whether gamma makes a difference to the weighting of that name."""
    return name in WEIGHTINGS and WEIGHTINGS[name].gamma > 0


def weights(name: str, gamma: float, prediction: str, alphas_cumprod: np.ndarray) -> np.ndarray:
    """Weights of the squared error of a prediction, float64 [K].

    name: one of WEIGHTINGS.  gamma: 0 is the recommended one.  prediction: eps, x_start or v.  alphas_cumprod: abar,
    float64 [K], in [0, 1).
    """
    weighting = WEIGHTINGS[name]
    snr = alphas_cumprod / (1 - alphas_cumprod)
    error = {"x_start": np.ones_like(snr), "eps": snr, "v": snr + 1}[prediction]  # as a multiple of that of x_start
    found = weighting.of_x_start(snr, gamma or weighting.gamma)
    # Sampling begins where the SNR is 0, and what is predicted there decides the brightness: it must be learnt.
    return np.where(snr > 0, found / np.where(error > 0, error, 1), 1.0)
