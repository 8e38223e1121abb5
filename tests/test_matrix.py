"""A matrix of samples: rows that differ in one setting, from the same noise, as one labelled sheet."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from app_page import button, open_page, said
from PIL import Image

from ddpm.cli import main
from ddpm.config import codec
from ddpm.config.matrix import MatrixConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import matrix_rows
from ddpm.reports import matrix_sheet
from ddpm.runs.results import MatrixJob
from ddpm.runs.runs import Run
from ddpm.storage import arrays


@pytest.fixture
def trained(tiny: Config, runs_dir: Path) -> Run:
    """A run of two steps, whose weights can be loaded."""
    flags = codec.to_flags(codec.replace(tiny, {"total_steps": 2, "save_interval": 2}))
    assert main.main(["train", *flags, "--run", "one", "--runs_dir", str(runs_dir)]) == 0
    return Run(runs_dir / "one")


pytestmark = pytest.mark.usefixtures("runs_here")


def labels(run: Run, **settings: object) -> list[str]:
    rows = matrix_rows.rows(run.config, run.checkpoints(), MatrixConfig(**settings))  # type: ignore[arg-type]
    same = dict(weights="", step=0, guidance_scale=1.0, steps=1)
    assert len({dataclasses.replace(row.request, **same) for row in rows}) == 1  # type: ignore[arg-type]
    return [row.label for row in rows]


def test_the_rows_differ_in_one_setting(fake_run: Callable[..., Run]) -> None:
    run = fake_run("shapes", steps=80, save_every=20, class_cond=True, num_classes=3, cond_drop_prob=0.1)
    assert labels(run, across="weights") == ["EMA 0.9", "EMA 0.99", "raw weights"]
    assert labels(run, across="weights", values="model") == ["raw weights"]
    (row,) = matrix_rows.rows(run.config, run.checkpoints(), MatrixConfig(across="weights", values="model"))
    assert row.request.step == run.checkpoint().step, "a training may save another meanwhile"
    assert labels(run, across="checkpoint") == ["step 20", "step 40", "step 60", "step 80"]
    assert labels(run, across="checkpoint", values="40, 80") == ["step 40", "step 80"]
    assert labels(run, across="guidance", values="1,2.5") == ["guidance 1", "guidance 2.5"]
    assert labels(run, across="steps", values="3,5") == ["3 NFE", "5 NFE"]
    assert labels(run, across="steps")[0] == "2 NFE"


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        (dict(across="weights", values="ema_0.5"), "missing-weights"),
        (dict(across="checkpoint", values="30"), "unknown-step"),
        (dict(across="checkpoint", values="first"), "bad-value"),
        (dict(across="guidance", values="nan"), "bad-value"),
        (dict(across="steps", values="0"), "bad-value"),
        (dict(across="steps", values=",".join(map(str, range(1, 40)))), "bad-value"),
        (dict(across="steps", timestep_respacing="10"), "conflicting-settings"),
    ],
)
def test_values_that_there_are_not(settings: dict, code: str, fake_run: Callable[..., Run]) -> None:
    run = fake_run("shapes", class_cond=True, num_classes=3, cond_drop_prob=0.1)
    with pytest.raises(UserError) as refused:
        labels(run, **settings)
    assert refused.value.code == code


def test_guidance_needs_a_model_that_can_be_guided(fake_run: Callable[..., Run]) -> None:
    with pytest.raises(UserError):
        labels(fake_run("plain"), across="guidance")


def test_a_sheet_has_each_image_in_its_place() -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1).repeat(8, 2).repeat(8, 3).repeat(3, 4) * 40
    picture = matrix_sheet.sheet(["one", "two", "not yet"], ["0", "1", "a very long name of a class"], pixels)
    found = np.asarray(picture)
    for level in (40, 80, 120, 160, 200):
        assert (found == level).all(axis=2).sum() >= 64 * 64  # 8 pixels enlarged to 64
    assert picture.width < 400


@pytest.mark.usefixtures("one_thread")
def test_rows_begin_with_the_same_noise(trained: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = ["--run", "one", "--runs_dir", str(trained.folder.parent)]
    flags = ["--across", "steps", "--values", "2,2,4", "--num_samples", "2", "--precision", "fp32"]
    assert main.main(["matrix", *where, *flags]) == 0
    (job,) = trained.results("matrices")
    assert isinstance(job, MatrixJob)
    assert capsys.readouterr().out.strip().endswith(str(job.folder))
    assert job.result["rows"] == ["2 NFE", "2 NFE", "4 NFE"]
    with job.open_file(job.arrays) as file:
        found = arrays.read_npz(file)["arr_0"]
    assert found.shape[:2] == (3, 2)
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()
    assert (found[0, 0] != found[0, 1]).any()
    assert Image.open(job.sheet).width > 2 * 64
    status = job.status()
    assert status is not None
    assert (status.state, status.step, status.total_steps) == ("finished", 8, 8)
    assert "--values 2,2,4" in job.command
    out = tmp_path / "weights"
    assert (
        main.main(["matrix", *where, "--across", "weights", "--num_samples", "1", "--steps", "2", "--out", str(out)])
        == 0
    )
    assert MatrixJob(out).result["rows"] == ["EMA 0.9", "EMA 0.99", "raw weights"]


def test_the_tab_shows_the_rows_and_starts_it(fake_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    fake_run("shapes", class_cond=True, num_classes=3, cond_drop_prob=0.1)
    started: list[list[str]] = []
    monkeypatch.setattr("ddpm.runs.launch._spawn", lambda job, arguments: started.append(list(arguments)))
    at = open_page("pages/explore.py")
    at.button_group(key="explore_part").set_value(":material/grid_on: Matrix").run()
    at.selectbox(key="matrix.across").set_value("guidance").run()
    at.text_input(key="matrix.values").set_value("1,x").run()
    assert button(at, "Sample the matrix").disabled
    at.text_input(key="matrix.values").set_value("1,2,4").run()
    assert "guidance 1, guidance 2, guidance 4" in said(at)
    assert "Takes about" in said(at)
    button(at, "Sample the matrix").click().run()
    assert not at.exception, at.exception
    assert started[0][0] == "matrix"
    assert started[0][started[0].index("--values") + 1] == "1,2,4"
