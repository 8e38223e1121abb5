"""Jobs: what the folder shows of its process, with real processes that start, die and hang."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from raising import raises_error
from waiting import PATIENCE, until, until_it_beats

from ddpm.errors import UserError
from ddpm.runs import exclusive, jobs
from ddpm.runs.jobs import Job, Pulse, Status
from ddpm.runs.worker import Stopped, Worker
from ddpm.storage import files
from ddpm.storage.untrusted import Folder

ROOT = Path(jobs.__file__).parents[2]

WORK = """
import sys, time
from pathlib import Path
from ddpm.errors import UserError
from ddpm.runs.worker import Worker
try:
    with Worker(Path(sys.argv[1]), 1000) as worker:
        worker.beat(state="running")
        print("working", flush=True)
        for step in range(1, 1000):
            time.sleep(0.01)
            worker.beat(step=step)
            if "stop" in worker.poll_requests():
                worker.beat(state="stopped")
                sys.exit(0)
except UserError as error:
    print(error, flush=True)
    sys.exit(2)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts processes that are ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object, code: str = WORK) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def announce(job: Job, **changes: Any) -> None:
    """As ddpm.runs.launch does before it starts one."""
    files.write_json(job.folder / "status.json", {**asdict(Status("starting", updated_at=time.time())), **changes})
    job.clear_requests()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    folder = tmp_path / "runs" / "job"
    folder.mkdir(parents=True)
    return Job(folder)


def test_a_life_seen_from_outside(job: Job, start: Start) -> None:
    assert (job.status(), job.state(), job.alive()) == (None, "stopped", False)
    process = start(job.folder)
    assert said(process) == "working"
    assert (job.state(), job.alive()) == ("running", True)
    status = job.status()
    assert status
    assert status.pid == process.pid
    assert [p.pid for p in job.processes()] == [process.pid]
    job.request("stop")
    until(lambda: not job.alive())
    assert job.state() == "stopped"
    assert process.wait() == 0
    assert job.processes() == []


def test_state_stopping_while_a_stop_is_not_heard_yet(job: Job) -> None:
    with Worker(job.folder) as worker:
        worker.beat(state="running")
        job.request("stop")
        assert job.state() == "stopping"
        assert worker.poll_requests() == {"stop"}
        assert worker.poll_requests() == {"stop"}  # told until it is done
        worker.beat(state="stopped")
    assert job.state() == "stopped"


@pytest.mark.slow
def test_two_starts_at_once(job: Job, start: Start) -> None:
    processes = [start(job.folder) for _ in range(3)]
    lines = sorted(said(process) for process in processes)
    assert lines == [
        *["Another process works in job already: stop it first, or wait."] * 2,
        "working",
    ]
    assert job.state() == "running"


def test_kill_9_is_seen_as_lost_and_the_lock_is_free(job: Job, start: Start) -> None:
    process = start(job.folder)
    said(process)
    process.kill()  # not waited for: a zombie now, which still has its pid
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    until(lambda: not job.alive())
    assert job.state() == "lost"
    assert job.processes() == []
    again = start(job.folder)
    assert said(again) == "working"
    assert job.state() == "running"


def test_a_fork_does_not_keep_the_lock(job: Job, start: Start) -> None:
    code = WORK.replace(
        'print("working"', 'import os\n        child = os.fork() or time.sleep(60)\n        print(f"working {child}"'
    )
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    process = start(job.folder, code=code)
    word, child = said(process).split()
    assert word == "working"
    try:
        process.kill()
        process.wait()
        assert psutil.pid_exists(int(child))
        until(lambda: job.state() == "lost")  # the child lets go of the lock as its first act
        assert psutil.pid_exists(int(child))
    finally:
        os.kill(int(child), signal.SIGKILL)


@pytest.mark.skipif(os.name == "nt", reason="signals are others there")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signals_ask_to_stop(job: Job, start: Start, name: str) -> None:
    listen = f"import signal; signal.signal(signal.{name}, signal.SIG_DFL)\n"  # the tests may run in the background
    process = start(job.folder, code=listen + WORK)
    said(process)
    process.send_signal(getattr(signal, name))
    assert process.wait(PATIENCE) == 0
    assert job.state() == "stopped"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are others there")
def test_nohup_is_respected(job: Job, start: Start) -> None:
    process = start(job.folder, code="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + WORK)
    said(process)
    process.send_signal(signal.SIGHUP)
    until_it_beats(job)
    assert job.state() == "running"


@pytest.mark.skipif(os.name == "nt", reason="signals are others there")
def test_a_second_interrupt_does_not_wait(job: Job) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Worker(job.folder) as worker:  # noqa: PT012
            os.kill(os.getpid(), signal.SIGINT)
            assert worker.poll_requests() == {"stop"}
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    finally:
        signal.signal(signal.SIGINT, before)
    status = job.status()
    assert status
    assert (status.state, "checkpoint" in status.message) == ("stopped", True)


# --- requests


def test_a_stop_for_an_earlier_process_is_forgotten(job: Job) -> None:
    with Worker(job.folder) as worker:
        worker.beat(state="running")
    assert job.state() == "lost"
    job.request("stop")
    with Worker(job.folder) as worker:
        assert worker.poll_requests() == set()
        worker.beat(state="running")
        assert job.state() == "running"


@pytest.mark.parametrize("slow", [False, True])
def test_a_stop_while_starting_is_honoured(job: Job, start: Start, slow: bool) -> None:
    """Even where the process takes long to begin: slow imports, a busy machine."""
    announce(job)
    assert job.state() == "starting"
    job.request("stop")
    wait = f"import time; time.sleep({2 if slow else 0})\n"
    process = start(job.folder, code=wait + WORK)
    assert said(process) == "working"
    assert process.wait(PATIENCE) == 0
    assert job.state() == "stopped"


def test_a_stop_for_a_start_that_failed_is_forgotten(job: Job) -> None:
    """The announced process never came; a later one, from a shell, is not meant."""
    announce(job, updated_at=psutil.Process().create_time() - jobs.START_GRACE - 1)
    job.request("stop")
    assert job.state() == "lost"
    with Worker(job.folder) as worker:
        assert worker.poll_requests() == set()


def test_a_stop_for_a_process_that_died_while_starting_is_forgotten(job: Job) -> None:
    announce(job, pid=2**22 + 1)
    job.request("stop")
    assert job.state() == "lost"
    with Worker(job.folder) as worker:
        assert worker.poll_requests() == set()


def test_each_request_is_heard_once_each_time_it_is_made(job: Job) -> None:
    with Worker(job.folder) as worker:
        assert worker.poll_requests() == set()
        for _ in range(3):
            job.request("save")
            job.request("sample")
            assert worker.poll_requests() == {"save", "sample"}
            assert worker.poll_requests() == set()
        job.request("save")
        assert worker.poll_requests() == {"save"}


def test_requests_made_at_once_are_all_kept(job: Job, start: Start) -> None:
    ask = (
        "import sys; from pathlib import Path; from ddpm.runs.jobs import"
        " Job\nJob(Path(sys.argv[1])).request(sys.argv[2])"
    )
    processes = [start(job.folder, what, code=ask) for what in ("stop", "save", "sample")]
    assert [process.wait(PATIENCE) for process in processes] == [0, 0, 0]
    assert set(job.requests()) == {"stop", "save", "sample"}


# --- the status


def test_failure_is_written_down(job: Job) -> None:
    with raises_error("bad-value"), Worker(job.folder):
        raise UserError("Something is wrong: put it right.", code="bad-value")
    status = job.status()
    assert status
    assert (status.state, status.message) == ("failed", "Something is wrong: put it right.")
    with pytest.raises(ZeroDivisionError), Worker(job.folder):
        raise ZeroDivisionError("division by zero")
    status = job.status()
    assert status
    assert status.message == "ZeroDivisionError: division by zero"


def test_stopped_before_there_was_anything_to_save(job: Job) -> None:
    with Worker(job.folder):
        raise Stopped
    assert job.state() == "stopped"


def test_nothing_that_a_beat_says_ends_the_work(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    with Worker(job.folder) as worker:
        worker.beat(metrics=dict(loss=float("nan"), mse=float("inf"), lr=1e-4, vb=None), now=True)
        status = job.status()
        assert status
        assert status.metrics == dict(loss=None, mse=None, lr=1e-4, vb=None)

        def full(path: Path, value: object) -> None:
            raise files.DiskFull(path)

        def broken(path: Path, value: object) -> None:
            raise PermissionError(13, "Permission denied")

        for failure in (full, broken):
            with monkeypatch.context() as patch:
                patch.setattr(files, "write_json", failure)
                worker.beat(step=7, now=True)
        worker.beat(now=True)
        status = job.status()
        assert status
        assert status.step == 7


def test_beats_are_written_about_once_a_second(job: Job) -> None:
    with Worker(job.folder) as worker:
        before = worker.status.beat
        for _ in range(50):
            worker.beat()
        status = job.status()
        assert status
        assert worker.status.beat == before + 50
        assert status.beat < worker.status.beat


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 3}', '{"state": "dancing"}'])
def test_an_unreadable_status_does_no_harm(job: Job, content: str) -> None:
    (job.folder / "status.json").write_text(content)
    assert (job.status(), job.state()) == (None, "stopped")
    with Worker(job.folder) as worker:
        worker.beat(state="running")
        assert job.state() == "running"


def test_a_status_of_a_newer_version_is_read(job: Job) -> None:
    (job.folder / "status.json").write_text(json.dumps({"state": "finished", "step": 3, "news": 1}))
    status = job.status()
    assert status
    assert (status.state, status.step) == ("finished", 3)


def test_a_process_that_ends_while_it_is_looked_at_is_not_lost(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(job.folder).__enter__()
    worker.beat(state="running")
    look = job._status_in

    def ends(content: Folder) -> Status | None:
        monkeypatch.setattr(job, "_status_in", look)
        worker.beat(state="finished")
        worker.__exit__(None, None, None)
        return look(content)

    monkeypatch.setattr(job, "_status_in", ends)
    assert job.state() == "running"
    assert job.state() == "finished"


def test_reused_pid_is_not_the_process(job: Job) -> None:
    status = Status("running", pid=os.getpid(), process_start=psutil.Process().create_time() - 100)
    files.write_json(job.folder / "status.json", asdict(status))
    assert job.processes() == []
    assert job.state() == "lost"


def test_not_responding_is_timed_by_the_reader(job: Job) -> None:
    """Where the process is on another machine; `test_heartbeat` has those of this one."""
    now, beats = [0.0], [0]
    pulse = Pulse(lambda: now[0])
    (job.folder / "run.lease").mkdir()

    def look(seconds: float, beat: bool) -> str:
        now[0] += seconds
        beats[0] += beat
        owner = dict(host="another", boot="another", pid=1, start=1.0)
        lease = dict(owner, token="a", beat=beats[0], renewed=1e9, released=False)
        files.write_json(job.folder / "run.lease" / "000001.json", lease)
        status = dict(owner, state="running", monotonic=1e9, steps_per_second=0.05)
        files.write_json(job.folder / "status.json", status)
        return job.state(pulse)

    assert [look(1, False) for _ in range(6)] == [*["running"] * 5, "not responding"]
    assert look(1, True) == "running"
    assert look(4000, False) == "running"  # one look after an hour's sleep proves nothing
    assert {look(2, True) for _ in range(95)} == {"running"}  # a step takes 20 seconds
    assert [look(2, True) for _ in range(6)][-1] == "not responding"


def test_log_tail(job: Job) -> None:
    assert job.log_tail() == ""
    job.log_path.write_text("\n".join(f"line {n}" for n in range(100_000)))
    tail = job.log_tail(3)
    assert tail == "line 99997\nline 99998\nline 99999"
    assert len(job.log_tail(10**6)) <= 65536


def test_killed_writers_leftovers_are_swept_at_the_next_start(job: Job) -> None:
    (job.folder / "saves").mkdir()
    left = [job.folder / f"{files.TEMPORARY}1-model.pt", job.folder / "saves" / f"{files.TEMPORARY}2-a.json"]
    for path in left:
        path.write_bytes(b"half")
        os.utime(path, (1, 1))
    with Worker(job.folder):
        assert not any(path.exists() for path in left)


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        raises_error("not-writable"),
        Worker(tmp_path / "file" / "job"),
    ):
        pass
    with raises_error("not-writable"), exclusive.guard(tmp_path / "file" / "runs"):
        pass


@pytest.mark.slow
def test_guard_keeps_others_out(tmp_path: Path, start: Start) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from ddpm.runs.exclusive import guard\n"
        "with guard(Path(sys.argv[1])):\n"
        "    print('in', flush=True); time.sleep(0.5); print('out', flush=True)"
    )
    process = start(tmp_path, code=hold)
    assert said(process) == "in"
    with exclusive.guard(tmp_path):
        assert said(process) == "out"
