"""The working process of a job: holds the lock, writes status.json, reads requests."""

import contextlib
import dataclasses
import logging
import math
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, Self

import psutil

from ddpm.errors import UserError, as_user_error
from ddpm.host import cpu_threads
from ddpm.runs.jobs import FINAL, START_GRACE, Job, State, Status, not_writable
from ddpm.storage import files, locks

log = logging.getLogger("ddpm")


BEAT_INTERVAL = 1.0  # seconds between two writes of status.json


# What asks a process to stop: kill, Ctrl-C, a closed terminal, Windows' Ctrl-Break.
SIGNALS = [s for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK") if (s := getattr(signal, name, None)) is not None]


class Stopped(Exception):
    """Asked to stop before there was anything to save: ends a Worker's block in state "stopped"."""


@contextlib.contextmanager
def keep_on_failure(keep: Callable[[], None]) -> Iterator[None]:
    """Where work fails, `keep` what is finished before the error goes on.

    A failure of `keep` itself is only logged.
    """
    try:
        yield
    except Exception:
        try:
            keep()
        except Exception as error:  # what went wrong first says more: a full disk, as a rule, is both
            log.warning("What was finished could not be kept: %s", error)
        raise


class Worker:
    """The working process's side: holds the lock, beats, hears requests.  A context manager.

    An exception that leaves the block makes the state "failed" and goes on; Stopped ends it quietly.
    SIGTERM and Ctrl-C ask to stop; a second Ctrl-C interrupts at once.  Raises UserError if another process works here.
    """

    def __init__(self, folder: Path, total_steps: int = 0, state: State = "starting"):
        self.job = Job(folder)
        self._status = Status(state, total_steps=total_steps)
        self._interrupted = False
        self._standing = ""  # a warning for as long as there is no other
        self._written = 0.0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._lock = self._locked()
        try:
            self._begin()
        except BaseException:
            self._lock.close()
            raise
        return self

    def _locked(self) -> BinaryIO:
        """run.lock, open and held."""
        busy = UserError(
            f"{self.job.name} is already being worked on by another process: stop that one first, or wait.", code="busy"
        )
        path = self.job.folder / "run.lock"
        try:
            lock = locks.hold(path)
        except locks.NoLocks as error:
            if self.job.alive():
                raise busy from None
            self._standing = (
                f"{self.job.folder} is on a disk without locks ({error.strerror}): see to it that no two processes work"
                " in it."
            )
            log.warning("%s", self._standing)
            lock = files.appending(path)
        except OSError as error:
            raise not_writable(self.job.folder, error) from error
        if lock is None:
            raise busy
        return lock

    def _begin(self) -> None:
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._lock.close)  # a lock outlives its owner in a fork
        for folder in (self.job.folder, *(path for path in self.job.folder.iterdir() if path.is_dir())):
            files.sweep(folder)
        process, before = psutil.Process(), self.job.status() or Status(self._status.state)
        self._answered: dict[str, str] = {}  # requests that were heard, by their tokens
        self._control_seen = (0, 0)
        if not self._announced(before, process.create_time()):
            self.job.clear_requests()  # what was asked of an earlier process
        self._status = dataclasses.replace(
            self._status,
            total_steps=self._status.total_steps or before.total_steps,
            step=before.step,  # what an earlier process did here stands until this one has done something
            saved=before.saved,
            metrics=before.metrics,
            pid=process.pid,
            process_start=process.create_time(),
            host=platform.node(),
            queued_at=before.queued_at if before.state == "queued" and before.queued_at else time.time(),
            beat=before.beat,
        )
        self.beat(now=True)
        with contextlib.suppress(ValueError):  # not in the main thread: nobody's signals to take
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's, for one
                    self._handlers[number] = signal.signal(number, self._on_signal)

    def _announced(self, before: Status, process_start: float) -> bool:
        """Whether whoever started this process said so in the status; requests since then are meant for it."""
        if before.state not in ("starting", "queued") or before.pid:
            return False
        return process_start - before.updated_at < START_GRACE

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._interrupted = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Stopped | KeyboardInterrupt):
            lost = "" if isinstance(error, Stopped) else "Interrupted: steps since the last checkpoint are lost"
            self.beat(state="stopped", message=lost, seconds_left=None, now=True)
        elif error is not None and not (isinstance(error, SystemExit) and self._status.state in FINAL):
            known = as_user_error(error) if isinstance(error, OSError | UnicodeError) else error
            sentence = str(known) if isinstance(known, UserError) else f"{type(error).__name__}: {error}"
            self.beat(state="failed", message=sentence, seconds_left=None, now=True)
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        cpu_threads.leave()
        self._lock.close()
        return isinstance(error, Stopped)

    @property
    def status(self) -> Status:
        return self._status

    def beat(self, now: bool = False, **changes: Any) -> None:
        """Count the heartbeat up and take note of changes; written at most once a second, or `now`.

        Now and then it also looks who else computes, and this process goes on with its share of the cores.
        """
        if "metrics" in changes:
            changes["metrics"] = {
                k: v if v is not None and math.isfinite(v) else None for k, v in changes["metrics"].items()
            }
        if not changes.get("warning", self._status.warning):
            changes["warning"] = self._standing
        changes = {"beat": self._status.beat + 1, "updated_at": time.time(), "sharing": cpu_threads.look(), **changes}
        self._status = dataclasses.replace(self._status, **changes)
        if now or "state" in changes or time.monotonic() - self._written > BEAT_INTERVAL:
            self._written = time.monotonic()
            # No room for the status is no reason to stop working; the next beat tries again.
            with contextlib.suppress(files.DiskFull, OSError):
                files.write_json(self.job.folder / "status.json", dataclasses.asdict(self._status))

    def poll_requests(self) -> set[str]:
        """Requests that have come since the last call; a stop is told again and again."""
        try:
            asked = self.job._requests() if self._control_changed() else {}
        except OSError:  # of a disk that is away for an instant: it is asked again
            asked, self._control_seen = {}, (0, 0)
        new = {what for what, token in asked.items() if self._answered.get(what) != token}
        self._answered.update(asked)
        if "stop" in self._answered or self._interrupted:
            new.add("stop")
        return new

    def _control_changed(self) -> bool:
        try:
            stat = os.stat(self.job.folder / "control.json")
        except OSError:
            return False
        before, self._control_seen = self._control_seen, (stat.st_mtime_ns, stat.st_ino)
        return self._control_seen != before


class Helper(Worker):
    """A process that works with the one that holds the lock: it does not write, and learns of a stop from that one.

    Signals to stop are meant for all and answered by the other, whose end is noticed soon enough.
    """

    def __enter__(self) -> Self:
        with contextlib.suppress(ValueError):  # not in the main thread: nobody's signals to take
            self._handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        cpu_threads.leave()
        return isinstance(error, Stopped)

    def beat(self, now: bool = False, **changes: Any) -> None:
        """Nothing but to go on with this process's share of the cores: the other one beats."""
        cpu_threads.look()

    def poll_requests(self) -> set[str]:
        """Nothing: the other one hears."""
        return set()
