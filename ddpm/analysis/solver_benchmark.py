"""The frontier of samplers on a checkpoint: how close each comes to the converged pictures, with how many network calls.

for measured in measure(network, config, SolverBenchmarkConfig(calls="5,10")):
    if measured.cell:
        print(measured.cell)
"""

import dataclasses
import shlex
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.compute import distributed, machine
from ddpm.config import codec
from ddpm.config.tasks import SampleConfig, SolverBenchmarkConfig
from ddpm.config.training import Config
from ddpm.diffusion.process import Network
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.models import backend
from ddpm.planning import low_res, solver_grid
from ddpm.planning.low_res import LowRes
from ddpm.planning.solver_grid import Cell, LeftOut, Place, Way
from ddpm.planning.variances import Errors
from ddpm.reports.contact_sheet import SHOWN, Sheet
from ddpm.runs.jobs import Worker, keep_on_failure
from ddpm.runs.results import SolverBenchmarkJob
from ddpm.runs.runs import Run
from ddpm.sampling import analytic_variance, engine
from ddpm.storage import files, images

KEEP_INTERVAL = 1.0  # seconds between two looks at what there is so far
LEVELS = 127.5  # of 0 .. 255 in 1 of x


class Converged(NamedTuple):
    """The pictures that the probability-flow ODE leads to from the same noise, and how well they are known."""

    clip: bool  # whether the predicted clean picture is kept within range: another ODE where not
    pictures: Tensor  # [N, C, H, W]
    calls: int
    apart: float  # from those of another solver over other timesteps, in levels of 0 .. 255: the median picture
    most: float  # and the one that is furthest


class Pace(NamedTuple):
    """Seconds that one network call takes, a picture: the middle, and what 80 % of the calls lie between."""

    median: float
    low: float
    high: float


class Measured(NamedTuple):
    """Progress: one network call of one batch; after its last one, what came of it."""

    done: int  # network calls, 1 .. total
    total: int
    cell: Cell | None = None
    converged: Converged | None = None
    pictures: Tensor | None = None  # [N, C, H, W] of the cell
    pace: Pace | None = None  # of all calls so far that count

    @property
    def last(self) -> bool:
        """Whether this is all."""
        return self.done == self.total and self.cell is not None


def measure(
    network: Network,
    config: Config,
    settings: SolverBenchmarkConfig,
    device: torch.device | str = "cpu",
    errors: Errors | None = None,
) -> Iterator[Measured]:
    """Draw the same noise with every sampler and number of calls; a record each network call.

    First come the converged pictures, with which torch warms up.  Then the cells, few calls first and the samplers in
    turn, so that a machine that slows down is unfair to none; where repeated, all of them again, drawn once more
    for the time alone.  All in fp32, so that rounding is no distance.  errors: those that `variance` analytic needs.  Raises UserError where no cell is possible.
    """
    found, _ = solver_grid.places(config, settings)
    clips = solver_grid.clips(found)
    total = -(-settings.num_samples // settings.batch_size) * solver_grid.total_calls(found, settings)
    small = low_res.read(config, found[0].sample)
    drawing = _Drawing(network, config, device, small, total, errors)
    converged: dict[bool, Converged] = {}
    for clip in clips:
        both = []
        for way, calls in (
            (solver_grid.CONVERGED, solver_grid.CONVERGED_CALLS),
            (solver_grid.CHECK, solver_grid.CHECK_CALLS),
        ):
            wanted = dataclasses.replace(settings, clip_denoised=clip)
            usual = solver_grid.sample_of(config, wanted, way, calls)
            yield from drawing.through(usual)
            both.append(drawing.pictures)
        converged[clip] = Converged(
            clip,
            both[0],
            solver_grid.CONVERGED_CALLS,
            float(distances(*both).quantile(0.5)),
            float(distances(*both).max()),
        )
        yield Measured(drawing.done, total, converged=converged[clip])
    if not clips:  # nothing has warmed up yet
        yield from drawing.through(found[0].sample, counts=False)
    drawing.times.clear()
    seconds: dict[Place, list[float]] = {place: [] for place in found}
    for _ in range(settings.repeats):
        for place in found:
            yield from drawing.through(place.sample)
            seconds[place].append(drawing.seconds / settings.num_samples)
            off = mean = None
            if not solver_grid.is_random(place.sample):
                apart = distances(drawing.pictures, converged[place.sample.clip_denoised].pictures)
                if bool(
                    apart.isfinite().all()
                ):  # unclipped, a sampler may run away: as far as that there is no distance
                    off, mean = float(apart.quantile(0.5)), float(apart.mean())
            cell = Cell(*place.way, place.asked, place.calls, statistics.median(seconds[place]), off, mean)
            yield Measured(drawing.done, total, cell, pictures=drawing.pictures, pace=pace(drawing.times))


class _Drawing:
    """Draws, and keeps count of calls and time."""

    def __init__(
        self,
        network: Network,
        config: Config,
        device: torch.device | str,
        small: LowRes | None,
        total: int,
        errors: Errors | None,
    ):
        self._draw = lambda wanted: engine.draw(network, config, wanted, device, small, errors=errors)
        self.done, self.total = 0, total
        self.times: list[float] = []  # seconds a picture of each call

    def through(self, wanted: SampleConfig, counts: bool = True) -> Iterator[Measured]:
        """Draw all pictures; then they are in `pictures`, and what they took, without the caller's part, in `seconds`."""
        drawing = self._draw(wanted)
        finished = []
        self.seconds = 0.0
        while True:
            began = time.perf_counter()
            drawn = next(drawing, None)
            took = time.perf_counter() - began
            if drawn is None:
                break
            self.seconds += took
            self.times.append(took / len(drawn.step.x))
            if drawn.finished:
                finished.append(drawn.step.x)
            self.done += counts
            yield Measured(self.done, self.total)
        self.pictures = torch.cat(finished)


def distances(one: Tensor, other: Tensor) -> Tensor:
    """How far each of the pictures [N, C, H, W] is from the other, as they are shown: RMSE in levels of 0 .. 255, [N]."""
    difference = (one.clamp(-1, 1) - other.clamp(-1, 1)).double() * LEVELS
    return difference.square().flatten(1).mean(dim=1).sqrt()


def pace(times: list[float]) -> Pace:
    """The middle of the times of single calls, and how much they vary."""
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
    ask: bool = True,
) -> Iterator[Measured]:
    """Compare samplers on a run, or on a checkpoint file, into a job's folder.

    `flags` are model and diffusion settings for a file that does not hold its own; where `ask`, a probe checks them.
    Raises UserError when they contradict it.
    """
    worker.beat(warning=distributed.set_num_threads(settings.threads, "comparison", fixed=True))
    _check_new(folder)
    weights, config, path, origin = engine.chosen(source, settings, flags, ask=ask)
    device = distributed.device()
    computing = backend.resolve_and_report(settings.kernels, "fp32", device, worker)
    settings = dataclasses.replace(settings, kernels=computing.kernels)  # as machines differ
    network = engine.network_of(weights, config, path.name, device, settings.kernels)
    told = engine.flags_of(config, weights, SolverBenchmarkConfig)
    command = ["ddpm", "bench", "samplers", "--model_path", str(path), *codec.to_flags(settings), *told]
    about = {"checkpoint": origin, "command": shlex.join(command)}
    errors = None
    if settings.variance == "analytic":
        errors = analytic_variance.for_weights(network, config, path, origin["sha256"], worker, device, weights.data)
    yield from compare_into(folder, worker, network, config, settings, about, device, errors)


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
    device: torch.device | str = "cpu",
    errors: Errors | None = None,
) -> Iterator[Measured]:
    """Compare into a job's folder: settings.json at once, then result.json and sheet.png as they grow.

    `about` is told in both JSON files.  Asked to stop, or where something goes wrong, it keeps the cells that are measured.
    """
    _check_new(folder)
    job = SolverBenchmarkJob(folder)
    places, left = solver_grid.places(config, settings)
    said = {
        "frontier": dataclasses.asdict(settings),
        "machine": {**machine.described(), "precision": "fp32", "kernels": settings.kernels},
        **about,
    }
    files.write_json(folder / "settings.json", said)
    worker.beat(state="running", message="Drawing the converged pictures")
    kept = _Kept(job, said, places, left, settings)
    measured: Measured | None = None
    began = time.monotonic()
    with keep_on_failure(lambda: kept.write("failed")):
        for measured in measure(network, config, settings, device, errors):
            elapsed = time.monotonic() - began
            worker.beat(
                step=measured.done,
                total_steps=measured.total,
                steps_per_second=measured.done / elapsed if measured.done else None,
                seconds_left=elapsed / measured.done * (measured.total - measured.done) if measured.done else None,
                metrics={"cells": len(kept.cells)},
            )
            kept.add(measured)
            if measured.cell:
                worker.beat(message=f"{len(kept.cells)} of {plural(len(places), 'cell')}")
            yield measured
            if "stop" in worker.poll_requests() and not measured.last:
                break
    whole = measured is not None and measured.last
    kept.write("all" if whole else "stopped")
    worker.beat(
        state="finished" if whole else "stopped",
        seconds_left=0.0,
        message="" if whole else f"Stopped with {len(kept.cells)} of {plural(len(places), 'cell')} measured",
    )


class _Kept:
    """What there is so far, and the files that tell it."""

    def __init__(
        self,
        job: SolverBenchmarkJob,
        said: Mapping[str, Any],
        places: list[Place],
        left: list[LeftOut],
        settings: SolverBenchmarkConfig,
    ):
        self._job, self._said, self._left, self._clip = job, said, left, settings.clip_denoised
        self._ways = {place.way: place.sample for place in places}
        origin = said.get("checkpoint", {})
        title = (
            f"{origin['weights']} at step {origin['step']:,}, seed {settings.seed}"
            if origin
            else f"seed {settings.seed}"
        )
        self._sheet = Sheet(list(self._ways), sorted({place.asked for place in places}), title)
        self._began = self._written = time.monotonic()
        self._converged: list[Converged] = []
        self._pace: Pace | None = None
        self.cells: dict[tuple[Way, int], Cell] = {}  # one that is timed again takes the place of itself

    def add(self, measured: Measured) -> None:
        """Take note of it; written now and then."""
        if measured.converged:
            self._add_converged(measured.converged)
        if measured.cell and measured.pictures is not None:
            cell = measured.cell
            self.cells[cell.way, cell.asked] = cell
            self._sheet.place(cell, _pixels(measured.pictures))
            self._pace = measured.pace
        if (measured.cell or measured.converged) and time.monotonic() - self._written > KEEP_INTERVAL:
            self.write("running")

    def _add_converged(self, converged: Converged) -> None:
        self._converged.append(converged)
        about = f"{plural(converged.calls, 'call')}, ±{solver_grid.level(converged.apart)}"
        for way, drawn in self._ways.items():
            if not solver_grid.is_random(drawn) and drawn.clip_denoised == converged.clip:
                self._sheet.place_converged(way, _pixels(converged.pictures), about)

    def write(self, ended: str) -> None:
        """result.json and sheet.png, of what there is."""
        if not self._converged and not self.cells:
            return
        result = {
            "rows": [cell._asdict() for cell in self.cells.values()],
            "converged": [
                {
                    **c._asdict(),
                    "pictures": len(c.pictures),
                    "solver": solver_grid.CONVERGED,
                    "check": solver_grid.CHECK,
                    "check_calls": solver_grid.CHECK_CALLS,
                }
                for c in self._converged
            ],
            "left_out": [{**out.way._asdict(), "asked": out.asked, "why": out.why} for out in self._left],
            "pace": self._pace._asdict() if self._pace else None,
            "ended": ended,
            "seconds": time.monotonic() - self._began,
            **self._said,
        }
        files.write_json(self._job.folder / "result.json", result)
        self._sheet.save(self._job.sheet)
        self._written = time.monotonic()


def _pixels(x: Tensor) -> np.ndarray:
    return images.to_uint8(x[:SHOWN].cpu().numpy())
