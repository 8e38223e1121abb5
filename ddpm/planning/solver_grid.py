"""What a frontier compares: its cells, each a sampler with so many network calls, and tables of them.  No torch."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ddpm import formatting
from ddpm.config.fields import ints
from ddpm.config.tasks import SampleConfig, SolverBenchmarkConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import timesteps
from ddpm.solvers import SOLVERS
from ddpm.spacings import SPACINGS

FLIPS = {
    "clip_denoised": "not clipped",
    "analytic_first_step": "analytic first step",
    "denoise_to_zero": "not denoised to zero",
}
"""Settings that can be tried the other way round, and what that way is called."""


class Way(NamedTuple):
    """A way of drawing, whatever the number of calls: a row of the sheet, a line of the chart."""

    solver: str
    spacing: str
    flip: str = ""  # the setting that is the other way round

    @property
    def label(self) -> str:
        """UniPC-3, uniform, not clipped."""
        parts = [SOLVERS[self.solver].label, self.spacing, FLIPS.get(self.flip, "")]
        return ", ".join(part for part in parts if part)


CONVERGED, CONVERGED_CALLS = Way("unipc-2", "karras"), 400
CHECK, CHECK_CALLS = Way("dpm++3m", "karras"), 200
"""What the converged pictures are drawn with, and by what they are checked: another solver over half as many timesteps.

Two solvers over the same timesteps agree even where both are off.  With the quick start's model these pictures agree
with those of UniPC-3 over 800 timesteps spread by logsnr to 0.1 levels, even one that hangs between two colours.
"""


class Cell(NamedTuple):
    """What came of a way of drawing with so many calls."""

    solver: str
    spacing: str
    flip: str
    asked: int  # network calls a picture that were asked for
    calls: int  # and made: Heun, for one, makes an odd number
    seconds: float  # a picture, of the network and the sampler alone
    distance: float | None  # to the converged picture, in levels of 0 .. 255; None where noise is added on the way
    mean: float | None = (
        None  # `distance` is the median over the pictures, which a single one that tips over does not move
    )

    @property
    def way(self) -> Way:
        """Its row."""
        return Way(self.solver, self.spacing, self.flip)


class Place(NamedTuple):
    """A cell that is to be measured."""

    way: Way
    asked: int
    calls: int
    sample: SampleConfig


class LeftOut(NamedTuple):
    """A cell that is impossible, and why."""

    way: Way
    asked: int
    why: str


def ways(settings: SolverBenchmarkConfig) -> list[Way]:
    """The rows that the settings ask for.  Raises UserError for a name that there is not."""
    solvers = _names("solvers", settings.solvers, tuple(SOLVERS)) or list(SOLVERS)
    own = settings.spacing.strip() in ("", "auto")
    spacings = [] if own else _names("spacing", settings.spacing, tuple(SPACINGS))
    flips = ["", *_names("flips", settings.flips, tuple(FLIPS))]
    return [Way(s, p, flip) for s in solvers for p in spacings or [SOLVERS[s].spacing] for flip in flips]


def calls_of(settings: SolverBenchmarkConfig) -> list[int]:
    """The columns that the settings ask for, increasing.  Raises UserError for what is no number."""
    found = sorted(set(ints("calls", settings.calls)))
    if not found:
        raise UserError(
            "calls is empty: name how many network calls to try, as in --calls 5,10,20.", code="missing-value"
        )
    return found


def _names(setting: str, text: str, known: Sequence[str]) -> list[str]:
    """The names in a text with commas between, each once; all where it says all."""
    found = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if found == ["all"]:
        return list(known)
    for name in found:
        if name not in known:
            raise UserError(
                f"{setting} names {name!r}, which there is not: choose among {', '.join(known)}, with commas between,"
                " or all.",
                code="bad-value",
            )
    return found


def sample_of(config: Config, settings: SolverBenchmarkConfig, way: Way, calls: int) -> SampleConfig:
    """How a cell's pictures are drawn: in fp32, all from the same noise."""
    takes = SOLVERS[way.solver].takes
    usual = SampleConfig(
        weights=settings.weights,
        step=settings.step,
        clip_denoised=settings.clip_denoised,
        variance=settings.variance if "variance" in takes else "auto",
        seed=settings.seed,
        threads=settings.threads,
        num_samples=settings.num_samples,
        batch_size=settings.batch_size,
        sampler=way.solver,
        steps=calls,
        spacing=way.spacing,
        classes=settings.classes,
        precision="fp32",
        kernels=settings.kernels,
        base_samples="data" if config.model.super_res else "",
        eta=settings.eta if "eta" in takes else 0.0,
        churn=settings.churn if "churn" in takes else 0.0,
    )
    if not way.flip:
        return usual
    return dataclasses.replace(usual, **{way.flip: not getattr(usual, way.flip)})  # type: ignore[arg-type]


def is_random(sample: SampleConfig) -> bool:
    """Whether fresh noise is added on the way, so that there is no converged picture to come close to."""
    row = SOLVERS[timesteps.solver(sample)]
    return not row.exact or any(getattr(sample, name) > 0 for name in ("eta", "churn") if name in row.takes)


def places(config: Config, settings: SolverBenchmarkConfig) -> tuple[list[Place], list[LeftOut]]:
    """The cells to be measured, few calls first and the samplers in turn, and those that are impossible.

    Raises UserError where none is possible, and for settings that say something else.
    """
    if settings.timestep_respacing:
        raise UserError(
            f"timestep_respacing {settings.timestep_respacing!r} says which timesteps to visit, and so do calls: leave"
            " it out.",
            code="conflicting-settings",
        )
    found: list[Place] = []
    left: list[LeftOut] = []
    for asked in calls_of(settings):
        for way in ways(settings):
            sample = sample_of(config, settings, way, asked)
            try:
                found.append(Place(way, asked, timesteps.calls(config, sample), sample))
            except UserError as error:
                left.append(LeftOut(way, asked, str(error)))
    if not found:
        raise UserError(f"None of these samplers can draw with so many calls: {left[0].why}", code="impossible-steps")
    return found, left


def clips(found: Iterable[Place]) -> list[bool]:
    """Of which equations there are converged pictures to be drawn: those of clipped predictions, the others, or both."""
    return sorted({p.sample.clip_denoised for p in found if not is_random(p.sample)}, reverse=True)


def total_calls(found: Sequence[Place], settings: SolverBenchmarkConfig) -> int:
    """Network calls that a picture takes in all."""
    return (CONVERGED_CALLS + CHECK_CALLS) * len(clips(found)) + settings.repeats * sum(place.calls for place in found)


# --- tables


def columns(cells: Iterable[Cell]) -> list[int]:
    """The numbers of calls that were asked for, increasing."""
    return sorted({cell.asked for cell in cells})


def rows(cells: Iterable[Cell]) -> dict[Way, dict[int, Cell]]:
    """Each way of drawing with its cells, by the calls that were asked for."""
    found: dict[Way, dict[int, Cell]] = {}
    for cell in cells:
        found.setdefault(cell.way, {})[cell.asked] = cell
    return found


def off(cell: Cell) -> str:
    """1.3, or random; with the calls made, where they are not those asked for: 1.3 (7 calls)."""
    said = "random" if cell.distance is None else level(cell.distance)
    return said if cell.calls == cell.asked else f"{said} ({formatting.plural(cell.calls, 'call')})"


def level(distance: float) -> str:
    """12.4, 1.3, 0.04: two digits that count, or a decimal."""
    return f"{distance:.1f}" if distance >= 0.95 else f"{distance:.2g}"


def table(cells: Sequence[Cell], markdown: bool = False) -> str:
    """Ways by calls: the distance in levels, and under each number of calls its seconds a picture."""
    counts = columns(cells)
    head = ["sampler, spacing", *(formatting.plural(n, "call") for n in counts)]
    body = [[way.label, *(off(by[n]) if n in by else "–" for n in counts)] for way, by in rows(cells).items()]
    times = [[c.seconds / c.calls * n for c in cells if c.asked == n] for n in counts]
    body.append(["seconds a picture", *(f"{sorted(found)[len(found) // 2]:.2g}" for found in times)])
    return formatting.table(head, body, markdown)


def to_csv(cells: Iterable[Cell]) -> bytes:
    """A line a cell; no distance where it is random."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(Cell._fields)
    writer.writerows(cells)
    return buffer.getvalue().encode()


def from_json(result: dict[str, Any]) -> list[Cell]:
    """The cells of a result.json."""
    return [Cell(**row) for row in result.get("rows", ())]


def cheapest(cells: Iterable[Cell], tolerance: float) -> Cell | None:
    """The cell with the fewest calls within `tolerance` levels of the converged pictures; the closest of several."""
    within = [
        (cell.calls, cell.distance, cell) for cell in cells if cell.distance is not None and cell.distance <= tolerance
    ]
    return min(within, key=lambda found: found[:2])[2] if within else None


def about(result: dict[str, Any]) -> str:
    """What the numbers of a result.json are, and where they were measured."""
    machine, pace = result["machine"], result["pace"]
    said = ["Levels of 0 .. 255 (RMSE a pixel) from the converged pictures of the same noise, median over the pictures"]
    if result["converged"]:
        first = result["converged"][0]
        said[0] += (
            f", which are known to {level(max(c['apart'] for c in result['converged']))} levels"
            f" ({Way(*first['solver']).label} with {first['calls']} calls against {Way(*first['check']).label} with"
            f" {first['check_calls']})"
        )
    said.append(
        f"{formatting.plural(result['frontier']['num_samples'], 'picture')} each,"
        f" {formatting.plural(result['frontier']['batch_size'], 'picture')} at a time at most"
    )
    if pace:
        said.append(
            f"one call took {pace['median']:.3g} s a picture ({pace['low']:.3g} to {pace['high']:.3g} in the middle"
            " 80 %)"
        )
    where = machine["device"] if machine["device"] != "cpu" else f"{formatting.plural(machine['threads'], 'thread')}"
    said.append(f"{machine['processor']}, {where}, {machine['precision']}")
    return "; ".join(said) + "."
