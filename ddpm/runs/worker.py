"""The process of a job: holds the lock, writes status.json, reads requests."""

import contextlib
import dataclasses
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, Self

import psutil

from ddpm.errors import UserError, translated
from ddpm.host import cpu_threads
from ddpm.runs import run_folder
from ddpm.runs.exclusive import not_writable
from ddpm.runs.heartbeat import FINAL_LOSS, Heartbeat, Loss
from ddpm.runs.jobs import FINAL, START_GRACE, Job, State, Status
from ddpm.runs.results import KINDS
from ddpm.storage import ballast, files, folders, leases, locks, processes
from ddpm.storage.leases import Lease
from ddpm.storage.processes import Owner

log = logging.getLogger("ddpm")


BEAT_INTERVAL = 1.0  # seconds between two updates of status.json
WATCH = 10.0  # seconds without renewal until a process on another machine, whose lock is not seen here, has ended


# Signals that request a stop: from kill, Ctrl-C, a closed terminal, Ctrl-Break on Windows.
SIGNALS = [s for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK") if (s := getattr(signal, name, None)) is not None]


class Stopped(Exception):
    """A stop was requested before there was anything to save: ends the block of a Worker in state "stopped"."""


@contextlib.contextmanager
def keep_on_failure(keep: Callable[[], None]) -> Iterator[None]:
    """Calls `keep`, which saves finished work, if the block fails, and raises the error again.

    A failure of `keep` itself is only logged.
    """
    try:
        yield
    except Exception:
        try:
            keep()
        except Exception as error:  # the first error says more; often, as with a full disk, both have one cause
            log.warning("Finished work could not be saved: %s", error)
        raise


class Worker:
    """The job folder as its process sees it: a context manager that holds the lock, beats and reads requests.

    An exception in the block sets the state "failed" and propagates; Stopped ends the block without an error.
    SIGTERM and Ctrl-C request a stop; a second Ctrl-C interrupts at once.  Raises UserError if another process works
    in the folder.
    """

    def __init__(self, folder: Path, total_steps: int = 0, state: State = "starting"):
        self.job = Job(folder)
        self._status = Status(state, total_steps=total_steps)
        self._interrupted = False
        self._standing = ""  # warning shown while there is no other
        self._written = 0.0
        self._handlers: dict[int, Any] = {}
        self._followers: list[Job] = [self.job]
        self._loss: Loss | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            try:
                lock = opened.enter_context(self._locked())
                opened.enter_context(folders.kept(self.job.content))
                lease = self._leased(patience=leases.EXPIRY if self._standing else WATCH)
                self._heart = Heartbeat(self.job.folder, lock, lease)
            except OSError as error:
                opened.close()
                raise self._refused(error) from error
            opened.callback(self._heart.close)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=lock.close)  # a fork would keep the lock after this process ends
            self._begin()
            self._open = opened.pop_all()
        return self

    def _locked(self) -> BinaryIO:
        """Opens and locks run.lock, if the disk has locks.  Raises UserError if another process holds it."""
        path = self.job.folder / "run.lock"
        try:
            run_folder.check_folders(self.job.content.make(), KINDS)  # raises UserError if one of them is a link
            lock = locks.hold(path)
        except locks.NoLocks as error:
            self._standing = (
                f"{self.job.folder} is on a disk without locks ({error.strerror}): processes see each other by"
                f" run.lease there, and one that is not heard of for {leases.EXPIRY:.0f} seconds is taken for lost."
            )
            log.warning("%s", self._standing)
            lock = files.appending(path)
        if lock is None:
            raise self._busy()
        return lock

    def _leased(self, patience: float) -> Lease:
        """Takes the lease, which is seen where the lock is not: by other machines, and if the lock was removed.

        Raises UserError if another process holds it.
        """
        folder = leases.folder_of(self.job.folder / "run.lock")
        if leases.read(folder) is None and self.job.has_process(Owner.this()):  # of an earlier version
            raise self._busy()
        lease = leases.take(folder, patience)
        if lease is None:
            raise self._busy()
        return lease

    def _refused(self, error: OSError) -> UserError:
        """The error where the disk lets nobody begin, which the status says too, as far as there is room for it."""
        refused = not_writable(self.job.folder, error)
        if not self.job.alive():
            before = self.job.status() or self._status
            failed = dataclasses.replace(
                before, state="failed", message=str(refused), updated_at=time.time(), monotonic=time.monotonic()
            )
            with contextlib.suppress(UserError, OSError):
                ballast.write_last_json(self.job.folder / "status.json", dataclasses.asdict(failed))
        return refused

    def _busy(self) -> UserError:
        return UserError(f"Another process works in {self.job.name} already: stop it first, or wait.", code="busy")

    def _begin(self) -> None:
        for folder in (self.job.folder, *(self.job.folder / name for name in self.job.content.folders())):
            files.sweep(folder)
        own, before = Owner.this(), self.job.status() or Status(self._status.state)
        self._answered: dict[str, str] = {}  # token of each answered request
        self._control_seen = (0, 0)
        if not self._announced(before):
            self.job.clear_requests()  # requests to an earlier process
        self._status = dataclasses.replace(
            self._status,
            total_steps=self._status.total_steps or before.total_steps,
            step=before.step,  # progress of an earlier process, until this one makes some
            saved=before.saved,
            metrics=before.metrics,
            pid=own.pid,
            process_start=psutil.Process().create_time(),
            host=own.host,
            boot=own.boot,
            start=own.start,
            queued_at=before.queued_at if before.state == "queued" and before.queued_at else time.time(),
            beat=before.beat,
        )
        ballast.load(self.job.folder)
        self.beat(now=True)
        with contextlib.suppress(ValueError):  # not in the main thread, which alone handles signals
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    self._handlers[number] = signal.signal(number, self._on_signal)

    def _announced(self, before: Status) -> bool:
        """True if the status announces this process; requests since then are meant for it."""
        if before.state not in ("starting", "queued") or before.pid:
            return False
        return before.age - processes.age() < START_GRACE

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._interrupted = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Stopped | KeyboardInterrupt):
            lost = "" if isinstance(error, Stopped) else "Interrupted: steps since the last checkpoint are lost"
            self.beat(state="stopped", message=lost, seconds_left=None, now=True)
        elif error is not None and not (isinstance(error, SystemExit) and self._status.state in FINAL):
            known = translated(error) if isinstance(error, Exception) else error
            sentence = str(known) if isinstance(known, UserError) else f"{type(error).__name__}: {error}"
            self.beat(state="failed", message=sentence, seconds_left=None, now=True)
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        cpu_threads.release()
        if self._loss not in FINAL_LOSS:
            ballast.drop(self.job.folder)
        self._open.close()
        return isinstance(error, Stopped)

    def follow(self, job: Job) -> None:
        """Keeps `job.folder`, the folder of this job as another object names it, up to date if it is moved."""
        self._followers.append(job)

    def confirm_place(self) -> bool:
        """Looks whether the folder is still this process's; True if it was moved, and where it is is known now.

        To be called before work is saved.  Raises UserError if nothing can be saved: the folder was deleted, or
        another process has taken it over.
        """
        before = self._loss
        self._attend(self._heart.look())
        if self._loss in FINAL_LOSS:
            raise UserError(self._standing, code="no-folder" if self._loss == "deleted" else "busy")
        return self._loss == "moved" and before != "moved"

    def _attend(self, loss: Loss | None) -> None:
        """Notes and logs what became of the folder or its lock, and follows the folder."""
        place = self._heart.place() if loss == "moved" else None
        if loss is None or (loss == self._loss and (place is None or place == self._heart.folder)):
            return
        name = self.job.name
        self._standing = {
            "moved": f"{self._heart.folder} was moved to {place} while the job ran, so the job ends there.",
            "unlocked": f"run.lock or run.lease of {name} was removed while the job ran, so the job ends: leave these"
            " files, which keep a second process out.",
            "deleted": f"{self._heart.folder} was deleted while the job ran, or moved to another disk, so the job ends"
            " and saves nothing: restore the folder from a copy.",
            "taken": f"Another process has taken over {name}, as this one was not heard of for"
            f" {leases.EXPIRY:.0f} seconds, so this one ends and saves nothing.",
        }[loss]
        log.warning("%s", self._standing)
        self._loss = loss
        if place:
            self._heart.folder = place
            for job in self._followers:
                job.folder = place

    @property
    def status(self) -> Status:
        """The status as last set by `beat`."""
        return self._status

    def beat(self, now: bool = False, **changes: Any) -> None:
        """Increments the heartbeat and changes the status; written at most once per second, or `now`."""
        if "metrics" in changes:
            changes["metrics"] = {
                k: v if v is not None and math.isfinite(v) else None for k, v in changes["metrics"].items()
            }
        if not changes.get("warning", self._status.warning):
            changes["warning"] = self._standing
        changes = {
            "beat": self._status.beat + 1,
            "updated_at": time.time(),
            "monotonic": time.monotonic(),
            "sharing": cpu_threads.current().sentence,
            **changes,
        }
        self._status = dataclasses.replace(self._status, **changes)
        if now or "state" in changes or time.monotonic() - self._written > BEAT_INTERVAL:
            self._written = time.monotonic()
            self._attend(self._heart.look())
            if self._loss in FINAL_LOSS:
                return
            # A full disk is no reason to stop working; the next heartbeat tries again.
            write = ballast.write_last_json if self._status.state in FINAL else files.write_json
            with contextlib.suppress(files.DiskFull, OSError):
                write(self.job.folder / "status.json", dataclasses.asdict(self._status))

    def warn(self, *sentences: str) -> None:
        """Adds sentences to the warning of the status, each once."""
        new = [sentence for sentence in sentences if sentence not in self._status.warning]
        self.beat(warning=" ".join(filter(None, (self._status.warning, *new))))

    def poll_requests(self) -> set[str]:
        """New requests since the last call; a request to stop is returned by every call.

        Asks to stop, too, if the folder was moved or its lock removed.  Raises UserError as `confirm_place` does.
        """
        if self._heart.loss:
            self.confirm_place()
        try:
            asked = self.job.read_requests() if self._control_changed() else {}
        except (UserError, OSError):  # damaged, or the disk is briefly not available: read again next time
            asked, self._control_seen = {}, (0, 0)
        new = {what for what, token in asked.items() if self._answered.get(what) != token}
        self._answered.update(asked)
        if "stop" in self._answered or self._interrupted or self._loss:
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
    """A process that works for the main one, which holds the lock: it writes nothing and is stopped by the main one.

    It ignores signals to stop, which the main process handles.
    """

    def __enter__(self) -> Self:
        with contextlib.suppress(ValueError):  # not in the main thread, which alone handles signals
            self._handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        cpu_threads.release()
        return isinstance(error, Stopped)

    def beat(self, now: bool = False, **changes: Any) -> None:
        """Does nothing: the main process writes the status."""

    def poll_requests(self) -> set[str]:
        """Returns none: the main process reads them."""
        return set()

    def confirm_place(self) -> bool:
        """Returns False: the main process looks."""
        return False
