"""Sampling into a folder: opens the model, resolves the request, and saves images as they are finished.

A job that ended before its last image, however that came about, resumes with the first image that is missing, and ends
with the same files.
"""

import dataclasses
import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddpm import formatting
from ddpm.checkpoints import loading
from ddpm.checkpoints.loading import OpenedModel
from ddpm.compute import distributed
from ddpm.config import codec
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.models import backend
from ddpm.planning import metadata
from ddpm.planning.inputs import InputImages
from ddpm.planning.resolve import ResolvedSampling
from ddpm.planning.source_images import Progress
from ddpm.runs import runs
from ddpm.runs.results import SampleJob
from ddpm.runs.worker import Stopped, Worker, keep_on_failure
from ddpm.sampling import analytic_variance, engine
from ddpm.sampling.request import resolve_request
from ddpm.sampling.sample_writer import SampleWriter
from ddpm.storage import files, images


def sample_source(
    folder: Path,
    worker: Worker,
    source: loading.Source,
    request: SampleConfig,
    flags: Mapping[str, Any],
    base: Config | None = None,
    run_probe: bool = True,
) -> None:
    """Samples from a run, a checkpoint file or a recorded checkpoint into a job's folder.

    flags, base, run_probe: see `loading.resolve_config`.  Raises UserError.
    """
    worker.beat(warning=distributed.set_num_threads(request.threads))
    distributed.run_on_main(lambda: _check_empty(SampleJob(folder)))
    sample_into(folder, worker, loading.open_model(source, request, flags, base, run_probe), request)


def resume(folder: Path, worker: Worker) -> None:
    """Resumes the job in a folder, by its settings.json.  Raises UserError where that is not possible."""
    job = SampleJob(folder)

    def find() -> tuple[metadata.RecordedCheckpoint, SampleConfig, int]:
        runs.check_resumable(job)
        recorded = job.settings
        source = metadata.checkpoint_of(
            recorded,
            f"the sampling job {job.name}",
            "put it back, or start a new one",
            near=folder.absolute().parent.parent,
        )
        request = with_copies(job, metadata.sample_of(recorded, str(folder / "settings.json")))
        batch_size = recorded.get("drawn_at_once")
        return source, request, batch_size if isinstance(batch_size, int) else 0

    source, request, batch_size = distributed.run_on_main(find)
    worker.beat(warning=distributed.set_num_threads(request.threads))
    opened = loading.open_model(source, request)
    if opened.weights.config is None and source.config is None:
        raise UserError(
            f"{folder / 'settings.json'} does not hold the settings of {source.path.name}: start a new sampling job.",
            code="changed-file",
        )
    sample_into(folder, worker, opened, request, resumed=True, batch_size=batch_size)


def with_copies(job: SampleJob, request: SampleConfig) -> SampleConfig:
    """Names the copies of input images and mask that the job's folder holds, wherever that folder is now.

    Raises UserError if a link lies among them.
    """
    if found := job.given_images:
        if links := [entry.name for entry in os.scandir(job.given) if entry.is_symlink()]:
            raise UserError(
                f"{job.given / min(links)} is a link, and no copy of an image: remove it.", code="not-a-file"
            )
        picture = found[0] if len(found) == 1 else job.given
        request = dataclasses.replace(request, picture=str(picture.absolute()))
    return dataclasses.replace(request, mask=str(job.mask.absolute())) if job.has(job.mask) else request


def sample_into(
    folder: Path,
    worker: Worker,
    opened: OpenedModel,
    request: SampleConfig,
    *,
    resumed: bool = False,
    batch_size: int = 0,
) -> None:
    """Samples into a job's folder: preview.png and images/ as it goes; then grid.png and samples_NxHxWxC.npz.

    Where images are enlarged or given, also pairs.png and copies of these, small/ or given/ and mask.png; of an
    inversion noise.npz and result.json.  Where it is stopped or fails, finished batches are kept.  Of several
    processes, the main one writes.  resumed: whether the folder holds images already, sampled in batches of
    `batch_size`.
    """
    job = SampleJob(folder)
    if not resumed:
        distributed.run_on_main(lambda: _check_empty(job))
    device = distributed.device()
    request = codec.with_absolute_paths(request)
    compute = backend.resolve_and_report(request.kernels, request.precision, device, worker)
    resolved = resolve_request(
        opened.config, request, compute, opened.origin, batch_size=batch_size, progress=_reading(worker)
    )
    network = opened.network(device)
    mse = analytic_variance.mse_for(resolved, opened, network, compute, worker)
    resolved = dataclasses.replace(resolved, analytic_mse=mse)

    writer = _begin(job, worker, opened, resolved, resumed) if distributed.is_main() else None
    first = distributed.run_on_main(lambda: writer.find() if writer and resumed else 0)
    remaining = first < request.num_samples
    steps = engine.sample(compute.prepared(network), resolved, device, first) if remaining else iter(())
    if not writer:
        for _ in steps:
            if distributed.broadcast_object(False):
                return
        return
    worker.beat(state="running", message=f"Sampling {formatting.plural(request.num_samples, 'image')}")
    with keep_on_failure(writer.finish):
        writer.write(steps)
    writer.finish()
    _report_end(writer, opened)


def _begin(
    job: SampleJob, worker: Worker, opened: OpenedModel, resolved: ResolvedSampling, resumed: bool
) -> SampleWriter:
    """Writes settings.json, unless the job is resumed, and returns what writes the rest."""
    request, flags = resolved.request, opened.flags(SampleConfig)
    if resumed:
        return SampleWriter(job, worker, resolved, metadata.of_samples(resolved, opened.weights.config, flags), flags)
    inputs = resolved.inputs
    resolved = dataclasses.replace(resolved, request=_copied(job, request, inputs))
    recipe = metadata.of_samples(resolved, opened.weights.config, flags)
    given = {"given": {"picture": request.picture, "mask": request.mask}} if inputs else {}
    files.write_json(job.folder / "settings.json", {**recipe, "drawn_at_once": resolved.batch_size, **given})
    return SampleWriter(job, worker, resolved, recipe, flags)


def _report_end(writer: SampleWriter, opened: OpenedModel) -> None:
    """Reports how the job ended, and whether the checkpoint file has changed since it was read."""
    total, name = writer.resolved.request.num_samples, opened.path.name
    complete = writer.count == total
    change = opened.file_change()
    warning = ""
    if change == "removed":
        warning = f"{name} was removed during sampling: all images are from the weights that it held at first."
    if change == "replaced":
        warning = (
            f"{name} was replaced during sampling: all images are from the weights that it held at first, not from"
            " those it holds now."
        )
    writer.worker.beat(
        state="finished" if complete else "stopped",
        seconds_left=0.0,
        warning=" ".join(filter(None, (writer.worker.status.warning, warning))),
        message=(writer.outcome if complete else f"Stopped with {writer.count} of {formatting.plural(total, 'image')}"),
    )


def _check_empty(job: SampleJob) -> None:
    if job.npz or job.has(job.grid):
        raise UserError(f"{job.folder} already holds samples: choose another --out.", code="already-exists")
    if job.images:
        raise UserError(
            f"{job.folder} already holds samples of a job that did not finish: resume it by `ddpm sample --resume"
            f" {shlex.quote(str(job.folder.absolute()))}`, or choose another --out.",
            code="already-exists",
        )


def _copied(job: SampleJob, request: SampleConfig, inputs: InputImages | None) -> SampleConfig:
    """Copies input images and mask into the job's folder, and names the copies in the request.

    Classes that came with the images are written out, as the copies come without.
    """
    if inputs is None:
        return request
    shutil.rmtree(job.given, ignore_errors=True)  # of a job that ended before its first image
    for k, pixels in enumerate(inputs.images.pixels):
        images.save_png(job.given / f"{k:05d}.png", pixels)
    if inputs.mask is not None:
        images.save_png(job.mask, inputs.mask[:, :, None] * np.uint8(255))
    labels = inputs.images.labels
    if labels is not None and not request.classes:
        request = dataclasses.replace(request, classes=",".join(f"{label}-{label}" for label in labels))
    return with_copies(job, request)


def _reading(worker: Worker) -> Progress:
    """Reports how many images were read before sampling begins; raises Stopped when asked to stop."""

    def progress(done: int, total: int) -> None:
        distributed.raise_peer_error()
        worker.beat(message=f"Reading images: {done} of {total}")
        if "stop" in worker.poll_requests():
            raise Stopped

    return progress
