"""Processes that files name, and others that have got their numbers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from waiting import until

from ddpm.storage import processes
from ddpm.storage.processes import Owner

pytestmark = pytest.mark.skipif(not processes.LINUX, reason="signals and /proc")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def owner_of(process: subprocess.Popen[bytes]) -> Owner:
    return Owner.this()._replace(pid=process.pid, start=processes._look(process.pid)[1])


def test_conditions(sleeper: subprocess.Popen[bytes]) -> None:
    own, other = Owner.this(), owner_of(sleeper)
    assert (own.here, own.condition()) == (True, "running")
    assert (other.here, other.condition()) == (True, "running")
    sleeper.send_signal(signal.SIGSTOP)
    until(lambda: other.condition() == "stopped")
    sleeper.send_signal(signal.SIGCONT)
    until(lambda: other.condition() == "running")
    sleeper.kill()
    until(lambda: psutil.Process(sleeper.pid).status() == psutil.STATUS_ZOMBIE)
    assert other.condition() == "gone", "a zombie does no work"
    sleeper.wait()
    assert other.condition() == "gone"


def test_a_number_that_another_process_has_got() -> None:
    own = Owner.this()
    assert own._replace(start=own.start - 1).condition() == "gone", "one clock tick apart"
    assert own._replace(start=float("nan")).condition() == "gone"
    assert own._replace(pid=10**30).condition() == own._replace(pid=-1).condition() == "gone"


def test_processes_elsewhere_are_not_looked_for_here() -> None:
    own = Owner.this()
    assert not own._replace(boot="another start of this machine").here
    assert not own._replace(boot="", host="another machine").here
    assert not own._replace(boot="").here, "this system tells, so the process ran on another"


def test_a_clock_that_is_set_changes_no_start(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = owner_of(sleeper)
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: 1.0)  # what psutil adds to the start
    monkeypatch.setattr("time.time", lambda: 1.0)
    assert owner_of(sleeper) == before
    assert before.condition() == "running"
    assert 0 < processes.age() < 86400


def test_files_that_a_process_has_open(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    assert not processes.has_open(os.getpid(), path)
    with open(path, "ab"):
        assert processes.has_open(os.getpid(), path)
        assert not processes.has_open(os.getpid(), tmp_path / "another")
        (tmp_path / "link").symlink_to(tmp_path)
        assert processes.has_open(os.getpid(), tmp_path / "link" / "run.lock")
        path.unlink()
        assert processes.has_open(os.getpid(), path), "removed since"
        assert processes.has_open(os.getpid(), tmp_path / "link" / "run.lock")
        path.touch()
    assert not processes.has_open(os.getpid(), path)


def test_kill_ends_the_process_and_no_later_one(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = psutil.Process(sleeper.pid)
    with monkeypatch.context() as patch:  # the number has been given to a process that started later
        patch.setattr(psutil.Process, "is_running", lambda self: False)
        processes.kill(named)
    assert sleeper.poll() is None
    processes.kill(named)
    assert sleeper.wait() == -signal.SIGKILL
    processes.kill(named)  # it is gone


def test_kill_without_handles_of_processes(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    processes.kill(psutil.Process(sleeper.pid))
    assert sleeper.wait() == -signal.SIGKILL


def test_other_users_processes_may_be_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc shows one's own processes only."""
    hidden = Owner.this()._replace(pid=2**22 - 1, start=5.0)
    monkeypatch.setattr(Path, "read_bytes", lambda self: (_ for _ in ()).throw(FileNotFoundError()))
    assert hidden.condition() == "gone"

    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert hidden.condition() == "running"


def test_the_same_everywhere_else(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """On systems without /proc."""
    monkeypatch.setattr(processes, "LINUX", False)
    own, other = Owner.this(), owner_of(sleeper)
    assert own.condition() == other.condition() == "running"
    assert 0 < processes.age() < 86400 * 30
    assert other._replace(start=other.start - 5).condition() == "gone"
    sleeper.send_signal(signal.SIGSTOP)
    until(lambda: other.condition() == "stopped")
    sleeper.kill()
    sleeper.wait()
    assert other.condition() == "gone"
    assert sys.platform
