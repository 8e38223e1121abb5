"""Image editing: interpolation, variations (SDEdit), inpainting (RePaint), inversion.

All are generators of SampleSteps, one model evaluation per `next`, as samplers are.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ddpm import schedules
from ddpm.diffusion import process
from ddpm.diffusion.denoiser import Denoiser
from ddpm.sampling import samplers
from ddpm.sampling.samplers import ImageNoise, RandnLike, SampleStep
from ddpm.schedules import Schedule

Steps = Callable[..., Iterator[SampleStep]]  # a sampler, but for denoiser, x, schedule, to_zero and randn_like


def slerp(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Interpolates spherically from a to b (Shoemake 1985; Song et al. 2021, D.5).

    a, b: float [N, C, H, W].  weights: float [N] in [0, 1]; 0 is a, 1 is b.  Between two samples of N(0, I) the norm is
    preserved, which linear interpolation makes smaller.
    """
    cos = torch.cosine_similarity(a.flatten(1), b.flatten(1))
    angle = torch.arccos(cos.clamp(-1, 1)).clamp(1e-3, torch.pi - 1e-3)  # of two that are alike, a straight line
    w = weights.to(a)
    of_a, of_b = torch.sin((1 - w) * angle) / torch.sin(angle), torch.sin(w * angle) / torch.sin(angle)
    rows = (-1, *[1] * (a.ndim - 1))
    return of_a.reshape(rows) * a + of_b.reshape(rows) * b


class Between(ImageNoise):
    """A randn_like whose row k interpolates between those of two seeds, for samplers that add fresh noise."""

    def __init__(self, seed: int, to_seed: int, weights: Sequence[float]):
        super().__init__([seed] * len(weights))
        self._other = ImageNoise([to_seed] * len(weights))
        self._weights = torch.tensor(weights, dtype=torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns fresh noise like x: float32 [N, C, H, W]."""
        return slerp(super().__call__(x), self._other(x), self._weights)


def interpolation_weights(count: int) -> list[float]:
    """Returns the interpolation weight of each of `count` images: 0 is the first seed, 1 the last."""
    return [k / max(count - 1, 1) for k in range(count)]


def vary(
    sampler: Steps, denoise: Denoiser, given: Tensor, schedule: Schedule, *, to_zero: bool = True, randn_like: RandnLike
) -> Iterator[SampleStep]:
    """SDEdit (Meng et al. 2022, Algorithm 1): noises images to the schedule's last timestep and samples from there.

    given: float32 [N, C, H, W] in [-1, 1].
    """
    index = torch.full((len(given),), len(schedule) - 1, dtype=torch.int64, device=given.device)
    x = process.q_sample(schedule, given, index, randn_like(given))
    return sampler(denoise, x, schedule, to_zero=to_zero, randn_like=randn_like)


@torch.no_grad()
def inpaint(
    sampler: Steps,
    denoise: Denoiser,
    given: Tensor,
    mask: Tensor,
    schedule: Schedule,
    moves: Sequence[int],
    *,
    randn_like: RandnLike,
) -> Iterator[SampleStep]:
    """RePaint (Lugmayr et al. 2022, Algorithm 1): samples where the mask is 1, and ends exactly at `given` where it
    is 0.

    given: float32 [N, C, H, W] in [-1, 1].  mask: float32 [1, 1, H, W] of 0 and 1.  moves: `timesteps.repaint_moves`.
    sampler: a single-step one, without memory of earlier steps.
    """
    x = randn_like(given)
    level, done, total = len(schedule), 0, sum(move < 0 for move in moves)  # level 0 is clean
    for move in moves:
        if move > 0:
            beta = float(schedule.betas[level])
            x = (1 - beta) ** 0.5 * x + beta**0.5 * randn_like(x)
            level += 1
            continue
        level -= 1
        step = next(sampler(denoise, x, _from_to(schedule, level), to_zero=level == 0, randn_like=randn_like))
        known = given
        if level:
            index = torch.full((len(given),), level - 1, dtype=torch.int64, device=given.device)
            known = process.q_sample(schedule, given, index, randn_like(given))
        x = mask * step.x + (1 - mask) * known
        done += 1
        yield SampleStep(done, total, x, mask * step.x_start + (1 - mask) * given, step.t)


def _from_to(schedule: Schedule, level: int) -> Schedule:
    """Returns the process of a single step, from schedule.timesteps[level] to the one below."""
    first = max(level - 1, 0)
    full = schedule.full or schedule
    return schedules.respaced(full, schedule.timesteps[first : level + 1])


def invert(denoise: Denoiser, given: Tensor, schedule: Schedule) -> Iterator[SampleStep]:
    """Inverts images to their noise by DDIM, and reconstructs them from it (Song et al. 2021, Section 5.4).

    given: float32 [N, C, H, W] in [-1, 1].  Of the 2 K steps, the K-th holds the noise, the last the reconstruction.
    """
    total, x = 2 * len(schedule), given
    for step in samplers.ddim_inversion(denoise, given, schedule):
        x = step.x
        yield step._replace(total=total)
    for step in samplers.ddim(denoise, x, schedule):
        yield step._replace(done=step.done + len(schedule), total=total)


def rmse(a: Tensor, b: Tensor) -> Tensor:
    """Root mean squared difference of each image: a, b float [N, C, H, W] in [-1, 1] -> [N]."""
    return (a - b).square().flatten(1).mean(1).sqrt()
