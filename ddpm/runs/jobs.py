"""A job: a folder and the one process that works in it.  Others see only the folder.

    run.lock        held by the process as long as it lives; decides whether it is alive
    run.lease/      names the process, and is renewed every second; decides where there are no locks
    status.json     status of the process, with a counter as heartbeat of its work
    control.json    requests of others: stop, save, sample, cooldown
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import psutil
from msgspec import Meta

from ddpm.config import records
from ddpm.config.records import Count, Seconds
from ddpm.errors import UserError, as_user_error
from ddpm.runs import run_folder
from ddpm.runs.exclusive import guard
from ddpm.runs.run_folder import JobFolder, Request
from ddpm.storage import files, leases, locks, processes
from ddpm.storage.leases import Pulse
from ddpm.storage.processes import Owner
from ddpm.storage.remembered import Remembered
from ddpm.storage.untrusted import Folder

log = logging.getLogger("ddpm")

State = Literal[
    "queued", "starting", "running", "stopping", "stopped", "finished", "failed", "lost", "not responding", "unreadable"
]
ACTIVE = ("queued", "starting", "running", "stopping", "not responding")
FINAL = ("stopped", "finished", "failed")

START_GRACE = 30.0  # seconds within which a new process has to hold its lock; a busy machine takes 15 to import torch
ELSEWHERE = 120.0  # seconds without status until a process of an earlier version, on another machine, has ended
SILENT = 4.0  # seconds without renewal of the lease until a process counts as not responding
STALLED = 15.0  # the same for a process of this machine that is seen to use the processor
STUCK = 120.0  # seconds without progress, or ten steps, until it does although it renews its lease


@dataclass(frozen=True)
class Status:
    """Content of status.json.  Times are seconds since the epoch, durations seconds; None is unknown."""

    state: State
    step: Count = 0
    total_steps: Count = 0
    saved: Count | None = None  # training: step of the newest checkpoint, 0 before the first
    # Of the last log line; None for NaN and infinities.
    metrics: Annotated[dict[str, float | None], Meta(max_length=1000)] = field(default_factory=dict)
    steps_per_second: Annotated[float, Meta(ge=0, le=10**9)] | None = None
    seconds_left: Seconds | None = None
    message: str = ""  # current activity, or the error
    warning: str = ""  # a problem that does not stop the work
    computed: str = ""  # device, precision and backend, as in "on cpu, in fp32 by native kernels"
    sharing: str = ""  # other jobs on the cores of this machine, and the threads of this job
    pid: Annotated[int, Meta(ge=0, le=2**31)] = 0
    process_start: Seconds = 0.0  # together with the pid, identifies the process
    host: str = ""  # machine of the process: several may share a disk
    # Start of the machine: with host, pid and start an Owner, which no other process is taken for.
    boot: Annotated[str, Meta(max_length=1000)] = ""
    start: Annotated[float, Meta(ge=0, le=10**15)] = 0.0
    queued_at: Seconds = 0.0
    updated_at: Seconds = 0.0
    monotonic: Seconds = 0.0  # the same by a clock that no one sets, which processes of one `boot` share
    beat: Annotated[int, Meta(ge=-1, le=2**62)] = 0

    @property
    def owner(self) -> Owner:
        """The process."""
        return Owner(self.host, self.boot, self.pid, self.start)

    @property
    def age(self) -> float:
        """Seconds since the update: negative where the clock was set back, unless the writer shares this one's."""
        if self.boot and self.boot == processes.boot():
            return time.monotonic() - self.monotonic
        return time.time() - self.updated_at


def settled(status: Status, state: State) -> Status:
    """The status as the process would have left it; it differs where the work was done and the process then killed."""
    if state != "finished" or status.state in FINAL:
        return status
    return dataclasses.replace(status, state=state, step=status.total_steps, seconds_left=0.0, message="")


class Job(JobFolder):
    """A job folder, as read by other processes."""

    def __init__(self, folder: Path, depth: int = 0):
        super().__init__(folder, depth)
        self._status: Remembered[Status | None] = Remembered()

    def status(self) -> Status | None:
        """The last status that the process wrote; None if there is none that can be read."""
        try:
            return self.read_status()
        except (UserError, OSError):
            return None  # the next heartbeat replaces it; `unreadable` and `problem` say why

    def read_status(self) -> Status | None:
        """The status; None if there is none.  Raises UserError if it is damaged, OSError if it cannot be read."""
        return self._status_in(self.content)

    def _status_in(self, content: Folder) -> Status | None:
        def parse() -> Status | None:
            data = files.json_in(content, "status.json", run_folder.MOST_STATUS)
            return None if data is None else records.read(Status, data, os.path.join(self.folder, "status.json"))

        return self._status.read(content, "status.json", parse)

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
        content = self.content
        with content.kept_open():
            self._check_files_of_job(content)

    def _check_files_of_job(self, content: Folder) -> None:
        self._status_in(content)
        self._requests_in(content)
        for name in ("run.lock", "log.txt"):
            content.exists(name)

    def alive(self) -> bool:
        """True if a process works here: it holds the lock or, without one, the lease."""
        return self._works(self._locked(), leases.PULSE)

    def _locked(self, content: Folder | None = None) -> bool | None:
        """True if a process holds the lock; None if that cannot be found out, as on disks without locks."""
        try:
            return locks.held_in(content or self.content, "run.lock")
        except UserError:
            return False  # no process of ours holds what is not a file
        except OSError:
            return None

    def _look(self) -> tuple[bool | None, Status | None]:
        """Whether a process holds the lock, as `_locked` says, and then the status, as `status` does."""
        content, status = self.content, None
        with contextlib.suppress(UserError, OSError), content.kept_open():
            locked = self._locked(content)
            with contextlib.suppress(UserError, OSError):
                status = self._status_in(content)
            return locked, status
        return self._locked(), self.status()

    def _works(self, locked: bool | None, pulse: Pulse) -> bool:
        """True if a process holds lock or lease; on disks without locks, also if only the status indicates one."""
        if locked:
            return True
        lease = self.lease()
        if lease is None and locked is None:
            return self._seems_alive()
        return leases.is_held(self._lease_folder, lease, pulse)

    @property
    def _lease_folder(self) -> Path:
        return leases.folder_of(self.folder / "run.lock")

    def lease(self) -> leases.Record | None:
        """The newest lease; None if there is none that can be read."""
        try:
            return leases.read(self._lease_folder)
        except OSError:
            return None

    def unseen(self) -> float | None:
        """Seconds since the process was last heard of, where it is on another machine and its lock is not seen here.

        By the time of its lease's file, so as far as the clocks agree; None where one look tells whether it works.
        """
        try:
            return None if self._locked() else leases.unseen(self._lease_folder, self.lease())
        except OSError:
            return None

    def _seems_alive(self) -> bool:
        """True if the process in status.json exists, or has a recent heartbeat on another machine."""
        status = self.status()
        if status is None or status.state in FINAL:
            return False
        if status.host in ("", platform.node()):
            return bool(self.processes())
        return abs(status.age) < ELSEWHERE

    def state(self, pulse: Pulse = leases.PULSE) -> State:
        """The state of the job, from its lock, lease and status; `pulse` times processes of other machines."""
        # The lock is read before the status: a process that ends in between has written its final status.
        locked, status = self._look()
        if status and status.state in FINAL and locked is False:
            return status.state  # however it ended
        alive = self._works(locked, pulse)
        if not alive and status and status.state not in FINAL:
            alive = self._works(self._locked(), pulse)  # a process that started in between holds the lock by now
        if status is None:
            return "unreadable" if self.unreadable() else "starting" if alive else "stopped"
        if not alive:
            if status.state in FINAL:
                return status.state
            if status.state in ("starting", "queued") and not status.pid and abs(status.age) < START_GRACE:
                return "starting"
            return "finished" if self.is_complete() else "lost"
        if self._is_silent(status, pulse):
            return "not responding"
        if status.state == "running" and "stop" in self.requests():
            return "stopping"
        return "running" if status.state in FINAL else status.state  # it is about to end

    def is_complete(self) -> bool:
        """True if all the work is done and saved, whatever the status says: its process was killed after that."""
        return False

    def _is_silent(self, status: Status, pulse: Pulse) -> bool:
        """True if the living process was stopped by a signal, is not heard of, or has made no progress for long."""
        lease = self.lease()
        owner = lease.owner if lease and lease.token else status.owner
        here = owner.pid > 0 and owner.here
        if here and owner.condition() == "stopped":
            return True
        if lease:
            silent = lease.silent if here and owner.boot else pulse.still(self._lease_folder, lease.content)
            # One that computes is not hanging: a library may keep the thread that renews the lease from running.
            busy = here and pulse.still((self.folder, "cpu"), owner.cpu_seconds()) < SILENT
            if silent > (STALLED if busy else SILENT):
                return True
        if not status.pid or (lease and owner != status.owner):
            return False  # it has not begun
        shared = status.boot and status.boot == processes.boot()
        idle = status.age if shared else pulse.still(self.folder, (status.pid, status.beat))
        per_step = 1 / status.steps_per_second if status.steps_per_second else 0.0
        return idle > max(STUCK, 10 * per_step)

    def requests(self) -> dict[str, str]:
        """Pending requests to the process: request -> a token that is unique to each request."""
        try:
            return self.read_requests()
        except (UserError, OSError):
            return {}

    def read_requests(self) -> dict[str, str]:
        """As `requests`.  Raises UserError if control.json is damaged, OSError if it cannot be read."""
        return self._requests_in(self.content)

    def _requests_in(self, content: Folder) -> dict[str, str]:
        return run_folder.requests_in(files.json_in(content, "control.json", run_folder.MOST_CONTROL))

    def request(self, what: Request) -> None:
        """Asks the process for one of these after the current step.

        stop: save and end.  save.  sample: a preview.  cooldown: let the learning rate fall to 0, and end then.
        """
        with guard(self.folder.parent):
            self.write_json(self.folder / "control.json", {**self.requests(), what: secrets.token_hex(8)})

    def clear_requests(self) -> None:
        """Removes all requests."""
        self.write_json(self.folder / "control.json", {})

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
        """The process of the job, if it still exists on this machine; at most one, and no other for it."""
        lease, status = self.lease(), self.status()
        if lease and lease.token and not lease.released:
            return self._found(lease.owner)
        if status and status.boot:
            return self._found(status.owner)
        if not status or not status.pid or status.host not in ("", platform.node()):
            return []
        try:  # an earlier version wrote the status
            process = psutil.Process(status.pid)
            same = abs(process.create_time() - status.process_start) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:  # it has ended, or belongs to another user
            return []
        return [process] if same and processes.has_open(process.pid, self.folder / "run.lock") else []

    def _found(self, owner: Owner) -> list[psutil.Process]:
        if not (owner.pid > 0 and owner.here):
            return []
        try:
            process = psutil.Process(owner.pid)  # first: psutil notices from now on if the number gets another process
        except (psutil.Error, OverflowError):
            return []
        if owner.condition() == "gone" or not processes.has_open(owner.pid, self.folder / "run.lock"):
            return []
        return [process]

    def has_process(self, besides: Owner) -> bool:
        """True if a process of the job exists on this machine, other than `besides`."""
        return any(process.pid != besides.pid for process in self.processes())
