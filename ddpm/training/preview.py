"""The preview of a training: a grid of samples of its weights, on the same noise every time."""

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch

from ddpm.compute import distributed
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.errors import as_user_error
from ddpm.models import backend
from ddpm.planning import guidance, low_res
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.sampling import engine
from ddpm.sampling.request import resolve_request
from ddpm.storage import files, images
from ddpm.training.trainer import Trainer

log = logging.getLogger("ddpm")

WORSE = 1.05  # loss of an average over that of the raw weights, above which a preview is of these


def request(config: Config) -> SampleConfig:
    """What a preview samples, with guidance where the model supports it.

    A network that learns some timesteps alone, by timestep_respacing, is asked about no others.
    """
    train, few = config.train, str(min(config.train.preview_steps, config.diffusion.diffusion_steps))
    return SampleConfig(
        num_samples=train.preview_samples,
        batch_size=max(train.micro, 16),
        use_ddim=True,
        timestep_respacing="" if config.diffusion.timestep_respacing else few,
        guidance_scale=guidance.usual_scale(config.model),
        seed=train.seed,
        kernels="torch" if train.kernels == "compile" else train.kernels,  # which would take a minute to start again
    )


def save(
    run: Run,
    worker: Worker,
    trainer: Trainer,
    cancelled: Callable[[], bool] | None = None,
    measured: Mapping[str, float] = MappingProxyType({}),
) -> np.ndarray | None:
    """Writes samples/STEP.png: a grid of samples of the weights that `shown_weights` names.

    Returns the samples, uint8 [N, H, W, C]; None where there are none that begin with noise alone: of super-resolution,
    where it was cancelled, and in all but the main process.

    The noise is the same every time.  A super-resolution model enlarges the same images of the data every time,
    which are shown next to the results.

    cancelled: asked in the main process before each evaluation of the network; if it returns True, nothing is written.
    measured: the newest loss on held-out images, by column of progress.csv, where it is measured.
    """
    config, settings = trainer.config, request(trainer.config)
    small = low_res.of_dataset(trainer.stream.dataset, config, settings.num_samples) if config.model.super_res else None
    kind = shown_weights(list(trainer.weights()), measured)
    if kind == "model" and trainer.ema.rates:
        log.info("The preview is of the raw weights, whose loss on held-out images is still lower than the average's")
    worker.beat(message="Sampling a preview")
    done = []
    compute = backend.resolve_backend(settings.kernels, settings.precision, trainer.device)
    resolved = resolve_request(config, settings, compute, images=small)
    for progress in engine.sample(compute.prepared(trainer.network(kind)), resolved, trainer.device):
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


def shown_weights(kinds: Sequence[str], measured: Mapping[str, float]) -> str:
    """The weights of which a preview is: the first average, or the raw weights "model" without one.

    Early in a training the weights improve so fast that an average of them lags behind: while its loss on held-out
    images is higher than theirs by more than 5 %, it is not the average.  kinds: names of the weights that there are.
    """
    average = next((kind for kind in kinds if kind != "model"), "model")
    lost, raw = measured.get(f"eval_{average}_mse"), measured.get("eval_mse")
    return "model" if lost is not None and raw is not None and lost > WORSE * raw else average
