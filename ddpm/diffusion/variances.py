"""Variances of the reverse process p(x_{t-1} | x_t): fixed, or learned by the network.

To add one: a function, and its row in VARIANCES.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from ddpm.diffusion.denoiser import Prediction
from ddpm.diffusion.process import at
from ddpm.schedules import Schedule


def fixed_large(schedule: Schedule, t: Tensor, predicted: Prediction) -> Tensor:
    """log sigma_t^2 = log beta_t (Ho et al. 2020, Section 3.2), float32 [N, 1, 1, 1].  t: int64 index [N].

    At t = 0 it is the posterior variance of t = 1, which the decoder's likelihood needs (as in improved-diffusion).
    """
    first = schedule.posterior_variance[1] if len(schedule) > 1 else schedule.betas[0]
    return at(np.log(np.append(first, schedule.betas[1:])), t, predicted.x_start)


def fixed_small(schedule: Schedule, t: Tensor, predicted: Prediction) -> Tensor:
    """log of the posterior variance (Ho et al. 2020, Eq. 7), float32 [N, 1, 1, 1].  t: int64 index [N]."""
    return at(schedule.posterior_log_variance_clipped, t, predicted.x_start)


def learned_range(schedule: Schedule, t: Tensor, predicted: Prediction) -> Tensor:
    """v log beta_t + (1 - v) log of the posterior variance (Nichol & Dhariwal 2021, Eq. 15), float32 [N, C, H, W].

    t: int64 index [N].  The network's v, in [-1, 1], is scaled to [0, 1]; it must be given.  A network that states the
    log variance itself is taken at its word in the full process; for a shortened one, whose range may be thousands of
    times as wide, its v is clipped.
    """
    assert predicted.v is not None, "the network has no learned variance"
    stated = predicted.log_variance
    if stated is not None and tuple(schedule.timesteps) == tuple(range(schedule.T)):
        return stated
    share = ((predicted.v if stated is None else predicted.v.clamp(-1, 1)) + 1) / 2
    low = at(schedule.posterior_log_variance_clipped, t, predicted.v)
    return share * at(np.log(schedule.betas), t, predicted.v) + (1 - share) * low


Variance = Callable[[Schedule, Tensor, Prediction], Tensor]  # -> log variance, broadcastable to [N, C, H, W]
VARIANCES: dict[str, Variance] = {
    "fixed_large": fixed_large,
    "fixed_small": fixed_small,
    "learned_range": learned_range,
}
