"""Measures what a training step costs on this machine: a few steps on random images."""

import dataclasses
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from ddpm.compute import distributed
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.data.datasets import Dataset
from ddpm.errors import UserError
from ddpm.models import backend
from ddpm.planning import low_res
from ddpm.runs.worker import Stopped, Worker
from ddpm.sampling import engine
from ddpm.sampling.request import resolve_request
from ddpm.storage import files
from ddpm.training import preview
from ddpm.training.trainer import Trainer

SECONDS = 4.0  # to spend on training steps
LEAST, MOST = 2, 50  # training steps


def measure_into(folder: Path, seconds: float = SECONDS) -> None:
    """Measure the settings in a folder's config.json, for about so long; the answer is in its status' metrics.

    seconds_per_step (the median), seconds_per_preview, peak_bytes, parameters.
    """
    with Worker(folder) as worker:
        data = files.read_json(folder / "config.json")
        if data is None:
            raise UserError(f"{folder} has no config.json: start the measurement again.", code="not-found")
        config = codec.from_json(data)
        worker.beat(warning=distributed.set_num_threads(config.train.threads))
        trainer = Trainer(config, noise(config), "cuda" if torch.cuda.is_available() else "cpu")
        worker.beat(state="running", message="Measuring a few training steps")
        times: list[float] = []
        began = time.monotonic()
        for report in trainer.steps(MOST + 1):
            times.append(report.seconds)
            worker.beat(step=len(times), total_steps=MOST + 1)
            if "stop" in worker.poll_requests():
                raise Stopped
            if len(times) > LEAST and time.monotonic() - began > seconds:
                break
        metrics = {
            "seconds_per_step": statistics.median(times[1:]),  # the first one also allocates
            "seconds_per_preview": _preview_seconds(trainer),
            "peak_bytes": float(peak_bytes()),
            "parameters": float(sum(p.numel() for p in trainer.parameters)),
        }
        worker.beat(state="finished", message="", metrics=metrics)


def noise(config: Config) -> Dataset:
    """Random images of the right shape, and labels where there are classes."""
    rng = np.random.default_rng(0)
    count, model = 2 * config.train.batch_size, config.model
    pixels = rng.integers(0, 256, (count, model.image_size, model.image_size, model.image_channels), dtype=np.uint8)
    labels = rng.integers(0, model.num_classes, count) if model.class_cond else None
    return Dataset(pixels, labels, config.class_names, ())


def _preview_seconds(trainer: Trainer) -> float:
    """Seconds for one preview grid, from one denoising step of it."""
    train, settings = trainer.config.train, preview.request(trainer.config)
    settings = dataclasses.replace(settings, num_samples=min(settings.num_samples, 16), timestep_respacing="1")
    small = None
    if trainer.config.model.super_res:
        small = low_res.of_dataset(trainer.stream.dataset, trainer.config, settings.num_samples)
    compute = backend.resolve_backend(settings.kernels, settings.precision, trainer.device)
    network = compute.prepared(trainer.network())
    began = time.monotonic()
    list(engine.sample(network, resolve_request(trainer.config, settings, compute, images=small), trainer.device))
    return (time.monotonic() - began) * train.preview_steps * train.preview_samples / settings.num_samples


def peak_bytes() -> int:
    """The most memory that this process has held."""
    try:  # where there is it, as the other number begins with what the process that started this one held
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not Linux
        pass
    if os.name == "nt":
        return int(psutil.Process().memory_info().peak_wset)  # type: ignore[attr-defined]
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
