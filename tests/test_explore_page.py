"""The Explore page without a browser."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from app_page import button, open_page, said
from streamlit.testing.v1 import AppTest

from ddpm.config import codec
from ddpm.config.tasks import SampleConfig, SolverBenchmarkConfig
from ddpm.planning import solver_grid
from ddpm.planning.solver_grid import GridResult, SolverVariant
from ddpm.reports.contact_sheet import Sheet
from ddpm.runs import launch
from ddpm.runs.jobs import Status
from ddpm.runs.results import SolverBenchmarkJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import files
from pages.ui.components import study_figures
from pages.ui.forms import sampling_form
from pages.ui.results import solver_benchmark

pytestmark = pytest.mark.usefixtures("runs_here")

CELLS = [
    GridResult("ddim", "uniform", "", 10, 10, 0.1, 9.04),
    GridResult("ddim", "uniform", "", 20, 20, 0.2, 4.0),
    GridResult("unipc-3", "logsnr", "", 10, 10, 0.11, 1.25),
    GridResult("unipc-3", "logsnr", "", 20, 20, 0.21, 0.2),
    GridResult("ddpm", "uniform", "", 10, 10, 0.1, None),
]


def compared(
    run: Run, name: str = "20260102-030405", state: str = "finished", rows: list[GridResult] = CELLS
) -> SolverBenchmarkJob:
    """A folder as `ddpm bench samplers` leaves it."""
    job = SolverBenchmarkJob(run.folder / "frontiers" / name)
    settings = SolverBenchmarkConfig(
        solvers="ddim,unipc-3,ddpm", calls="10,20", num_samples=4, spacing="uniform,logsnr", seed=7
    )
    about = dict(
        frontier=settings.__dict__,
        checkpoint=dict(step=40, weights="ema_0.9"),
        command="ddpm bench samplers --model_path ema.pt",
        machine=dict(processor="An Old One", device="cpu", threads=2, precision="fp32"),
    )
    files.write_json(job.folder / "settings.json", about)
    if rows:
        converged = dict(
            clip=True,
            calls=200,
            apart=0.01,
            most=1.0,
            solver=["unipc-2", "logsnr", ""],
            check=["dpm++2m", "karras", ""],
            check_calls=200,
            pictures=4,
        )
        found = dict(
            rows=[cell._asdict() for cell in rows],
            converged=[converged],
            left_out=[],
            pace=dict(median=0.01, low=0.009, high=0.02),
            ended="all",
            seconds=5.0,
        )
        files.write_json(job.folder / "result.json", {**found, **about})
        sheet = Sheet(
            [SolverVariant("ddim", "uniform"), SolverVariant("unipc-3", "logsnr"), SolverVariant("ddpm", "uniform")],
            [10, 20],
        )
        for cell in rows:
            sheet.add(cell, np.zeros((4, 8, 8, 3), np.uint8))
        sheet.save(job.sheet)
    message = "" if state == "finished" else "The sun was in my eyes."
    files.write_json(job.folder / "status.json", Status(state, step=9, total_steps=9, message=message, pid=1).__dict__)  # type: ignore[arg-type]
    return job


def figure(at: AppTest) -> dict:
    found = [json.loads(element.proto.json) for element in at.get("bidi_component")]
    return json.loads(next(chart["data"]["figure"] for chart in found if "figure" in (chart.get("data") or {})))


def test_without_a_run_explore_offers_the_example(runs_dir: Path) -> None:
    at = open_page("pages/explore.py")
    assert list(runs_dir.iterdir()) == [], "a page that is looked at creates nothing"
    at.button(key="use_example").click().run()
    assert [path.name for path in runs_dir.iterdir() if path.name[0] != "."] == ["example"]
    assert "This is the included example model" in said(at)


def test_a_run_without_checkpoint_says_so(fake_run: Callable[..., Run]) -> None:
    fake_run("young", steps=5)
    assert "has no checkpoint yet, and comparing samplers needs one" in said(open_page("pages/explore.py"))


def test_sample_all_compares_what_the_form_says(fake_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[SolverBenchmarkConfig] = []
    monkeypatch.setattr("ddpm.runs.launch.start_solver_benchmark", lambda run, f: asked.append(f) or compared(run))
    fake_run("shapes")
    at = open_page("pages/explore.py")
    assert "press Compare" in said(at)
    at.multiselect(key="frontier.solvers").set_value(["ddim", "unipc-3"])
    at.multiselect(key="frontier.calls").set_value([20, 10])
    at.multiselect(key="frontier.spacing").set_value(["logsnr"])
    at.multiselect(key="frontier.flips").set_value(["clip_denoised"])
    at.number_input(key="frontier.num_samples").set_value(5)
    at.number_input(key="frontier.seed").set_value(3).run()
    assert "ddpm bench samplers --run shapes" in said(at)
    assert "--flips clip_denoised" in said(at)
    button(at, "Compare").click().run()
    assert not at.exception
    assert asked == [
        SolverBenchmarkConfig(
            weights="ema_0.9",
            solvers="ddim,unipc-3",
            calls="20,10",
            spacing="logsnr",
            flips="clip_denoised",
            num_samples=5,
            seed=3,
        )
    ]
    assert "UniPC-3" in said(at)


def test_what_cannot_be_compared_is_reported_before_the_start(fake_run: Callable[..., Run]) -> None:
    fake_run("shapes", class_cond=True, num_classes=1, class_names=("circle",))
    at = open_page("pages/explore.py")
    at.multiselect(key="frontier.solvers").set_value([]).run()
    assert "No sampler is selected" in said(at)
    assert button(at, "Compare").disabled
    at.multiselect(key="frontier.solvers").set_value(["ddim"])
    at.multiselect(key="frontier.calls").set_value([]).run()
    assert "calls is empty" in said(at)
    at.multiselect(key="frontier.spacing").set_value(["uniform"])
    at.multiselect(key="frontier.calls").set_value([100]).run()
    assert "None of these samplers" in said(at)  # of 20 timesteps
    at.multiselect(key="frontier.calls").set_value([5])
    at.text_input(key="frontier.classes").set_value("square").run()
    assert "no class 'square'" in said(at)
    assert button(at, "Compare").disabled
    at.text_input(key="frontier.classes").set_value("circle").run()
    assert not button(at, "Compare").disabled


def test_the_cheapest_within_the_tolerance_is_reported_and_taken_along(
    fake_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared(fake_run("shapes"))
    taken: list[SampleConfig] = []
    real = sampling_form.fill
    monkeypatch.setattr(sampling_form, "fill", lambda config, sample: taken.append(sample) or real(config, sample))
    at = open_page("pages/explore.py")
    assert "UniPC-3, logsnr with 10 NFE: 0.11 s per image, 1.2 levels from converged." in said(at)
    assert "An Old One, 2 threads, fp32" in said(at)
    at.select_slider(key="frontier_tolerance").set_value(0.5).run()
    assert "UniPC-3, logsnr with 20 NFE" in said(at)
    at.select_slider(key="frontier_tolerance").set_value(0.1).run()
    assert "None is within the tolerance" in said(at)
    at.select_slider(key="frontier_tolerance").set_value(5.0).run()
    button(at, "Use on the Sample page").click().run()
    assert not at.exception
    (sample,) = taken
    assert (sample.sampler, sample.steps, sample.seed, sample.num_samples) == ("unipc-3", 10, 7, 4)
    assert at.title[0].value == "Sample"


def test_the_chart_has_a_line_a_way_a_star_and_the_tolerance() -> None:
    sampled = study_figures.solver_benchmark(CELLS, 2.0, CELLS[2])
    names = {trace["uid"]: trace for trace in sampled["data"]}
    assert list(names) == ["DDIM, uniform", "UniPC-3, logsnr", "best", "limit"]
    assert (names["DDIM, uniform"]["x"], names["DDIM, uniform"]["y"]) == ([0.1, 0.2], [9.04, 4])
    assert names["best"]["customdata"] == [10]
    assert names["best"]["palette"] == names["UniPC-3, logsnr"]["palette"]
    assert names["limit"]["y"] == [2.0, 2.0]
    assert sampled["layout"]["yaxis"]["type"] == sampled["layout"]["xaxis"]["type"] == "log"
    assert study_figures.solver_benchmark([], 1.0, None)["data"] == []


def test_a_result_is_shown_and_taken_home(fake_run: Callable[..., Run]) -> None:
    compared(fake_run("shapes"))
    at = open_page("pages/explore.py")
    assert [trace["name"] for trace in figure(at)["data"]][:2] == ["DDIM, uniform", "UniPC-3, logsnr"]
    assert len(at.get("image")) == 1
    assert [d.label for d in at.get("download_button")] == ["Sheet (PNG)", "Table (CSV)", "Result (JSON)"]
    assert at.dataframe[0].value["10 NFE"].tolist() == ["9.0", "1.2", "random"]
    assert "ddpm bench samplers --model_path ema.pt" in said(at)
    assert "Takes about" in said(at)


def test_an_earlier_one_is_shown_and_its_settings_used_again(fake_run: Callable[..., Run]) -> None:
    run = fake_run("shapes")
    compared(run, "20260101-000000", rows=CELLS[:2])
    compared(run)
    at = open_page("pages/explore.py")
    assert at.selectbox(key="frontier_shown").value == "20260102-030405"
    at.selectbox(key="frontier_shown").set_value("20260101-000000").run()
    assert len(figure(at)["data"]) == 2
    at.button(key="frontier_again").click().run()
    assert not at.exception
    assert at.multiselect(key="frontier.solvers").value == ["ddim", "unipc-3", "ddpm"]
    assert at.multiselect(key="frontier.spacing").value == ["uniform", "logsnr"]
    assert at.number_input(key="frontier.seed").value == 7


def test_one_that_failed_says_why(fake_run: Callable[..., Run]) -> None:
    compared(fake_run("shapes"), state="failed", rows=[])
    assert "The sun was in my eyes." in said(open_page("pages/explore.py"))


def test_one_in_hand_grows_and_can_be_cancelled(fake_run: Callable[..., Run]) -> None:
    job = compared(fake_run("shapes"), state="running", rows=CELLS[:1])
    with Worker(job.folder) as worker:
        worker.beat(state="running", step=3, total_steps=10, seconds_left=7.0, message="1 of 6 cells", now=True)
        at = open_page("pages/explore.py")
        assert len(figure(at)["data"]) == 2
        assert len(at.get("image")) == 1
        assert button(at, "Compare").disabled
        button(at, "Cancel").click().run()
        assert "stop" in job.requests()


def test_only_random_samplers_have_nothing_to_compare(fake_run: Callable[..., Run]) -> None:
    compared(fake_run("shapes"), rows=CELLS[4:])
    assert "no converged images" in said(open_page("pages/explore.py"))


def test_a_process_is_started_with_the_flags(fake_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    spawned: list[list[str]] = []
    monkeypatch.setattr(launch, "_spawn", lambda job, arguments: spawned.append(list(arguments)))
    run = fake_run("shapes")
    settings = SolverBenchmarkConfig(calls="5", seed=2)
    job = launch.start_solver_benchmark(run, settings)
    assert job.folder.parent == run.folder / "frontiers"
    assert spawned[0][:4] == ["bench", "samplers", "--run", "shapes"]
    assert codec.to_flags(settings) == spawned[0][6:-2]


def test_what_is_sampled_is_what_was_compared(fake_run: Callable[..., Run]) -> None:
    run = fake_run("shapes")
    settings = SolverBenchmarkConfig(flips="clip_denoised", num_samples=4)
    cell = GridResult("ddim", "karras", "clip_denoised", 10, 10, 0.1, 1.0)
    sampled = solver_benchmark.to_sample_config(run.config, settings, cell)
    assert (sampled.sampler, sampled.spacing, sampled.steps, sampled.clip_denoised) == ("ddim", "karras", 10, False)
    assert sampled.precision == "auto"
    assert solver_grid.cheapest([cell], 2.0) == cell
