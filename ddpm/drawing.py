"""Drawing into a folder: previews as it goes, then pictures, a grid, arrays, and the settings that make them again."""

import dataclasses
import io
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpm import classes, files, images, low_res, parallel
from ddpm import config as configs
from ddpm.checkpoint import Weights
from ddpm.config import Config, SampleConfig
from ddpm.errors import UserError
from ddpm.jobs import Stopped, Worker, keeping
from ddpm.low_res import LowRes
from ddpm.runs import Run, SampleJob
from ddpm.sample import Drawn, chosen, draw, flags_of, labels_for, network_of, origin, pixels_of

PREVIEW_INTERVAL = 0.7  # seconds between two looks at pictures in the making
PREVIEW_IMAGES = 64
GRID_IMAGES = 256


def draw_source(
    folder: Path, worker: Worker, source: Run | Path, sample: SampleConfig, flags: Mapping[str, Any], base: Config | None = None, ask: bool = True
) -> None:  # fmt: skip
    """Draw from a run, or from a checkpoint file, into a job's folder.

    `flags` are model and diffusion settings for a file that does not hold its own, beyond those of `base`; where
    `ask`, a probe checks them.  Raises UserError when they contradict it.
    """
    if sample.threads:
        torch.set_num_threads(sample.threads)
    weights, config, path = parallel.from_main(lambda: chosen(source, sample, flags, base, ask))
    draw_into(folder, worker, weights, config, sample, path, parallel.device())


def draw_into(folder: Path, worker: Worker, weights: Weights, config: Config, sample: SampleConfig, source: Path, device: torch.device) -> None:  # fmt: skip
    """Draw into a job's folder: preview.png as it goes, then images/, grid.png and samples_NxHxWxC.npz.

    With a super-resolution model also small/, the pictures that are enlarged, and pairs.png.  Asked to stop, or where
    something goes wrong, it keeps the batches that are finished.  Of several processes, the main one writes.
    """
    job = SampleJob(folder)
    if parallel.from_main(lambda: bool(job.npz or job.grid.exists())):
        raise UserError(f"{folder} already holds samples: choose another --out.")
    small = parallel.by_all(lambda: low_res.read(config, sample, _reading(worker)))
    labels = labels_for(config, sample, small)
    network = network_of(weights, config, source.name, device)
    if not parallel.is_main():
        for _ in draw(network, config, sample, device, small):
            if parallel.told(False):
                return
        return
    files.write_json(folder / "settings.json", settings_of(config, sample, weights, source))
    worker.beat(state="running", message=f"Drawing {sample.num_samples} pictures")
    finished: list[np.ndarray] = []

    def keep() -> None:
        if finished:
            _keep(job, np.concatenate(finished), labels, small)

    with keeping(keep):
        _draw_all(job, worker, draw(network, config, sample, device, small), labels, small, finished)
    keep()
    whole = sum(len(batch) for batch in finished)
    complete = whole == sample.num_samples
    worker.beat(
        state="finished" if complete else "stopped",
        seconds_left=0.0,
        message="" if complete else f"Stopped with {whole} of {sample.num_samples} pictures drawn",
    )


def _draw_all(job: SampleJob, worker: Worker, drawing: Iterator[Drawn], labels: np.ndarray | None, small: LowRes | None, finished: list[np.ndarray]) -> None:  # fmt: skip
    """Save each picture as it is finished, and a preview now and then; `finished` grows by the batch, uint8 [n, H, W, C]."""
    began = looked = time.monotonic()
    for drawn in drawing:
        elapsed = time.monotonic() - began
        worker.beat(
            step=drawn.done,
            total_steps=drawn.total,
            steps_per_second=drawn.done / elapsed,
            seconds_left=elapsed / drawn.done * (drawn.total - drawn.done),
        )
        if drawn.finished:
            batch = pixels_of(drawn.step.x)
            finished.append(batch)  # before it is saved, so that it is kept where there is no room for one of its files
            _save_each(job.folder / "images", batch, drawn.start)
            if small is not None:
                _save_each(job.folder / "small", small.turn(drawn.start, drawn.start + len(batch)), drawn.start)
        if drawn.done in (1, drawn.total) or time.monotonic() - looked > PREVIEW_INTERVAL:
            looked = time.monotonic()
            waiting = [] if drawn.finished else [pixels_of(drawn.step.x_start)]
            images.save_png(job.preview, _in_one(np.concatenate([*finished, *waiting]), labels, small, PREVIEW_IMAGES))
        if parallel.told("stop" in worker.heard() and drawn.done < drawn.total):
            return


def _reading(worker: Worker) -> low_res.Progress:
    """Tells the worker how many small pictures are read; raises Stopped when asked to stop."""

    def progress(done: int, total: int) -> None:
        parallel.check()
        worker.beat(message=f"Reading the small pictures: {done} of {total}")
        if "stop" in worker.heard():
            raise Stopped

    return progress


def _save_each(folder: Path, pixels: np.ndarray, start: int) -> None:
    for k, picture in enumerate(pixels, start=start):
        images.save_png(folder / f"{k:05d}.png", picture)


def _in_one(pixels: np.ndarray, labels: np.ndarray | None, small: LowRes | None, most: int) -> np.ndarray:
    """The newest of the pictures drawn so far, `most` of them at most: pairs, or a grid with a column a class."""
    columns = classes.columns(labels)
    row = columns or 1
    start = max(0, -(-(len(pixels) - most) // row) * row)  # whole rows, so that a class keeps its column
    if small is not None:
        return images.pairs(small.turn(start, len(pixels)), pixels[start:])
    return images.grid(pixels[start:], columns)


def _keep(job: SampleJob, pixels: np.ndarray, labels: np.ndarray | None, small: LowRes | None) -> None:
    """Write the grid and improved-diffusion's npz: arr_0 uint8 [N, H, W, C], arr_1 the labels."""
    shown = pixels[:GRID_IMAGES]
    images.save_png(job.grid, images.grid(shown, classes.columns(labels)))
    if small is not None:
        images.save_png(job.pairs, images.pairs(small.turn(0, len(shown)), shown))
    arrays = [pixels] if labels is None else [pixels, labels[: len(pixels)]]
    name = "samples_" + "x".join(map(str, pixels.shape)) + ".npz"
    packed = io.BytesIO()  # numpy writes only into what can be read as well
    np.savez(packed, *arrays)
    files.write_bytes(job.folder / name, packed.getvalue())


def settings_of(config: Config, sample: SampleConfig, weights: Weights, source: Path) -> dict[str, Any]:
    """Everything that makes the same pictures again."""
    told = flags_of(config, weights, SampleConfig)
    return {
        "sample": dataclasses.asdict(sample),
        "checkpoint": origin(weights, source),
        "class_names": list(config.class_names),
        "command": shlex.join(["ddpm", "sample", "--model_path", str(source), *configs.to_flags(sample), *told]),
    }
