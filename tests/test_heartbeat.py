"""A process that is stopped, loses its lock or its folder, or is not alone: what it does, and what others see."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from raising import raises_error
from waiting import until
from working import ELSEWHERE, ROOT, WITHOUT_LOCKS, remove, working

from ddpm.runs import jobs, launch, worker
from ddpm.runs.jobs import Job, Status
from ddpm.runs.worker import Worker
from ddpm.storage import files, folders, leases, processes
from ddpm.storage.leases import Pulse
from ddpm.storage.untrusted import Folder

pytestmark = pytest.mark.skipif(not processes.LINUX, reason="signals, and folders that can be moved while in use")

WITHOUT = WITHOUT_LOCKS.format("ENOLCK")
OTHER = ELSEWHERE.format("another")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / "runs" / "job")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has no locks either."""

    def none(path: Path) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("ddpm.storage.locks.held", none)


@pytest.mark.parametrize("prelude", ["", WITHOUT], ids=["locks", "without"])
def test_a_stopped_process_does_not_respond(job: Job, prelude: str) -> None:
    with working(job.folder, prelude=prelude) as (one,):
        assert one.said() == "working"
        assert job.state() == "running"
        one.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        until(lambda: job.state() == "not responding")
        assert time.monotonic() - began < 5, "the promise"
        one.process.send_signal(signal.SIGCONT)
        until(lambda: job.state() == "running")


def test_the_shell_sees_it_too(job: Job) -> None:
    config = ROOT / "ddpm/assets/example/config.json"
    files.copy(config, job.folder / "config.json")
    list_runs = [sys.executable, "-m", "ddpm", "runs", "--runs_dir", str(job.folder.parent)]
    with working(job.folder) as (one,):
        assert one.said() == "working"
        one.process.send_signal(signal.SIGSTOP)
        until(lambda: job.state() == "not responding")
        done = subprocess.run(list_runs, cwd=ROOT, capture_output=True, text=True, check=True)
        assert "not responding" in done.stdout


def test_a_heartbeat_that_stalls(job: Job) -> None:
    """The process exists and is not stopped, but its thread does not run: it hangs, or has all its time for itself."""
    with Worker(job.folder) as one:
        one.beat(state="running", now=True)
        one._heart._end.set()
        one._heart._thread.join()
        lease = one._heart._lease
        for silent, busy, state in ((3, False, "running"), (6, True, "running"), (6, False, "not responding")):
            lease._write(lease._record._replace(renewed=time.monotonic() - silent))
            clock = iter(range(0, 1000, 1))
            pulse, used = Pulse(lambda clock=clock: next(clock)), iter(range(100))  # type: ignore[misc]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(processes.Owner, "cpu_seconds", lambda self: next(used) if busy else 1.0)  # noqa: B023
                found = [job.state(pulse) for _ in range(8)][-1]
            assert found == state, (silent, busy)
        lease._write(lease._record._replace(renewed=time.monotonic() - 20))
        assert job.state(Pulse()) == "not responding", "whatever it does"


@pytest.mark.slow
def test_long_work_is_no_silence(job: Job) -> None:
    """The heart beats while the work takes its time."""
    with Worker(job.folder) as one:
        one.beat(state="running", now=True)
        before, lease = job.status(), job.lease()
        assert lease
        until(lambda: (now := job.lease()) and now.beat > lease.beat + 1)
        assert job.status() == before
        assert job.state() == "running"


def test_work_that_goes_no_further(job: Job) -> None:
    """The heart beats, and nothing else: five minutes of that are no step that takes its time."""
    with Worker(job.folder) as one:
        one.beat(state="running", now=True)
        status = job.status()
        assert status
        for age, speed, state in (
            (jobs.STUCK - 20, None, "running"),
            (jobs.STUCK + 20, None, "not responding"),
            (jobs.STUCK + 20, 0.05, "running"),
            (220, 0.05, "not responding"),
        ):
            changed = {**asdict(status), "monotonic": time.monotonic() - age, "steps_per_second": speed}
            files.write_json(job.folder / "status.json", changed)
            assert job.state() == state
        one.beat(now=True)


# --- the lock and the folder


@pytest.mark.slow
@pytest.mark.parametrize("names", [["run.lock"], ["run.lease"], ["run.lock", "run.lease"]])
def test_a_lock_that_is_removed_ends_the_work_and_lets_nobody_else_in(job: Job, names: list[str]) -> None:
    with working(job.folder) as (one,):
        assert one.said() == "working"
        one.process.send_signal(signal.SIGSTOP)  # so that it cannot end before the second one comes
        until(lambda: job.state() == "not responding")
        for name in names:
            remove(job.folder / name)
        with working(job.folder) as (second,):
            assert second.said().startswith("busy")
        one.process.send_signal(signal.SIGCONT)
        assert one.process.wait() == 0
        status = job.status()
        assert status
        assert (job.state(), "run.lock" in status.warning) == ("stopped", True)
        assert (job.folder / f"saved-{one.process.pid}").exists()
        with working(job.folder) as (third,):
            assert third.said() == "working"


@pytest.mark.slow
def test_a_folder_that_is_moved_ends_the_work_where_it_is_now(job: Job) -> None:
    moved = Job(job.folder.with_name("a new name"))
    with working(job.folder) as (one,):
        assert one.said() == "working"
        one.process.send_signal(signal.SIGSTOP)
        job.folder.rename(moved.folder)
        until(lambda: moved.state() == "not responding")
        with working(moved.folder) as (second,):
            assert second.said().startswith("busy")
        one.process.send_signal(signal.SIGCONT)
        assert one.process.wait() == 0
    assert moved.state() == "stopped"
    status = moved.status()
    assert status
    assert str(moved.folder) in status.warning
    assert (moved.folder / f"saved-{one.process.pid}").exists()
    assert not job.folder.exists()


@pytest.mark.slow
def test_another_folder_in_its_place_is_left_alone(job: Job) -> None:
    moved = Job(job.folder.with_name("moved"))
    with working(job.folder) as (one,):
        assert one.said() == "working"
        one.process.send_signal(signal.SIGSTOP)
        until(lambda: job.state() == "not responding")
        job.folder.rename(moved.folder)
        job.folder.mkdir()
        one.process.send_signal(signal.SIGCONT)
        assert one.process.wait() == 0
    assert moved.state() == "stopped"
    assert list(job.folder.iterdir()) == []


@pytest.mark.slow
def test_a_folder_that_is_deleted_does_not_come_back(job: Job) -> None:
    with working(job.folder) as (one,):
        assert one.said() == "working"
        while job.folder.exists():
            shutil.rmtree(job.folder, ignore_errors=True)  # a file may be written meanwhile
        assert one.said().startswith("no-folder")
        assert one.process.wait() == 2
    assert not job.folder.exists()


def test_nothing_makes_a_folder_again_that_is_worked_in(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    with folders.kept(Folder(folder)):
        files.write_bytes(folder / "saves" / "a", b"")
        shutil.rmtree(tmp_path / "runs")
        for path in (folder / "a", folder / "saves" / "a", folder / "b" / "c" / "d"):
            with pytest.raises(FileNotFoundError):
                files.write_bytes(path, b"")
            with pytest.raises(FileNotFoundError):
                files.appending(path)
        files.write_bytes(tmp_path / "runs" / "two" / "a", b"")
    assert not folder.exists()
    files.write_bytes(folder / "a", b"")


# --- two at once


@pytest.mark.slow
@pytest.mark.parametrize("prelude", ["", WITHOUT, WITHOUT_LOCKS.format("ENOTSUP"), WITHOUT_LOCKS.format("EOPNOTSUPP")])
def test_of_several_that_start_at_once_one_works(job: Job, prelude: str) -> None:
    with working(job.folder, 3, prelude) as started:
        words = sorted(one.said().split()[0] for one in started)
        assert words == ["busy", "busy", "working"]


def test_a_killed_process_without_locks_is_lost_at_once(job: Job, without: None) -> None:
    with working(job.folder, prelude=WITHOUT) as (one,):
        assert one.said() == "working"
        assert job.state() == "running"
        status = job.status()
        assert status
        assert "without locks" in status.warning
        one.process.kill()
        until(lambda: job.state() == "lost")
    with working(job.folder, prelude=WITHOUT) as (again,):
        assert again.said() == "working"


@pytest.mark.slow
@pytest.mark.parametrize("prelude", ["", WITHOUT], ids=["locks of each machine alone", "no locks"])
def test_another_machine_keeps_a_second_process_out(job: Job, prelude: str) -> None:
    """Its lock is not seen here: the lease is."""
    unseen = "import portalocker\nportalocker.lock = lambda file, flags: None\n"
    with working(job.folder, prelude=OTHER + (prelude or unseen)) as (one,):
        assert one.said() == "working"
        with working(job.folder, prelude=prelude) as (second,):
            assert second.said().startswith("busy")
        assert one.process.poll() is None


@pytest.mark.slow
def test_another_machine_is_timed_by_the_clock_here(job: Job, without: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks that are wrong by years mislead nobody, and one that was taken for lost does no harm when it is back."""
    clock = [0.0]
    pulse = Pulse(lambda: clock[0])
    wrong = "import time\nreal = time.time\ntime.time = lambda: real() + 1e8\n"
    with working(job.folder, prelude=wrong + OTHER + WITHOUT) as (one,):
        assert one.said() == "working"
        assert job.state(pulse) == "running"
        one.process.send_signal(signal.SIGSTOP)
        until(lambda: processes._look(one.process.pid)[0] == "stopped")
        states = []
        for _ in range(int(leases.EXPIRY) + 3):
            clock[0] += 1
            states.append(job.state(pulse))
        assert 3 < states.index("not responding") <= 5, "seconds, from 1 on"
        assert states[-1] == "lost"
        monkeypatch.setattr(worker.locks, "hold", lambda path: (_ for _ in ()).throw(worker.locks.NoLocks(37, "none")))
        monkeypatch.setattr(leases, "EXPIRY", 1.0)
        with Worker(job.folder) as second:
            second.beat(state="running", step=7, now=True)
            one.process.send_signal(signal.SIGCONT)
            assert one.said().startswith("busy")
            assert one.process.wait() == 2
            status = job.status()
            assert status
            assert (status.step, status.pid) == (7, os.getpid())


# --- clocks


def test_a_clock_that_was_set_is_no_matter(job: Job) -> None:
    shared = {"boot": processes.boot(), "monotonic": time.monotonic()}
    for changes, state in (
        ({"updated_at": time.time() + 3600, **shared}, "starting"),  # set back since, on this machine
        ({"updated_at": time.time() - 3600, **shared}, "starting"),
        ({"updated_at": time.time(), **shared, "monotonic": time.monotonic() - 60}, "lost"),
        ({"updated_at": time.time() + 3600}, "lost"),  # of an earlier version, or another machine: from the future
        ({"updated_at": time.time() + 1e9, "boot": "another", "monotonic": 1e9}, "lost"),
        ({"updated_at": time.time() + 3, "boot": "another"}, "starting"),
    ):
        files.write_json(job.folder / "status.json", {**asdict(Status("starting")), **changes})
        assert job.state() == state, changes


# --- children


def test_kill_takes_no_process_that_only_has_the_number(job: Job) -> None:
    """A folder from a stranger, or one that is old, may name any process: only one that holds its lock is killed."""
    own = processes.Owner.this()
    victim = subprocess.Popen(["sleep", "600"])
    try:
        _, start = processes._look(victim.pid)
        create_time = psutil.Process(victim.pid).create_time()
        for status in (
            Status("running", pid=victim.pid, process_start=create_time, host=own.host, boot=own.boot, start=start),
            Status("running", pid=victim.pid, process_start=create_time),
            Status("running", pid=victim.pid, process_start=create_time, host="another"),
            Status("running", pid=victim.pid, process_start=create_time - 60),
            Status("running", pid=victim.pid, host=own.host, boot="another", start=start),
        ):
            files.write_json(job.folder / "status.json", asdict(status))
            (job.folder / "run.lock").touch()
            with raises_error("not-running"):
                launch.kill(job)
        with Worker(job.folder) as one:
            lease = one._heart._lease
            lease._record = lease._record._replace(owner=own._replace(pid=victim.pid, start=start))
            lease.renew()
            with raises_error("not-running"):
                launch.kill(job)
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()
