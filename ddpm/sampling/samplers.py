"""Samplers: generator functions over a denoiser, one model evaluation per `next`; to stop early, stop iterating.

All walk a Schedule, shortened or not, from its last timestep to its first and from there to the clean image; with
to_zero=False they end at the first timestep, with the little noise of that step.  Fresh noise comes only from
the `randn_like` argument.

The solvers see x_t = alpha x_start + sigma eps and lam = log(alpha / sigma).  Between two timesteps they solve the
probability-flow ODE (Song et al. 2021b, Eq. 13): in x_start by Lu et al. 2022b, Eq. 9, in eps by DDIM's Eq. 14.
"""

import pkgutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ddpm.diffusion import process
from ddpm.diffusion.denoiser import Denoiser, Prediction
from ddpm.diffusion.process import at
from ddpm.diffusion.variances import Variance, fixed_large
from ddpm.schedules import Schedule, log_snr
from ddpm.solvers import SOLVERS


class SampleStep(NamedTuple):
    done: int  # model evaluations so far, 1 .. total
    total: int
    x: Tensor  # [N, C, H, W] state after this step
    x_start: Tensor  # [N, C, H, W] the clean image that the model expects
    t: float  # the timestep of this evaluation


RandnLike = Callable[[Tensor], Tensor]


class Sampler(Protocol):
    """A sampler.  x: float32 [N, C, H, W] ~ N(0, I), or an image noised to the schedule's last timestep."""

    def __call__(
        self, denoise: Denoiser, x: Tensor, schedule: Schedule, *, to_zero: bool = True, randn_like: RandnLike = ...
    ) -> Iterator[SampleStep]: ...


class ImageNoise:
    """A randn_like, float [N, C, H, W], whose row k depends on seeds[k] alone, not on the rest of the batch."""

    def __init__(self, seeds: Sequence[int]):
        self._rngs = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack([torch.randn(x.shape[1:], generator=rng) for rng in self._rngs]).to(x.device)

    def start(self, shape: Sequence[int]) -> Tensor:
        """Returns x_T for images of `shape` [C, H, W]: float32 [N, C, H, W] ~ N(0, I)."""
        return self(torch.empty(len(self._rngs), *shape))


def _walk(schedule: Schedule, x: Tensor, to_zero: bool = True) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(index, [N] index, [N] timestep of the full process), from the noisiest to the clean end."""
    for i in reversed(range(0 if to_zero else 1, len(schedule))):
        yield i, torch.full((len(x),), i, dtype=torch.int64, device=x.device), _times(schedule.timesteps[i], x)


def _times(t: float, x: Tensor) -> Tensor:
    """[N] timestep of the full process: int64, or float64 between two."""
    return torch.full((len(x),), t, dtype=torch.int64 if isinstance(t, int) else torch.float64, device=x.device)


@torch.no_grad()
def ddpm(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    variance: Variance = fixed_large,
    *,
    to_zero: bool = True,
    randn_like: RandnLike = torch.randn_like,
) -> Iterator[SampleStep]:
    """Ancestral sampling (Ho et al. 2020, Algorithm 2).  x: [N, C, H, W] ~ N(0, I)."""
    total = len(schedule) - (not to_zero)
    for done, (i, index, t) in enumerate(_walk(schedule, x, to_zero), start=1):
        predicted = denoise(x, t)
        x_next = process.q_posterior_mean(schedule, predicted.x_start, x, index)
        if i > 0:
            x_next = x_next + torch.exp(0.5 * variance(schedule, index, predicted)) * randn_like(x)
        x = x_next
        yield SampleStep(done, total, x, predicted.x_start, schedule.timesteps[i])


@torch.no_grad()
def ddim(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    eta: float = 0.0,
    *,
    to_zero: bool = True,
    randn_like: RandnLike = torch.randn_like,
) -> Iterator[SampleStep]:
    """DDIM (Song et al. 2021, Eq. 12).  x: [N, C, H, W] ~ N(0, I).  eta: 0 is deterministic, 1 as noisy as DDPM."""
    abar, abar_prev = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
    sigma = eta * np.sqrt((1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev))
    total = len(schedule) - (not to_zero)
    for done, (i, index, t) in enumerate(_walk(schedule, x, to_zero), start=1):
        predicted = denoise(x, t)
        eps = process.eps_from_x_start(schedule, x, index, predicted.x_start)
        spread = at(np.sqrt(np.maximum(1 - abar_prev - sigma**2, 0)), index, x)  # rounding may be below 0
        x = at(np.sqrt(abar_prev), index, x) * predicted.x_start + spread * eps
        if i > 0 and eta > 0:
            x = x + at(sigma, index, x) * randn_like(x)
        yield SampleStep(done, total, x, predicted.x_start, schedule.timesteps[i])


@torch.no_grad()
def ddim_inversion(denoise: Denoiser, x: Tensor, schedule: Schedule) -> Iterator[SampleStep]:
    """DDIM's ODE in reverse, from images x [N, C, H, W] in [-1, 1] to their noise (Song et al. 2021, Section 4.3)."""
    abar_next = np.append(schedule.alphas_cumprod[1:], 0.0)
    total = len(schedule)
    for done, (i, index, t) in enumerate(reversed(list(_walk(schedule, x))), start=1):
        predicted = denoise(x, t)
        eps = process.eps_from_x_start(schedule, x, index, predicted.x_start)
        x = at(np.sqrt(abar_next), index, x) * predicted.x_start + at(np.sqrt(1 - abar_next), index, x) * eps
        yield SampleStep(done, total, x, predicted.x_start, schedule.timesteps[i])


# --- solvers


class Point(NamedTuple):
    """Signal and noise at a timestep that a solver visits; without noise at the end."""

    t: float
    alpha: float
    sigma: float
    lam: float  # log(alpha / sigma)


CLEAN = Point(0.0, 1.0, 0.0, np.inf)


def _points(schedule: Schedule, to_zero: bool) -> list[Point]:
    """Lists the points from the noisiest to the last; the network is evaluated at all but the last."""
    abar = schedule.alphas_cumprod
    rows = zip(schedule.timesteps, np.sqrt(abar), np.sqrt(1 - abar), log_snr(abar), strict=True)
    passed = [Point(t, float(a), float(s), float(lam)) for t, a, s, lam in rows][::-1]
    return [*passed, CLEAN] if to_zero else passed


def _eps(at: Point, x: Tensor, x_start: Tensor) -> Tensor:
    return (x - at.alpha * x_start) / at.sigma


def _along(x: Tensor, eps: Tensor, x_start: Tensor, now: Point, to: Point) -> Tensor:
    """x at `to` if eps stays as it is (Song et al. 2021, Eq. 13); if x_start does, where x is noise alone."""
    if now.alpha == 0:
        return _towards(x, x_start, now, to)
    x_start = (x - now.sigma * eps) / now.alpha
    return to.alpha * x_start + to.sigma * eps


def _towards(x: Tensor, x_start: Tensor, now: Point, to: Point) -> Tensor:
    """x at `to` if x_start stays as it is: the same step (Lu et al. 2022b, Eq. 9 at order 1)."""
    return to.sigma / now.sigma * x + to.alpha * -np.expm1(now.lam - to.lam) * x_start


@torch.no_grad()
def dpm_solver_pp(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    order: int = 2,
    *,
    to_zero: bool = True,
    randn_like: RandnLike = torch.randn_like,
) -> Iterator[SampleStep]:
    """DPM-Solver++, multistep (Lu et al. 2022b): order 1 is DDIM, 2 their Algorithm 2 (2M), 3 the same with one more
    difference of past predictions (3M), exactly integrated.

    The step to the clean image takes the prediction alone.  x: [N, C, H, W] ~ N(0, I).
    """
    points = _points(schedule, to_zero)
    past: list[tuple[Point, Tensor]] = []  # newest first
    for done, (now, to) in enumerate(pairwise(points), start=1):
        m0 = denoise(x, _times(now.t, x)).x_start
        past = [(now, m0), *past[: order - 1]]
        h = to.lam - now.lam
        if len(past) == 1 or to is CLEAN:
            x = _towards(x, m0, now, to)
        elif len(past) == 2:
            r = (now.lam - past[1][0].lam) / h
            x = _towards(x, m0 + (m0 - past[1][1]) / (2 * r), now, to)
        else:
            (_, m1), (_, m2) = past[1:]
            r0, r1 = (now.lam - past[1][0].lam) / h, (past[1][0].lam - past[2][0].lam) / h
            slope0, slope1 = (m0 - m1) / r0, (m1 - m2) / r1
            bend = (slope0 - slope1) / (r0 + r1)
            slope = slope0 + r0 * bend
            phi1 = np.expm1(-h)
            phi2 = phi1 / h + 1
            phi3 = phi2 / h - 0.5
            x = _towards(x, m0, now, to) + to.alpha * (phi2 * slope - 2 * phi3 * bend)
        yield SampleStep(done, len(points) - 1, x, m0, now.t)


@torch.no_grad()
def sde_dpm_solver_pp(
    denoise: Denoiser, x: Tensor, schedule: Schedule, *, to_zero: bool = True, randn_like: RandnLike = torch.randn_like
) -> Iterator[SampleStep]:
    """SDE-DPM-Solver++(2M): the reverse SDE, with the last prediction remembered (Lu et al. 2022b, Eq. 19).

    x: [N, C, H, W] ~ N(0, I).
    """
    points = _points(schedule, to_zero)
    before: tuple[Point, Tensor] | None = None
    for done, (now, to) in enumerate(pairwise(points), start=1):
        m0 = denoise(x, _times(now.t, x)).x_start
        h = to.lam - now.lam
        mean = m0 + (m0 - before[1]) * (h / (2 * (now.lam - before[0].lam))) if before and to is not CLEAN else m0
        fresh = -np.expm1(-2 * h)  # share of the variance that is new
        x = to.sigma / now.sigma * np.exp(-h) * x + to.alpha * fresh * mean
        if to is not CLEAN:
            x = x + to.sigma * np.sqrt(fresh) * randn_like(x)
        before = now, m0
        yield SampleStep(done, len(points) - 1, x, m0, now.t)


@torch.no_grad()
def unipc(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    order: int = 3,
    *,
    to_zero: bool = True,
    randn_like: RandnLike = torch.randn_like,
) -> Iterator[SampleStep]:
    """UniPC of that order, multistep, for predictions of x_start, with B(h) = e^h - 1 (Zhao et al. 2023, Algorithm 5
    and Eq. 5).

    The evaluation that begins a step also corrects the step before, so a step takes one evaluation.
    x: [N, C, H, W] ~ N(0, I).
    """
    points = _points(schedule, to_zero)
    past: list[tuple[Point, Tensor]] = []  # newest first
    came = x  # where the last step began, corrected
    for done, (now, to) in enumerate(pairwise(points), start=1):
        m = denoise(x, _times(now.t, x)).x_start
        if past:
            x = _unified(came, past[:order], now, m)
        # Noise alone is infinitely far away: differences of predictions begin after it.
        came, past = x, [(now, m), *(one for one in past[: order - 1] if one[0].alpha)]
        x = _towards(x, m, now, to) if to is CLEAN else _unified(x, past, to, None)
        yield SampleStep(done, len(points) - 1, x, m, now.t)


def _unified(x: Tensor, past: list[tuple[Point, Tensor]], to: Point, m: Tensor | None) -> Tensor:
    """x at `to`, from x at the newest of `past`: UniP, or UniC where the prediction m at `to` is known."""
    now, m0 = past[0]
    h = to.lam - now.lam
    known = [*past[1:], *([(to, m)] if m is not None else [])]
    result = _towards(x, m0, now, to)
    if not known:
        return result
    r = np.array([1.0 if point is to else (point.lam - now.lam) / h for point, _ in known])
    B = np.expm1(-h)
    if len(known) == 1:
        weights = np.array([0.5])  # as they do: of the same order, and steadier
    else:
        phi, factorial, b = B / -h - 1, 1.0, []
        for k in range(1, len(known) + 1):
            b.append(phi * factorial / B)
            factorial *= k + 1
            phi = phi / -h - 1 / factorial
        weights = np.linalg.solve(np.vander(r, increasing=True).T, np.array(b))
    for w, r_k, (_, m_k) in zip(weights, r, known, strict=True):
        result = result - to.alpha * B * float(w / r_k) * (m_k - m0)
    return result


ADAMS = ([1.0], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24])
"""Adams-Bashforth's weights of the newest slope and those before, for steps of one length."""


@torch.no_grad()
def ipndm(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    twice: bool = False,
    *,
    to_zero: bool = True,
    randn_like: RandnLike = torch.randn_like,
) -> Iterator[SampleStep]:
    """iPNDM of order 4: DDIM's step with up to four eps blended by Adams-Bashforth (Zhang and Chen 2023).

    twice: as PLMS begins (Liu et al. 2022, Eq. 12 and 22), the first step is done again with the mean of the eps at
    both its ends.  The step to the clean image takes the prediction alone.  x: [N, C, H, W] ~ N(0, I).
    """
    points = _points(schedule, to_zero)
    past: list[Tensor] = []  # newest first
    again = int(twice and len(schedule) > 1)
    total = len(points) - 1 + again
    for k, (now, to) in enumerate(pairwise(points)):
        x_start, t = denoise(x, _times(now.t, x)).x_start, now.t
        eps, mean = _eps(now, x, x_start), x_start
        past = [eps, *past[:3]]
        if k == 0 and again:
            first, guess = _along(x, eps, x_start, now, to), x_start
            yield SampleStep(1, total, first, x_start, now.t)
            x_start, t = denoise(first, _times(to.t, x)).x_start, to.t
            eps, mean = (eps + _eps(to, first, x_start)) / 2, (guess + x_start) / 2
        elif to is not CLEAN:
            eps = sum(w * e for w, e in zip(ADAMS[len(past) - 1], past, strict=True))  # type: ignore[assignment]
        x = x_start if to is CLEAN else _along(x, eps, mean, now, to)
        past = past if now.alpha else []
        yield SampleStep(k + 1 + again, total, x, x_start, t)


CHURNED = (0.05, 50.0)  # sigma / alpha between which Heun churns, and the noise's std: Karras et al. 2022, Table 5
CHURN_NOISE = 1.003


@torch.no_grad()
def heun(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    churn: float = 0.0,
    *,
    to_zero: bool = True,
    randn_like: RandnLike = torch.randn_like,
) -> Iterator[SampleStep]:
    """Heun's method in x / alpha over sigma / alpha (Karras et al. 2022, Algorithm 1; with churn Algorithm 2).

    Two model evaluations a step, each yielded: the first ends where Euler would; the step to the clean image takes one.
    x: [N, C, H, W] ~ N(0, I).  churn: S_churn, the noise added and removed again over all steps.
    """
    points = _points(schedule, to_zero)
    total = 2 * (len(points) - 1) - to_zero
    gamma = min(churn / (len(points) - 1), 2**0.5 - 1)
    done = 0
    for now, to in pairwise(points):
        if gamma and now.alpha and CHURNED[0] <= now.sigma / now.alpha <= CHURNED[1]:
            noisier = _noisier(schedule, now, gamma)
            extra = max(0.0, (noisier.sigma / noisier.alpha) ** 2 - (now.sigma / now.alpha) ** 2)  # 0 at the very end
            x = noisier.alpha * (x / now.alpha + extra**0.5 * CHURN_NOISE * randn_like(x))
            now = noisier
        x_start = denoise(x, _times(now.t, x)).x_start
        eps = _eps(now, x, x_start)
        first = x_start if to is CLEAN else _along(x, eps, x_start, now, to)
        done += 1
        yield SampleStep(done, total, first, x_start, now.t)
        if to is not CLEAN:
            # The slope is eps; from noise alone, where these coordinates end, x_start in x / sigma over alpha / sigma.
            guess, x_start = x_start, denoise(first, _times(to.t, x)).x_start
            first = _along(x, (eps + _eps(to, first, x_start)) / 2, (guess + x_start) / 2, now, to)
            done += 1
            yield SampleStep(done, total, first, x_start, to.t)
        x = first


def _noisier(schedule: Schedule, now: Point, gamma: float) -> Point:
    """Where sigma / alpha is (1 + gamma) times as large, as far as the process goes."""
    curve = schedule.curve
    t = float(curve.t_of(now.lam - np.log1p(gamma)))
    return Point(t, float(curve.alpha(t)), float(curve.sigma(t)), float(curve.lam(t)))


def named(name: str) -> Callable[..., Iterator[SampleStep]]:
    """Returns the sampler of a row of SOLVERS, with the row's options.

    The settings it `takes` are still to be passed.
    """
    function = (row := SOLVERS[name]).function
    if isinstance(function, str):
        function = pkgutil.resolve_name(function if ":" in function else f"{__name__}:{function}")
    return partial(function, **row.options)


def first_step_spared(denoise: Denoiser, schedule: Schedule) -> Denoiser:
    """Answers the first call without the network: for pure noise, eps = x is the best estimate (Dockhorn et al. 2022).

    A sampler over it yields one step more than there are model evaluations.
    """
    first = _points(schedule, to_zero=True)[0]
    fresh = True

    def spared(x: Tensor, t: Tensor) -> Prediction:
        nonlocal fresh
        if not fresh:
            return denoise(x, t)
        fresh = False
        share = (1 - first.sigma) / (first.alpha or 1.0)
        return Prediction(share * x, torch.ones_like(x))  # and beta as a learned variance

    return spared
