"""Locks that are held, and disks that have none."""

import errno
import logging
import threading
import time
from pathlib import Path
from typing import BinaryIO

import portalocker
import pytest
from raising import raises_error

from ddpm.runs import jobs
from ddpm.runs.jobs import Job
from ddpm.runs.worker import Worker
from ddpm.storage import files, locks


@pytest.mark.slow
def test_files_that_are_held(tmp_path: Path) -> None:
    path = tmp_path / "a" / "lock"
    assert not locks.held(path)
    file = locks.hold(path)
    assert file
    assert locks.held(path)
    assert locks.hold(path) is None
    with pytest.raises(locks.Busy), locks.locked(path, seconds=0):
        pass
    file.close()
    assert not locks.held(path)


@pytest.fixture
def without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a disk without locks."""

    def lock(file: object, flags: object) -> None:
        error = OSError(errno.ENOLCK, "No locks available")
        raise portalocker.LockException(error) from error

    monkeypatch.setattr(portalocker, "lock", lock)
    monkeypatch.setattr(locks, "_without", set())
    return tmp_path / "nfs"


def test_no_locks_are_no_locks_that_are_held(without: Path) -> None:
    with pytest.raises(locks.NoLocks) as caught:
        locks.hold(without / "lock")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOLCK, str(without / "lock"))
    with pytest.raises(locks.NoLocks):
        locks.held(without / "lock")


def test_without_locks_a_block_goes_on_and_says_so_once(without: Path, caplog: pytest.LogCaptureFixture) -> None:
    began, entered = time.monotonic(), 0
    with caplog.at_level(logging.WARNING, "ddpm"):
        for name in ("a", "b"):
            with locks.locked(without / name, seconds=30):
                entered += 1
    assert entered == 2
    assert time.monotonic() - began < 20, "it waits for nobody"
    assert len(caplog.records) == 1
    assert str(without) in caplog.text


def test_without_locks_one_process_at_a_time_is_in_a_block(without: Path) -> None:
    inside: list[int] = []

    def enter() -> None:
        for _ in range(10):
            with locks.locked(without / "lock"):
                inside.append(1)
                assert sum(inside) == 1
                time.sleep(0.001)
                inside.append(-1)

    threads = [threading.Thread(target=enter) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside) == 60
    assert sum(inside) == 0
    with locks.locked(without / "lock"), pytest.raises(locks.Busy), locks.locked(without / "lock", seconds=0):
        pass


@pytest.mark.slow
def test_a_lock_that_was_removed_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening of the file and its locking: others would lock a new one."""
    path, lock = tmp_path / "lock", portalocker.lock

    def removed(file: BinaryIO, flags: portalocker.LockFlags) -> None:
        monkeypatch.setattr(portalocker, "lock", lock)
        path.unlink()
        lock(file, flags)

    monkeypatch.setattr(portalocker, "lock", removed)
    file = locks.hold(path)
    assert file
    assert locks.is_at(file, path)
    assert locks.hold(path) is None
    file.close()


def test_without_locks_a_process_is_known_by_its_status(without: Path) -> None:
    job = Job(without / "job")
    assert not job.alive()
    with Worker(job.folder) as worker:
        worker.beat(state="running", warning="", now=True)
        status = job.status()
        assert status
        assert "without locks" in status.warning
        assert job.alive()
        assert job.state() == "running"
        with raises_error("busy"), Worker(job.folder):
            pass
        worker.beat(state="finished")
    assert not job.alive()
    assert job.state() == "finished"


def test_without_locks_a_process_elsewhere_is_known_by_its_heartbeat(without: Path) -> None:
    job, status = Job(without / "job"), dict(state="running", pid=1, process_start=1.0, host="another machine")
    files.write_bytes(job.folder / "run.lock", b"")
    for seconds, alive in ((5, True), (3 * jobs.ELSEWHERE, False)):
        files.write_json(job.folder / "status.json", {**status, "updated_at": time.time() - seconds})
        assert job.alive() is alive
        assert job.processes() == [], "a number of another machine's process is nobody's here"


def test_other_failures_of_the_lock_file_are_reported(tmp_path: Path) -> None:
    (tmp_path / "run.lock").mkdir()
    with pytest.raises(OSError, match="lock"), locks.locked(tmp_path / "run.lock"):
        pass
    with raises_error("not-writable"), Worker(tmp_path):
        pass
