"""The variational bound in bits per dimension, and its mean over images (Ho et al. 2020, Eq. 5)."""

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.config.model import DiffusionConfig
from ddpm.diffusion import denoiser, losses, process
from ddpm.diffusion.denoiser import Condition, Network
from ddpm.diffusion.variances import Variance
from ddpm.errors import UserError
from ddpm.runs.results import EvaluationJob
from ddpm.schedules import Schedule

TERMS = EvaluationJob.TERMS
Noise = Callable[[int, int], Tensor]  # (number k of an image, timestep index t) -> float32 [C, H, W] ~ N(0, I)


class Bits(NamedTuple):
    """Bits per dimension of N images, and the terms of the bound, t = 0 first.  All tensors are float64."""

    total: Tensor  # [N] prior and all terms of the bound
    prior: Tensor  # [N] L_T, which does not depend on the network
    vb: Tensor  # [N, T] the terms of the bound
    xstart_mse: Tensor  # [N, T] mean squared error of the predicted x_start
    mse: Tensor  # [N, T] mean squared error of the predicted eps


class BoundProgress(NamedTuple):
    """Progress of computing the bound: one model evaluation."""

    done: int  # model evaluations so far, 1 .. total
    total: int
    bits: Bits | None = None  # of all images, after the last evaluation


def bits_per_dim(
    network: Network,
    full: Schedule,
    schedule: Schedule,
    settings: DiffusionConfig,
    x_start: Tensor,
    noise: Noise,
    condition: Condition | None = None,
    clip: bool = True,
    rows: int = 64,
    variance: Variance | None = None,
) -> Bits:
    """Computes the bound of each image over `schedule` (Ho et al. 2020, Eq. 5).

    x_start: float32 [N, C, H, W] in [-1, 1].  full: the process with all T timesteps, of which `schedule` visits some.
    condition: y int64 [N] and low_res float32 [N, C, h, w] in [-1, 1], where the network takes them.  rows: images
    times timesteps in a model evaluation.  variance: of a step; None is the one of training.
    """
    *_, last = iter_bits_per_dim(network, full, schedule, settings, x_start, noise, condition, clip, rows, variance)
    assert last.bits is not None
    return last.bits


@torch.no_grad()
def iter_bits_per_dim(
    network: Network,
    full: Schedule,
    schedule: Schedule,
    settings: DiffusionConfig,
    x_start: Tensor,
    noise: Noise,
    condition: Condition | None = None,
    clip: bool = True,
    rows: int = 64,
    variance: Variance | None = None,
) -> Iterator[BoundProgress]:
    """Computes what `bits_per_dim` does, and yields at each model evaluation.

    Images times timesteps are evaluated `rows` at a time, which bounds the memory: one image's timesteps from the last
    to the first, then the next image's.  x_start, noise: float32 [N, C, H, W], x_start in [-1, 1].
    """
    count, T = len(x_start), len(schedule)
    terms = {name: torch.zeros(count, T, dtype=torch.float64) for name in TERMS}
    total = -(-count * T // rows)
    for evaluation in range(total):
        pairs = [(i // T, T - 1 - i % T) for i in range(evaluation * rows, min((evaluation + 1) * rows, count * T))]
        numbers, index = (torch.tensor(column, device=x_start.device) for column in zip(*pairs, strict=True))
        noises = torch.stack([noise(k, t) for k, t in pairs]).to(x_start.device)
        rows_condition = {name: value[numbers] for name, value in (condition or {}).items()}
        denoise = denoiser.make_denoiser(network, full, settings, rows_condition, clip)
        clean = x_start[numbers]
        x_t = process.q_sample(schedule, clean, index, noises)
        predicted = denoise(x_t, index.new_tensor(schedule.timesteps)[index])
        eps = process.eps_from_x_start(schedule, x_t, index, predicted.x_start)
        found = {
            "vb": losses.vlb_terms(schedule, settings, clean, x_t, index, predicted, variance),
            "xstart_mse": losses.mean_flat((predicted.x_start - clean).square()),
            "mse": losses.mean_flat((eps - noises).square()),
        }
        for name, values in found.items():
            terms[name][numbers.cpu(), index.cpu()] = values.double().cpu()
        if evaluation + 1 < total:
            yield BoundProgress(evaluation + 1, total)
    prior = losses.prior_bpd(schedule, x_start).double().cpu()
    yield BoundProgress(total, total, Bits(terms["vb"].sum(dim=1) + prior, prior, **terms))


class Tally:
    """Running means over images, over T timesteps."""

    def __init__(self, T: int):
        self.totals: list[float] = []  # bits per dimension of each image
        self._mean = self._squares = 0.0  # running mean, and sum of squared distances from it
        self._prior = 0.0
        self._sums = {name: np.zeros(T) for name in TERMS}

    def add(self, bits: Bits, k: int) -> None:
        """Adds image k.  Raises UserError where its bits per dimension are not finite."""
        total = float(bits.total[k])
        if not math.isfinite(total):
            raise UserError(
                f"Image {self.count + 1} came out as {total} bits/dim, so the weights are broken or the settings are "
                "not theirs: use another checkpoint, or the flags that it was trained with.",
                code="not-finite",
            )
        self.totals.append(total)
        before = total - self._mean
        self._mean += before / self.count
        self._squares += before * (total - self._mean)  # Welford 1962
        self._prior += float(bits.prior[k])
        for name, sums in self._sums.items():
            sums += getattr(bits, name)[k].numpy()

    @property
    def count(self) -> int:
        return len(self.totals)

    @property
    def mean(self) -> float:
        """Mean bits per dimension."""
        return self._mean

    @property
    def ci95(self) -> float | None:
        """Half width of the 95 % confidence interval of the mean; None for a single image."""
        if self.count < 2:
            return None
        return student_t(self.count - 1) * math.sqrt(self._squares / (self.count - 1) / self.count)

    @property
    def prior(self) -> float:
        return self._prior / self.count

    def terms(self) -> dict[str, np.ndarray]:
        """Returns the means of the terms over the images: float64 [T], t = 0 first."""
        return {name: sums / self.count for name, sums in self._sums.items()}


def student_t(freedom: int) -> float:
    """Returns the 97.5 % quantile of Student's t distribution, to at least two decimals."""
    few = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
    if freedom <= len(few):
        return few[freedom - 1]
    z = NormalDist().inv_cdf(0.975)  # and its expansion in 1 / freedom (Abramowitz & Stegun, 26.7.5)
    second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / freedom**power for power, term in enumerate(second, start=1))


def noise_for(seed: int, shape: torch.Size) -> Noise:
    """Returns noise for image k and timestep t, float32 of `shape` [C, H, W], that depends on (seed + k, t) alone."""

    def noise(k: int, t: int) -> Tensor:
        (state,) = np.random.SeedSequence((seed + k, t)).generate_state(1, np.uint64)
        return torch.randn(shape, generator=torch.Generator().manual_seed(int(state >> np.uint64(1))))

    return noise
