"""The rows of a matrix of samples: a request each, that differs from the others in one setting.  No torch."""

import dataclasses
from typing import NamedTuple

from ddpm.config import ema_rates
from ddpm.config.matrix import MatrixConfig
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import guidance, resolve
from ddpm.runs.manifests import Checkpoint

STEPS = (2, 3, 5, 8, 10, 20, 50)
GUIDANCE = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
MOST_ROWS = 32
CHECKPOINTS = 6  # that are taken where none is named


class Row(NamedTuple):
    """A row: its label, and the request whose images it shows."""

    label: str
    request: SampleConfig


def rows(config: Config, checkpoints: list[Checkpoint], settings: MatrixConfig) -> list[Row]:
    """Works out the rows that the settings ask for.

    checkpoints: of the run, oldest first; empty for a file.  Raises UserError for values that there are not.
    """
    base = SampleConfig(
        **{name: getattr(settings, name) for name in SHARED},
        steps=0 if settings.timestep_respacing else settings.steps,
    )
    words = [word.strip() for word in settings.values.split(",") if word.strip()]
    match settings.across:
        case "weights":
            found = _weights(base, checkpoints, words)
        case "checkpoint":
            found = _checkpoints(base, checkpoints, words)
        case "guidance":
            scales = [_number(word, 0.0, 50.0) for word in words] or list(GUIDANCE)
            found = [Row(f"guidance {scale:g}", dataclasses.replace(base, guidance_scale=scale)) for scale in scales]
        case _:
            found = _steps(config, base, words)
    if len(found) > MOST_ROWS:
        raise UserError(f"The values name {len(found)} rows: name at most {MOST_ROWS}.", code="bad-value")
    for row in found:
        resolve.resolve_process(config, row.request)
        guidance.resolve_guidance(config, row.request)
    return found


SHARED = (
    "weights",
    "step",
    "timestep_respacing",
    "clip_denoised",
    "variance",
    "seed",
    "threads",
    "kernels",
    "num_samples",
    "classes",
    "sampler",
    "guidance_scale",
    "batch_size",
    "precision",
)


def _of_step(checkpoints: list[Checkpoint], step: int, what: str) -> Checkpoint:
    if not checkpoints:
        raise UserError(
            f"A file holds one set of weights, so there are no {what} to compare: name a run with --run.",
            code="not-applicable",
        )
    found = next((c for c in checkpoints if c.step == step), None) if step else checkpoints[-1]
    if found is None:
        steps = ", ".join(str(c.step) for c in checkpoints)
        raise UserError(f"There is no checkpoint of step {step}: choose one of {steps}.", code="unknown-step")
    return found


def _weights(base: SampleConfig, checkpoints: list[Checkpoint], words: list[str]) -> list[Row]:
    checkpoint = _of_step(checkpoints, base.step, "weights")
    there, base = checkpoint.weights, dataclasses.replace(base, step=checkpoint.step)  # a training may save a newer one
    for word in words:
        if word not in there:
            raise UserError(f"There are no weights {word!r}: choose among {', '.join(there)}.", code="missing-weights")
    return [Row(ema_rates.label(kind), dataclasses.replace(base, weights=kind)) for kind in words or there]


def _checkpoints(base: SampleConfig, checkpoints: list[Checkpoint], words: list[str]) -> list[Row]:
    if words:
        steps = [int(_number(word, 1, 10**9)) for word in words]
    else:
        count = min(len(checkpoints), CHECKPOINTS)
        last = max(len(checkpoints) - 1, 0)
        steps = [checkpoints[round(k * last / max(count - 1, 1))].step for k in range(count)]
        if count == 1:
            steps = [checkpoints[-1].step]
    found = [_of_step(checkpoints, step, "checkpoints") for step in steps or [0]]
    return [Row(f"step {c.step:,}", dataclasses.replace(base, step=c.step)) for c in found]


def _steps(config: Config, base: SampleConfig, words: list[str]) -> list[Row]:
    if base.timestep_respacing:
        raise UserError(
            "timestep_respacing sets the timesteps, and the rows differ in them: leave it out.",
            code="conflicting-settings",
        )
    counts = [int(_number(word, 1, 100000)) for word in words]
    found = [Row(f"{count:,} NFE", dataclasses.replace(base, steps=count)) for count in counts or STEPS]
    return found if words else [row for row in found if _is_possible(config, row.request)]


def _is_possible(config: Config, request: SampleConfig) -> bool:
    try:
        resolve.resolve_process(config, request)
    except UserError:
        return False
    return True


def _number(word: str, low: float, high: float) -> float:
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise UserError(
            f"The values name {word!r}: write numbers from {low:g} to {high:g}, with commas between.", code="bad-value"
        )
    return value
