"""Processes: they start by themselves, outlive whoever started them, stop when asked, end when killed.

In the place of a training stands a small program that works in the run's folder like one.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from raising import raises_error
from waiting import until

from ddpm.config import codec
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.runs import jobs, launch, runs
from ddpm.runs.jobs import Job
from ddpm.runs.runs import Run
from ddpm.storage import files

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")

ROOT = Path(launch.__file__).parents[2]
PYTHON = sys.executable

STAND_IN = """
import json, os, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from ddpm.runs.worker import Worker
arguments = sys.argv[4:]  # after -P -m ddpm
value = dict(zip(arguments, arguments[1:]))
folder = Path(value["--runs_dir"]) / value["--resume"] if arguments[0] == "train" else Path(arguments[-1])
with Worker(folder) as worker:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    seen = dict(arguments=arguments, session=os.getsid(0), cwd=os.getcwd(), child=child.pid)
    (folder / "seen.json").write_text(json.dumps(seen))
    print("said something", flush=True)
    worker.beat(state="running")
    for _ in range(6000):
        time.sleep(0.01)
        worker.beat()
        if "stop" in worker.poll_requests() or (folder / "leave").exists():
            child.kill()
            child.wait()
            worker.beat(state="stopped")
            break
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What is started instead of Python with `-P -m ddpm`."""
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN.format(root=str(ROOT)))
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec "{PYTHON}" "{program}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(launch.sys, "executable", str(script))
    yield str(script)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end meanwhile
            child.kill()


@pytest.fixture
def run(runs_dir: Path, tiny: Config) -> Run:
    return runs.create_run(runs_dir, "one", tiny)


def running(job: Job) -> dict[str, Any]:
    until(lambda: job.state() == "running")
    return files.read_json(job.folder / "seen.json") or {}


def test_start_and_stop(run: Run, stand_in: str) -> None:
    launch.start_training(run)
    assert run.state() in ("starting", "running")
    seen = running(run)
    assert seen["arguments"] == ["train", "--resume", "one", "--runs_dir", str(run.folder.parent)]
    assert seen["session"] != os.getsid(0)
    assert run.log_tail() == "said something"
    launch.stop(run)
    until(lambda: not run.alive())
    assert run.state() == "stopped"
    with raises_error("not-running"):
        launch.stop(run)


def test_who_works_lets_others_come_first(run: Run, stand_in: str) -> None:
    launch.start_training(run)
    running(run)
    (worker,) = run.processes()
    assert worker.nice() == min(19, psutil.Process().nice() + launch.NICE)
    group = Path(f"/proc/{worker.pid}/autogroup")
    if group.exists():
        assert group.read_text().split()[-1] == str(worker.nice())


def test_finished_children_are_reaped(run: Run, stand_in: str) -> None:
    """At once, and although nobody looks: a server may run for weeks."""
    launch.start_training(run)
    running(run)
    pid = run.processes()[0].pid
    launch.stop(run)
    until(lambda: not psutil.pid_exists(pid))
    assert run.state() == "stopped"
    assert run.processes() == []


def test_a_second_start_is_refused(run: Run, stand_in: str) -> None:
    launch.start_training(run)
    with raises_error("still-running"):
        launch.start_training(run)
    seen = running(run)
    with raises_error("still-running"):
        launch.start_training(run)
    assert files.read_json(run.folder / "seen.json") == seen


def test_stop_while_starting(run: Run, stand_in: str) -> None:
    launch.start_training(run)
    launch.stop(run)
    until(lambda: run.state() == "stopped")
    assert not run.alive()


@pytest.mark.slow
def test_kill_ends_the_process_and_its_children(run: Run, stand_in: str) -> None:
    launch.start_training(run)
    child = running(run)["child"]
    launch.kill(run)
    assert run.state() == "lost"
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    with raises_error("not-running"):
        launch.kill(run)
    launch.start_training(run)  # and goes on from there
    running(run)


def test_kill_takes_no_other_process_for_it(run: Run) -> None:
    """The pid was given to somebody else: to this very process."""
    status = jobs.Status("running", pid=os.getpid(), process_start=psutil.Process().create_time() - 60)
    files.write_json(run.folder / "status.json", dataclasses.asdict(status))
    with raises_error("not-running"):
        launch.kill(run)


@pytest.mark.slow
def test_it_outlives_who_started_it(run: Run, stand_in: str) -> None:
    """The parent and all of its process group are killed, as a closed terminal does it."""
    starter = (
        "import sys, time; from pathlib import Path; from ddpm.runs import launch; from ddpm.runs.runs import"
        " Run\nsys.executable = sys.argv[2]\nlaunch.start_training(Run(Path(sys.argv[1])))\nprint('started',"
        " flush=True)\ntime.sleep(60)"
    )
    command = [PYTHON, "-c", starter, str(run.folder), stand_in]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True)
    assert parent.stdout
    assert parent.stdout.readline() == b"started\n"
    running(run)
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    before = run.status()
    assert before
    until(lambda: (now := run.status()) is not None and now.beat > before.beat)
    assert run.state() == "running"
    launch.stop(run)
    until(lambda: run.state() == "stopped")


def test_samples_are_sampled_into_a_folder_of_their_own(run: Run, stand_in: str) -> None:
    job = launch.start_sampling(run, SampleConfig(num_samples=4, use_ddim=True, classes="-a b"))
    seen = running(job)
    assert seen["arguments"] == [
        "sample",
        "--run",
        "one",
        "--runs_dir",
        str(run.folder.parent),
        "--num_samples",
        "4",
        "--use_ddim",
        "True",
        "--classes=-a b",
        "--out",
        str(job.folder),
    ]
    assert job.folder.parent == run.folder / "samples"
    assert run.sample_jobs() == [job]
    launch.stop(job)
    until(lambda: job.state() == "stopped")


@pytest.mark.slow
def test_a_measurement_is_made_once(
    tiny: Config, stand_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    job = launch.start_measuring(tiny)
    assert running(job)["arguments"] == ["measure", str(job.folder)]
    assert launch.start_measuring(codec.replace(tiny, dict(seed=7, lr=0.5, total_steps=99))) == job
    assert launch.start_measuring(codec.replace(tiny, dict(batch_size=5))) != job
    launch.kill(job)
    assert launch.start_measuring(tiny) == job  # again, for the first gave no answer
    running(job)


def test_no_process_can_be_started(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.sys, "executable", "/no/such/python")
    with raises_error("process-failed"):
        launch.start_training(run)
    assert run.state() == "failed"


@pytest.mark.slow
def test_a_program_that_does_not_come_up_is_lost_soon(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "START_GRACE", 0.5)
    monkeypatch.setattr(launch.sys, "executable", "false")
    launch.start_training(run)
    assert run.state() == "starting"
    until(lambda: run.state() == "lost")


def test_data_that_was_moved_is_reported_to_the_process(run: Run, stand_in: str) -> None:
    launch.start_training(run, "/new place", enlarge=True)
    assert running(run)["arguments"][-4:] == ["--data_dir", "/new place", "--enlarge", "True"]
    launch.stop(run)


def test_what_was_done_stays_in_sight_while_a_run_starts_again(run: Run, stand_in: str) -> None:
    done = jobs.Status("stopped", step=9, total_steps=20, saved=7, metrics={"loss": 0.5}, message="Before")
    files.write_json(run.folder / "status.json", dataclasses.asdict(done))  # of a process that was killed after step 9
    launch.start_training(run)
    status = run.status()
    assert status
    assert (status.step, status.saved, status.metrics, status.message) == (7, 7, {"loss": 0.5}, "")
    running(run)
    status = run.status()
    assert status
    assert (status.step, status.saved, status.metrics) == (7, 7, {"loss": 0.5})
    launch.stop(run)
