"""A job: a folder and the one process that works in it.  The folder is all that anybody else sees.

    run.lock        held by the process for as long as it lives: the truth about "alive"
    status.json     what the process last said about itself, with a heartbeat that counts up
    control.json    what others ask of it: stop, save, sample
    log.txt         what it said on the way

A training run is such a folder, and so is a set of samples being drawn.  No torch, no Streamlit.
"""

import contextlib
import dataclasses
import os
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self

import portalocker
import psutil

from ddpm import files
from ddpm.errors import UserError

State = Literal[
    "queued", "starting", "running", "stopping", "stopped", "finished", "failed", "lost", "not responding"
]  # fmt: skip
ACTIVE = ("queued", "starting", "running", "stopping", "not responding")
FINAL = ("stopped", "finished", "failed")
Request = Literal["stop", "save", "sample"]

START_GRACE = 15.0  # seconds that a new process may take until it holds its lock
BEAT_INTERVAL = 1.0  # seconds between two writes of status.json


@dataclass(frozen=True)
class Status:
    """status.json.  Times are seconds since the epoch, durations seconds; None is not known (yet)."""

    state: State
    step: int = 0
    total_steps: int = 0
    metrics: dict[str, float | None] = field(default_factory=dict)  # of the last log line; None was not a number
    steps_per_second: float | None = None
    seconds_left: float | None = None
    message: str = ""  # what it is doing, or the sentence it failed with
    warning: str = ""  # something to see to, though work goes on
    pid: int = 0
    process_start: float = 0.0  # pids are reused; with this one they are not
    queued_at: float = 0.0
    updated_at: float = 0.0
    beat: int = 0


class Stopped(Exception):
    """Asked to stop before there was anything to save: ends a Worker's block in state "stopped"."""


class Job:
    """The reader's side of a job folder."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def log_path(self) -> Path:
        return self.folder / "log.txt"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and self.folder == other.folder

    def __hash__(self) -> int:
        return hash(self.folder)

    def status(self) -> Status | None:
        """What the process last wrote, or None before it wrote anything."""
        data = files.read_json(self.folder / "status.json")
        if data is None:
            return None
        known = {f.name for f in dataclasses.fields(Status)}
        return Status(**{key: value for key, value in data.items() if key in known})

    def alive(self) -> bool:
        """Whether a process holds the lock."""
        try:
            with open(self.folder / "run.lock", "rb+") as file:
                portalocker.lock(file, portalocker.LockFlags.SHARED | portalocker.LockFlags.NON_BLOCKING)
                portalocker.unlock(file)
        except FileNotFoundError:
            return False
        except portalocker.LockException:
            return True
        return False

    def state(self, pulse: "Pulse | None" = None) -> State:
        """The state that the folder shows, whatever became of the process."""
        status = self.status()
        if status is None:
            return "starting" if self.alive() else "stopped"
        if not self.alive():
            if status.state in FINAL:
                return status.state
            young = time.time() - status.updated_at < START_GRACE
            return "starting" if status.state in ("starting", "queued") and not status.pid and young else "lost"
        if pulse and pulse.stands_still(self, status):
            return "not responding"
        if status.state == "running" and "stop" in self.requests():
            return "stopping"
        return "running" if status.state in FINAL else status.state  # it is just leaving

    def requests(self) -> dict[str, str]:
        """What is asked of the process: request -> token that makes each asking its own."""
        try:
            return files.read_json(self.folder / "control.json") or {}
        except UserError:
            return {}

    def request(self, what: Request) -> None:
        """Ask the process to stop (after the step in hand, saved), save now, or draw a preview now."""
        with guard(self.folder.parent):
            files.write_json(self.folder / "control.json", {**self.requests(), what: secrets.token_hex(8)})

    def clear_requests(self) -> None:
        files.write_json(self.folder / "control.json", {})

    def log_tail(self, lines: int = 200) -> str:
        """The end of log.txt, at most 64 kB of it."""
        try:
            with open(self.log_path, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def processes(self) -> list[psutil.Process]:
        """The process that status.json names, if it is still that one."""
        status = self.status()
        if not status or not status.pid:
            return []
        try:
            process = psutil.Process(status.pid)
            same = abs(process.create_time() - status.process_start) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return []
        return [process] if same else []


class Pulse:
    """Times heartbeats with the reader's own clock, so that a changed or sleeping clock fools nobody."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}

    def stands_still(self, job: Job, status: Status) -> bool:
        beat, now = (status.pid, status.beat), time.monotonic()
        last, since = self._seen.get(job.folder, (None, now))
        if beat != last:
            self._seen[job.folder] = (beat, now)
            return False
        per_step = 1 / status.steps_per_second if status.steps_per_second else 0.0
        return now - since > max(15.0, 5 * per_step)


@contextlib.contextmanager
def guard(folder: Path) -> Iterator[None]:
    """One process at a time changes what is in `folder`: names, starts, requests."""
    folder.mkdir(parents=True, exist_ok=True)
    with portalocker.Lock(folder / ".lock", mode="a", timeout=30, flags=portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING):  # fmt: skip
        yield


class Worker:
    """The working process's side: holds the lock, beats, hears requests.  A context manager.

    An exception that leaves the block makes the state "failed" and goes on; Stopped ends it quietly.
    SIGTERM and Ctrl-C ask to stop; a second Ctrl-C interrupts at once.  Raises UserError when another process works here.
    """

    def __init__(self, folder: Path, total_steps: int = 0, state: State = "starting"):
        self.job = Job(folder)
        self._status = Status(state, total_steps=total_steps)
        self._interrupted = False
        self._written = 0.0

    def __enter__(self) -> Self:
        self.job.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.job.folder / "run.lock", "ab+")
        self._take_lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._lock.close)  # a lock outlives its owner in a fork
        before = self.job.status()
        self._answered: dict[str, str] = {}  # requests that were heard, by their tokens
        self._control_time = 0
        if before is None or before.state not in ("starting", "queued"):
            self.job.clear_requests()  # what was asked of an earlier process
        process = psutil.Process()
        self._status = dataclasses.replace(
            self._status,
            pid=process.pid,
            process_start=process.create_time(),
            queued_at=before.queued_at if before and before.state == "queued" else time.time(),
            beat=before.beat if before else 0,
        )
        self.beat(now=True)
        self._handlers = {}
        with contextlib.suppress(ValueError):  # not in the main thread: nobody's signals to take
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def _take_lock(self) -> None:
        flags = portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING
        for attempt in range(20):  # readers hold it for an instant when they look
            try:
                portalocker.lock(self._lock, flags)
                return
            except portalocker.LockException:
                time.sleep(0.02 * (attempt + 1))
        self._lock.close()
        raise UserError(f"{self.job.name} is already being worked on by another process: stop that one first, or wait.")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._interrupted = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Stopped | KeyboardInterrupt):
            lost = "" if isinstance(error, Stopped) else "Interrupted: steps since the last checkpoint are lost"
            self.beat(state="stopped", message=lost, seconds_left=None, now=True)
        elif error is not None:
            sentence = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self.beat(state="failed", message=sentence, seconds_left=None, now=True)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._lock.close()
        return isinstance(error, Stopped)

    @property
    def status(self) -> Status:
        return self._status

    def beat(self, now: bool = False, **changes: Any) -> None:
        """Count the heartbeat up and take note of changes; written at most once a second, or `now`."""
        self._status = dataclasses.replace(self._status, beat=self._status.beat + 1, updated_at=time.time(), **changes)
        if now or "state" in changes or time.monotonic() - self._written > BEAT_INTERVAL:
            self._written = time.monotonic()
            # No room for the status is no reason to stop working; the next beat tries again.
            with contextlib.suppress(files.DiskFull):
                files.write_json(self.job.folder / "status.json", dataclasses.asdict(self._status))

    def heard(self) -> set[str]:
        """Requests that have come since the last call; a stop is told again and again."""
        asked = self.job.requests() if self._control_changed() else {}
        new = {what for what, token in asked.items() if self._answered.get(what) != token}
        self._answered.update(asked)
        if "stop" in self._answered or self._interrupted:
            new.add("stop")
        return new

    def _control_changed(self) -> bool:
        try:
            changed = os.stat(self.job.folder / "control.json").st_mtime_ns
        except FileNotFoundError:
            return False
        before, self._control_time = self._control_time, changed
        return changed != before
