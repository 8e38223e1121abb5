"""With how many threads a training step is fastest, tried out on the network itself before the first step."""

import dataclasses
import time

import torch

from ddpm.diffusion.losses import Batch, training_losses
from ddpm.host import cpu_threads
from ddpm.training.trainer import Trainer


def tune(trainer: Trainer) -> None:
    """Go on with the best number of threads for this training, on a CPU; where there is no doubt nothing is tried.

    Weights, gradients, randomness and the place in the data stay as they are.
    """
    if trainer.device.type != "cpu":
        return
    batch = _batch(trainer)
    key = {
        "torch": torch.__version__,
        "model": dataclasses.asdict(trainer.config.model),
        "pictures": len(batch.t),
        "precision": trainer.compute.precision,
        "kernels": trainer.compute.library is not None,
    }
    cpu_threads.tune(key, lambda threads: seconds(trainer, batch, threads))


def _batch(trainer: Trainer) -> Batch:
    """A microbatch of made-up pictures, which takes as long as any other."""
    model, count = trainer.config.model, trainer.config.train.micro
    rng = torch.Generator().manual_seed(0)
    shape = (count, model.image_channels, model.image_size, model.image_size)
    x_start, noise = torch.rand(shape, generator=rng) * 2 - 1, torch.randn(shape, generator=rng)
    t = torch.full((count,), len(trainer.schedule) // 2)
    small = model.small_size
    low_res = torch.zeros(count, model.image_channels, small, small) if small else None
    return Batch(x_start, t, noise, torch.zeros(count, dtype=torch.long) if model.class_cond else None, low_res)


def seconds(trainer: Trainer, batch: Batch, threads: int) -> float:
    """Forward and backward once with so many threads, which are left set."""
    torch.set_num_threads(threads)
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    with torch.random.fork_rng(devices=[]):  # dropout draws from it
        began = time.perf_counter()
        losses = training_losses(trainer.forward, trainer.schedule, trainer.full, trainer.config, batch)
        torch.autograd.grad(losses["loss"].mean(), parameters, allow_unused=True)
        return time.perf_counter() - began
