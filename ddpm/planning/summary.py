"""Describes a request in words, in one normal form, and estimates how long it takes."""

import dataclasses
from collections.abc import Sequence

from ddpm import formatting
from ddpm.config.quality import QualityConfig
from ddpm.config.tasks import EvalConfig, SampleConfig, SolverBenchmarkConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import durations, guidance, matrix_rows, resolve, solver_grid, timesteps
from ddpm.planning.durations import Estimate
from ddpm.planning.matrix_rows import Row
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
    method += f", eta {formatting.number(sample.eta)}" if normal.sampler == "ddim" and sample.eta else ""
    scale = guidance.scale_of(config.model, sample)
    method += f", guidance {formatting.number(scale)}" if scale != 1 else ""
    seed = f"seed {sample.seed}" + (f" to {sample.to_seed}" if sample.task == "interpolate" else "")
    parts = [
        "" if sample.task == "draw" else sample.task.capitalize(),
        formatting.plural(sample.num_samples, "image"),
        method,
        "" if sample.task == "invert" else seed,
        sample.classes.replace(",", ", "),
    ]
    return " · ".join(part for part in parts if part)


QUICKLY = 90.0  # seconds that what is asked for at first takes at most: two minutes, with some room


def sampling_cost(run: Run, config: Config, sample: SampleConfig) -> str:
    """Describes the cost of a request: 50 model evaluations per image · about 12 s."""
    evaluations = f"{formatting.plural(resolve.resolve_process(config, sample).nfe, 'model evaluation')} per image"
    return f"{evaluations} · {estimate_sampling(run, config, sample).words}"


def estimate_sampling(run: Run, config: Config, sample: SampleConfig) -> Estimate:
    """Estimates how long a request takes."""
    nfe = resolve.resolve_process(config, sample).nfe * guidance.passes(config.model, sample)
    batch = min(sample.batch_size or sample.num_samples, sample.num_samples)
    return durations.estimate(run, config, "samples", nfe * sample.num_samples, batch)


def estimate_evaluation(run: Run, config: Config, evaluation: EvalConfig) -> Estimate:
    """Estimates how long an evaluation takes, at most."""
    count = evaluation.num_samples * len(timesteps.timesteps(config, evaluation))
    return durations.estimate(run, config, "evaluations", count, evaluation.rows)


def estimate_benchmark(run: Run, config: Config, settings: SolverBenchmarkConfig) -> Estimate:
    """Estimates how long a comparison of samplers takes."""
    each = solver_grid.total_evaluations(solver_grid.grid_cells(config, settings)[0], settings)
    batch = min(settings.batch_size, settings.num_samples)
    return durations.estimate(run, config, "frontiers", each * settings.num_samples, batch)


def estimate_trajectory(run: Run, config: Config, sample: SampleConfig) -> Estimate:
    """Estimates how long the trajectory of one image takes."""
    nfe = resolve.resolve_process(config, sample).nfe * guidance.passes(config.model, sample)
    return durations.estimate(run, config, "microscopes", nfe, 1)


def estimate_matrix(run: Run, config: Config, rows: Sequence[Row]) -> Estimate:
    """Estimates how long a matrix of samples takes."""
    found = [estimate_sampling(run, config, row.request) for row in rows]
    start = durations.pace(run, config, "samples", rows[0].request.num_samples).start
    return found[0]._replace(seconds=start + sum(one.seconds - start for one in found))


COMPARING = 60.0  # seconds that the figures of 2,000 samples take on two cores, with up to 10,000 reference images


def estimate_quality(run: Run, config: Config, settings: QualityConfig) -> Estimate:
    """Estimates how long an evaluation of sample quality takes: the sampling, and the comparison with real images."""
    comparing = COMPARING * (1 + settings.num_samples / 2000) / 2
    if settings.samples:
        return Estimate(comparing, "")
    steps = 0 if settings.timestep_respacing else settings.steps
    request = SampleConfig(**{name: getattr(settings, name) for name in matrix_rows.SHARED}, steps=steps)
    found = estimate_sampling(run, config, request)
    return found._replace(seconds=found.seconds + comparing)


def first_evaluation(run: Run, config: Config, base: EvalConfig) -> EvalConfig:
    """An evaluation for a first look: as many images as `QUICKLY` allows, of all timesteps if it does."""
    T = len(timesteps.timesteps(config, base))
    respacings = ["", *(str(count) for count in (250, 100, 25, 10) if count < T)]
    choices = [
        dataclasses.replace(base, num_samples=count, timestep_respacing=respacing)
        for respacing in respacings
        for count in (100, 50, 20, 10)
    ]
    return durations.first_that_fits([(one, estimate_evaluation(run, config, one).seconds) for one in choices], QUICKLY)


def first_benchmark(run: Run, config: Config, base: SolverBenchmarkConfig) -> SolverBenchmarkConfig:
    """A comparison of samplers for a first look, with as many images and numbers of steps as `QUICKLY` allows."""
    choices = [
        dataclasses.replace(base, num_samples=count, calls=calls)
        for calls in (base.calls, "5,10,20")
        for count in (16, 8, 4)
    ]
    choices += [dataclasses.replace(choices[-1], num_samples=count) for count in (2, 1)]
    return durations.first_that_fits([(one, estimate_benchmark(run, config, one).seconds) for one in choices], QUICKLY)
