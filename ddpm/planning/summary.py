"""Describes a request in words, in one normal form, and estimates how long it takes."""

import dataclasses
from collections.abc import Sequence

from ddpm import formatting
from ddpm.config.tasks import EvalConfig, SampleConfig, SolverBenchmarkConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import resolve, solver_grid, timesteps
from ddpm.runs.results import EvaluationJob
from ddpm.runs.runs import Run
from ddpm.solvers import SOLVERS


def normal_form(sample: SampleConfig) -> SampleConfig:
    """Rewrites a request with this program's settings: sampler for use_ddim, variance for sigma_small."""
    try:
        name = timesteps.solver(sample)
    except UserError:  # of a file that was written by hand
        name = sample.sampler if sample.sampler in SOLVERS else "ddim"
    variance = sample.variance
    if sample.sigma_small is not None and variance == "auto":
        variance = "fixed_small" if sample.sigma_small else "fixed_large"
    return dataclasses.replace(sample, sampler=name, use_ddim=False, variance=variance, sigma_small=None)


def describe(config: Config, sample: SampleConfig) -> str:
    """Describes a request in one line: 16 images · DDIM, 50 NFE · seed 0."""
    unguided = dataclasses.replace(
        sample, guidance_scale=1.0
    )  # the count is the same, also for a model without classes
    try:
        evaluations = resolve.resolve_process(config, unguided).nfe
    except UserError:
        evaluations = 0
    normal = normal_form(sample)
    method = f"{SOLVERS[normal.sampler].label}, {evaluations} NFE"
    method += f", eta {sample.eta:g}" if normal.sampler == "ddim" and sample.eta else ""
    method += f", guidance {sample.guidance_scale:g}" if sample.guidance_scale != 1 else ""
    seed = f"seed {sample.seed}" + (f" to {sample.to_seed}" if sample.task == "interpolate" else "")
    parts = [
        "" if sample.task == "draw" else sample.task.capitalize(),
        formatting.plural(sample.num_samples, "image"),
        method,
        "" if sample.task == "invert" else seed,
        sample.classes.replace(",", ", "),
    ]
    return " · ".join(part for part in parts if part)


RECENT = 20  # sampling jobs whose speed is looked at


def sampling_cost(run: Run, config: Config, sample: SampleConfig) -> str:
    """Describes the cost of a request: 50 model evaluations per image · about 12 s, estimated from the last one."""
    evaluations = f"{formatting.plural(resolve.resolve_process(config, sample).nfe, 'model evaluation')} per image"
    seconds = estimate_sampling_seconds(run, config, sample)
    if seconds is None:
        return evaluations
    return f"{evaluations} · about {formatting.duration(seconds)}, estimated from an earlier run"


def estimate_sampling_seconds(run: Run, config: Config, sample: SampleConfig) -> float | None:
    """Estimates the seconds a request takes from the speed of an earlier one of the same run;
    None where there is none.
    """
    for job in run.sample_jobs()[:RECENT]:
        status, before = job.status(), job.sample_config
        if status and before and status.state == "finished" and status.steps_per_second:
            batch = job.settings.get("drawn_at_once") or before.batch_size or before.num_samples
            evaluations = status.steps_per_second * min(batch, before.num_samples) * _evaluations_per_step(before)
            nfe = resolve.resolve_process(config, sample).nfe * _evaluations_per_step(sample)
            return nfe * sample.num_samples / evaluations
    return None


def _evaluations_per_step(sample: SampleConfig) -> int:
    """Model evaluations per denoising step: two with guidance, with and without the class."""
    return 1 if sample.guidance_scale in (0, 1) else 2


def estimate_evaluation_seconds(jobs: Sequence[EvaluationJob], config: Config, evaluation: EvalConfig) -> float | None:
    """Estimates the most seconds an evaluation takes from the speed of an earlier one of the same run,
    if there is one.
    """
    for job in jobs:
        result = job.result
        if result and result["seconds"] > 0:
            seconds_per_evaluation = result["seconds"] / (result["pictures"] * result["timesteps"])
            return seconds_per_evaluation * evaluation.num_samples * len(timesteps.timesteps(config, evaluation))
    return None


def estimate_benchmark_seconds(run: Run, config: Config, settings: SolverBenchmarkConfig) -> float | None:
    """Estimates the seconds a comparison of samplers takes, from an earlier one or from the run's sampling speed."""
    evaluations = (
        solver_grid.total_evaluations(solver_grid.grid_cells(config, settings)[0], settings) * settings.num_samples
    )
    for job in run.solver_benchmark_jobs()[:RECENT]:
        if pace := job.result.get("pace"):
            return evaluations * pace["median"]
    for sampling in run.sample_jobs()[:RECENT]:
        status = sampling.status()
        if status and status.state == "finished" and status.steps_per_second:
            batch = sampling.settings.get("drawn_at_once") or sampling.config.batch_size or 1
            return evaluations / (status.steps_per_second * min(batch, sampling.config.num_samples))
    return None
