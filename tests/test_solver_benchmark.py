"""The benchmark of solvers, with a network whose exact answer is known: data from a Gaussian."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from raising import raises_error
from torch import Tensor

from ddpm import schedules
from ddpm.analysis import solver_benchmark
from ddpm.checkpoints import checkpoint_files
from ddpm.cli import main
from ddpm.config import codec
from ddpm.config.tasks import SolverBenchmarkConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.models.unet import build
from ddpm.planning import solver_grid
from ddpm.planning.resolve import ResolvedSampling
from ddpm.planning.solver_grid import GridResult, SolverVariant
from ddpm.reports.contact_sheet import SHOWN, Sheet
from ddpm.runs.jobs import Job
from ddpm.runs.results import SolverBenchmarkJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.sampling import engine
from ddpm.sampling.request import resolve_request
from ddpm.solvers import SOLVERS
from ddpm.spacings import SPACINGS
from ddpm.storage import files

MEAN, STD = 0.1, 0.2  # of every pixel of the data: hardly ever out of range
CONVERGING = solver_grid.CONVERGED_CALLS + solver_grid.CHECK_CALLS
EXACT = ",".join(name for name, row in SOLVERS.items() if row.exact)


@pytest.fixture
def gaussian(tiny: Config) -> Config:
    return codec.replace(tiny, dict(diffusion_steps=1000, prediction="x_start"))


def exact(config: Config) -> Callable[..., Tensor]:
    """A network that predicts E[x_0 | x_t] for pixels ~ N(MEAN, STD^2)."""
    curve = schedules.named(config.diffusion.noise_schedule, config.diffusion.diffusion_steps).curve

    def network(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        a = torch.from_numpy(curve.abar(t.double().numpy())).reshape(-1, 1, 1, 1)
        return (MEAN + a.sqrt() * STD**2 / (a * STD**2 + 1 - a) * (x - a.sqrt() * MEAN)).float()

    return network


def measured(config: Config, **settings: object) -> list[solver_benchmark.Measured]:
    return list(solver_benchmark.measure(exact(config), config, SolverBenchmarkConfig(num_samples=4, **settings)))  # type: ignore[arg-type]


def cells_of(records: list[solver_benchmark.Measured]) -> list[GridResult]:
    return [record.result for record in records if record.result]


# --- what is measured


def test_the_converged_images_are_the_exact_ones(gaussian: Config) -> None:
    """The probability-flow ODE carries a Gaussian's quantiles: x_0 = MEAN + STD * (x_T - m) / s."""
    records = measured(gaussian, solvers="ddim", calls="2", seed=3)
    (found,) = [record.converged for record in records if record.converged]
    noise = engine.noise_for(
        resolve_request(
            gaussian,
            solver_grid.sample_of(gaussian, SolverBenchmarkConfig(seed=3), SolverVariant("ddim", "uniform"), 2),
        ),
        range(4),
    )
    start = noise.start((3, 8, 8))
    abar = schedules.named("cosine", 1000).alphas_cumprod[-1]
    expected = MEAN + STD * (start - abar**0.5 * MEAN) / (abar * STD**2 + 1 - abar) ** 0.5
    assert found.apart < 0.1
    assert float(solver_benchmark.distances(found.images, expected).max()) < 0.5


def test_distances_fall_with_the_calls(gaussian: Config) -> None:
    found = solver_grid.rows(cells_of(measured(gaussian, solvers=EXACT, spacing="logsnr", calls="7,21,63")))
    assert len(found) == len(EXACT.split(","))
    for way, by in found.items():
        distances = [by[n].distance for n in (7, 21, 63)]
        assert all(d is not None for d in distances), way
        assert distances[0] > distances[1] > distances[2], way  # type: ignore[operator]


def test_converged_images_that_are_no_numbers_are_said(gaussian: Config) -> None:
    """Of weights that diverged, or unclipped of a network that amplifies: before any cell is sampled."""

    def amplifying(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        return 1e9 * x

    settings = SolverBenchmarkConfig(num_samples=4, solvers="ddim", calls="2", clip_denoised=False)
    with raises_error("not-finite"):
        list(solver_benchmark.measure(amplifying, gaussian, settings))


def test_what_adds_noise_has_no_distance_and_is_sampled_all_the_same(gaussian: Config) -> None:
    records = measured(gaussian, solvers="ddpm,dpm++2m-sde,ddim,heun", calls="5", eta=1.0, churn=20.0)
    found = cells_of(records)
    assert [cell.distance for cell in found] == [None] * 4
    assert all(cell.seconds > 0 for cell in found)
    assert not any(record.converged for record in records)
    assert records[-1].images is not None
    assert solver_grid.cheapest(found, 1e9) is None


def test_calls_made_are_reported_where_they_are_not_those_asked_for(gaussian: Config) -> None:
    (heun,) = cells_of(measured(gaussian, solvers="heun", calls="8"))
    assert (heun.asked, heun.calls) == (8, 7)
    assert solver_grid.distance_text(heun).endswith("(7 calls)")


def test_a_record_a_network_call_counts_up_to_the_total(gaussian: Config) -> None:
    asked = 0
    network = exact(gaussian)

    def counting(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return network(x, t, **condition)

    settings = SolverBenchmarkConfig(solvers="ddim,heun,unipc-3", calls="3,4", num_samples=3, batch_size=2, repeats=2)
    before = 0
    for record in solver_benchmark.measure(counting, gaussian, settings):
        assert record.done == asked
        assert record.done - before in (0, 1)
        before = record.done
    assert record.last
    assert before == record.total == 2 * (CONVERGING + 2 * (3 + 4 + 3 + 3 + 3 + 4))


def test_repeats_time_again_and_the_median_counts(gaussian: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(np.arange(1e6))
    monkeypatch.setattr(solver_benchmark.time, "perf_counter", lambda: float(next(ticks)))
    found = cells_of(measured(gaussian, solvers="ddim", calls="5", repeats=3))
    assert [cell.seconds for cell in found] == [5 / 4] * 3  # a tick a call, four images
    assert len({cell.distance for cell in found}) == 1


def test_images_depend_neither_on_batches_nor_on_repeats(gaussian: Config) -> None:
    one = measured(gaussian, solvers="dpm++2m", calls="6")[-1]
    other = measured(gaussian, solvers="dpm++2m", calls="6", batch_size=3, repeats=2)[-1]
    assert one.images is not None
    assert other.images is not None
    assert torch.equal(one.images, other.images)


def test_a_setting_the_other_way_round_is_a_row_of_its_own(gaussian: Config) -> None:
    records = measured(gaussian, solvers="ddim", calls="10", flips="all")
    found = {cell.flip: cell for cell in cells_of(records)}
    assert set(found) == {"", *solver_grid.FLIPS}
    assert [record.converged.clip for record in records if record.converged] == [True, False]
    assert len({cell.distance for cell in found.values()}) >= 3
    assert found["analytic_first_step"].calls == 10


def test_the_pace_is_the_middle_of_the_calls() -> None:
    assert solver_benchmark.pace([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert solver_benchmark.pace([float(k) for k in range(101)]) == (50.0, 10.0, 90.0)


def test_the_distance_is_in_levels_of_what_is_shown() -> None:
    zero = torch.zeros(2, 3, 4, 4)
    assert solver_benchmark.distances(zero, zero + 1 / 127.5).tolist() == pytest.approx([1.0, 1.0])
    assert solver_benchmark.distances(zero + 1, zero + 5).tolist() == [0, 0]


# --- which cells


def test_all_is_compared_unless_named() -> None:
    assert [way.solver for way in solver_grid.variants(SolverBenchmarkConfig())] == list(SOLVERS)
    assert {way.spacing for way in solver_grid.variants(SolverBenchmarkConfig(spacing="all", solvers="ddim"))} == set(
        SPACINGS
    )
    assert solver_grid.evaluation_counts(SolverBenchmarkConfig(calls="20, 5,5")) == [5, 20]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (dict(solvers="ddim,euler"), ("bad-value", "solvers", "'euler'", "ddpm, ddim")),
        (dict(spacing="cosine"), ("bad-value", "spacing", "'cosine'")),
        (dict(flips="eta"), ("bad-value", "flips", "'eta'")),
        (dict(calls="5,x"), ("bad-value", "'5,x'")),
        (dict(calls=" "), ("missing-value", "calls")),
        (dict(calls="100000000"), ("out-of-range", "calls")),
        (dict(timestep_respacing="50"), ("conflicting-settings", "timestep_respacing '50'")),
        (dict(calls="1001", solvers="ddim", spacing="uniform"), ("impossible-steps",)),
    ],
)
def test_what_cannot_be_compared_is_reported(gaussian: Config, settings: dict, error: tuple[Any, ...]) -> None:
    with raises_error(*error):
        measured(gaussian, **settings)


def test_impossible_cells_are_left_out(gaussian: Config) -> None:
    found, left = solver_grid.grid_cells(
        gaussian, SolverBenchmarkConfig(calls="5,2000", solvers="ddim", spacing="uniform")
    )
    assert [place.asked for place in found] == [5]
    assert [(out.asked, out.why[:10]) for out in left] == [(2000, "steps 2000")]


CELLS = [
    GridResult("ddim", "uniform", "", 5, 5, 0.1, 20.0),
    GridResult("ddim", "uniform", "", 10, 10, 0.2, 8.04),
    GridResult("heun", "karras", "", 10, 9, 0.18, 0.5),
    GridResult("ddpm", "uniform", "", 10, 10, 0.2, None),
]


def test_the_cheapest_within_a_tolerance_is_the_closest_of_those() -> None:
    assert solver_grid.cheapest(CELLS, 10) == CELLS[2]
    assert solver_grid.cheapest(CELLS, 20) == CELLS[0]
    assert solver_grid.cheapest(CELLS, 0.1) is None


def test_tables_of_the_cells() -> None:
    assert solver_grid.table(CELLS, markdown=True).splitlines() == [
        "| sampler, spacing | 5 calls | 10 calls |",
        "| --- | ---: | ---: |",
        "| DDIM, uniform | 20.0 | 8.0 |",
        "| Heun, karras | – | 0.5 (9 calls) |",
        "| DDPM, uniform | – | random |",
        "| seconds per image | 0.1 | 0.2 |",
    ]
    plain = solver_grid.table(CELLS).splitlines()
    assert plain[1] == "DDIM, uniform         20.0            8.0"
    assert solver_grid.to_csv(CELLS).decode().splitlines()[4] == "ddpm,uniform,,10,10,0.2,,"
    assert solver_grid.from_json({"rows": [cell._asdict() for cell in CELLS]}) == CELLS


# --- the sheet


def test_the_sheet_has_a_place_for_every_cell(tmp_path: Path) -> None:
    ways = [SolverVariant("ddim", "uniform"), SolverVariant("heun", "karras")]
    sheet = Sheet(ways, [5, 10], "a title")
    sheet.save(tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    shades = np.full((6, 32, 32, 3), 7, np.uint8)
    sheet.add(CELLS[1], shades)
    sheet.add_converged(ways[0], shades + 1, "200 calls")
    sheet.save(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels == 7).all(axis=-1).sum() == (pixels == 8).all(axis=-1).sum() == SHOWN * 64 * 64
    assert pixels.shape[0] > 2 * 2 * 64
    assert pixels.shape[1] > 3 * 2 * 64
    assert (pixels.min(axis=-1) < 60).any(axis=0).sum() > 100  # something is written on it


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [8, 64, 200])
def test_images_of_any_kind_fit_on_it(tmp_path: Path, channels: int, size: int) -> None:
    sheet = Sheet([SolverVariant("ddim", "uniform")], [5])
    sheet.add(CELLS[0], np.zeros((2, size, size, channels), np.uint8))
    sheet.save(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.height > 64


# --- the job


def compare(folder: Path, config: Config, stop_after: int = 10**9, **settings: object) -> SolverBenchmarkJob:
    wanted = SolverBenchmarkConfig(num_samples=4, **settings)  # type: ignore[arg-type]
    with Worker(folder) as worker:
        for record in solver_benchmark.compare_into(folder, worker, exact(config), config, wanted, {"command": "ddpm"}):
            if record.done == stop_after:
                Job(folder).request("stop")
    return SolverBenchmarkJob(folder)


def test_a_job_leaves_result_and_sheet(gaussian: Config, tmp_path: Path) -> None:
    job = compare(tmp_path / "job", gaussian, solvers="ddpm,unipc-3", calls="5,10")
    assert job.state() == "finished"
    result = job.result
    assert result["ended"] == "all"
    assert [(cell.solver, cell.asked, cell.distance is None) for cell in solver_grid.from_json(result)] == [
        ("ddpm", 5, True),
        ("unipc-3", 5, False),
        ("ddpm", 10, True),
        ("unipc-3", 10, False),
    ]
    assert job.config == SolverBenchmarkConfig(num_samples=4, solvers="ddpm,unipc-3", calls="5,10")
    assert job.sheet.exists()
    assert "4 images each" in solver_grid.about(result)
    assert result["pace"]["low"] <= result["pace"]["median"] <= result["pace"]["high"]
    with raises_error("already-exists"):
        compare(tmp_path / "job", gaussian, calls="5")


def test_stopping_keeps_the_rows_and_takes_one_call_at_most(gaussian: Config, tmp_path: Path) -> None:
    after = CONVERGING + 5 + 3
    job = compare(tmp_path / "job", gaussian, after, solvers="ddim,unipc-3", calls="5,10")
    assert job.state() == "stopped"
    status = job.status()
    assert status is not None
    assert status.step == after
    assert status.message == "Stopped with 1 of 4 cells measured"
    assert [row["solver"] for row in job.result["rows"]] == ["ddim"]
    assert job.result["ended"] == "stopped"
    assert job.sheet.exists()


def test_a_failure_keeps_the_rows(gaussian: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = engine.sample

    def failing(network: Any, resolved: ResolvedSampling, *more: Any) -> object:
        if resolved.solver == "unipc-3" and resolved.nfe == 10:
            raise UserError("The sun was in my eyes.", code="out-of-memory")
        return real(network, resolved, *more)

    monkeypatch.setattr(engine, "sample", failing)
    with raises_error("out-of-memory", "The sun"):
        compare(tmp_path / "job", gaussian, solvers="ddim,unipc-3", calls="5,10")
    job = SolverBenchmarkJob(tmp_path / "job")
    assert job.state() == "failed"
    assert (len(job.result["rows"]), job.result["ended"]) == (3, "failed")


@pytest.fixture
def trained(fake_run: Callable[..., Run], tiny: Config) -> Run:
    """A run with a checkpoint of a network that never learned anything."""
    run = fake_run("small", steps=1, save_every=2)
    tensors = build(run.config.model).state_dict()
    checkpoint_files.save(run, 1, {"model": tensors, "ema_0.9": tensors}, None, {}, 0, 1.0)
    return run


def test_the_command_prints_a_table_and_takes_it_home(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solver_grid, "CONVERGED_CALLS", 20)
    monkeypatch.setattr(solver_grid, "CHECK_CALLS", 10)
    out, copy = tmp_path / "out", tmp_path / "copy.json"
    source = ["bench", "samplers", "--run", "small", "--runs_dir", str(trained.folder.parent)]
    options = ["--solvers", "ddim,heun", "--calls", "3,5", "--num_samples", "2", "--out", str(out), "--json", str(copy)]
    assert main.main([*source, *options, "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert "| sampler, spacing | 3 calls | 5 calls |" in printed
    assert printed.splitlines()[-1] == str(out)
    result = json.loads(copy.read_text())
    assert result == {**SolverBenchmarkJob(out).result, "folder": str(out)}
    assert result["checkpoint"]["weights"] == "ema_0.9"
    assert result["command"].startswith("ddpm bench samplers --model_path ")
    with raises_error("bad-value", "'euler'"):
        main.execute([*source, "--solvers", "euler", "--out", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_a_sample_of_a_cell_is_what_the_form_would_sample(gaussian: Config) -> None:
    settings = SolverBenchmarkConfig(seed=4, num_samples=2, classes="")
    sample = solver_grid.sample_of(gaussian, settings, SolverVariant("unipc-3", "logsnr", "clip_denoised"), 10)
    assert (sample.sampler, sample.steps, sample.spacing, sample.clip_denoised) == ("unipc-3", 10, "logsnr", False)
    assert dataclasses.replace(sample, clip_denoised=True) == solver_grid.sample_of(
        gaussian, settings, SolverVariant("unipc-3", "logsnr"), 10
    )
    assert files.TEMPORARY not in sample.sampler
