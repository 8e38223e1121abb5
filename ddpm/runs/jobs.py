"""A job: a folder and the one process that works in it.  Others see only the folder.

    run.lock        held by the process as long as it lives; decides whether it is alive
    status.json     status of the process, with a counter as heartbeat
    control.json    requests of others: stop, save, sample
    log.txt         output of the process

Training runs and their results, such as samples and evaluations, are job folders.
"""

import contextlib
import logging
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import psutil

from ddpm.config import records
from ddpm.config.records import Count, Keys, Range, Seconds
from ddpm.errors import UserError, as_user_error
from ddpm.runs import run_folder
from ddpm.storage import files, locks
from ddpm.storage.untrusted import Folder

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
    step: Count = 0
    total_steps: Count = 0
    saved: Count | None = None  # training: step of the newest checkpoint, 0 before the first
    # Of the last log line; None for NaN and infinities.
    metrics: Annotated[dict[str, float | None], Keys(1000)] = field(default_factory=dict)
    steps_per_second: Annotated[float, Range(0, 10**9)] | None = None
    seconds_left: Seconds | None = None
    message: str = ""  # current activity, or the error
    warning: str = ""  # a problem that does not stop the work
    computed: str = ""  # device, precision and backend, as in "on cpu, in fp32 by native kernels"
    sharing: str = ""  # other jobs on the cores of this machine, and the threads of this job
    pid: Annotated[int, Range(0, 2**31)] = 0
    process_start: Seconds = 0.0  # together with the pid, identifies the process
    host: str = ""  # machine of the process: several may share a disk
    queued_at: Seconds = 0.0
    updated_at: Seconds = 0.0
    beat: Annotated[int, Range(-1, 2**62)] = 0


class Job:
    """A job folder, as read by other processes.

    depth: how many folders it lies below that of a run, from where it is reached.
    """

    def __init__(self, folder: Path, depth: int = 0):
        self.folder = Path(folder)
        self._depth = depth

    @property
    def content(self) -> Folder:
        """The folder, as the one through which its files are opened."""
        top = self.folder.parents[self._depth - 1] if self._depth else self.folder
        return run_folder.folder_at(top, *self.folder.parts[len(top.parts) :])

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
            return self.read_status()
        except (UserError, OSError):
            return None  # the next heartbeat replaces it; `unreadable` and `problem` say why

    def read_status(self) -> Status | None:
        """The status; None if there is none.  Raises UserError if it is damaged, OSError if it cannot be read."""
        data = files.json_in(self.content, "status.json", run_folder.MOST_STATUS)
        return None if data is None else records.read(Status, data, str(self.folder / "status.json"))

    def unreadable(self) -> str:
        """Why status.json cannot even be opened, as a sentence; empty if it can, or if there is none."""
        try:
            with self.content.open_file("status.json", run_folder.MOST_STATUS):
                return ""
        except FileNotFoundError:
            return ""
        except UserError as error:
            return str(error)
        except OSError as error:
            return str(as_user_error(error))

    def problem(self) -> str:
        """What is wrong with the files of the job, as one sentence; empty if nothing is."""
        try:
            self.check_files()
        except UserError as error:
            return str(error)
        except OSError as error:
            return str(as_user_error(error))
        return ""

    def check_files(self) -> None:
        """Raises UserError, or OSError, for the first file of the job that is not what it should be."""
        self.read_status()
        self._requests()
        for name in ("run.lock", "log.txt"):
            self.content.exists(name)

    def alive(self) -> bool:
        """True if a process holds the lock; on disks without locks, if the status indicates a process."""
        try:
            self.content.exists("run.lock")
            return locks.held(self.folder / "run.lock")
        except UserError:
            return False  # no process of ours holds what is not a file
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
        except (UserError, OSError):
            return {}

    def _requests(self) -> dict[str, str]:
        return run_folder.requests_in(files.json_in(self.content, "control.json", run_folder.MOST_CONTROL))

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
            with self.content.open_file("log.txt") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""
        except UserError as error:
            return str(error)
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
