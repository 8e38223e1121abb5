"""The grid of a solver comparison: each cell is a solver with a number of model evaluations.  And tables of results.
No torch.
"""

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
from ddpm.planning import resolve, timesteps
from ddpm.solvers import SOLVERS
from ddpm.spacings import SPACINGS

FLIPS = {
    "clip_denoised": "not clipped",
    "analytic_first_step": "analytic first step",
    "denoise_to_zero": "not denoised to zero",
}
"""Settings whose opposite can be compared, and the label of that opposite."""

MOST_CALLS = 100_000  # model evaluations an image


class SolverVariant(NamedTuple):
    """A solver with its spacing: a row of the grid, a line of the chart."""

    solver: str
    spacing: str
    flip: str = ""  # the setting that has its opposite value

    @property
    def label(self) -> str:
        """UniPC-3, uniform, not clipped."""
        parts = [SOLVERS[self.solver].label, self.spacing, FLIPS.get(self.flip, "")]
        return ", ".join(part for part in parts if part)


CONVERGED, CONVERGED_CALLS = SolverVariant("unipc-2", "karras"), 400
CHECK, CHECK_CALLS = SolverVariant("dpm++3m", "karras"), 200
"""What the converged images are sampled with, and what checks them: another solver over half as many timesteps.

Two solvers over the same timesteps agree even where both are wrong.  With the quick start's model these images agree
with those of UniPC-3 over 800 timesteps spaced by logsnr to 0.1 levels, even an image between two colours.
"""


class GridResult(NamedTuple):
    """Measured result of a cell of the grid."""

    solver: str
    spacing: str
    flip: str
    asked: int  # model evaluations an image that were asked for
    calls: int  # model evaluations that were made (NFE): with Heun, an odd number
    seconds: float  # an image, of the network and the sampler alone
    distance: float | None  # to the converged image, in levels of 0 .. 255, median over the images; None where random
    mean: float | None = None  # mean over the images, which a single outlier moves

    @property
    def variant(self) -> SolverVariant:
        """Row of the grid."""
        return SolverVariant(self.solver, self.spacing, self.flip)


class GridCell(NamedTuple):
    """A cell of the grid that is to be measured."""

    variant: SolverVariant
    asked: int  # model evaluations an image that were asked for
    nfe: int  # and that it takes
    sample: SampleConfig


class ImpossibleCell(NamedTuple):
    """A cell of the grid that cannot be sampled, and why."""

    variant: SolverVariant
    asked: int
    why: str


def variants(settings: SolverBenchmarkConfig) -> list[SolverVariant]:
    """Returns the rows that the settings ask for.  Raises UserError for an unknown name."""
    solvers = _names("solvers", settings.solvers, tuple(SOLVERS)) or list(SOLVERS)
    own = settings.spacing.strip() in ("", "auto")
    spacings = [] if own else _names("spacing", settings.spacing, tuple(SPACINGS))
    flips = ["", *_names("flips", settings.flips, tuple(FLIPS))]
    return [SolverVariant(s, p, flip) for s in solvers for p in spacings or [SOLVERS[s].spacing] for flip in flips]


def evaluation_counts(settings: SolverBenchmarkConfig) -> list[int]:
    """Returns the columns that the settings ask for, increasing.  Raises UserError for what is no number."""
    found = sorted(set(ints("calls", settings.calls)))
    if not found:
        raise UserError(
            "calls is empty: name numbers of model evaluations to try, as in --calls 5,10,20.", code="missing-value"
        )
    if found[-1] > MOST_CALLS:
        raise UserError(
            f"calls has {found[-1]:,}, more than {MOST_CALLS:,} model evaluations: try fewer.", code="out-of-range"
        )
    return found


def _names(setting: str, text: str, known: Sequence[str]) -> list[str]:
    """Splits a text at commas into known names, each once; all of them where the text is "all"."""
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


def sample_of(config: Config, settings: SolverBenchmarkConfig, variant: SolverVariant, nfe: int) -> SampleConfig:
    """Returns the request for the samples of a cell: in fp32, all from the same noise."""
    takes = SOLVERS[variant.solver].takes
    usual = SampleConfig(
        weights=settings.weights,
        step=settings.step,
        clip_denoised=settings.clip_denoised,
        variance=settings.variance if "variance" in takes else "auto",
        seed=settings.seed,
        threads=settings.threads,
        num_samples=settings.num_samples,
        batch_size=settings.batch_size,
        sampler=variant.solver,
        steps=nfe,
        spacing=variant.spacing,
        classes=settings.classes,
        guidance_scale=1.0,
        precision="fp32",
        kernels=settings.kernels,
        base_samples="data" if config.model.super_res else "",
        eta=settings.eta if "eta" in takes else 0.0,
        churn=settings.churn if "churn" in takes else 0.0,
    )
    if not variant.flip:
        return usual
    return dataclasses.replace(usual, **{variant.flip: not getattr(usual, variant.flip)})  # type: ignore[arg-type]


def is_random(sample: SampleConfig) -> bool:
    """True if the solver adds fresh noise, so that there is no converged image to compare with."""
    row = SOLVERS[timesteps.solver(sample)]
    return not row.exact or any(getattr(sample, name) > 0 for name in ("eta", "churn") if name in row.takes)


def grid_cells(config: Config, settings: SolverBenchmarkConfig) -> tuple[list[GridCell], list[ImpossibleCell]]:
    """Returns the cells to measure, few evaluations first and the solvers in turn, and the impossible ones.

    Raises UserError where none is possible, and for settings that say something else.
    """
    if settings.timestep_respacing:
        raise UserError(
            f"timestep_respacing {settings.timestep_respacing!r} says which timesteps to visit, and so do calls: leave"
            " it out.",
            code="conflicting-settings",
        )
    found: list[GridCell] = []
    impossible: list[ImpossibleCell] = []
    for asked in evaluation_counts(settings):
        for variant in variants(settings):
            sample = sample_of(config, settings, variant, asked)
            try:
                found.append(GridCell(variant, asked, resolve.resolve_process(config, sample).nfe, sample))
            except UserError as error:
                impossible.append(ImpossibleCell(variant, asked, str(error)))
    if not found:
        raise UserError(
            f"None of these samplers works with these numbers of calls: {impossible[0].why}", code="impossible-steps"
        )
    return found, impossible


def clip_settings(found: Iterable[GridCell]) -> list[bool]:
    """Returns the values of clip_denoised for which converged images are needed: each is another equation."""
    return sorted({p.sample.clip_denoised for p in found if not is_random(p.sample)}, reverse=True)


def total_evaluations(found: Sequence[GridCell], settings: SolverBenchmarkConfig) -> int:
    """Counts the model evaluations that an image takes over the whole comparison."""
    converged = (CONVERGED_CALLS + CHECK_CALLS) * len(clip_settings(found))
    return converged + settings.repeats * sum(cell.nfe for cell in found)


# --- tables


def columns(cells: Iterable[GridResult]) -> list[int]:
    """Returns the numbers of evaluations that were asked for, increasing."""
    return sorted({cell.asked for cell in cells})


def rows(cells: Iterable[GridResult]) -> dict[SolverVariant, dict[int, GridResult]]:
    """Groups results by variant, and within it by the evaluations that were asked for."""
    found: dict[SolverVariant, dict[int, GridResult]] = {}
    for cell in cells:
        found.setdefault(cell.variant, {})[cell.asked] = cell
    return found


def distance_text(cell: GridResult) -> str:
    """Writes 1.3, or random; with the evaluations made, where others were asked for: 1.3 (7 calls)."""
    said = "random" if cell.distance is None else level(cell.distance)
    return said if cell.calls == cell.asked else f"{said} ({formatting.plural(cell.calls, 'call')})"


def level(distance: float) -> str:
    """Writes a distance with two significant digits, or one decimal: 12.4, 1.3, 0.04."""
    return f"{distance:,.1f}" if distance >= 0.95 else formatting.number(distance, 2)


def table(cells: Sequence[GridResult], markdown: bool = False) -> str:
    """Writes a table of variants by evaluations: distances in levels, and a last row of seconds per image."""
    counts = columns(cells)
    head = ["sampler, spacing", *(formatting.plural(n, "call") for n in counts)]
    body = [
        [variant.label, *(distance_text(by[n]) if n in by else "–" for n in counts)]
        for variant, by in rows(cells).items()
    ]
    times = [[c.seconds / c.calls * n for c in cells if c.asked == n] for n in counts]
    body.append(["seconds per image", *(formatting.number(sorted(found)[len(found) // 2], 2) for found in times)])
    return formatting.table(head, body, markdown)


def to_csv(cells: Iterable[GridResult]) -> bytes:
    """Writes results as CSV, one line each; without a distance where it is random."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(GridResult._fields)
    writer.writerows(cells)
    return buffer.getvalue().encode()


def from_json(result: dict[str, Any]) -> list[GridResult]:
    """Reads the results of a result.json."""
    return [GridResult(**row) for row in result.get("rows", ())]


def cheapest(cells: Iterable[GridResult], tolerance: float) -> GridResult | None:
    """Returns the result with the fewest evaluations within `tolerance` levels of the converged images, or None."""
    within = [
        (cell.calls, cell.distance, cell) for cell in cells if cell.distance is not None and cell.distance <= tolerance
    ]
    return min(within, key=lambda found: found[:2])[2] if within else None


def about(result: dict[str, Any]) -> str:
    """Describes the numbers of a result.json, and the machine they were measured on."""
    machine, pace = result.get("machine"), result.get("pace")
    parts = ["Median distance to the converged images of the same noise, in levels of 0 .. 255 (RMSE per pixel)"]
    if converged := result.get("converged"):
        first = converged[0]
        parts[0] += (
            f", which are accurate to {level(max(c['apart'] for c in converged))} levels"
            f" ({SolverVariant(*first['solver']).label} with {first['calls']} NFE against"
            f" {SolverVariant(*first['check']).label} with {first['check_calls']})"
        )
    parts.append(
        f"{formatting.plural(result['frontier']['num_samples'], 'image')} each,"
        f" {formatting.plural(result['frontier']['batch_size'], 'image')} per batch at most"
    )
    if pace:
        parts.append(
            f"one model evaluation took {formatting.number(pace['median'], 3)} s per image"
            f" ({formatting.number(pace['low'], 3)} to {formatting.number(pace['high'], 3)} in the middle 80 %)"
        )
    if machine:
        on_cpu = machine["device"] == "cpu"
        where = formatting.plural(machine["threads"], "thread") if on_cpu else machine["device"]
        parts.append(f"{machine['processor']}, {where}, {machine['precision']}")
    return "; ".join(parts) + "."
