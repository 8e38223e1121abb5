"""What a budget of CPU time buys: presets are trained for as many steps as it pays for, and their samples measured.

for progress in measure(QualityBenchmarkConfig(budget="20m"), Path("runs")):
    print(progress.doing)
result = progress.result

How many steps that is, is measured first, of all presets in turn, so that what else the machine does meanwhile changes
nothing.  Each training is a run, and each measurement a result of it, in processes of their own: a benchmark that was
ended goes on from there when it is started again.
"""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ddpm import formatting
from ddpm.bench.processes import BenchmarkProcess
from ddpm.config import codec
from ddpm.config.benchmarks import QualityBenchmarkConfig
from ddpm.config.presets import PRESETS
from ddpm.config.quality import QualityConfig
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.errors import UserError
from ddpm.planning import guidance
from ddpm.runs import launch, progress_log, results, runs
from ddpm.runs.jobs import ACTIVE, Job
from ddpm.runs.results import QualityJob
from ddpm.runs.runs import Run

ROUNDS = 12  # training steps of each preset that are timed, in turn
POLL = 0.5  # seconds between two looks at a process
STARTING = 300.0  # seconds to wait for a process to begin
TRAINING = 0.8  # of the progress of a preset; the rest is its samples


class Progress(NamedTuple):
    """Thousandths of the work that are done, and what is being done."""

    done: int
    total: int
    doing: str
    result: dict[str, Any] | None = None  # at the end


def measure(settings: QualityBenchmarkConfig, runs_dir: Path) -> Iterator[Progress]:
    """Trains and measures each preset; yields progress, and with the last record the result.

    Raises UserError for a budget or a preset that there is not, for data that cannot be read, where the budget does
    not pay for a step, and where a process fails.
    """
    settings, budget = codec.with_absolute_paths(settings), formatting.seconds_of(settings.budget)
    configs = {name: _config(name, settings) for name in _names(settings)}
    found = {name: _run_of(name, settings, runs_dir) for name in configs}
    costs: dict[str, float] = {}
    if not all(found.values()):
        yield Progress(0, 1000, "Measuring training steps")
        costs = measure_costs(configs)
    rows = []
    for number, (name, config) in enumerate(configs.items()):

        def progress(share: float, doing: str, name: str = name, number: int = number) -> Progress:
            return Progress(int(1000 * (number + share) / len(configs)), 1000, f"{name}: {doing}")

        run = found[name] or _create(name, config, budget, costs[name], settings, runs_dir)
        if not run.is_complete():
            if run.state() not in ACTIVE:
                launch.start_training(run)
            for share in _followed(run):
                yield progress(TRAINING * share, "training")
        job = _measured(run, settings) or launch.start_result(run, "qualities", _quality(settings, run))
        if not job.result:
            if job.state() not in ACTIVE:
                launch.resume_quality(job)
            for share in _followed(job):
                yield progress(TRAINING + (1 - TRAINING) * share, "measuring samples")
        rows.append(_row(name, run, job, budget))
    yield Progress(1000, 1000, "", {"budget": settings.budget, "data_dir": settings.data_dir, "rows": rows})


def measure_costs(configs: dict[str, Config]) -> dict[str, float]:
    """Measures the CPU seconds of a training step of each of these settings, of all threads, taking turns."""
    processes = {name: BenchmarkProcess(config) for name, config in configs.items()}
    try:
        for process in processes.values():
            process.request("time_steps", 3)  # the first ones also allocate
        seconds: dict[str, list[float]] = {name: [] for name in processes}
        for _ in range(ROUNDS):
            for name, process in processes.items():
                seconds[name].append(process.request("cpu_step"))
    finally:
        for process in processes.values():
            process.__exit__(None, None, None)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _names(settings: QualityBenchmarkConfig) -> list[str]:
    """The presets that are named.  Raises UserError for one that there is not, and for none."""
    names = list(dict.fromkeys(name.strip() for name in settings.presets.split(",") if name.strip()))
    unknown = [name for name in names if name not in PRESETS]
    if unknown or not names:
        raise UserError(
            f"--presets is {settings.presets!r}, and {', '.join(unknown) or 'that'} is none: choose among"
            f" {', '.join(PRESETS)}.",
            code="bad-value",
        )
    return names


def _config(name: str, settings: QualityBenchmarkConfig) -> Config:
    changes = {"data_dir": settings.data_dir, "seed": settings.seed, "threads": settings.threads}
    return datasets.resolve(codec.replace(PRESETS[name].config, changes))


def run_name(preset: str, settings: QualityBenchmarkConfig) -> str:
    """The name of the run of a preset, the same for the same budget and seed."""
    return f"quality-{preset}-{''.join(settings.budget.split()).lower()}-seed{settings.seed}"


def _run_of(preset: str, settings: QualityBenchmarkConfig, runs_dir: Path) -> Run | None:
    """The run of an earlier benchmark, finished or not.  Raises UserError for one of that name with other settings."""
    run = Run(runs_dir / run_name(preset, settings))
    if not (run.folder / "config.json").exists():
        return None
    wanted = codec.replace(_config(preset, settings), _paced(run.config.train.total_steps))
    if codec.to_json(run.config) != codec.to_json(wanted):
        raise UserError(
            f"{run.name} was trained with other settings, on {run.config.data.data_dir}: give another --seed, or delete"
            f" it with `{run.shell('runs', 'delete')}`.",
            code="already-exists",
        )
    return run


def _create(
    preset: str, config: Config, budget: float, cost: float, settings: QualityBenchmarkConfig, runs_dir: Path
) -> Run:
    """Creates the run that a budget pays for.  Raises UserError where that is not a step after the warm-up."""
    steps = int(budget / cost)
    least = config.train.lr_warmup_steps
    if steps <= least:
        raise UserError(
            f"A budget of {settings.budget} pays for {formatting.plural(steps, 'step')} of {preset}, and its learning"
            f" rate rises over {least}: give at least {formatting.duration(2 * (least + 1) * cost)}.",
            code="bad-value",
        )
    return runs.create_run(runs_dir, run_name(preset, settings), codec.replace(config, _paced(steps)))


def _paced(steps: int) -> dict[str, int]:
    """Settings that follow from the number of steps: what is saved is the last, and previews are five."""
    return {"total_steps": steps, "save_interval": max(1, steps // 4), "sample_interval": max(1, steps // 5)}


def _quality(settings: QualityBenchmarkConfig, run: Run) -> QualityConfig:
    return QualityConfig(
        num_samples=settings.num_samples,
        steps=settings.steps,
        guidance_scale=settings.guidance_scale if guidance.is_supported(run.config.model) else 1.0,
        seed=settings.seed,
        threads=settings.threads,
    )


def _measured(run: Run, settings: QualityBenchmarkConfig) -> QualityJob | None:
    """The newest measurement of these samples, whether it has ended or not; None if there is none."""
    jobs = (job for job in run.results("qualities") if job.config == _quality(settings, run))
    return next(jobs, None)


def _followed(job: Job) -> Iterator[float]:
    """Yields the share that is done until the process of a job has ended.

    It is asked to stop where this ends earlier.  Raises UserError if it failed or was stopped.
    """
    try:
        while (state := job.state()) in ACTIVE or (state == "lost" and _may_still_start(job)):
            status = job.status()
            total = status.total_steps if status else 0
            yield status.step / total if status and total else 0.0
            time.sleep(POLL)
    finally:
        if job.state() in ACTIVE:
            launch.stop(job)
    if state != "finished":
        status = job.status()
        why = f" ({status.message.rstrip('.')})" if status and status.message else ""
        raise UserError(
            f"{job.folder} is {state}{why}: start the benchmark again to go on.",
            code="process-failed",
        )


def _may_still_start(job: Job) -> bool:
    """Whether the process has been started lately and not yet been heard of: a busy machine takes its time."""
    status = job.status()
    return status is not None and not status.pid and abs(status.age) < STARTING


def _row(preset: str, run: Run, job: QualityJob, budget: float) -> dict[str, Any]:
    """The figures of a preset."""
    last = progress_log.row_before(run.progress_path)
    figures = next(row["figures"] for row in job.result["rows"] if row["name"] == "samples")
    steps = run.config.train.total_steps
    return {
        "preset": preset,
        "run": str(run.folder),
        "steps": steps,
        "images": int(last.get("samples") or 0),
        "cpu_seconds_per_step": budget / steps,
        "memory_mb": last.get("memory_mb"),
        "held_out": {name: value for name, value in last.items() if progress_log.is_of_held_out(name)},
        "figures": figures,
        "about": job.result["about"],
        "grid": str(job.grid),
    }


def table(result: dict[str, Any], markdown: bool = False) -> str:
    """The figures of all presets as a table, with what they were measured with under it."""
    heads = [
        "preset",
        "steps",
        "images",
        "CPU s a step",
        "memory",
        "held-out loss (quarters of t)",
        "guidance",
        "distance",
        "at infinite n",
    ]
    body = []
    for row in result["rows"]:
        held_out, figures = row["held_out"], row["figures"]
        quarters = ", ".join(formatting.number(held_out.get(f"eval_mse_q{k}"), 3) for k in range(4))
        memory = row["memory_mb"]
        body.append(
            [
                row["preset"],
                formatting.number(row["steps"]),
                formatting.number(row["images"]),
                formatting.number(row["cpu_seconds_per_step"], 3),
                "–" if memory is None else formatting.memory(memory * 1e6),
                f"{formatting.number(held_out.get('eval_mse'), 3)} ({quarters})",
                formatting.number(row["about"]["guidance_scale"], 3),
                results.quality_text(figures["fd"]),
                results.quality_text(figures["fd_infinity"]),
            ]
        )
    about = result["rows"][0]["about"]
    lines = [
        formatting.table(heads, body, markdown),
        "",
        f"Distances are {about['features']}, of {formatting.plural(about['n'], 'sample')} with"
        f" {formatting.plural(about['nfe'], 'model evaluation')} each from {about['reference_count']:,} images of"
        f" {about['data_dir']} ({about['part']}).",
        *(f"{row['preset']}: {row['grid']}" for row in result["rows"]),
    ]
    return "\n".join(lines)
