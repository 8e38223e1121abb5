"""Three processes resume to the last bit, and trainings that lose a process go on by torchrun's restart."""

import argparse
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import three_processes
import torch
from test_cli import contents, wait_for_step
from test_parallel import ROOT, TINY
from waiting import PATIENCE, until

from ddpm.cli import torchrun, train
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.data.stream import Stream
from ddpm.errors import UserError
from ddpm.runs import runs
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("threads_afterwards")]

QUICK = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=2"  # seconds: who is gone is given up soon
SETTINGS = [*TINY, *shlex.split("--batch_size 3 --save_interval 5 --dropout 0.3 --name mine")]


def start(launcher: str, *command: str | Path, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *shlex.split(launcher), *map(str, command)],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    )


def finished(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of three processes found."""
    folder = tmp_path_factory.mktemp("three")
    finished(start("--standalone --nproc_per_node=3", ROOT / "tests" / "three_processes.py", folder, cwd=folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(3)]


def equal(a: Any, b: Any) -> bool:
    """Whether two structures hold the same numbers, to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@pytest.mark.parametrize("name", three_processes.TRAININGS)
def test_three_resume_as_if_they_had_never_stopped(found: list[dict[str, Any]], name: str) -> None:
    for rank in range(3):
        straight, resumed = found[rank][name]["straight"], found[rank][name]["resumed"]
        for step in range(three_processes.AFTER):
            assert equal(straight["gradients"][step], resumed["gradients"][step]), (rank, step)
        assert equal(straight["weights"], resumed["weights"])
        assert equal(straight["state"], resumed["state"])


@pytest.mark.parametrize("name", three_processes.TRAININGS)
def test_all_have_the_same_gradient_to_the_last_bit(found: list[dict[str, Any]], name: str) -> None:
    main, *others = (process[name]["straight"]["gradients"] for process in found)
    assert len(main[0]) > 20
    assert all(equal(main, other) for other in others)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system tells no names of threads")
def test_no_thread_of_the_exchange_outlives_it(found: list[dict[str, Any]]) -> None:
    """One that does may abort a process that has finished its work."""
    for process in found:
        assert process["threads"]
        assert not [name for name in process["threads"] if "gloo" in name]


@pytest.mark.usefixtures("one_thread")
def test_fewer_go_on_with_the_next_image(found: list[dict[str, Any]]) -> None:
    """Each image of the stream once, and in its order: two steps of three processes, then two of one with 5 each."""
    weights, optimizer, state = found[0]["plain"]["saved"]
    alone = three_processes.trainer("plain")
    alone.load(weights, optimizer, state)
    seen = [found[rank]["plain"]["images"][step] for step in range(three_processes.BEFORE) for rank in range(3)]
    seen += [alone.next_batch().x_start for _ in range(2)]
    there = torch.cat(seen)
    whole, _ = Stream(alone.stream.dataset, alone.config.train.seed, alone.config.data.random_flip).next(len(there))
    assert torch.equal(there, torch.from_numpy(whole).permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert alone.stream.position == len(there)


@pytest.mark.parametrize("which", ["main", "other"])
def test_a_killed_process_is_started_again_and_all_resume(tmp_path: Path, which: str) -> None:
    steps = ["--total_steps", "60"]
    launcher = "--standalone --nproc_per_node=3"
    (tmp_path / "whole").mkdir()
    finished(start(launcher, "-m", "ddpm", "train", *SETTINGS, *steps, cwd=tmp_path / "whole"))
    process = start(f"{launcher} --max-restarts 1", "-m", "ddpm", "train", *SETTINGS, *steps, cwd=tmp_path)
    run = Run(tmp_path / "runs" / "mine")
    wait_for_step(run, 7)
    (main,) = run.processes()
    agent = main.parent()
    assert agent is not None
    (main if which == "main" else next(child for child in agent.children() if child.pid != main.pid)).kill()
    finished(process)
    assert run.state() == "finished"
    assert run.log_path.read_text().count("Resuming at step") == 1
    whole = Run(tmp_path / "whole" / "runs" / "mine")
    assert equal(contents(run, 60), contents(whole, 60)), "as if none had been lost"


def test_the_others_resume_without_a_machine_that_is_lost(tmp_path: Path) -> None:
    """Two torchruns with a process each, one of them killed with its process: the other goes on alone."""
    launcher = "--nnodes 1:2 --nproc_per_node 1 --max-restarts 3 --rdzv_backend c10d --rdzv_id 1"
    endpoint = f"--rdzv_endpoint localhost:{free_port()}"
    command = ["-m", "ddpm", "train", *SETTINGS, "--total_steps", "400"]
    first, second = (  # the first is where they meet, which must not be lost
        start(f"{launcher} {endpoint} --rdzv_conf {QUICK},is_host={host}", *command, cwd=tmp_path) for host in (1, 0)
    )
    run = Run(tmp_path / "runs" / "mine")
    wait_for_step(run, 7)
    lost = psutil.Process(second.pid)
    for one in [lost, *lost.children(recursive=True)]:
        one.kill()
    second.communicate()
    finished(first)
    until(lambda: run.state() == "finished", "the end")
    rows = pd.read_csv(run.progress_path)
    at = int(re.findall(r"Resuming at step (\d+)", run.log_path.read_text())[0])
    assert at >= 5
    for step, samples in zip(rows["step"], rows["samples"], strict=True):
        assert samples == 3 * (2 * min(step, at) + max(step - at, 0))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port: int = one.getsockname()[1]
    return port


@pytest.fixture
def restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that torchrun started, and may start again."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")


@pytest.mark.usefixtures("restarted")
def test_a_restart_resumes_only_what_this_torchrun_began(tmp_path: Path) -> None:
    parent = psutil.Process(os.getppid()).create_time()
    run = runs.create_run(tmp_path, "mine", Config())
    options = argparse.Namespace(resume=None, run="mine", runs_dir=tmp_path)
    assert train._begun_before_restart(options) == "mine"
    os.utime(run.folder / "config.json", (parent - 60, parent - 60))
    assert train._begun_before_restart(options) is None, "an older run of that name"
    torchrun.mark(run.folder)
    with Worker(run.folder) as worker:
        worker.beat(state="running", now=True)
        assert train._begun_before_restart(options) == "mine", "of the same job, begun before this machine joined"
        worker.beat(state="stopped", now=True)
    assert train._begun_before_restart(options) is None, "it was stopped, and not lost"
    (run.folder / torchrun.JOB).write_text("[")
    assert train._begun_before_restart(options) is None
    assert train._begun_before_restart(argparse.Namespace(resume=None, run="other", runs_dir=tmp_path)) is None


def test_a_job_with_other_settings_is_another_training(tmp_path: Path) -> None:
    runs.create_run(tmp_path, "mine", codec.replace(Config(), {"lr": 3e-4, "total_steps": 9}))
    options = argparse.Namespace(resume=None, run="mine", runs_dir=tmp_path)
    train._check_same(options, {"lr": 3e-4, "total_steps": 900, "data_dir": "elsewhere"})
    with pytest.raises(UserError) as caught:
        train._check_same(options, {"lr": 1e-3})
    assert caught.value.code == "already-exists"


@pytest.mark.usefixtures("restarted")
def test_a_restart_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train._begun_before_restart(argparse.Namespace(resume=None, run=None, runs_dir=tmp_path))
    assert caught.value.code == "missing-value"
