"""How many threads a job computes with: decided once, when it starts, and kept until it ends.  No torch.

A job takes its share of the physical cores: of those it may use, divided by the jobs that compute on them at that time.
Each job of this user holds a file in one folder, locked for as long as the process lives; the lock is the truth about
"alive", and the file's name says the rest:

    01764000000123456789-4242-0-job    start in nanoseconds, process, threads asked for (0: its share), "job"
"""

import atexit
import contextlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import psutil

from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.host import hardware
from ddpm.storage import locks, paths

log = logging.getLogger("ddpm")


class Peer(NamedTuple):
    """A process that computes, read from the name of its file."""

    name: str
    pid: int
    asked: int  # threads; 0: its share


class Share(NamedTuple):
    """Threads of a job, and what the user should know about them."""

    threads: int
    sentence: str  # on sharing the cores; empty where nothing else computes
    warning: str  # where more threads were asked for than there are; else empty


_share = Share(0, "", "")  # of this process, while it computes
_file: tuple[BinaryIO, Path] | None = None  # open and locked


def take(asked: int) -> Share:
    """Decides this process's threads for the job that now begins: `asked`, or its share of the cores (0).

    OMP_NUM_THREADS counts as asked for.  Jobs that run already keep their threads.  Of torchrun's processes on this
    machine each takes an equal part of the share.
    """
    global _share
    release()
    physical, logical = hardware.physical(), hardware.logical()
    asked, warning = asked or hardware.requested_by_environment(), ""
    if asked > logical:
        warning = (
            f"{asked:,} threads were asked for and {_machine(physical, logical)}: {logical}"
            f" {'is' if logical == 1 else 'are'} used."
        )
        asked = logical
        if os.environ.get("RANK", "0") == "0":
            log.warning("%s", warning)
    others = _join(asked)
    together = _local_processes()
    threads = asked or divide(physical, [one.asked for one in others], together, _local_rank())
    count, sentence = len(others) + together, ""
    if count > 1:
        sentence = (
            f"{count} {'processes' if together > 1 else 'jobs'} share {plural(physical, 'core')}:"
            f" this one computes with {plural(threads, 'thread')}."
        )
        log.info("%s", sentence)
    _share = Share(threads, sentence, warning)
    return _share


def current() -> Share:
    """What `take` decided for the job that this process does now; 0 threads where it does none."""
    return _share


def release() -> None:
    """Ends the job: processes that start from now on do not count this one."""
    global _share, _file
    _share = Share(0, "", "")
    if _file is not None:
        file, path = _file
        _file = None
        file.close()
        with contextlib.suppress(OSError):  # another process has removed it
            path.unlink()


def before_start() -> int:
    """Threads of this process until it starts a job: the cores, divided among torchrun's processes on this machine."""
    asked = hardware.requested_by_environment()
    return asked or divide(hardware.physical(), [], _local_processes(), _local_rank())


def divide(cores: int, others: Sequence[int], together: int = 1, rank: int = 0) -> int:
    """Threads, at least 1, of a process that starts on `cores` next to processes that asked for `others` (0: a share).

    What others asked for is theirs; the rest is divided evenly.  together, rank: processes that start as one job, and
    which of them this is; they divide a remainder among themselves.
    """
    each, over = divmod(max(0, cores - sum(others)), list(others).count(0) + together)
    return max(1, each + (together > 1 and rank < over))


def live_peers() -> list[Peer]:
    """Processes that compute now, in the order of their start; removes files of those that ended.  Raises OSError."""
    found, folder = [], paths.shares_folder()
    for name in sorted(os.listdir(folder)):
        one, path = parse(name), folder / name
        if one is None:
            continue
        if (_file is not None and path == _file[1]) or _is_alive(path, one):
            found.append(one)
        else:
            with contextlib.suppress(OSError):  # another process was faster
                path.unlink()
    return found


def parse(name: str) -> Peer | None:
    """The process whose file has that name; None for any other file."""
    parts = name.split("-")
    if len(parts) != 4 or not all(part.isdecimal() for part in parts[:3]):
        return None
    return Peer(name, int(parts[1]), int(parts[2]))


def uses_other_cores(one: Peer) -> bool:
    """True if that process is bound to cores that this one may not use, so that neither slows the other."""
    with contextlib.suppress(psutil.Error, OSError, AttributeError, ValueError):  # ended, another container's, macOS
        theirs, own = psutil.Process(one.pid).cpu_affinity(), hardware.allowed()
        return bool(theirs and own) and set(theirs).isdisjoint(own or [])
    return False


def _join(asked: int) -> list[Peer]:
    """Makes this process seen by others, and returns those that compute on the same cores and belong to other jobs.

    Where files cannot be written, or the disk has no locks, nothing is known of others.
    """
    global _file
    try:
        folder = paths.shares_folder()
    except UserError as error:  # another user's
        log.info("%s Jobs of other processes are not seen, and this one uses all cores.", error)
        return []
    path = folder / f"{time.time_ns():020d}-{os.getpid()}-{asked}-job"
    try:
        file = locks.hold(path)
        if file is None:
            raise OSError(0, "it is no place for locks")
        _file = file, path
        peers = [one for one in live_peers() if one.name != path.name and not _same_job(one)]
        return [one for one in peers if not uses_other_cores(one)]
    except OSError as error:
        if isinstance(error, locks.NoLocks):
            with contextlib.suppress(OSError):
                path.unlink()
        log.info(
            "%s cannot be used (%s): jobs of other processes are not seen, and this one uses all cores.",
            folder,
            error.strerror or error,
        )
        return []


def _same_job(one: Peer) -> bool:
    """True for a process that the same torchrun started."""
    if _local_processes() == 1:
        return False
    with contextlib.suppress(psutil.Error):
        return psutil.Process(one.pid).ppid() == os.getppid()
    return False


def _is_alive(path: Path, one: Peer) -> bool:
    """True if that process still computes.  Raises OSError where this disk cannot say so of any."""
    try:
        return locks.held(path)
    except PermissionError:  # another user's, in a folder that several share
        return psutil.pid_exists(one.pid)


def _local_processes() -> int:
    """torchrun's processes on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _machine(physical: int, logical: int) -> str:
    """The cores there are, as half a sentence."""
    word = "core" if logical == physical else "logical core"
    if logical == (psutil.cpu_count() or 1):
        return f"this computer has {plural(logical, word)}"
    return f"{plural(logical, word)} of this computer may be used"


def _forget() -> None:
    """In the child of a fork: the file is the parent's."""
    global _share, _file
    _share = Share(0, "", "")
    if _file is not None:
        _file[0].close()
        _file = None


atexit.register(release)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
