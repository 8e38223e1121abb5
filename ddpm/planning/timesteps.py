"""The timesteps of a request, and the model evaluations an image takes over them.  No torch."""

from collections.abc import Iterator

import numpy as np

from ddpm import schedules
from ddpm.config.tasks import FEW_STEPS, FromCheckpoint, SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.solvers import SOLVERS, Solver
from ddpm.spacings import SPACINGS

REPAINTERS = ("ddpm", "ddim")  # samplers that forget the last step, so that one can go back and repeat it


def solver(sample: SampleConfig) -> str:
    """Resolves the solver, a row of SOLVERS.  Raises UserError where settings contradict each other."""
    if sample.use_ddim and sample.sampler not in ("auto", "ddim"):
        raise UserError(
            f"use_ddim is True and sampler is {sample.sampler}, which contradict each other: leave one of them out.",
            code="conflicting-settings",
        )
    repaint = sample.task == "inpaint"
    if repaint and sample.sampler not in ("auto", *REPAINTERS):
        raise UserError(
            f"inpaint goes back and repeats steps, which {SOLVERS[sample.sampler].label} remembers: use"
            f" {' or '.join(REPAINTERS)} as sampler.",
            code="not-applicable",
        )
    if sample.task == "invert" and (sample.sampler not in ("auto", "ddim") or sample.eta):
        raise UserError(
            f"invert follows DDIM without noise back, and sampler is {sample.sampler} with eta {sample.eta:g}: use"
            " ddim, and eta 0.",
            code="conflicting-settings",
        )
    if sample.sampler != "auto":
        return sample.sampler
    if sample.use_ddim or sample.task == "invert":
        return "ddim"
    return FEW_STEPS if sample.steps and not repaint else "ddpm"


def usual(task: str, name: str) -> str:
    """Returns the default spacing of a solver; for inversion, uniform timesteps reconstruct best by far."""
    return "uniform" if task == "invert" else SOLVERS[name].spacing


def points(row: Solver, calls: int, to_zero: bool = True, spared: bool = False) -> int:
    """Returns the most timesteps that can be visited with `calls` model evaluations.

    to_zero: the last step ends at the clean image, and not at the last timestep, which then takes no evaluation.
    spared: the first step takes no evaluation.
    """
    calls += spared
    if row.warm_up and (calls > 1 or not to_zero):  # a single step to the clean image is one evaluation
        calls -= row.warm_up
    if row.calls == 2:
        return (calls + 1) // 2 if to_zero else calls // 2 + 1
    return calls + (not to_zero)


def timesteps(config: Config, wanted: FromCheckpoint) -> list[int] | list[float]:
    """Resolves the timesteps of the full process that a request visits, increasing; int where all are whole.

    Raises UserError for what the process cannot give, and for settings that contradict each other.
    """
    kept = _learnt(config, _spread(config, wanted))
    if isinstance(wanted, SampleConfig) and len(kept) == 1:
        for name in ("denoise_to_zero", "analytic_first_step"):
            if getattr(wanted, name) is (name == "analytic_first_step"):
                more = "ask for more steps, or " if config.diffusion.diffusion_steps > 1 else ""
                raise UserError(
                    f"{name} is {getattr(wanted, name)}, and a single timestep leaves no model evaluation for it:"
                    f" {more}leave it out.",
                    code="not-applicable",
                )
    return kept


def _learnt(config: Config, wanted: list[int] | list[float]) -> list[int] | list[float]:
    """The timesteps nearest to those wanted, increasing, that a network was trained with: all but with respacing.

    Raises UserError for more than there are.
    """
    if not config.diffusion.timestep_respacing:
        return wanted
    known = schedules.space_timesteps(config.diffusion.diffusion_steps, config.diffusion.timestep_respacing)
    if set(wanted) <= set(known):
        return wanted
    if len(wanted) > len(known):
        raise UserError(
            f"{len(wanted)} timesteps are wanted, and this model was trained with {len(known)} (timestep_respacing"
            f" {config.diffusion.timestep_respacing}): ask for fewer steps, or for none, which visits all of these.",
            code="impossible-steps",
        )
    places = np.abs(np.subtract.outer(wanted, known)).argmin(axis=1).tolist()
    for k in range(1, len(places)):  # two that are nearest to the same one take one each
        places[k] = max(places[k], places[k - 1] + 1)
    for k in range(len(places)):
        places[k] = min(places[k], len(known) - len(places) + k)
    return [known[place] for place in places]


def _spread(config: Config, wanted: FromCheckpoint) -> list[int] | list[float]:
    sample = wanted if isinstance(wanted, SampleConfig) else None
    T = config.diffusion.diffusion_steps
    last = _last(T, sample)
    if sample:
        check(sample)
    if sample and sample.task == "vary" and not last:
        if T == 1:
            raise UserError(
                "The process has a single timestep, and vary begins at an earlier one than the last: use another model,"
                " or another task.",
                code="not-applicable",
            )
        least = max(0.05, (50 // (T - 1) + 1) / 100)  # half a timestep is rounded to none
        raise UserError(
            f"strength {sample.strength:g} adds no noise, so the image would stay as it is: use {least:g} or more.",
            code="impossible-steps",
        )
    if not sample or not sample.steps:
        spec = wanted.timestep_respacing or config.diffusion.timestep_respacing
        spaced = [t for t in schedules.space_timesteps(T, spec) if t <= last]
        known = not config.diffusion.timestep_respacing  # else the network has learnt no others
        begins = known and sample is not None and sample.task == "vary" and spaced[-1:] != [last]  # at its strength
        return [*spaced, last] if begins or not spaced else spaced
    row = SOLVERS[solver(sample)]

    def count_of(steps: int) -> int:
        return points(row, steps, sample.denoise_to_zero, sample.analytic_first_step)

    count = count_of(sample.steps)
    if last and count < 1 + (not sample.denoise_to_zero):
        raise UserError(
            f"steps {sample.steps} are too few for {row.label} without denoise_to_zero: ask for at least"
            f" {sample.steps + 1}.",
            code="impossible-steps",
        )
    if count == 1 or (not last and (sample.analytic_first_step or not sample.denoise_to_zero)):
        return [last]  # which leaves them no model evaluation: `timesteps` raises the error
    if not last:
        raise UserError(
            f"steps {sample.steps} cannot be spread over a single timestep: ask for 1.", code="impossible-steps"
        )
    spacing = usual(sample.task, solver(sample)) if sample.spacing == "auto" else sample.spacing
    if SPACINGS[spacing].whole and count > last + 1:
        most = max((n for n in range(1, sample.steps) if count_of(n) <= last + 1), default=0)
        fewer = f"ask for at most {most}, or for" if most else "ask for"
        raise UserError(
            f"steps {sample.steps} cannot be spread over {last + 1} whole timesteps: {fewer} the spacing logsnr, which"
            " goes between them.",
            code="impossible-steps",
        )
    kept = SPACINGS[spacing].spread(config.diffusion.full_schedule().curve, count, last)
    return [int(t) for t in kept] if all(t == int(t) for t in kept) else kept


def check_typed(sample: SampleConfig) -> None:
    """As `check`, of a request that is made now: raises UserError for an eta that would do nothing, too.

    Earlier versions recorded such requests, which can be finished and repeated.
    """
    check(sample)
    name = solver(sample)
    if sample.eta and "eta" not in SOLVERS[name].takes:
        raise UserError(
            f"eta {sample.eta:g} is for DDIM, and the sampler is {SOLVERS[name].label}: leave it at 0, or use ddim as"
            " sampler.",
            code="not-applicable",
        )


def check(sample: SampleConfig) -> None:
    """Raises UserError for settings that contradict each other, whatever the model."""
    name = solver(sample)
    if sample.churn and "churn" not in SOLVERS[name].takes:
        heun = "" if sample.use_ddim or sample.task in ("inpaint", "invert") else ", or use heun as sampler"
        raise UserError(
            f"churn {sample.churn:g} is for Heun, and the sampler is {SOLVERS[name].label}: leave it at 0{heun}.",
            code="not-applicable",
        )
    if sample.dynamic_threshold and not sample.clip_denoised:
        raise UserError(
            f"dynamic_threshold {sample.dynamic_threshold:g} is a way to clip, and clip_denoised is False: leave one of"
            " them out.",
            code="conflicting-settings",
        )
    if sample.spacing != "auto" and not sample.steps:
        say = "leave it out" if sample.timestep_respacing else "say how many with steps, or leave it out"
        raise UserError(
            f"spacing {sample.spacing} spreads as many steps as steps says, and it says none: {say}.",
            code="missing-value",
        )
    if sample.steps and sample.timestep_respacing:
        raise UserError(
            f"steps {sample.steps} and timestep_respacing {sample.timestep_respacing!r} both say which timesteps to"
            " visit: leave one of them out.",
            code="conflicting-settings",
        )
    if sample.analytic_first_step and sample.task not in ("draw", "interpolate"):
        raise UserError(
            f"analytic_first_step is for pure noise, and {sample.task} begins with an image: leave it out.",
            code="not-applicable",
        )
    if not sample.denoise_to_zero and sample.task in ("inpaint", "invert"):
        raise UserError(
            f"denoise_to_zero is False, and {sample.task} has to end at a clean image: leave it out.",
            code="not-applicable",
        )


def _last(T: int, sample: SampleConfig | None) -> int:
    """Returns the noisiest timestep; for the task vary, the one of its strength."""
    return round(sample.strength * (T - 1)) if sample and sample.task == "vary" else T - 1


def model_evaluations(count: int, wanted: FromCheckpoint) -> int:
    """Counts the model evaluations (NFE) that an image takes over `count` timesteps."""
    if not isinstance(wanted, SampleConfig):
        return count
    if wanted.task == "inpaint":
        return sum(move < 0 for move in repaint_moves(count, wanted.jump, wanted.resample))
    if wanted.task == "invert":
        return 2 * count
    row = SOLVERS[solver(wanted)]
    onwards, to_zero = count - 1, int(wanted.denoise_to_zero)  # steps that end at a timestep, and at the clean image
    return onwards * row.calls + to_zero + row.warm_up * (onwards > 0) - wanted.analytic_first_step


def repaint_moves(count: int, jump: int, resample: int) -> Iterator[int]:
    """RePaint's moves through `count` timesteps (Lugmayr et al. 2022, Appendix B): -1 denoises a step, +1 noises one.

    Every stretch of `jump` denoising steps is gone through `resample` times.
    """
    for first in range(0, count, jump):
        stretch = min(jump, count - first)
        for turn in range(resample):
            yield from [1] * stretch if turn else ()
            yield from [-1] * stretch
