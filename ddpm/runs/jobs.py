"""A job: a folder and the one process that works in it.  Others see only the folder.

    run.lock        held by the process as long as it lives; decides whether it is alive
    status.json     status of the process, with a counter as heartbeat
    control.json    requests of others: stop, save, sample
    log.txt         output of the process

Training runs and their results, such as samples and evaluations, are job folders.
"""

import contextlib
import dataclasses
import logging
import os
import platform
import secrets
import time
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from ddpm.errors import UserError, as_user_error
from ddpm.storage import files, locks

log = logging.getLogger("ddpm")

State = Literal[
    "queued", "starting", "running", "stopping", "stopped", "finished", "failed", "lost", "not responding", "unreadable"
]
ACTIVE = ("queued", "starting", "running", "stopping", "not responding")
FINAL = ("stopped", "finished", "failed")
Request = Literal["stop", "save", "sample"]

START_GRACE = 15.0  # seconds within which a new process has to hold its lock
ELSEWHERE = 120.0  # seconds without heartbeat until a process on another machine counts as ended; clocks differ
STILL = 15.0  # seconds without heartbeat, or five steps, until a process counts as not responding
LOOK_GAP = 10.0  # seconds counted between two readings of the status, at most


@dataclass(frozen=True)
class Status:
    """Content of status.json.  Times are seconds since the epoch, durations seconds; None is unknown."""

    state: State
    step: int = 0
    total_steps: int = 0
    saved: int | None = None  # training: step of the newest checkpoint, 0 before the first
    metrics: dict[str, float | None] = field(default_factory=dict)  # of the last log line; None for NaN and infinities
    steps_per_second: float | None = None
    seconds_left: float | None = None
    message: str = ""  # current activity, or the error
    warning: str = ""  # a problem that does not stop the work
    computed: str = ""  # device, precision and backend, as in "on cpu, in fp32 by native kernels"
    sharing: str = ""  # other jobs on the cores of this machine, and the threads of this job
    pid: int = 0
    process_start: float = 0.0  # together with the pid, identifies the process
    host: str = ""  # machine of the process: several may share a disk
    queued_at: float = 0.0
    updated_at: float = 0.0
    beat: int = 0


class Job:
    """A job folder, as read by other processes."""

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
        """The last status that the process wrote; None if there is none that can be read."""
        try:
            data = files.read_json(self.folder / "status.json")
        except (UserError, OSError):
            return None  # the next heartbeat replaces it; `unreadable` says why
        if not isinstance(data, dict) or data.get("state") not in typing.get_args(State):
            return None
        known = {f.name for f in dataclasses.fields(Status)}
        return Status(**{key: value for key, value in data.items() if key in known})

    def unreadable(self) -> str:
        """The error of the system in reading status.json, as a sentence; empty without one."""
        try:
            files.read_json(self.folder / "status.json")
        except UserError:
            return ""
        except OSError as error:
            return str(as_user_error(error))
        return ""

    def alive(self) -> bool:
        """True if a process holds the lock; on disks without locks, if the status indicates a process."""
        try:
            return locks.held(self.folder / "run.lock")
        except OSError:
            return self._seems_alive()

    def _seems_alive(self) -> bool:
        """True if the process in status.json exists, or has a recent heartbeat on another machine."""
        status = self.status()
        if status is None or status.state in FINAL:
            return False
        if status.host in ("", platform.node()):
            return bool(self.processes())
        return time.time() - status.updated_at < ELSEWHERE

    def state(self, pulse: "Pulse | None" = None) -> State:
        """The state of the job, from its lock and status; `pulse` detects a process that does not respond."""
        # The lock is read before the status: a process that ends in between has written its final status.
        alive, status = self.alive(), self.status()
        if not alive and status and status.state not in FINAL:
            alive = self.alive()  # a process that started in between holds the lock by now
        if status is None:
            return "unreadable" if self.unreadable() else "starting" if alive else "stopped"
        if not alive:
            if status.state in FINAL:
                return status.state
            young = time.time() - status.updated_at < START_GRACE
            return "starting" if status.state in ("starting", "queued") and not status.pid and young else "lost"
        if pulse and pulse.is_stalled(self, status):
            return "not responding"
        if status.state == "running" and "stop" in self.requests():
            return "stopping"
        return "running" if status.state in FINAL else status.state  # it is about to end

    def requests(self) -> dict[str, str]:
        """Pending requests to the process: request -> a token that is unique to each request."""
        try:
            return self._requests()
        except OSError:
            return {}

    def _requests(self) -> dict[str, str]:
        try:
            asked = files.read_json(self.folder / "control.json")
        except UserError:
            return {}
        return asked if isinstance(asked, dict) else {}

    def request(self, what: Request) -> None:
        """Asks the process to stop after the current step and save, to save now, or to sample a preview now."""
        with guard(self.folder.parent):
            files.write_json(self.folder / "control.json", {**self.requests(), what: secrets.token_hex(8)})

    def clear_requests(self) -> None:
        """Removes all requests."""
        files.write_json(self.folder / "control.json", {})

    def log_tail(self, lines: int = 200) -> str:
        """The end of log.txt, at most 64 kB of it."""
        try:
            with open(self.log_path, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""
        except OSError as error:
            return str(as_user_error(error))

    def processes(self) -> list[psutil.Process]:
        """The process in status.json, if it still exists; at most one."""
        status = self.status()
        if not status or not status.pid:
            return []
        try:
            process = psutil.Process(status.pid)
            same = abs(process.create_time() - status.process_start) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:  # it has ended, or belongs to another user
            return []
        return [process] if same else []


class Pulse:
    """Times heartbeats by the clock of the reader, unaffected by changes of the system time and by sleep."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[
            Path, tuple[tuple[int, int], float, float]
        ] = {}  # beat, time of the last reading, seconds without change

    def is_stalled(self, job: Job, status: Status) -> bool:
        """True if the heartbeat of the job has not changed for STILL seconds or five steps."""
        beat, now = (status.pid, status.beat), self._clock()
        last, looked, still = self._seen.get(job.folder, (beat, now, 0.0))
        # A long gap between readings counts as LOOK_GAP only: the machine may have been asleep.
        still = still + min(now - looked, LOOK_GAP) if beat == last else 0.0
        self._seen[job.folder] = (beat, now, still)
        per_step = 1 / status.steps_per_second if status.steps_per_second else 0.0
        return still > max(STILL, 5 * per_step)


@contextlib.contextmanager
def guard(folder: Path) -> Iterator[None]:
    """Lets one process at a time change the names, starts and requests in `folder`.

    Raises UserError if the folder cannot be written, or another process holds the lock for half a minute.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.locked(folder / ".lock", seconds=30))
        except locks.Busy as error:
            raise UserError(
                f"Another process has been changing {folder} for half a minute: end it, or wait.", code="busy"
            ) from error
        except OSError as error:
            raise not_writable(folder, error) from error
        yield


def not_writable(folder: Path, error: OSError) -> UserError:
    """The error for a folder that cannot be written."""
    why = error.strerror or error
    return UserError(
        f"Cannot write in {folder} ({why}): make it writable, or choose another folder.", code="not-writable"
    )
