"""How long a task is said to take: from jobs like it on this machine, from the training, and before there is any."""

import dataclasses
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddpm.config.presets import PRESETS
from ddpm.config.tasks import EvalConfig, SampleConfig, SolverBenchmarkConfig
from ddpm.planning import architecture, durations, solver_grid, summary, timesteps
from ddpm.runs.jobs import Status
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.storage import files
from pages.ui.results import training_cost

BEGAN = "20260102-030405"


@pytest.fixture
def run(fake_run: Callable[..., Run]) -> Run:
    return fake_run("shapes", diffusion_steps=1000, class_cond=True, cond_drop_prob=0.1, num_classes=3)


def ended(folder: Path, lasted: float, host: str = platform.node(), **status: object) -> None:
    began = time.mktime(time.strptime(folder.name[:15], "%Y%m%d-%H%M%S"))
    found = Status("finished", pid=1, host=host, updated_at=began + lasted, **status)  # type: ignore[arg-type]
    files.write_json(folder / "status.json", dataclasses.asdict(found))


def sampled(
    run: Run, name: str = BEGAN, batch: int = 16, speed: float = 10.0, host: str = platform.node()
) -> SampleJob:
    """16 images of 10 evaluations, in `speed` evaluations of a batch a second, after 3 seconds of loading."""
    job = SampleJob(run.folder / "samples" / name)
    sample = dataclasses.asdict(SampleConfig(num_samples=16, sampler="ddim", steps=10, guidance_scale=1.0))
    files.write_json(job.folder / "settings.json", {"sample": sample, "drawn_at_once": batch})
    count = 10 * 16 // batch
    ended(job.folder, 3 + count / speed, host, step=count, total_steps=count, steps_per_second=speed)
    return job


def estimated(run: Run, **settings: object) -> durations.Estimate:
    asked: dict[str, Any] = {"num_samples": 16, "sampler": "ddim", "steps": 10, "guidance_scale": 1.0, **settings}
    sample = SampleConfig(**asked)
    return summary.estimate_sampling(run, run.config, sample)


def test_the_same_again_takes_as_long(run: Run) -> None:
    sampled(run)
    assert estimated(run) == (pytest.approx(4.0), "samples")
    assert estimated(run, steps=20).seconds == pytest.approx(5.0)
    assert estimated(run, num_samples=64, batch_size=16).seconds == pytest.approx(7.0)
    assert estimated(run, guidance_scale=3.0).seconds == pytest.approx(5.0)  # two evaluations a step


def test_a_job_of_about_the_same_batch_size_is_taken(run: Run) -> None:
    sampled(run, batch=16, speed=10)  # 160 images a second
    sampled(run, "20260103-030405", batch=1, speed=40)
    assert estimated(run, batch_size=1).seconds == pytest.approx(3 + 160 / 40)
    assert estimated(run, batch_size=16).seconds == pytest.approx(4.0)


def test_jobs_of_other_machines_and_unfinished_ones_say_nothing(run: Run) -> None:
    sampled(run, host="elsewhere")
    job = sampled(run, "20260103-030405")
    status = dataclasses.replace(job.status(), state="stopped")  # type: ignore[type-var]
    files.write_json(job.folder / "status.json", dataclasses.asdict(status))
    assert estimated(run).source == "network"


def test_there_is_an_estimate_before_the_first_job(run: Run) -> None:
    first = estimated(run)
    operations = architecture.flops(run.config.model) * 160
    expected = durations.START + operations / (durations.SHARE * durations.operations_per_second())
    assert first == (pytest.approx(expected), "network")
    assert "a first guess" in first.words
    trained = dataclasses.replace(run.status(), host=platform.node(), steps_per_second=5.0)  # type: ignore[type-var]
    files.write_json(run.folder / "status.json", dataclasses.asdict(trained))
    batch = run.config.train.batch_size
    assert estimated(run) == (pytest.approx(durations.START + 160 / (5.0 * batch * 3)), "training")


def test_other_kinds_of_jobs_do_before_there_is_one_of_the_kind(run: Run) -> None:
    sampled(run)
    found = summary.estimate_evaluation(run, run.config, EvalConfig(num_samples=2))
    assert found == (pytest.approx(3 + 2 * 1000 / 160), "samples")
    folder = run.folder / "evaluations" / BEGAN
    result = dict(
        bits_per_dim=3.0,
        ci95=0.1,
        prior=0.0,
        vb_quarters=[1.0] * 4,
        pictures=10,
        timesteps=1000,
        data=dict(data_dir="shapes", part="train"),
        seconds=20.0,
        ended="all",
    )
    files.write_json(folder / "result.json", result)
    files.write_json(folder / "settings.json", {"evaluation": dataclasses.asdict(EvalConfig())})
    ended(folder, 26.0)
    found = summary.estimate_evaluation(run, run.config, EvalConfig(num_samples=2))
    assert found == (pytest.approx(6 + 2 * 1000 * 0.002), "evaluations")


def test_what_another_kind_of_job_says_is_corrected(run: Run) -> None:
    job = sampled(run)
    status = dataclasses.replace(job.status(), computed="on cpu, in bf16 by native kernels")  # type: ignore[type-var]
    files.write_json(job.folder / "status.json", dataclasses.asdict(status))
    found = durations.pace(run, run.config, "evaluations", 64)
    assert found.seconds == pytest.approx(durations.SLOWER / 160)  # they take fp32
    found = durations.pace(run, run.config, "frontiers", 1)  # with a call for every image
    assert found.seconds == pytest.approx(durations.SLOWER / 160 + durations.CALL * (1 - 1 / 16))


def test_comparisons_and_trajectories_take_as_long_as_the_last(run: Run) -> None:
    folder = run.folder / "frontiers" / BEGAN
    settings = SolverBenchmarkConfig(num_samples=4, batch_size=16)
    files.write_json(folder / "settings.json", {"frontier": dataclasses.asdict(settings)})
    rows = [dict(solver="ddim", spacing="uniform", flip="", asked=5, calls=5, seconds=0.1, distance=1.0, mean=1.0)]
    pace = dict(median=0.01, low=0.01, high=0.01)
    files.write_json(folder / "result.json", dict(rows=rows, pace=pace, seconds=8.0, ended="all"))
    ended(folder, 11.0, step=20, total_steps=20)
    found = durations.pace(run, run.config, "frontiers", 4)
    assert (found.seconds, found.start) == (pytest.approx(8 / 80), pytest.approx(3.0))  # all of it, for 80 images


@pytest.mark.parametrize("speed", [0.05, 1.0, 20.0, 1000.0])
def test_what_is_asked_for_at_first_ends_within_two_minutes(run: Run, speed: float) -> None:
    sampled(run, speed=speed)
    evaluation = summary.first_evaluation(run, run.config, EvalConfig())
    benchmark = summary.first_benchmark(run, run.config, SolverBenchmarkConfig(solvers="ddim,heun"))
    longest = [
        summary.estimate_evaluation(run, run.config, evaluation).seconds,
        summary.estimate_benchmark(run, run.config, benchmark).seconds,
    ]
    if speed >= 1:
        assert max(longest) <= summary.QUICKLY
    else:  # nothing is as quick: the least is asked for
        assert len(timesteps.timesteps(run.config, evaluation)) == 10
        assert benchmark.num_samples == 1
    assert solver_grid.grid_cells(run.config, benchmark)[0]
    if speed == 1000:
        assert (evaluation.num_samples, evaluation.timestep_respacing, benchmark.num_samples) == (100, "", 16)


def test_a_step_takes_as_many_operations_as_three_passes_of_its_batch() -> None:
    quick, long = (PRESETS[name].config for name in ("quick-start", "cifar10-paper"))
    operations = 3 * 16 * architecture.flops(quick.model)
    expected = operations / (durations.SHARE * durations.operations_per_second())
    assert durations.guess_step(quick) == pytest.approx(expected)
    assert durations.guess_step(quick) < training_cost.LONG < durations.guess_step(long)


def test_a_result_of_another_version_is_no_measure(run: Run) -> None:
    folder = run.folder / "frontiers" / BEGAN
    files.write_json(folder / "settings.json", {"frontier": {"solvers": "none-such"}})
    files.write_json(folder / "result.json", {"rows": [{"solver": "none-such"}]})
    ended(folder, 11.0, step=20, total_steps=20)
    assert durations.pace(run, run.config, "frontiers", 4).kind == "network"
