"""Two processes, as torchrun starts them, against one: the same training, the same images, the same files."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import two_processes
from test_cli import contents, here, wait_for_step
from tiny import MODEL_FLAGS
from waiting import PATIENCE

from ddpm.checkpoints import checkpoint_files
from ddpm.compute import distributed
from ddpm.runs.runs import Run

pytestmark = pytest.mark.usefixtures("threads_afterwards")

ROOT = Path(distributed.__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
TINY = [
    "--data_dir",
    "cifar10-mini",
    *MODEL_FLAGS,
    *shlex.split("--ema_rate 0.9 --log_interval 3 --sample_interval 0 --threads 1"),
]
DRAWING = shlex.split("--num_samples 7 --batch_size 2 --use_ddim True --timestep_respacing 4 --eta 0.5 --threads 1")


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, *map(str, arguments)],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def torchrun(*arguments: str | Path, cwd: Path, code: int = 0) -> str:
    """Run in two processes; returns what they printed."""
    process = start(*arguments, cwd=cwd)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == code, said
    return said


# --- in memory


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    torchrun(ROOT / "tests" / "two_processes.py", folder, cwd=folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", two_processes.TRAININGS)
def test_two_with_a_batch_are_one_with_twice_the_batch(found: list[dict[str, Any]], name: str) -> None:
    rough = 1e-2 if name in ("bf16", "compressed") else 1e-4
    two, one = found[0][name], two_processes.train(name, 1)
    for parameter, gradient in one["gradient"].items():
        torch.testing.assert_close(
            two["gradient"][parameter], gradient, rtol=rough, atol=rough * float(gradient.norm())
        )
    for a, b in zip(two["reports"], one["reports"], strict=True):
        assert a["t"].tolist() == b["t"].tolist()
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=30 * rough)
        for part in b.keys() - {"t", "grad_norm"}:
            np.testing.assert_allclose(a[part], b[part], rtol=30 * rough, atol=rough)
    assert two["held_out"] == pytest.approx(one["held_out"], rel=30 * rough, abs=rough)
    assert two["state"]["position"] == one["state"]["position"] == 8 * two_processes.STEPS
    if name == "importance":
        history = one["state"]["timesteps"]
        assert history["counts"].min() == 10, "by the end, timesteps were sampled by their losses"
        np.testing.assert_allclose(two["state"]["timesteps"]["losses"], history["losses"], rtol=3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", two_processes.TRAININGS)
def test_both_have_the_same_to_the_last_bit(found: list[dict[str, Any]], name: str) -> None:
    main, other = found[0][name], found[1][name]
    for kind, weights in main["weights"].items():
        assert all(torch.equal(tensor, other["weights"][kind][n]) for n, tensor in weights.items()), kind
    for a, b in zip(main["reports"], other["reports"], strict=True):
        assert a["grad_norm"] == b["grad_norm"]
        assert torch.equal(a["loss"], b["loss"])
    assert main["held_out"] == other["held_out"]
    assert not torch.equal(*(state["torch_rng"] for state in main["state"]["ranks"])), "each has its own dropout"


def test_exchanges(found: list[dict[str, Any]]) -> None:
    for rank in (0, 1):
        now = found[rank]["exchanges"]
        assert now["broadcast_object"] == {"rank": 0}
        assert now["all_gather_object"] == [0, 1]
        assert now["all_gather"].tolist() == [[0, 0, 1, 1], [2, 2, 3, 2]]
        assert now["run_on_all_ranks"] == f"mine {rank}"
        assert now["one fails"] == "UserError: Process 1 says so."
        assert now["main fails"] == "UserError: Process 0 says so."
        assert now["main is slow"] == "slow 0"
        assert now["working on"][0] == "UserError: Process 0 says so."
        assert now["working on"][1] < 600, "who works long hears of it on the way"
        assert now["well again"] == "well"


@pytest.mark.parametrize("what", ["measuring", "drawing"])
def test_data_missing_in_one_process_are_missed_by_all(what: str, found: list[dict[str, Any]]) -> None:
    for rank in (0, 1):
        assert re.match("UserError: There is no folder or file nowhere", found[rank]["reading"][what])


@pytest.mark.parametrize("what", ["stopped measuring", "stopped drawing"])
def test_a_stop_while_one_process_reads_ends_all(what: str, found: list[dict[str, Any]]) -> None:
    assert [found[rank]["reading"][what] for rank in (0, 1)] == ["Stopped: "] * 2


def test_alone_everything_is_its_own() -> None:
    tensor = torch.ones(2, 3)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.broadcast_object(5) == 5
    assert distributed.all_gather_object(5) == [5]
    assert distributed.all_gather(tensor) is tensor
    assert distributed.run_on_main(lambda: 5) == distributed.run_on_all_ranks(lambda: 5) == 5
    assert distributed.data_parallel(network := torch.nn.Linear(1, 1), "bf16") is network


# --- on the command line


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in it that two processes trained."""
    folder = tmp_path_factory.mktemp("trained")
    settings = ["--total_steps", "8", "--batch_size", "3", "--save_interval", "4", "--dropout", "0.3"]
    torchrun(
        "-m",
        "ddpm",
        "train",
        *TINY,
        *settings,
        "--sample_interval",
        "8",
        "--preview_samples",
        "4",
        "--preview_steps",
        "3",
        "--name",
        "two",
        cwd=folder,
    )
    return folder


@pytest.mark.slow
def test_the_log_is_that_of_one_process(tmp_path: Path) -> None:
    settings = [*TINY, "--total_steps", "8", "--lr", "1e-3"]
    torchrun("-m", "ddpm", "train", *settings, "--batch_size", "4", "--microbatch", "2", "--name", "two", cwd=tmp_path)
    here("train", *settings, "--batch_size", "8", "--run", "one", cwd=tmp_path)
    two, one = (pd.read_csv(tmp_path / "runs" / name / "progress.csv") for name in ("two", "one"))
    measured = ["seconds", "steps_per_second", "memory_mb"]
    assert one["samples"].tolist() == [8, 24, 48, 64]
    pd.testing.assert_frame_equal(two.drop(columns=measured), one.drop(columns=measured), rtol=1e-3)
    said = (tmp_path / "runs" / "two" / "log.txt").read_text()
    assert "2 processes, each with 4 of 8 images a step" in said
    assert said.count("Finished") == 1
    torchrun("-m", "ddpm", "train", "--resume", "two", cwd=tmp_path)  # all is done, which is no error in any process


@pytest.mark.slow
def test_stop_and_resume_equal_never_having_stopped_with_two(trained: Path, tmp_path: Path) -> None:
    straight = Run(trained / "runs" / "two")
    assert straight.state() == "finished"
    assert [step for step, _ in straight.previews()] == [8]
    shutil.copytree(straight.folder, tmp_path / "runs" / "two")
    run = Run(tmp_path / "runs" / "two")
    (run.folder / "saves" / "000008.json").unlink()  # as if killed after step 4
    for left in run.folder.glob("*000008.pt"):
        left.unlink()
    torchrun("-m", "ddpm", "train", "--resume", "two", cwd=tmp_path)
    assert "Resuming at step 4" in run.log_path.read_text()
    one, other = contents(straight, 8), contents(run, 8)
    assert len(one) == len(other) > 100
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
def test_one_process_goes_on_with_what_two_saved(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs" / "two", tmp_path / "runs" / "two")
    (tmp_path / "runs" / "two" / "saves" / "000008.json").unlink()
    said = here("train", "--resume", "two", cwd=tmp_path)
    assert "Saved with 2 processes and resumed with 1" in said
    assert pd.read_csv(tmp_path / "runs" / "two" / "progress.csv")["samples"].iloc[-1] == 4 * 6 + 4 * 3


@pytest.mark.slow
def test_two_sample_the_images_of_one(trained: Path, tmp_path: Path) -> None:
    runs_dir = ["--runs_dir", str(trained / "runs"), "--name", "two"]
    said = torchrun("-m", "ddpm", "sample", *runs_dir, *DRAWING, "--out", "two", cwd=tmp_path)
    here("sample", *runs_dir, *DRAWING, "--out", "one", cwd=tmp_path)
    assert said.splitlines()[-1] == "two"
    with (
        np.load(tmp_path / "two" / "samples_7x8x8x3.npz") as two,
        np.load(tmp_path / "one" / "samples_7x8x8x3.npz") as one,
    ):
        np.testing.assert_array_equal(two["arr_0"], one["arr_0"])
    assert [p.name for p in sorted((tmp_path / "two" / "images").iterdir())] == [f"{k:05d}.png" for k in range(7)]
    assert (tmp_path / "two" / "grid.png").read_bytes() == (tmp_path / "one" / "grid.png").read_bytes()
    assert Run(tmp_path / "two").state() == "finished"


def both(run: Run) -> tuple[psutil.Process, psutil.Process, psutil.Process]:
    """The main process of a run, the other one, and torchrun."""
    (main,) = run.processes()
    agent = main.parent()
    assert agent is not None
    (other,) = (child for child in agent.children() if child.pid != main.pid)
    return main, other, agent


@pytest.mark.slow
@pytest.mark.parametrize("which", ["main", "other"])
def test_when_one_dies_the_other_stops_and_says_why(tmp_path: Path, which: str) -> None:
    process = start(
        "-m",
        "ddpm",
        "train",
        *TINY,
        "--total_steps",
        "100000",
        "--save_interval",
        "5",
        "--keep_checkpoints",
        "2",
        "--name",
        "two",
        cwd=tmp_path,
    )
    run = Run(tmp_path / "runs" / "two")
    wait_for_step(run, 6)
    main, other, _ = both(run)
    (main if which == "main" else other).kill()
    said, _ = process.communicate(timeout=PATIENCE)  # long before gloo itself gives up, after half an hour
    assert process.returncode != 0
    assert not psutil.pid_exists(main.pid)
    assert not psutil.pid_exists(other.pid)
    newest, wrong = checkpoint_files.newest_intact(run)
    assert newest is not None
    assert not wrong
    if which == "other":
        status = run.status()
        assert status is not None
        assert run.state() == "failed"
        assert re.search(
            rf"Another process of this training ended.*the checkpoint of step {newest.step} is intact: resume",
            status.message,
        )
        assert said.count(f"ddpm: {status.message}") == 1
    else:
        assert run.state() == "lost"


@pytest.mark.slow
def test_a_signal_to_torchrun_stops_politely(tmp_path: Path) -> None:
    process = start("-m", "ddpm", "train", *TINY, "--total_steps", "100000", "--name", "two", cwd=tmp_path)
    run = Run(tmp_path / "runs" / "two")
    wait_for_step(run, 3)
    both(run)[2].terminate()
    process.communicate(timeout=PATIENCE)
    status = run.status()
    assert status is not None
    assert run.state() == "stopped"
    assert [c.step for c in run.checkpoints()] == [status.step]


@pytest.mark.slow
def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    said = torchrun("-m", "ddpm", "train", "--data_dir", "nowhere", "--name", "two", cwd=tmp_path, code=1)
    assert said.count(f"There is no folder or file {tmp_path / 'nowhere'}") == 1
    assert re.search(r"exitcode +: 2", said)
    assert "ddpm/" not in said, "no traceback of ours"
    assert not (tmp_path / "runs" / "two").exists()
