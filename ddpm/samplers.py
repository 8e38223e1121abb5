"""Samplers: generator functions over a denoiser, one denoising step per `next`; to stop early, stop asking.

All walk a Schedule, shortened or not, from its last timestep to its first, and draw fresh noise only from
the `randn_like` they are given.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm import diffusion
from ddpm.diffusion import Denoiser, at
from ddpm.schedules import Schedule


class SampleStep(NamedTuple):
    done: int  # steps finished, 1 .. total
    total: int
    x: Tensor  # [N, C, H, W] state after this step
    x_start: Tensor  # [N, C, H, W] the clean image that the model expects


class ImageNoise:
    """A randn_like whose row k depends on seeds[k] alone, not on the rest of the batch."""

    def __init__(self, seeds: Sequence[int]):
        self._rngs = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack([torch.randn(x.shape[1:], generator=rng) for rng in self._rngs]).to(x.device)

    def start(self, shape: Sequence[int]) -> Tensor:
        """x_T for images of `shape` [C, H, W]."""
        return self(torch.empty(len(self._rngs), *shape))


def _walk(schedule: Schedule, x: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(index, [N] index, [N] timestep of the full process), from the noisiest to the clean end."""
    for i in reversed(range(len(schedule))):
        index = torch.full((len(x),), i, dtype=torch.int64, device=x.device)
        yield i, index, torch.full_like(index, schedule.timesteps[i])


@torch.no_grad()
def ddpm(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    variance: diffusion.Variance = diffusion.fixed_large,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
) -> Iterator[SampleStep]:
    """Ancestral sampling (Ho et al. 2020, Algorithm 2).  x: [N, C, H, W] ~ N(0, I)."""
    total = len(schedule)
    for i, index, t in _walk(schedule, x):
        predicted = denoise(x, t)
        x_next = diffusion.q_posterior_mean(schedule, predicted.x_start, x, index)
        if i > 0:
            x_next = x_next + torch.exp(0.5 * variance(schedule, index, predicted)) * randn_like(x)
        x = x_next
        yield SampleStep(total - i, total, x, predicted.x_start)


@torch.no_grad()
def ddim(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    eta: float = 0.0,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
) -> Iterator[SampleStep]:
    """DDIM (Song et al. 2021, Eq. 12).  x: [N, C, H, W] ~ N(0, I).  eta: 0 is deterministic, 1 as noisy as DDPM."""
    abar, abar_prev = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
    sigma = eta * np.sqrt((1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev))
    total = len(schedule)
    for i, index, t in _walk(schedule, x):
        predicted = denoise(x, t)
        eps = diffusion.eps_from_x_start(schedule, x, index, predicted.x_start)
        spread = at(np.sqrt(1 - abar_prev - sigma**2), index, x)
        x = at(np.sqrt(abar_prev), index, x) * predicted.x_start + spread * eps
        if i > 0 and eta > 0:
            x = x + at(sigma, index, x) * randn_like(x)
        yield SampleStep(total - i, total, x, predicted.x_start)


@torch.no_grad()
def ddim_inversion(denoise: Denoiser, x: Tensor, schedule: Schedule) -> Iterator[SampleStep]:
    """DDIM's ODE run backwards, from a picture x [N, C, H, W] to its noise (Song et al. 2021, Section 4.3)."""
    abar_next = np.append(schedule.alphas_cumprod[1:], 0.0)
    total = len(schedule)
    for done, (_, index, t) in enumerate(reversed(list(_walk(schedule, x))), start=1):
        predicted = denoise(x, t)
        eps = diffusion.eps_from_x_start(schedule, x, index, predicted.x_start)
        x = at(np.sqrt(abar_next), index, x) * predicted.x_start + at(np.sqrt(1 - abar_next), index, x) * eps
        yield SampleStep(done, total, x, predicted.x_start)
