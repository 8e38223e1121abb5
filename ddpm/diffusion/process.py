"""The forward process q, its posterior, and from a network to a denoiser.

Images are [N, C, H, W] float32 in [-1, 1].  `t` is [N] int64: timesteps of the full process, 0 .. T-1,
where a network is asked; indices 0 .. K-1 into a Schedule, where its tables are.  The two are the same
for a process that is not shortened.  A network may also be asked between two timesteps, where t is [N] float64.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ddpm.config.model import DiffusionConfig
from ddpm.planning.guidance import Guidance
from ddpm.schedules import Schedule

Condition = Mapping[str, Tensor]  # what a network is told besides x_t and t: "y" [N] labels, "low_res" [N, C, h, w]


class Network(Protocol):
    """Anything like the U-Net: (x_t [N,C,H,W], t [N] float on the network's scale, condition) -> [N, C or 2C, H, W]."""

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor: ...


class Prediction(NamedTuple):
    """What a denoiser says about x_t."""

    x_start: Tensor  # [N, C, H, W] the clean image
    v: Tensor | None = None  # [N, C, H, W] learned variance: -1 is the posterior's, 1 is beta


Denoiser = Callable[[Tensor, Tensor], Prediction]  # (x_t [N, C, H, W], t [N] of the full process, or between)


def at(table: np.ndarray, t: Tensor, like: Tensor) -> Tensor:
    """table[t] as [N, 1, 1, 1] float32, ready to multiply `like` [N, C, H, W]; in a straight line between two."""
    if t.is_floating_point():
        values = torch.from_numpy(np.interp(t.cpu().numpy(), np.arange(len(table)), table)).to(t.device)
    else:
        values = torch.from_numpy(table).to(t.device)[t]
    return values.float().reshape(-1, *[1] * (like.ndim - 1))


def q_sample(schedule: Schedule, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Draw x_t ~ q(x_t | x_0) with the given N(0, I) noise (Ho et al. 2020, Eq. 4).  t: index [N]."""
    abar = schedule.alphas_cumprod
    return at(np.sqrt(abar), t, x_start) * x_start + at(np.sqrt(1 - abar), t, x_start) * noise


def q_posterior_mean(schedule: Schedule, x_start: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, Eq. 7).  t: index [N]."""
    return at(schedule.posterior_mean_coef1, t, x_t) * x_start + at(schedule.posterior_mean_coef2, t, x_t) * x_t


def x_start_from_eps(schedule: Schedule, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """The clean image, if eps is the noise in x_t.  t: index [N], or between two of them."""
    if t.is_floating_point():
        abar, t = schedule.curve.abar(t.cpu().numpy()), torch.arange(len(t), device=t.device)
    else:
        abar = schedule.alphas_cumprod
    return at(np.sqrt(1 / abar), t, x_t) * x_t - at(np.sqrt(1 / abar - 1), t, x_t) * eps


def eps_from_x_start(schedule: Schedule, x_t: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
    """The noise in x_t, if x_start is the clean image.  t: index [N]."""
    abar = schedule.alphas_cumprod
    return (at(np.sqrt(1 / abar), t, x_t) * x_t - x_start) / at(np.sqrt(1 / abar - 1), t, x_t)


def fixed_large(schedule: Schedule, t: Tensor, predicted: Prediction) -> Tensor:
    """log beta, with the posterior's variance at t = 0, where it decides the likelihood."""
    first = schedule.posterior_variance[1] if len(schedule) > 1 else schedule.betas[0]
    return at(np.log(np.append(first, schedule.betas[1:])), t, predicted.x_start)


def fixed_small(schedule: Schedule, t: Tensor, predicted: Prediction) -> Tensor:
    """log of the posterior's variance."""
    return at(schedule.posterior_log_variance_clipped, t, predicted.x_start)


def learned_range(schedule: Schedule, t: Tensor, predicted: Prediction) -> Tensor:
    """Between the posterior's variance and beta, where the network says (Nichol & Dhariwal 2021, Eq. 15)."""
    assert predicted.v is not None, "the network has no learned variance"
    share = (predicted.v + 1) / 2
    low = at(schedule.posterior_log_variance_clipped, t, predicted.v)
    return share * at(np.log(schedule.betas), t, predicted.v) + (1 - share) * low


Variance = Callable[[Schedule, Tensor, Prediction], Tensor]  # -> log variance, broadcastable to [N, C, H, W]
VARIANCES: dict[str, Variance] = {
    "fixed_large": fixed_large,
    "fixed_small": fixed_small,
    "learned_range": learned_range,
}


def network_time(config: DiffusionConfig, T: int, t: Tensor) -> Tensor:
    """Timesteps [N] as the network is shown them: on a scale of 0 to 1000 with rescale_timesteps."""
    return t.float() * (1000.0 / T) if config.rescale_timesteps else t.float()


def in_range(x_start: Tensor, dynamic: float = 0.0) -> Tensor:
    """The predicted clean image within [-1, 1]: cut off, or with dynamic thresholding first scaled down.

    dynamic: the share of an image's values that stay within (Saharia et al. 2022, Section 2.3; Lu et al. 2022b,
    Section 6.1).
    """
    if dynamic:
        size = torch.quantile(x_start.abs().flatten(1), dynamic, dim=1).clamp(min=1.0)
        size = size.reshape(-1, *[1] * (x_start.ndim - 1))
        x_start = x_start / size
    return x_start.clamp(-1, 1)


def interpret(
    output: Tensor, x: Tensor, t: Tensor, full: Schedule, config: DiffusionConfig, clip: bool, dynamic: float = 0.0
) -> Prediction:
    """What a network's output [N, C or 2C, H, W] for x at timesteps t [N] of the full process says.

    A network that predicts the previous x, or the variance itself, does so for a step of the full process;
    as a clean image and a place between the two fixed variances it holds for a shortened one as well.
    """
    mean, v = output.split(x.shape[1], dim=1) if output.shape[1] == 2 * x.shape[1] else (output, None)
    if config.predict_xstart:
        x_start = mean
    elif config.predict_xprev:
        rest = at(full.posterior_mean_coef2 / full.posterior_mean_coef1, t, x)
        x_start = at(1 / full.posterior_mean_coef1, t, x) * mean - rest * x
    else:
        x_start = x_start_from_eps(full, x, t, mean)
    if v is not None and not config.learned_range:
        low, high = full.posterior_log_variance_clipped, np.log(full.betas)
        v = 2 * (v - at(low, t, v)) / at(high - low, t, v) - 1
    return Prediction(in_range(x_start, dynamic) if clip else x_start, v)


def guided(network: Network, x: Tensor, time: Tensor, condition: Condition, guidance: Guidance) -> Tensor:
    """The network's output [N, C or 2C, H, W], with what it predicts moved along the way from no class to the class.

    With and without a class in one batch, [2N].  Only the prediction is moved; a learned variance is that of the class
    (Ho & Salimans 2022, Eq. 6, with w = scale - 1).
    """
    y = condition["y"]
    null = torch.full_like(y, guidance.null)
    if guidance.scale == 0:
        return network(x, time, **{**condition, "y": null})
    doubled = {name: torch.cat([value, value]) for name, value in condition.items()}
    doubled["y"] = torch.cat([y, null])
    cond, uncond = network(torch.cat([x, x]), torch.cat([time, time]), **doubled).chunk(2)
    channels = x.shape[1]
    start = uncond[:, :channels]
    mean = start + guidance.scale * (cond[:, :channels] - start)
    return torch.cat([mean, cond[:, channels:]], dim=1)


def denoiser(
    network: Network,
    full: Schedule,
    config: DiffusionConfig,
    condition: Condition | None = None,
    clip: bool = True,
    dynamic: float = 0.0,
    guidance: Guidance | None = None,
) -> Denoiser:
    """A network as a function from a noisy image to the clean one that it expects.

    `full` is the process with all T timesteps.  `condition` goes to the network with every call.
    `clip` keeps the clean image within [-1, 1], by dynamic thresholding where `dynamic` says so.
    `guidance` moves what is predicted towards the class; all pictures of a call are at the same t then.
    """
    told = condition or {}

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        time = network_time(config, full.T, t)
        if guidance and guidance.at(float(t[0])):
            output = guided(network, x, time, told, guidance)
        else:
            output = network(x, time, **told)
        return interpret(output, x, t, full, config, clip, dynamic)

    return denoise
