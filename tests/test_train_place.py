"""A training whose folder or lock goes away, or that is killed when all is done."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from raising import raises_error
from tiny import MODEL_FLAGS
from waiting import PATIENCE, until

from ddpm.cli import main
from ddpm.runs import jobs, launch, runs
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.storage import files, processes

ROOT = Path(__file__).resolve().parents[1]
FLAGS = [*MODEL_FLAGS, "--data_dir", "shapes", "--batch_size", "2", "--sample_interval", "0", "--threads", "1"]
FLAGS += ["--kernels", "torch", "--ema_rate", "0.9"]

pytestmark = pytest.mark.skipif(not processes.LINUX, reason="signals, and folders that can be moved while in use")


@contextmanager
def training(runs_dir: Path, steps: int, *flags: str, before: str = "") -> Iterator[tuple[Run, subprocess.Popen[str]]]:
    """A training in a process of its own, which does something `before`."""
    code = f"{before}\nimport sys; from ddpm.cli import main; sys.exit(main.main(sys.argv[1:]))"
    words = ["train", *FLAGS, "--total_steps", str(steps), "--run", "r", "--runs_dir", str(runs_dir), *flags]
    process = subprocess.Popen([sys.executable, "-c", code, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        yield Run(runs_dir / "r"), process
    finally:
        process.kill()
        process.communicate()


def trained(run: Run, process: subprocess.Popen[str]) -> None:
    """Returns once it has made a few steps."""
    until(lambda: ((status := run.status()) and status.step > 3) or process.poll() is not None)
    assert process.poll() is None


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in a folder, with the times of change."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.mark.slow
def test_a_training_whose_folder_is_moved_is_saved_there_and_goes_on(tmp_path: Path) -> None:
    with training(tmp_path, 1_000_000) as (run, process):
        trained(run, process)
        moved = Run(tmp_path / "moved")
        run.folder.rename(moved.folder)
        assert process.wait(PATIENCE) == 0
    assert not run.folder.exists()
    status = moved.status()
    assert status
    assert (moved.state(), moved.checkpoint().step) == ("stopped", status.step)
    assert str(moved.folder) in status.warning
    moved.save_config(dataclasses.replace(moved.config, train=dataclasses.replace(
        moved.config.train, total_steps=status.step + 2)))  # fmt: skip
    assert main.main(["train", "--resume", "moved", "--runs_dir", str(tmp_path)]) == 0
    assert moved.checkpoint().step == status.step + 2


@pytest.mark.slow
def test_a_training_whose_lock_is_removed_saves_and_ends(tmp_path: Path) -> None:
    with training(tmp_path, 1_000_000) as (run, process):
        trained(run, process)
        (run.folder / "run.lock").unlink()
        with raises_error("still-running"):
            launch.start_training(run)
        assert process.wait(PATIENCE) == 0
    status = run.status()
    assert status
    assert (run.state(), run.checkpoint().step) == ("stopped", status.step)


@pytest.mark.slow
def test_a_training_whose_folder_is_deleted_ends(tmp_path: Path) -> None:
    with training(tmp_path, 1_000_000, "--save_interval", "5") as (run, process):
        trained(run, process)
        while run.folder.exists():
            subprocess.run(["rm", "-rf", str(run.folder)], check=False, stderr=subprocess.DEVNULL)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2
    assert "deleted" in said
    assert "Traceback" not in said
    assert not run.folder.exists()


KILLED = """
import os, signal
from ddpm.training import loop
loop.TrainingLoop._end_finished = lambda self: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_training_that_was_killed_when_all_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with training(tmp_path, 6, before=KILLED) as (run, process):
        assert process.wait(PATIENCE) == -signal.SIGKILL
    before, status = content(run.folder), run.status()
    assert status
    assert status.state not in jobs.FINAL
    assert run.state() == "finished"
    assert main.main(["runs", "--runs_dir", str(tmp_path)]) == 0
    assert "6/6" in capsys.readouterr().out
    assert main.main(["train", "--resume", "r", "--runs_dir", str(tmp_path)]) == 0
    assert "6 steps" in capsys.readouterr().out
    assert main.main(["train", "--resume", "r", "--runs_dir", str(tmp_path), "--json", "True"]) == 0
    assert '"nothing-left"' in capsys.readouterr().out
    with raises_error("nothing-left", 6):
        launch.start_training(run)
    assert content(run.folder) == before


def test_a_run_that_an_earlier_version_reset_is_finished(tmp_path: Path) -> None:
    """Resume wrote "starting" into the status of a finished run, and its process had nothing to do."""
    assert main.main(["example", "--runs_dir", str(tmp_path)]) == 0
    run = runs.find_run(tmp_path, "example")
    old = {"state": "starting", "step": 0, "total_steps": 3000, "updated_at": 1.0, "pid": 0}
    files.write_json(run.folder / "status.json", old)
    assert run.state() == "finished"
    status = run.status()
    assert status
    assert jobs.settled(status, run.state()).step == 3000


SAMPLED = """
import os, signal
from ddpm.sampling import job
job._report_end = lambda writer, opened: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_sampling_that_was_killed_when_all_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["example", "--runs_dir", str(tmp_path)]) == 0
    job = SampleJob(tmp_path / "samples")
    words = ["sample", "--run", "example", "--runs_dir", str(tmp_path), "--num_samples", "2", "--steps", "2"]
    code = f"{SAMPLED}\nimport sys; from ddpm.cli import main; sys.exit(main.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *words, "--kernels", "torch", "--out", str(job.folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert job.state() == "finished"
    before = content(job.folder)
    capsys.readouterr()
    assert main.main(["sample", "--resume", str(job.folder)]) == 0
    assert "2 images" in capsys.readouterr().out
    with raises_error("nothing-left", 2):
        launch.resume_sampling(job)
    assert content(job.folder) == before
