"""Compares solvers on a checkpoint by their distance from the converged images, and their model evaluations.

for measured in measure(network, config, SolverBenchmarkConfig(calls="5,10")):
    if measured.result:
        print(measured.result)
"""

import dataclasses
import shlex
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.checkpoints import loading
from ddpm.checkpoints.loading import OpenedModel
from ddpm.compute import distributed, machine
from ddpm.config import codec
from ddpm.config.tasks import SampleConfig, SolverBenchmarkConfig
from ddpm.config.training import Config
from ddpm.diffusion.denoiser import Network
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.models import backend
from ddpm.models.backend import ComputeMode
from ddpm.models.unet import UNet
from ddpm.planning import resolve, solver_grid
from ddpm.planning.resolve import ResolvedSampling
from ddpm.planning.solver_grid import GridCell, GridResult, ImpossibleCell, SolverVariant
from ddpm.reports.contact_sheet import SHOWN, Sheet
from ddpm.runs.results import SolverBenchmarkJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker, keep_on_failure
from ddpm.sampling import analytic_variance, engine
from ddpm.sampling.request import resolve_request
from ddpm.storage import files, images

KEEP_INTERVAL = 1.0  # seconds between two looks at what there is so far
ResolveCell = Callable[[SampleConfig], ResolvedSampling]
LEVELS = 127.5  # of 0 .. 255 in 1 of x


class Converged(NamedTuple):
    """Images that the probability-flow ODE leads to from the same noise, and how well they are known."""

    clip: bool  # whether the predicted clean image is kept within range: another ODE where not
    images: Tensor  # float32 [N, C, H, W] in [-1, 1]
    nfe: int
    apart: float  # from those of another solver over other timesteps, in levels of 0 .. 255: median over the images
    most: float  # and the largest


class Pace(NamedTuple):
    """Seconds per image of one model evaluation: median, and 10th and 90th percentile."""

    median: float
    low: float
    high: float


class Measured(NamedTuple):
    """Progress: one model evaluation of one batch; or the result of a cell after its last one."""

    done: int  # model evaluations, 1 .. total
    total: int
    result: GridResult | None = None
    converged: Converged | None = None
    images: Tensor | None = None  # float32 [N, C, H, W] in [-1, 1], of the cell
    pace: Pace | None = None  # of all evaluations so far that count

    @property
    def last(self) -> bool:
        """True if this is the last result."""
        return self.done == self.total and self.result is not None


def measure(
    network: Network,
    config: Config,
    settings: SolverBenchmarkConfig,
    resolve_cell: ResolveCell | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Measured]:
    """Samples from the same noise with every solver and number of evaluations; yields at each model evaluation.

    First come the converged images, with which torch warms up.  Then the cells, few evaluations first and the solvers
    in turn, so that a machine that slows down is unfair to none; where repeated, all of them again, for the time alone.
    All in fp32, so that rounding is no distance.  network: ready to be called.  resolve_cell: resolves the request of a
    cell; None reads what it needs.  Raises UserError where no cell is possible.
    """
    resolve_cell = resolve_cell or partial(resolve_request, config)
    cells, _ = solver_grid.grid_cells(config, settings)
    size = resolve_cell(cells[0].sample).batch_size  # of all: free memory, by which it is chosen, changes meanwhile

    def pinned(sample: SampleConfig) -> ResolvedSampling:
        return dataclasses.replace(resolve_cell(sample), batch_size=size)

    resolved = {cell: pinned(cell.sample) for cell in cells}
    clips = solver_grid.clip_settings(cells)
    per_image = solver_grid.total_evaluations(cells, settings)
    total = -(-settings.num_samples // size) * per_image
    sampling = _Sampling(network, device, total)
    converged: dict[bool, Converged] = {}
    for clip in clips:
        both = []
        for variant, nfe in (
            (solver_grid.CONVERGED, solver_grid.CONVERGED_CALLS),
            (solver_grid.CHECK, solver_grid.CHECK_CALLS),
        ):
            wanted = dataclasses.replace(settings, clip_denoised=clip)
            yield from sampling.run(pinned(solver_grid.sample_of(config, wanted, variant, nfe)))
            both.append(sampling.images)
        apart = distances(*both)
        if not bool(apart.isfinite().all()):
            clipping, remedy = ("with", "take an earlier") if clip else ("without", "clip x_start, or take another")
            raise UserError(
                f"The converged images {clipping} clipping are not finite, and there is no distance from them: {remedy}"
                " checkpoint.",
                code="not-finite",
            )
        converged[clip] = Converged(
            clip, both[0], solver_grid.CONVERGED_CALLS, float(apart.quantile(0.5)), float(apart.max())
        )
        yield Measured(sampling.done, total, converged=converged[clip])
    if not clips:  # nothing has warmed up yet
        yield from sampling.run(resolved[cells[0]], counts=False)
    sampling.times.clear()
    seconds: dict[GridCell, list[float]] = {cell: [] for cell in cells}
    for _ in range(settings.repeats):
        for cell in cells:
            yield from sampling.run(resolved[cell])
            seconds[cell].append(sampling.seconds / settings.num_samples)
            median = mean = None
            if not solver_grid.is_random(cell.sample):
                apart = distances(sampling.images, converged[cell.sample.clip_denoised].images)
                if bool(apart.isfinite().all()):  # unclipped, a solver may diverge: then there is no distance
                    median, mean = float(apart.quantile(0.5)), float(apart.mean())
            took = statistics.median(seconds[cell])
            result = GridResult(*cell.variant, cell.asked, cell.nfe, took, median, mean)
            yield Measured(sampling.done, total, result, images=sampling.images, pace=pace(sampling.times))


class _Sampling:
    """Samples, and counts evaluations and time."""

    def __init__(self, network: Network, device: torch.device | str, total: int):
        self._network, self._device = network, device
        self.done, self.total = 0, total
        self.times: list[float] = []  # seconds per image of each model evaluation

    def run(self, resolved: ResolvedSampling, counts: bool = True) -> Iterator[Measured]:
        """Samples all images into `images`, and takes the time, without the caller's part, as `seconds`."""
        steps = engine.sample(self._network, resolved, self._device)
        finished = []
        self.seconds = 0.0
        while True:
            began = time.perf_counter()
            progress = next(steps, None)
            took = time.perf_counter() - began
            if progress is None:
                break
            self.seconds += took
            self.times.append(took / len(progress.step.x))
            if progress.finished:
                finished.append(progress.step.x)
            self.done += counts
            yield Measured(self.done, self.total)
        self.images = torch.cat(finished)


def distances(one: Tensor, other: Tensor) -> Tensor:
    """RMSE between images float [N, C, H, W], clipped to [-1, 1]: float64 [N] in levels of 0 .. 255."""
    difference = (one.clamp(-1, 1) - other.clamp(-1, 1)).double() * LEVELS
    return difference.square().flatten(1).mean(dim=1).sqrt()


def pace(times: list[float]) -> Pace:
    """Summarises the seconds of single evaluations."""
    ordered = sorted(times)
    tenth = len(ordered) // 10
    return Pace(statistics.median(ordered), ordered[tenth], ordered[-1 - tenth])


# --- as a job


def compare_source(
    folder: Path,
    worker: Worker,
    source: Run | Path,
    settings: SolverBenchmarkConfig,
    flags: Mapping[str, Any],
    run_probe: bool = True,
) -> Iterator[Measured]:
    """Compares solvers on a run, or on a checkpoint file, into a job's folder.

    flags, run_probe: see `loading.resolve_config`.  Raises UserError.
    """
    worker.beat(warning=distributed.set_num_threads(settings.threads))
    _check_new(folder)
    opened = loading.open_model(source, settings, flags, run_probe=run_probe)
    device = distributed.device()
    compute = backend.resolve_and_report(settings.kernels, "fp32", device, worker)
    settings = dataclasses.replace(settings, kernels=compute.kernels)  # as machines differ
    network = opened.network(device)
    flags_of_file = opened.flags(SolverBenchmarkConfig)
    command = ["ddpm", "bench", "samplers", "--model_path", str(opened.path), *codec.to_flags(settings), *flags_of_file]
    about = {"checkpoint": opened.origin, "command": shlex.join(command)}
    resolve_cell = _resolver(opened, network, compute, settings, worker)
    yield from compare_into(
        folder, worker, compute.prepared(network), opened.config, settings, about, resolve_cell, device
    )


def _resolver(
    opened: OpenedModel, network: UNet, compute: ComputeMode, settings: SolverBenchmarkConfig, worker: Worker
) -> ResolveCell:
    """Returns what resolves the request of a cell, with small images and the analytic variance's errors read once."""
    cells, _ = solver_grid.grid_cells(opened.config, settings)
    first = resolve_request(opened.config, cells[0].sample, compute, opened.origin)
    ancestral = [cell.sample for cell in cells if cell.sample.variance == "analytic"]
    mse = None
    if ancestral:
        process = resolve.resolve_process(opened.config, ancestral[0])
        mse = analytic_variance.mse_for(process, opened, network, compute, worker)

    def resolve_cell(sample: SampleConfig) -> ResolvedSampling:
        return resolve_request(
            opened.config, sample, compute, opened.origin, first.low_res, mse, batch_size=first.batch_size
        )

    return resolve_cell


def _check_new(folder: Path) -> None:
    if SolverBenchmarkJob(folder).result:
        raise UserError(f"{folder} already holds a frontier: choose another --out.", code="already-exists")


def compare_into(
    folder: Path,
    worker: Worker,
    network: Network,
    config: Config,
    settings: SolverBenchmarkConfig,
    about: Mapping[str, Any],
    resolve_cell: ResolveCell | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Measured]:
    """Compares into a job's folder: settings.json at once, then result.json and sheet.png as they grow.

    about: recorded in both JSON files.  resolve_cell: see `measure`.  Where it is stopped or fails, measured cells are
    kept.
    """
    _check_new(folder)
    job = SolverBenchmarkJob(folder)
    cells, impossible = solver_grid.grid_cells(config, settings)
    recorded = {
        "frontier": dataclasses.asdict(settings),
        "machine": {**machine.described(), "precision": "fp32", "kernels": settings.kernels},
        **about,
    }
    files.write_json(folder / "settings.json", recorded)
    worker.beat(state="running", message="Sampling the converged images")
    kept = _ResultFiles(job, recorded, cells, impossible, settings)
    measured: Measured | None = None
    began = time.perf_counter()
    with keep_on_failure(lambda: kept.write("failed")):
        for measured in measure(network, config, settings, resolve_cell, device):
            elapsed = time.perf_counter() - began
            worker.beat(
                step=measured.done,
                total_steps=measured.total,
                steps_per_second=measured.done / elapsed if measured.done else None,
                seconds_left=elapsed / measured.done * (measured.total - measured.done) if measured.done else None,
                metrics={"cells": len(kept.results)},
            )
            kept.add(measured)
            if measured.result:
                worker.beat(message=f"{len(kept.results)} of {plural(len(cells), 'cell')}")
            yield measured
            if "stop" in worker.poll_requests() and not measured.last:
                break
    whole = measured is not None and measured.last
    kept.write("all" if whole else "stopped")
    worker.beat(
        state="finished" if whole else "stopped",
        seconds_left=0.0,
        message="" if whole else f"Stopped with {len(kept.results)} of {plural(len(cells), 'cell')} measured",
    )


class _ResultFiles:
    """Results so far, and the files they are written to."""

    def __init__(
        self,
        job: SolverBenchmarkJob,
        recorded: Mapping[str, Any],
        cells: list[GridCell],
        impossible: list[ImpossibleCell],
        settings: SolverBenchmarkConfig,
    ):
        self._job, self._recorded, self._impossible, self._clip = job, recorded, impossible, settings.clip_denoised
        self._variants = {cell.variant: cell.sample for cell in cells}
        origin = recorded.get("checkpoint", {})
        title = (
            f"{origin['weights']} at step {origin['step']:,}, seed {settings.seed}"
            if origin
            else f"seed {settings.seed}"
        )
        self._sheet = Sheet(list(self._variants), sorted({cell.asked for cell in cells}), title)
        self._began = self._written = time.monotonic()
        self._converged: list[Converged] = []
        self._pace: Pace | None = None
        self.results: dict[tuple[SolverVariant, int], GridResult] = {}  # one that is timed again replaces itself

    def add(self, measured: Measured) -> None:
        """Adds a result; the files are written now and then."""
        if measured.converged:
            self._add_converged(measured.converged)
        if measured.result and measured.images is not None:
            result = measured.result
            self.results[result.variant, result.asked] = result
            self._sheet.add(result, _pixels(measured.images))
            self._pace = measured.pace
        if (measured.result or measured.converged) and time.monotonic() - self._written > KEEP_INTERVAL:
            self.write("running")

    def _add_converged(self, converged: Converged) -> None:
        self._converged.append(converged)
        about = f"{plural(converged.nfe, 'call')}, ±{solver_grid.level(converged.apart)}"
        for variant, sample in self._variants.items():
            if not solver_grid.is_random(sample) and sample.clip_denoised == converged.clip:
                self._sheet.add_converged(variant, _pixels(converged.images), about)

    def write(self, ended: str) -> None:
        """Writes result.json and sheet.png."""
        if not self._converged and not self.results:
            return
        result = {
            "rows": [result._asdict() for result in self.results.values()],
            "converged": [
                {
                    "clip": c.clip,
                    "pictures": len(c.images),
                    "calls": c.nfe,
                    "apart": c.apart,
                    "most": c.most,
                    "solver": solver_grid.CONVERGED,
                    "check": solver_grid.CHECK,
                    "check_calls": solver_grid.CHECK_CALLS,
                }
                for c in self._converged
            ],
            "left_out": [{**out.variant._asdict(), "asked": out.asked, "why": out.why} for out in self._impossible],
            "pace": self._pace._asdict() if self._pace else None,
            "ended": ended,
            "seconds": time.monotonic() - self._began,
            **self._recorded,
        }
        files.write_json(self._job.folder / "result.json", result)
        self._sheet.save(self._job.sheet)
        self._written = time.monotonic()


def _pixels(x: Tensor) -> np.ndarray:
    return images.to_uint8(x[:SHOWN].cpu().numpy())
