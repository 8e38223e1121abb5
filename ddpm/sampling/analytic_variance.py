"""The analytic variance of an ancestral step, from the errors of the network's predictions (Bao et al. 2022).

A step's mean is the posterior's for the predicted x_start.  The error of that prediction adds to the posterior
variance: the optimum is beta_tilde + coef1^2 E|x_0 - x_start|^2 / d.  For an exact network this is Bao et al.'s
Theorem 1, with 1 - Gamma as the error of eps; for any other it minimises the variational bound.
"""

import logging
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.checkpoints import variance_file
from ddpm.checkpoints.loading import OpenedModel
from ddpm.checkpoints.variance_file import PredictionErrors
from ddpm.compute import distributed
from ddpm.config.training import Config
from ddpm.data import datasets, lineage
from ddpm.data.datasets import Dataset
from ddpm.data.lineage import Remedy
from ddpm.diffusion import denoiser, losses, process
from ddpm.diffusion.denoiser import Network, Prediction
from ddpm.diffusion.process import at
from ddpm.diffusion.variances import Variance
from ddpm.errors import UserError
from ddpm.models.backend import ComputeMode
from ddpm.models.unet import UNet
from ddpm.planning.resolve import ResolvedProcess
from ddpm.runs.worker import Stopped, Worker
from ddpm.schedules import Schedule
from ddpm.storage import files, images

log = logging.getLogger("ddpm")

IMAGES = 32  # for each timestep that is measured
TIMESTEPS = 100  # that are measured, densest at the clean end; errors between them are interpolated linearly
ROWS = 64  # images in a model evaluation
LEAST = (2 / 255) ** 2 / 12  # variance of the rounding to 256 levels, below which no error matters


class Estimated(NamedTuple):
    """Progress: one model evaluation."""

    done: int
    total: int
    mse: np.ndarray | None = None  # float64 [T], after the last evaluation


@torch.no_grad()
def estimate(
    network: Network,
    config: Config,
    dataset: Dataset,
    num_images: int = IMAGES,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[Estimated]:
    """Estimates the mean squared error of the predicted eps at every timestep; yields at each model evaluation.

    At each of TIMESTEPS there are `num_images` images of the data with fresh noise, which follow from the seed.
    Raises UserError where the data lacks the classes of the network.
    """
    full = config.diffusion.full_schedule()
    measured = np.unique(np.rint(np.linspace(0, (full.T - 1) ** 0.5, min(TIMESTEPS, full.T)) ** 2).astype(np.int64))
    numbers = datasets.class_numbers(config, dataset.class_names)
    t = torch.from_numpy(measured).repeat_interleave(num_images)
    rng = torch.Generator().manual_seed(seed)
    selected = torch.randint(len(dataset), (len(t),), generator=rng).numpy()
    errors = torch.zeros(len(t), dtype=torch.float64)
    starts = range(0, len(t), ROWS)
    for call, start in enumerate(starts, start=1):
        part = slice(start, start + ROWS)
        pixels, labels = dataset.take(selected[part])
        x_start = torch.from_numpy(images.to_float(pixels))
        noise = torch.randn(x_start.shape, generator=rng).to(device)
        x_start, now = x_start.to(device), t[part].to(device)
        condition = {} if numbers is None or labels is None else {"y": torch.from_numpy(numbers[labels]).to(device)}
        if small := config.model.small_size:
            condition["low_res"] = F.interpolate(x_start, (small, small), mode="area")
        x_t = process.q_sample(full, x_start, now, noise)
        predicted = denoiser.make_denoiser(network, full, config.diffusion, condition)(x_t, now)
        off = losses.mean_flat((predicted.x_start - x_start).square()).double().cpu().numpy()
        abar = full.alphas_cumprod[t[part].numpy()]
        errors[part] = torch.from_numpy(off * abar / (1 - abar))
        if call < len(starts):
            yield Estimated(call, len(starts))
    means = errors.reshape(len(measured), num_images).mean(dim=1).clamp(0, 1).numpy()
    yield Estimated(len(starts), len(starts), np.interp(np.arange(full.T), measured, means))


def variance(mse: np.ndarray) -> Variance:
    """Returns the variance, as a row of VARIANCES, for errors of eps: mse float64 [T] of the full process."""

    def analytic(schedule: Schedule, t: Tensor, predicted: Prediction) -> Tensor:
        return at(np.log(table(schedule, mse)), t, predicted.x_start)

    return analytic


def table(schedule: Schedule, mse: np.ndarray) -> np.ndarray:
    """Computes the variance of each step of a process, shortened or not: float64 [K].  mse: float64 [T]."""
    abar = schedule.alphas_cumprod
    off = np.interp(schedule.timesteps, np.arange(len(mse)), mse) * (1 - abar)
    off = np.divide(off, abar, out=np.ones_like(abar), where=abar > 0)
    off = np.clip(off, LEAST, 1)  # of pixels within [-1, 1], whose variance is at most 1 (Bao et al. 2022, Theorem 2)
    return schedule.posterior_variance + schedule.posterior_mean_coef1**2 * off


def mse_for(
    resolved: ResolvedProcess, opened: OpenedModel, network: UNet, compute: ComputeMode, worker: Worker | None
) -> tuple[float, ...] | None:
    """Returns the errors that a request with the variance analytic needs, [T]; None for any other variance.

    network: computes in fp32 while it is measured, and is left so.  worker: the main process's, which alone reads or
    estimates them.  Raises as `for_weights` does.
    """
    if resolved.variance != "analytic":
        return None

    def find() -> tuple[float, ...]:
        assert worker is not None
        exact = compute._replace(precision="fp32").prepared(network)
        path, sha256, device = opened.path, opened.sha256, compute.device
        found = for_weights(exact, resolved.config, path, sha256, worker, device, opened.weights.data)
        return tuple(found.mse)

    return distributed.run_on_main(find)


def for_weights(
    network: Network,
    config: Config,
    weights: Path,
    sha256: str,
    worker: Worker,
    device: torch.device | str = "cpu",
    seen: Mapping[str, Any] | None = None,
) -> PredictionErrors:
    """Returns the errors of the weights in a file: read from its folder, or estimated on the model's data and saved
    there.

    network: computes in fp32.  worker: progress is reported to it.  seen: digest of the data that the weights were
    trained on, which may be other images now.  Raises Stopped when asked to stop, UserError where the data cannot be
    read.
    """
    if found := variance_file.read(weights, sha256, config.diffusion):
        return found
    if variance_file.path_for(weights).exists():
        log.warning(
            "%s is of other weights than %s holds now: it is estimated again.",
            variance_file.path_for(weights).name,
            weights.name,
        )
    remedy = (
        f"estimate it with `ddpm analytic --model_path {shlex.quote(str(weights))} --data_dir DATA`, or choose another"
        " variance."
    )
    if not config.data.data_dir:
        raise UserError(
            f"variance analytic is estimated on the model's data, and {weights.name} does not name any: {remedy}",
            code="no-data-named",
        )
    try:
        dataset = datasets.open_dataset(config.data, config.model, seed=config.train.seed)
    except UserError as error:
        raise UserError(
            f"variance analytic is estimated on the model's data, which cannot be read ({str(error).rstrip('.')}):"
            f" {remedy}",
            code="unreadable-data",
        ) from error
    doubt = f"The analytic variance may be of other images: {remedy}"
    if changed := lineage.check(config, lineage.from_json(seen), dataset, Remedy(doubt, doubt), part="train"):
        log.warning("%s %s", changed, doubt)
        worker.warn(changed)
    process = variance_file.process_of(config.diffusion)
    about = {"data": config.data.data_dir, "pictures": IMAGES, "seed": 0, "process": process}
    return save(
        weights,
        sha256,
        PredictionErrors(run_estimate(estimate(network, config, dataset, device=device), worker), about),
    )


def run_estimate(estimating: Iterator[Estimated], worker: Worker) -> list[float]:
    """Runs an estimate, and reports progress to the worker.  Raises Stopped when it is asked to stop."""
    began = time.monotonic()
    for now in estimating:
        left = (time.monotonic() - began) / now.done * (now.total - now.done)
        worker.beat(
            step=now.done,
            total_steps=now.total,
            seconds_left=left,
            message=f"Estimating the variance: {now.done} of {now.total} model evaluations",
        )
        if now.mse is not None:
            return [float(value) for value in now.mse]
        if "stop" in worker.poll_requests():
            raise Stopped
    raise AssertionError("an estimate ends with a result")


def save(weights: Path, sha256: str, errors: PredictionErrors) -> PredictionErrors:
    """Saves the errors to the folder of the weights, where that is allowed, and returns them."""
    try:
        variance_file.write(weights, sha256, errors)
    except (files.DiskFull, OSError) as error:
        log.warning(
            "%s could not be written (%s): the variance is estimated again next time.",
            variance_file.path_for(weights),
            error,
        )
    return errors
