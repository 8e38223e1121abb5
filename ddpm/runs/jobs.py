"""A job: a folder and the one process that works in it.  The folder is all that anybody else sees.

    run.lock        held by the process for as long as it lives: the truth about "alive"
    status.json     what the process last said about itself, with a heartbeat that counts up
    control.json    what others ask of it: stop, save, sample
    log.txt         what it said on the way

A training run is such a folder, and so is a set of samples being drawn.  No torch, no Streamlit.
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

START_GRACE = 15.0  # seconds that a new process may take until it holds its lock
ELSEWHERE = 120.0  # seconds without a heartbeat until a process of another machine counts as gone; clocks differ
STILL = 15.0  # seconds without a heartbeat, or five steps, until a process counts as not responding
LOOK_GAP = 10.0  # of them, at most so many between two looks


@dataclass(frozen=True)
class Status:
    """status.json.  Times are seconds since the epoch, durations seconds; None is not known (yet)."""

    state: State
    step: int = 0
    total_steps: int = 0
    saved: int | None = None  # of a training: the step of its newest checkpoint, 0 before the first one
    metrics: dict[str, float | None] = field(default_factory=dict)  # of the last log line; None was not a number
    steps_per_second: float | None = None
    seconds_left: float | None = None
    message: str = ""  # what it is doing, or the sentence it failed with
    warning: str = ""  # something to see to, though work goes on
    computed: str = ""  # where, in which precision and by what, as "on cpu, in fp32 by native kernels"
    sharing: str = ""  # who else computes on this machine's cores, and with how many threads this one goes on
    pid: int = 0
    process_start: float = 0.0  # pids are reused; with this one they are not
    host: str = ""  # the machine that the process is on: a disk may be several machines'
    queued_at: float = 0.0
    updated_at: float = 0.0
    beat: int = 0


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
        """What the process last wrote, or None before it wrote anything that can be read."""
        try:
            data = files.read_json(self.folder / "status.json")
        except (UserError, OSError):
            return None  # the next beat replaces it; one that may not be read, `unreadable` tells of
        if not isinstance(data, dict) or data.get("state") not in typing.get_args(State):
            return None
        known = {f.name for f in dataclasses.fields(Status)}
        return Status(**{key: value for key, value in data.items() if key in known})

    def unreadable(self) -> str:
        """Why status.json may not be read, as a sentence; empty if it may."""
        try:
            files.read_json(self.folder / "status.json")
        except UserError:
            return ""
        except OSError as error:
            return str(as_user_error(error))
        return ""

    def alive(self) -> bool:
        """Whether a process holds the lock; where locks cannot be looked at, whether it seems to work."""
        try:
            return locks.held(self.folder / "run.lock")
        except OSError:
            return self._seems_alive()

    def _seems_alive(self) -> bool:
        """Whether the process that status.json names is there, or still beats where it is on another machine."""
        status = self.status()
        if status is None or status.state in FINAL:
            return False
        if status.host in ("", platform.node()):
            return bool(self.processes())
        return time.time() - status.updated_at < ELSEWHERE

    def state(self, pulse: "Pulse | None" = None) -> State:
        """The state that the folder shows, whatever became of the process."""
        # The lock is looked at before the status: a process that ends between the two has written its last word.
        alive, status = self.alive(), self.status()
        if not alive and status and status.state not in FINAL:
            alive = self.alive()  # one that began between the two holds the lock by now
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
        return "running" if status.state in FINAL else status.state  # it is just leaving

    def requests(self) -> dict[str, str]:
        """What is asked of the process: request -> token that makes each asking its own."""
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
        except OSError as error:
            return str(as_user_error(error))

    def processes(self) -> list[psutil.Process]:
        """The process that status.json names, if it is still that one."""
        status = self.status()
        if not status or not status.pid:
            return []
        try:
            process = psutil.Process(status.pid)
            same = abs(process.create_time() - status.process_start) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:  # it is gone, or somebody else's
            return []
        return [process] if same else []


class Pulse:
    """Times heartbeats with the reader's own clock, so that a changed or sleeping clock fools nobody."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Path, tuple[tuple[int, int], float, float]] = {}  # beat, when it was looked at, seconds still

    def is_stalled(self, job: Job, status: Status) -> bool:
        beat, now = (status.pid, status.beat), self._clock()
        last, looked, still = self._seen.get(job.folder, (beat, now, 0.0))
        # A gap between two looks counts little: the reader may have slept through it, and the process too.
        still = still + min(now - looked, LOOK_GAP) if beat == last else 0.0
        self._seen[job.folder] = (beat, now, still)
        per_step = 1 / status.steps_per_second if status.steps_per_second else 0.0
        return still > max(STILL, 5 * per_step)


@contextlib.contextmanager
def guard(folder: Path) -> Iterator[None]:
    """One process at a time changes what is in `folder`: names, starts, requests.

    Raises UserError where the folder cannot be written, or another process has been at it for half a minute.
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
