"""The trajectory of one sample: x_t, x_start and eps at each model evaluation, with their changes as numbers.

for look in looks(network, resolved, number):
    print(look.t, look.change)
"""

import dataclasses
import io
import math
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.checkpoints import loading
from ddpm.compute import distributed
from ddpm.config import codec
from ddpm.config.tasks import SampleConfig
from ddpm.diffusion.denoiser import Network
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.models import backend
from ddpm.planning.resolve import ResolvedSampling
from ddpm.reports import animation
from ddpm.reports.animation import Frames
from ddpm.runs.results import TrajectoryJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker, keep_on_failure
from ddpm.sampling import analytic_variance, engine
from ddpm.sampling.request import resolve_request
from ddpm.storage import files, images

LEVELS = 127.5  # of 0 .. 255, in a unit of [-1, 1]
MAX_FRAMES = 250  # of which images are kept; numbers are kept of all evaluations
NOISE_SHOWN = 1 / 3  # a third of the noise, so that hardly any of it lies outside of black and white


class Look(NamedTuple):
    """One model evaluation.  Images are float32 [C, H, W]; changes are root mean squares in levels of 0 to 255."""

    done: int
    total: int
    t: float  # timestep of the evaluation
    lam: float | None  # log(alpha / sigma) there; None where there is noise alone
    x: Tensor  # x_t, the input
    x_start: Tensor  # predicted clean image
    eps: Tensor  # predicted noise
    change: float  # of x by the step that follows
    x_start_change: float | None  # since the evaluation before; None at the first
    after: Tensor  # x after the step


def looks(
    network: Network, resolved: ResolvedSampling, number: int = 0, device: torch.device | str = "cpu"
) -> Iterator[Look]:
    """Samples image `number` of a request, and records each model evaluation.

    network: ready to be called, as `ComputeMode.prepared` returns it.  Raises UserError where there is no such image.
    """
    _check_number(resolved.request, number)
    curve = resolved.config.diffusion.full_schedule().curve
    seen: list[Tensor] = []

    def watched(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        seen[:] = [x[0].cpu()]  # with guidance it is there twice
        return network(x, t, **condition)

    before: Tensor | None = None
    for progress in engine.sample(watched, dataclasses.replace(resolved, batch_size=1), device, first=number):
        step, x = progress.step, seen[0]
        after, x_start = step.x[0].cpu(), step.x_start[0].cpu()
        abar = float(curve.abar(step.t))
        eps = (x - abar**0.5 * x_start) / (1 - abar) ** 0.5
        change = None if before is None else _rms(x_start - before)
        lam = float(curve.lam(step.t)) if abar else None
        yield Look(step.done, step.total, step.t, lam, x, x_start, eps, _rms(after - x), change, after)
        before = x_start
        if progress.finished:
            return


def _check_number(settings: SampleConfig, number: int) -> None:
    if not 0 <= number < settings.num_samples:
        raise UserError(
            f"number {number} is none of the {settings.num_samples} images: name one from 0 to"
            f" {settings.num_samples - 1}.",
            code="bad-value",
        )


def _rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt()) * LEVELS


def _pixels(x: Tensor) -> np.ndarray:
    return images.to_uint8(x[None].numpy())[0]


class Record:
    """The trajectory so far: numbers of every evaluation, and images of at most MAX_FRAMES of them."""

    def __init__(self) -> None:
        self.numbers: dict[str, list[float | None]] = {"t": [], "lam": [], "change": [], "x_start_change": []}
        self._kept: set[int] = set()
        self._frames: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []
        self.last: Look | None = None

    def add(self, look: Look) -> None:
        if self.last is None:
            count = min(look.total, MAX_FRAMES)
            self._kept = {round(k) for k in np.linspace(1, look.total, count).tolist()}
        for name, values in self.numbers.items():
            value = getattr(look, name)
            values.append(value if value is None or math.isfinite(value) else None)
        if look.done in self._kept:
            self._frames.append((look.done, _pixels(look.x), _pixels(look.x_start), _pixels(look.eps * NOISE_SHOWN)))
        self.last = look

    def frames(self) -> Frames:
        calls, *columns = zip(*self._frames, strict=True)
        t = np.array(self.numbers["t"], dtype=np.float64)
        return Frames(*(np.stack(part) for part in columns), t[np.array(calls) - 1])  # type: ignore[call-arg]

    @property
    def calls(self) -> list[int]:
        """Numbers of the evaluations, from 1, of which images are kept."""
        return [call for call, *_ in self._frames]


# --- as a job


def look_source(
    folder: Path,
    worker: Worker,
    source: Run | Path,
    request: SampleConfig,
    number: int,
    flags: Mapping[str, Any],
    run_probe: bool = True,
) -> Iterator[Look]:
    """Records the trajectory of one image of a run, or of a checkpoint file, into a job's folder.

    flags, run_probe: see `loading.resolve_config`.  Raises UserError.
    """
    job = TrajectoryJob(folder)
    if job.result:
        raise UserError(f"{folder} already holds a trajectory: choose another --out.", code="already-exists")
    worker.beat(warning=distributed.set_num_threads(request.threads))
    _check_number(request, number)
    request = codec.with_absolute_paths(request)
    opened = loading.open_model(source, request, flags, run_probe=run_probe)
    device = distributed.device()
    compute = backend.resolve_and_report(request.kernels, request.precision, device, worker)
    resolved = resolve_request(opened.config, request, compute, opened.origin)
    network, request = opened.network(device), resolved.request
    command = [
        "ddpm",
        "microscope",
        "--model_path",
        str(opened.path),
        *codec.to_flags(request),
        "--number",
        str(number),
        *opened.flags(SampleConfig),
    ]
    recorded = {
        "sample": dataclasses.asdict(request),
        "number": number,
        "checkpoint": opened.origin,
        "command": shlex.join(command),
    }
    files.write_json(folder / "settings.json", recorded)
    mse = analytic_variance.mse_for(resolved, opened, network, compute, worker)
    resolved = dataclasses.replace(resolved, analytic_mse=mse)
    worker.beat(state="running", message="Sampling", step=0, total_steps=resolved.nfe)
    record = Record()
    began = time.monotonic()

    def keep() -> None:
        _keep(job, record, recorded)

    with keep_on_failure(keep):
        for look in looks(compute.prepared(network), resolved, number, device):
            record.add(look)
            elapsed = time.monotonic() - began
            worker.beat(
                step=look.done, total_steps=look.total, seconds_left=elapsed / look.done * (look.total - look.done)
            )
            yield look
            if "stop" in worker.poll_requests() and look.done < look.total:
                break
    worker.beat(message="Writing the images", now=True)
    sentence = _keep(job, record, recorded)
    whole = record.last is not None and record.last.done == record.last.total
    stopped = (
        "" if whole or not record.last else f"Stopped after {record.last.done} of {plural(record.last.total, 'call')}"
    )
    worker.beat(
        state="finished" if whole else "stopped",
        seconds_left=0.0,
        message=f"{stopped}. {sentence}".strip(". ") if stopped else sentence,
    )


def _keep(job: TrajectoryJob, record: Record, recorded: Mapping[str, Any]) -> str:
    """Writes the trajectory so far, result.json last; returns a sentence for the status, or nothing."""
    if record.last is None:
        return ""
    frames = record.frames()
    sentence = animation.write(job.folder, frames)
    images.save_png(job.folder / "picture.png", _pixels(record.last.after))
    packed = io.BytesIO()  # numpy writes only into what can be read as well
    np.savez_compressed(packed, **frames._asdict(), calls=np.array(record.calls))
    files.write_bytes(job.trajectory, packed.getvalue())
    files.write_json(job.folder / "result.json", {**recorded, **record.numbers, "total": record.last.total})
    return sentence
