"""A run folder that the version before wrote opens, resumes, is sampled from again, and is shown.

tests/data/run_before.tar.xz holds `runs/before`, which was stopped at step 8 of 12, with the results of every task, and
`expected`: the weights and the log of that version after it had resumed the run itself.  The run lay in /home/me/runs.
All but 4 of its 32 channels are zero, where training leaves them, so that the archive is small.
"""

import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from app_page import open_page
from openpyxl import load_workbook
from PIL import Image

from ddpm.cli import main
from ddpm.config.tasks import TASKS
from ddpm.runs import runs
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.storage import images

ARCHIVE = Path(__file__).parent / "data" / "run_before.tar.xz"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `runs/before` and `expected`, which is also the working directory."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDPM_RUNS", str(tmp_path / "runs"))
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Run:
    return runs.find_run(folder / "runs", "before")


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def vector(state: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([tensor.double().flatten() for tensor in state.values()]).numpy()


def learning(state: dict[str, torch.Tensor]) -> np.ndarray:
    """All but the biases in front of a norm whose groups have one channel, which takes them away again.

    Their gradient is nothing but rounding, and AdamW makes steps of it that are as long as any.
    """
    unseen = ("in_layers.2.bias", "out_layers.3.bias", "skip_connection.bias")
    return vector({name: tensor for name, tensor in state.items() if not name.endswith(unseen)})


def pixels(paths: list[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]).astype(int)


def test_everything_in_it_is_found(run: Run) -> None:
    assert (run.config.model.image_size, run.config.train.total_steps, run.config.train.seed) == (8, 12, 3)
    assert run.state() == "stopped"
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [4, 8]
    assert run.checkpoint().weights == ["ema_0.9", "model"]
    assert [step for step, _ in run.previews()] == [4, 8]
    assert list(run.metrics["step"]) == list(range(1, 9))
    jobs = run.sample_jobs()
    assert sorted(job.config.task for job in jobs) == sorted(TASKS)
    assert {job.shape for job in jobs} == {(2, 8, 8, 3)}
    assert [job.state() for kind in ("evaluations", "frontiers", "microscopes") for job in run.results(kind)] == (
        ["finished"] * 3
    )
    (evaluation,) = run.evaluation_jobs()
    assert evaluation.result["bits_per_dim"] > 0
    assert {name: row.shape for name, row in evaluation.terms().items()} == dict.fromkeys(
        ("vb", "mse", "xstart_mse"), (4,)
    )


def test_it_is_listed_and_exported(run: Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["runs"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "before" in line]
    assert "stopped" in line
    assert main.main(["export", "before", "--xlsx", "results.xlsx"]) == 0
    book = load_workbook(folder / "results.xlsx")
    header, *rows = book["Metrics"].iter_rows(values_only=True)
    assert [row[header.index("step")] for row in rows] == list(range(1, 9))
    _, *saved = book["Checkpoints"].iter_rows(values_only=True)
    assert [row[0] for row in saved if isinstance(row[0], int)] == [4, 8]


def test_it_resumes_where_it_stopped(run: Run, folder: Path) -> None:
    """Every step equals that of the version before: the same images, timesteps, noise, dropout and optimiser state."""
    start = learning(weights(run.checkpoint(8).path("model")))
    assert main.main(["train", "--resume", "before"]) == 0
    assert Run(run.folder).state() == "finished"
    for name in ("model000012.pt", "ema_0.9_000012.pt"):
        ours, theirs = weights(run.folder / name), weights(folder / "expected" / name)
        assert list(ours) == list(theirs)
        moved = np.linalg.norm(learning(theirs) - start)
        assert np.linalg.norm(learning(ours) - learning(theirs)) <= 1e-3 * moved, (
            name
        )  # as processors round differently
    with (folder / "expected" / "progress.csv").open() as file:
        expected = list(csv.DictReader(file))
    assert list(run.metrics["step"]) == [int(row["step"]) for row in expected]
    for column in ("loss", "vb", "grad_norm"):
        found = run.metrics[column].to_numpy()
        assert found == pytest.approx([float(row[column]) for row in expected], rel=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_images_are_sampled_again_from_their_settings(run: Run, task: str, folder: Path) -> None:
    (job,) = [job for job in run.sample_jobs() if job.config.task == task]
    image = job.folder / "given" / "00000.png"
    inputs = ["--picture", str(image)] if image.exists() else []  # the run is not where it was
    inputs += ["--mask", str(job.mask)] if job.mask.exists() else []
    weights_used = job.settings["checkpoint"]
    for k, path in enumerate(job.images):
        known = images.settings_in(path)
        assert known
        assert known["checkpoint"]["sha256"] == weights_used["sha256"]
        file = run.checkpoint(weights_used["step"]).path(weights_used["weights"])
        out = folder / f"again{k}"
        command = ["sample", "--like", str(path), "--model_path", str(file), "--out", str(out), *inputs]
        assert main.main(command) == 0
        again = SampleJob(out)
        assert json.loads((out / "settings.json").read_text())["sample"]["task"] == task
        expected = job.images if task == "interpolate" else [path]  # which depends on both of its ends
        assert np.abs(pixels(again.images) - pixels(expected)).max() <= 1  # processors round differently


def test_pages_show_it(run: Run) -> None:
    monitor = open_page("pages/monitor.py", run="before")
    assert {m.label: m.value for m in monitor.metric}["Loss"] == f"{run.metrics['loss'].iloc[-1]:.4g}"
    for page in ("sample", "evaluate", "explore"):
        open_page(f"pages/{page}.py", run="before")
