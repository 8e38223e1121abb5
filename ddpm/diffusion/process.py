"""The forward process q and its posterior, evaluated on tensors.

Images are float32 [N, C, H, W] in [-1, 1].  t: int64 [N], index 0 .. K-1 into the tables of a Schedule of K timesteps;
0 is the least noisy.  Where a function says so, t may also lie between two indices, as float64 [N].
"""

import numpy as np
import torch
from torch import Tensor

from ddpm.schedules import Schedule

NO_SIGNAL = 1e-20  # abar below which float32 sees x_t as noise alone


def at(table: np.ndarray, t: Tensor, like: Tensor) -> Tensor:
    """table[t] as float32 [N, 1, 1, 1], which multiplies `like` [N, C, H, W]; linearly interpolated for a float t.

    table: float64 [K].  t: [N].
    """
    if t.is_floating_point():
        values = torch.from_numpy(np.interp(t.cpu().numpy(), np.arange(len(table)), table)).to(t.device)
    else:
        values = torch.from_numpy(table).to(t.device)[t]
    return values.float().reshape(-1, *[1] * (like.ndim - 1))


def q_sample(schedule: Schedule, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Samples x_t ~ q(x_t | x_0) [N, C, H, W] (Ho et al. 2020, Eq. 4).

    x_start, noise: [N, C, H, W], noise ~ N(0, I).  t: index [N].
    """
    abar = schedule.alphas_cumprod
    return at(np.sqrt(abar), t, x_start) * x_start + at(np.sqrt(1 - abar), t, x_start) * noise


def q_posterior_mean(schedule: Schedule, x_start: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Mean of q(x_{t-1} | x_t, x_0) [N, C, H, W] (Ho et al. 2020, Eq. 7).

    x_start, x_t: [N, C, H, W].  t: index [N].
    """
    return at(schedule.posterior_mean_coef1, t, x_t) * x_start + at(schedule.posterior_mean_coef2, t, x_t) * x_t


def x_start_from_eps(schedule: Schedule, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """The clean image x_0 [N, C, H, W] for which eps is the noise in x_t (Ho et al. 2020, Eq. 4, solved for x_0).

    x_t, eps: [N, C, H, W].  t: index [N], or float64 [N] between two.
    """
    abar, t = _abar(schedule, t)
    return at(np.sqrt(1 / abar), t, x_t) * x_t - at(np.sqrt(1 / abar - 1), t, x_t) * eps


def v_of(schedule: Schedule, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """v = alpha_t eps - sigma_t x_0 [N, C, H, W], where alpha_t^2 = abar_t = 1 - sigma_t^2 (Salimans & Ho 2022).

    x_start, noise: [N, C, H, W].  t: index [N].
    """
    abar = schedule.alphas_cumprod
    return at(np.sqrt(abar), t, noise) * noise - at(np.sqrt(1 - abar), t, noise) * x_start


def x_start_from_v(schedule: Schedule, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """The clean image x_0 = alpha_t x_t - sigma_t v [N, C, H, W] (Salimans & Ho 2022, Appendix D).

    x_t, v: [N, C, H, W].  t: index [N], or float64 [N] between two.
    """
    abar, t = _abar(schedule, t)
    return at(np.sqrt(abar), t, x_t) * x_t - at(np.sqrt(1 - abar), t, x_t) * v


def eps_from_x_start(schedule: Schedule, x_t: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
    """The noise eps [N, C, H, W] in x_t for the clean image x_start (Ho et al. 2020, Eq. 4, solved for eps).

    x_t, x_start: [N, C, H, W].  t: index [N].
    """
    abar = np.maximum(schedule.alphas_cumprod, NO_SIGNAL)
    return (at(np.sqrt(1 / abar), t, x_t) * x_t - x_start) / at(np.sqrt(1 / abar - 1), t, x_t)


def _abar(schedule: Schedule, t: Tensor) -> tuple[np.ndarray, Tensor]:
    """A table of abar, float64, and indices into it, int64 [N]; for float t its values at these very times."""
    if t.is_floating_point():
        return schedule.curve.abar(t.cpu().numpy()), torch.arange(len(t), device=t.device)
    return schedule.alphas_cumprod, t
