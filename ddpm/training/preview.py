"""The preview of a training: a grid of samples of its weights, on the same noise every time."""

import logging
from collections.abc import Callable

import numpy as np
import torch

from ddpm.compute import distributed
from ddpm.config.tasks import SampleConfig
from ddpm.errors import as_user_error
from ddpm.models import backend
from ddpm.planning import low_res
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.sampling import engine
from ddpm.sampling.request import resolve_request
from ddpm.storage import files, images
from ddpm.training.trainer import Trainer

log = logging.getLogger("ddpm")


def save(run: Run, worker: Worker, trainer: Trainer, cancelled: Callable[[], bool] | None = None) -> np.ndarray | None:
    """Writes samples/STEP.png: a grid of samples of the first average, or of the raw weights without one.

    Returns the samples, uint8 [N, H, W, C]; None where there are none that begin with noise alone: of super-resolution,
    where it was cancelled, and in all but the main process.

    The noise is the same every time.  A super-resolution model enlarges the same images of the data every time,
    which are shown next to the results.

    cancelled: asked in the main process before each evaluation of the network; if it returns True, nothing is written.
    """
    config, train = trainer.config, trainer.config.train
    settings = SampleConfig(
        num_samples=train.preview_samples,
        batch_size=max(train.micro, 16),
        use_ddim=True,
        timestep_respacing=str(min(train.preview_steps, len(trainer.full))),
        seed=train.seed,
        kernels="native" if trainer.compute.library is not None else "torch",
    )
    small = (
        low_res.of_dataset(trainer.stream.dataset, config, train.preview_samples) if config.model.super_res else None
    )
    worker.beat(message="Sampling a preview")
    done = []
    compute = backend.resolve_backend(settings.kernels, settings.precision, trainer.device)
    resolved = resolve_request(config, settings, compute, images=small)
    for progress in engine.sample(compute.prepared(trainer.network()), resolved, trainer.device):
        worker.beat()
        if distributed.broadcast_object(cancelled is not None and cancelled()):
            return None
        if progress.finished:
            done.append(progress.step.x.cpu())
    worker.beat(message="")
    if not distributed.is_main():
        return None
    pixels = images.to_uint8(torch.cat(done).numpy())
    grid = images.grid(pixels) if small is None else images.pairs(small.pixels, pixels)
    try:
        images.save_png(run.folder / "samples" / f"{trainer.step:06d}.png", grid)
    except (files.DiskFull, OSError) as error:
        words = as_user_error(error) if isinstance(error, OSError) else error
        log.warning("%s The preview was left out.", words)
    return pixels if small is None else None
