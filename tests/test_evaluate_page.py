"""The Evaluate page without a browser."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from app_page import button, open_page, plain, said
from PIL import Image
from streamlit.testing.v1 import AppTest

from ddpm.config import codec
from ddpm.config.tasks import EvalConfig
from ddpm.reports import downloads
from ddpm.runs import launch
from ddpm.runs.jobs import Status
from ddpm.runs.results import EvaluationJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import files
from pages.ui.components import study_figures

pytestmark = pytest.mark.usefixtures("runs_here")


def figure(at: AppTest) -> dict:
    found = [json.loads(element.proto.json) for element in at.get("bidi_component")]
    return json.loads(next(chart["data"]["figure"] for chart in found if "figure" in (chart.get("data") or {})))


def evaluated(
    run: Run, name: str = "20260102-030405", state: str = "finished", mean: float = 3.4123, **more: object
) -> EvaluationJob:
    """A folder as `ddpm nll` leaves it."""
    job = EvaluationJob(run.folder / "evaluations" / name)
    about = dict(
        evaluation=EvalConfig(num_samples=10).__dict__,
        data=dict(data_dir="shapes", part="train", count=5000),
        checkpoint=dict(step=40, weights="ema_0.9"),
        command="ddpm nll --model_path ema.pt",
    )
    files.write_json(job.folder / "settings.json", about)
    if state == "finished":
        for k, term in enumerate(job.TERMS):
            packed = io.BytesIO()
            np.savez(packed, np.linspace(0.01, 1.0 + k, 20))
            files.write_bytes(job.terms_path(term), packed.getvalue())
        found = dict(
            bits_per_dim=mean,
            ci95=0.021,
            prior=1e-4,
            vb_quarters=[3.0, 0.2, 0.1, 0.05],
            pictures=10,
            timesteps=20,
            asked=10,
            ended="all",
            seconds=5.0,
        )
        files.write_json(job.folder / "result.json", {**found, **about, **more})
    message = "" if state == "finished" else "The sun was in my eyes."
    files.write_json(job.folder / "status.json", Status(state, step=9, total_steps=9, message=message, pid=1).__dict__)  # type: ignore[arg-type]
    return job


def test_without_a_run_evaluate_offers_the_example(runs_dir: Path) -> None:
    at = open_page("pages/evaluate.py")
    assert list(runs_dir.iterdir()) == [], "a page that is looked at creates nothing"
    at.button(key="use_example").click().run()
    assert [path.name for path in runs_dir.iterdir() if path.name[0] != "."] == ["example"]
    assert "This is the included example model" in said(at)


def test_a_run_without_checkpoint_says_so(fake_run: Callable[..., Run]) -> None:
    fake_run("young", steps=5)
    assert "has no checkpoint yet, and an evaluation needs one" in said(open_page("pages/evaluate.py"))


def test_start_measures_what_the_form_says(fake_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[EvalConfig] = []
    monkeypatch.setattr("ddpm.runs.launch.start_evaluation", lambda run, e: asked.append(e) or evaluated(run))
    fake_run("shapes", hold_out=0.2)
    at = open_page("pages/evaluate.py")
    assert "measure how well the model fits a set of images" in said(at)
    assert "1,000 images not seen in training" in said(at)
    at.selectbox(key="evaluate.step").set_value(20)
    at.button_group(key="evaluate.weights").set_value("model")
    at.button_group(key="evaluate.split").set_value("train")
    at.number_input(key="evaluate.num_samples").set_value(12)
    assert (at.number_input(key="evaluate.until_ci").value, at.number_input(key="evaluate.until_ci").placeholder) == (
        None,
        "Never",
    )
    at.number_input(key="evaluate.until_ci").set_value(0.05)
    at.number_input(key="evaluate.rows").set_value(20).run()
    assert "4,000 images for training" in said(at)
    assert "--until_ci 0.05" in said(at)
    button(at, "Start").click().run()
    assert asked == [EvalConfig(weights="model", step=20, split="train", num_samples=12, until_ci=0.05, rows=20)]
    assert "3.412 ± 0.021" in {m.label: m.value for m in at.metric}["Bits per dimension"]


def test_what_cannot_be_measured_is_reported_before_the_start(fake_run: Callable[..., Run], tmp_path: Path) -> None:
    fake_run("shapes", class_cond=True, num_classes=1, class_names=("circle",))
    at = open_page("pages/evaluate.py")
    at.selectbox(key="evaluate.source").set_value("cifar10-mini").run()
    assert "classes that the model does not know" in said(at)
    assert button(at, "Start").disabled
    at.selectbox(key="evaluate.source").set_value("path").run()
    assert button(at, "Start").disabled
    at.text_input(key="evaluate.path").set_value(str(tmp_path / "nowhere")).run()
    assert "There is no folder or file" in said(at)
    at.text_input(key="evaluate.timestep_respacing").set_value("99").run()
    assert "asks for 99 steps" in said(at)


def test_images_smaller_than_the_model_are_enlarged_when_asked(fake_run: Callable[..., Run], tmp_path: Path) -> None:
    fake_run("shapes")
    Image.new("RGB", (7, 6)).save(tmp_path / "1.png")
    at = open_page("pages/evaluate.py")
    at.selectbox(key="evaluate.source").set_value("path").run()
    at.text_input(key="evaluate.path").set_value(str(tmp_path)).run()
    assert "only 7 x 6 pixels, and the model's image size is 8" in said(at)
    assert button(at, "Start").disabled
    at.toggle(key="evaluate.enlarge").set_value(True).run()
    assert not button(at, "Start").disabled
    assert "--enlarge True" in said(at)


def test_a_result_is_shown_explained_and_taken_home(fake_run: Callable[..., Run]) -> None:
    job = evaluated(fake_run("shapes"))
    at = open_page("pages/evaluate.py")
    shown = {m.label: m.value for m in at.metric}
    assert shown["Bits per dimension"] == "3.412 ± 0.021"
    assert (shown["Images"], shown["Timesteps"]) == ("10", "20")
    assert "82 bytes on average; uncompressed pixels take 192" in said(at)
    assert "The model was trained on these images" in said(at)
    assert "Takes about 55 s." in said(at)  # as long as this one, and its start
    assert [plain(d.label) for d in at.get("download_button")] == [
        "vb (npz)",
        "mse (npz)",
        "xstart_mse (npz)",
        "Terms (CSV)",
        "Result (JSON)",
    ]
    assert "ddpm nll --model_path ema.pt" in said(at)
    lines = downloads.terms_csv(job).decode().splitlines()
    assert lines[0] == "t,vb,mse,xstart_mse"
    assert lines[1].startswith("0,1.0,")
    assert len(figure(at)["data"]) == 3


def test_several_are_laid_over_each_other(fake_run: Callable[..., Run]) -> None:
    run = fake_run("shapes")
    evaluated(run, "20260101-000000", mean=4.5)
    evaluated(run, "20260102-000000")
    at = open_page("pages/evaluate.py")
    assert at.multiselect[0].value == ["20260102-000000"]
    at.multiselect[0].set_value(["20260101-000000", "20260102-000000"]).run()
    assert {m.label: m.value for m in at.metric}["Bits per dimension"] == "4.500 ± 0.021"
    assert len(figure(at)["data"]) == 6
    table = at.dataframe[0].value
    assert table["Bits/dim"].tolist() == ["3.412 ± 0.021", "4.500 ± 0.021"]
    assert table["Checkpoint"].tolist() == ["step 40"] * 2


def test_one_that_failed_says_why(fake_run: Callable[..., Run]) -> None:
    evaluated(fake_run("shapes"), state="failed")
    assert "The sun was in my eyes." in said(open_page("pages/evaluate.py"))


def test_one_in_hand_shows_the_mean_so_far_and_can_be_cancelled(fake_run: Callable[..., Run]) -> None:
    job = evaluated(fake_run("shapes"), state="running")
    with Worker(job.folder) as worker:
        found = {"pictures": 4, "bits_per_dim": 3.5, "ci95": 0.2}
        worker.beat(
            state="running",
            step=3,
            total_steps=10,
            seconds_left=7.0,
            metrics=found,
            message="Measuring 10 pictures",
            now=True,
        )
        at = open_page("pages/evaluate.py")
        assert {m.label: m.value for m in at.metric}["Bits per dimension so far"] == "3.500 ± 0.200"
        assert button(at, "Start").disabled
        button(at, "Cancel").click().run()
        assert "stop" in job.requests()


def test_a_process_is_started_with_the_flags(fake_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    spawned: list[list[str]] = []
    monkeypatch.setattr(launch, "_spawn", lambda job, arguments: spawned.append(list(arguments)))
    run = fake_run("shapes")
    job = launch.start_evaluation(run, EvalConfig(num_samples=5, until_ci=0.1))
    assert job.state() == "starting"
    assert job.folder.parent == run.folder / "evaluations"
    assert spawned[0][:3] == ["nll", "--run", "shapes"]
    assert codec.to_flags(EvalConfig(num_samples=5, until_ci=0.1)) == spawned[0][5:-2]


def test_charts_of_terms_skip_what_a_log_axis_cannot_show() -> None:
    curve = study_figures.Curve("one", (0, 5, 10), {name: np.array([1.0, 0.0, 2.0]) for name in study_figures.TERMS})
    first = study_figures.terms([curve], log=True)["data"][0]
    assert (first["x"], first["y"]) == ([0, 5, 10], [1, None, 2])
    assert study_figures.terms([curve], log=False)["data"][0]["y"] == [1, 0, 2]


@pytest.mark.parametrize("damage", ["{", "[]", '{"bits_per_dim": "x"}'])
def test_a_result_that_cannot_be_read_is_named_and_stands_in_no_way(
    fake_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    run = fake_run("shapes")
    evaluated(run)
    wrong = evaluated(run, "20260102-040506")
    (wrong.folder / "result.json").write_text(damage)
    asked: list[EvalConfig] = []
    monkeypatch.setattr("ddpm.runs.launch.start_evaluation", lambda run, e: asked.append(e) or evaluated(run, "3"))
    at = open_page("pages/evaluate.py")
    assert "3.412 ± 0.021" in {m.label: m.value for m in at.metric}["Bits per dimension"]
    assert "20260102-040506" in said(at)
    button(at, "Start").click().run()
    assert len(asked) == 1
