"""The reverse process p: from a network's output to the clean image, with guidance and the clip of x_start.

Images are float32 [N, C, H, W] in [-1, 1].  t: [N] timesteps of the full process, 0 .. T-1; float64 between two.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ddpm.config.model import DiffusionConfig
from ddpm.diffusion.process import at, x_start_from_eps, x_start_from_v
from ddpm.planning.guidance import Guidance
from ddpm.schedules import Schedule

Condition = Mapping[str, Tensor]  # inputs of a network besides x_t and t: "y" int64 [N] labels, "low_res" [N, C, h, w]


class Network(Protocol):
    """Any network like the U-Net: (x_t [N, C, H, W], t float32 [N], condition) -> [N, C or 2C, H, W].

    t is scaled as by `network_time`.
    """

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor: ...


class Prediction(NamedTuple):
    """A denoiser's prediction from x_t."""

    x_start: Tensor  # float32 [N, C, H, W], the clean image
    v: Tensor | None = None  # float32 [N, C, H, W], learned variance: -1 is the posterior's, 1 is beta
    log_variance: Tensor | None = None  # float32 [N, C, H, W], of a step of the full process, where it is stated itself


Denoiser = Callable[[Tensor, Tensor], Prediction]  # (x_t [N, C, H, W], t [N] of the full process, or between)


def network_time(config: DiffusionConfig, T: int, t: Tensor) -> Tensor:
    """Timesteps as the network takes them, float32 [N]: on a scale of 0 to 1000 with rescale_timesteps.  t: [N]."""
    return t.float() * (1000.0 / T) if config.rescale_timesteps else t.float()


def clip_x_start(x_start: Tensor, dynamic: float = 0.0) -> Tensor:
    """Clips the predicted x_start [N, C, H, W] to [-1, 1]; with dynamic thresholding it is scaled down first.

    dynamic: quantile of |x_start| of each image that is scaled to 1 (Saharia et al. 2022, Section 2.3; Lu et al. 2022b,
    Section 6.1); 0 clips only.
    """
    if dynamic:
        size = torch.quantile(x_start.abs().flatten(1), dynamic, dim=1).clamp(min=1.0)
        size = size.reshape(-1, *[1] * (x_start.ndim - 1))
        x_start = x_start / size
    return x_start.clamp(-1, 1)


def interpret_output(
    output: Tensor, x: Tensor, t: Tensor, full: Schedule, config: DiffusionConfig, clip: bool, dynamic: float = 0.0
) -> Prediction:
    """Turns a network's output [N, C or 2C, H, W] for x [N, C, H, W] at timesteps t [N] into a Prediction.

    The network predicts eps, x_start, v or the previous x, and the variance where the output has 2C channels.  What it
    predicts for one step of the full process, as x_start and v, holds for a shortened process as well.
    """
    mean, v = output.split(x.shape[1], dim=1) if output.shape[1] == 2 * x.shape[1] else (output, None)
    if config.prediction == "x_start":
        x_start = mean
    elif config.prediction == "v":
        x_start = x_start_from_v(full, x, t, mean)
    elif config.prediction == "x_prev":
        rest = at(full.posterior_mean_coef2 / full.posterior_mean_coef1, t, x)
        x_start = at(1 / full.posterior_mean_coef1, t, x) * mean - rest * x
    else:
        x_start = x_start_from_eps(full, x, t, mean)
    stated = None
    if v is not None and not config.learned_range:
        stated = v
        low, high = full.posterior_log_variance_clipped, np.log(full.betas)
        v = 2 * (v - at(low, t, v)) / at(high - low, t, v) - 1
    return Prediction(clip_x_start(x_start, dynamic) if clip else x_start, v, stated)


def guided_output(network: Network, x: Tensor, time: Tensor, condition: Condition, guidance: Guidance) -> Tensor:
    """The network's output [N, C or 2C, H, W] with classifier-free guidance (Ho & Salimans 2022, Eq. 6, w = scale - 1).

    x: [N, C, H, W].  time: float32 [N].  condition: has "y".  One batch of 2N is evaluated, with and without the class.
    Only the prediction is guided; a learned variance is that of the class.
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


def make_denoiser(
    network: Network,
    full: Schedule,
    config: DiffusionConfig,
    condition: Condition | None = None,
    clip: bool = True,
    dynamic: float = 0.0,
    guidance: Guidance | None = None,
) -> Denoiser:
    """A network as a function (x_t [N, C, H, W], t [N]) -> Prediction of the clean image.

    full: the schedule with all T timesteps.  condition: passed to the network with every call, tensors [N, ...].
    clip: clips x_start to [-1, 1], by dynamic thresholding where `dynamic` is not 0 (see `clip_x_start`).
    guidance: classifier-free guidance; all images of a call are at the same t then.
    """
    inputs = condition or {}

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        time = network_time(config, full.T, t)
        if guidance and guidance.at(float(t[0])):
            output = guided_output(network, x, time, inputs, guidance)
        else:
            output = network(x, time, **inputs)
        return interpret_output(output, x, t, full, config, clip, dynamic)

    return denoise
