"""From a network and a resolved request to a generator of images: one model evaluation of one batch at a time."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm import schedules
from ddpm.compute import distributed
from ddpm.diffusion import denoiser
from ddpm.diffusion.denoiser import Condition, Network
from ddpm.diffusion.variances import VARIANCES, Variance
from ddpm.planning import timesteps
from ddpm.planning.resolve import ResolvedProcess, ResolvedSampling
from ddpm.sampling import analytic_variance, editing, samplers
from ddpm.sampling.samplers import ImageNoise, RandnLike, SampleStep
from ddpm.schedules import Schedule
from ddpm.solvers import SOLVERS
from ddpm.storage import images

ROUNDING = 1e-6  # keeps the kept part of an input image from falling below its level when pixels are rounded down


class SamplingProgress(NamedTuple):
    """Progress of sampling many images: one model evaluation of one batch."""

    start: int  # number of the batch's first image
    done: int  # model evaluations done, over all batches
    total: int
    step: SampleStep  # of this batch
    noise: Tensor | None = None  # task invert, of a finished batch: the noise that was found, float32 [N, C, H, W]

    @property
    def finished(self) -> bool:
        """True if the batch's images are ready."""
        return self.step.done == self.step.total


def schedule_of(resolved: ResolvedProcess) -> Schedule:
    """Returns the process over the timesteps of a request."""
    return schedules.respaced(resolved.config.diffusion.full_schedule(), list(resolved.timesteps))


def sample(
    network: Network,
    resolved: ResolvedSampling,
    device: torch.device | str = "cpu",
    first: int = 0,
    x_T: Tensor | None = None,
) -> Iterator[SamplingProgress]:
    """Samples the images of a request, batch by batch, beginning with the batch that holds image `first`.

    network: ready to be called, as `ComputeMode.prepared` returns it.  x_T: float32 [num_samples, C, H, W] ~ N(0, I),
    the noise to begin with, in place of that of the seeds.  Image k depends on seed + k alone, not on the batches.
    Several processes take the batches in turn.  All yield equally often, and all yield every finished batch; of
    unfinished ones, each yields its own.
    """
    labels, size, nfe, count = resolved.labels, resolved.batch_size, resolved.nfe, resolved.request.num_samples
    starts = range(first - first % size, count, size)
    total = len(starts) * nfe
    for before in range(0, len(starts), distributed.world_size()):
        now = starts[before : before + distributed.world_size()]
        start = now[min(distributed.rank(), len(now) - 1)]  # a process without a batch of its own repeats the last one
        noise: Tensor | None = None
        numbers = range(start, min(start + size, count))
        condition = {} if labels is None else {"y": torch.tensor(labels[numbers.start : numbers.stop], device=device)}
        if resolved.low_res is not None:
            low = images.to_float(resolved.low_res.cycle(numbers.start, numbers.stop))
            condition["low_res"] = torch.from_numpy(low).to(device)
        begin = None if x_T is None else x_T[numbers.start : numbers.stop]
        for step in sample_batch(network, resolved, numbers, condition, device, begin):
            if resolved.request.task == "invert" and 2 * step.done == nfe:
                noise = step.x.cpu()
            if step.done < nfe:
                yield SamplingProgress(start, before * nfe + step.done * len(now), total, step)
        whole = distributed.all_gather_object((step.x.cpu(), step.x_start.cpu(), noise))
        for number, (start, (x, x_start, found)) in enumerate(zip(now, whole, strict=False), start=1):
            done = (before + number) * nfe
            yield SamplingProgress(start, done, total, SampleStep(nfe, nfe, x, x_start, step.t), found)


def sample_images(network: Network, resolved: ResolvedSampling, device: torch.device | str = "cpu") -> np.ndarray:
    """Samples all images of a request at once: uint8 [N, H, W, C]."""
    return np.concatenate([to_pixels(p.step.x) for p in sample(network, resolved, device) if p.finished])


def sample_batch(
    network: Network,
    resolved: ResolvedSampling,
    numbers: range,
    condition: Condition | None = None,
    device: torch.device | str = "cpu",
    x_T: Tensor | None = None,
) -> Iterator[SampleStep]:
    """Samples one batch, the images of these numbers, one model evaluation at a time.

    condition: y int64 [N] and low_res float32 [N, C, h, w] in [-1, 1], where the model takes them.  x_T: float32
    [N, C, H, W] ~ N(0, I) to begin with, in place of the noise of the seeds.
    """
    config, request = resolved.config, resolved.request
    schedule = schedule_of(resolved)
    denoise = denoiser.make_denoiser(
        network,
        config.diffusion.full_schedule(),
        config.diffusion,
        condition,
        request.clip_denoised,
        request.dynamic_threshold,
        resolved.guidance,
    )
    if request.analytic_first_step:
        denoise = samplers.first_step_spared(denoise, schedule)
    noise = noise_for(resolved, numbers)
    sampler = sampler_for(resolved)
    if resolved.inputs is None:
        model = config.model
        x = noise.start((model.image_channels, model.image_size, model.image_size)) if x_T is None else x_T
        steps = sampler(denoise, x.to(device), schedule, to_zero=request.denoise_to_zero, randn_like=noise)
        return _without_first(steps) if request.analytic_first_step else steps
    pixels = images.to_float(resolved.inputs.images.cycle(numbers.start, numbers.stop))
    x_start = torch.from_numpy(pixels).to(device) + ROUNDING
    return _edit(sampler, denoise, x_start, resolved, schedule, noise)


def _edit(
    sampler: Callable[..., Iterator[SampleStep]],
    denoise: denoiser.Denoiser,
    x_start: Tensor,
    resolved: ResolvedSampling,
    schedule: Schedule,
    noise: RandnLike,
) -> Iterator[SampleStep]:
    """Begins with images x_start: float32 [N, C, H, W] in [-1, 1]."""
    request = resolved.request
    match request.task:
        case "vary":
            return editing.vary(sampler, denoise, x_start, schedule, to_zero=request.denoise_to_zero, randn_like=noise)
        case "inpaint":
            assert resolved.inputs is not None
            mask = torch.from_numpy(resolved.inputs.mask).to(x_start)[None, None]
            moves = list(timesteps.repaint_moves(len(schedule), request.jump, request.resample))
            return editing.inpaint(sampler, denoise, x_start, mask, schedule, moves, randn_like=noise)
        case _:
            return editing.invert(denoise, x_start, schedule)


def sampler_for(resolved: ResolvedSampling) -> Callable[..., Iterator[SampleStep]]:
    """Returns the sampler of a request, with the settings that it alone takes."""
    names = SOLVERS[resolved.solver].takes
    takes = {name: getattr(resolved.request, name) for name in names if name not in ("variance", "sigma_small")}
    if "variance" in names:
        takes["variance"] = variance_for(resolved, resolved.analytic_mse)
    return partial(samplers.named(resolved.solver), **takes)


def variance_for(resolved: ResolvedProcess, analytic_mse: tuple[float, ...] | None = None) -> Variance:
    """Returns the variance of an ancestral step.  analytic_mse: [T], needed for the analytic one."""
    if resolved.variance != "analytic":
        return VARIANCES[resolved.variance]
    assert analytic_mse is not None, "analytic_variance.for_model estimates it"
    return analytic_variance.variance(np.array(analytic_mse))


def noise_for(resolved: ResolvedSampling, numbers: range) -> ImageNoise:
    """Returns all randomness of the images of these numbers: image k's from seed + k, or between two seeds."""
    request = resolved.request
    if request.task == "interpolate":
        weights = editing.interpolation_weights(request.num_samples)
        return editing.Between(request.seed, request.to_seed, [weights[k] for k in numbers])
    return ImageNoise([request.seed + k for k in numbers])


def _without_first(steps: Iterator[SampleStep]) -> Iterator[SampleStep]:
    """Leaves out a sampler's first step, which took no model evaluation."""
    next(steps)
    for step in steps:
        yield step._replace(done=step.done - 1, total=step.total - 1)


def to_pixels(x: Tensor) -> np.ndarray:
    """Converts float [N, C, H, W] in [-1, 1], on any device, to uint8 [N, H, W, C]."""
    return images.to_uint8(x.cpu().numpy())
