"""File locks, which a process holds for as long as it lives.

Some file systems have no locks (network drives without a lock service, some containers).  That raises NoLocks, unlike
a lock held by another process; leases serve there.
"""

import contextlib
import logging
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import portalocker

from ddpm.storage import files, leases, untrusted
from ddpm.storage.untrusted import Folder

log = logging.getLogger("ddpm")

SHARED_LOOK = os.name != "nt"  # Windows' own locks are exclusive only
NOW = portalocker.LockFlags.NON_BLOCKING
HOLD = NOW | portalocker.LockFlags.EXCLUSIVE
LOOK = NOW | (portalocker.LockFlags.SHARED if SHARED_LOOK else portalocker.LockFlags.EXCLUSIVE)

_without: set[Path] = set()  # folders for which the lack of locks was logged


class NoLocks(OSError):
    """The file system does not support locks."""


class Busy(Exception):
    """Another process held the lock for the whole waiting time."""


def _lock(file: BinaryIO, path: Path | str, flags: portalocker.LockFlags) -> bool:
    """Locks an open file; False if another process holds the lock.  Raises NoLocks."""
    try:
        portalocker.lock(file, flags)
    except portalocker.AlreadyLocked:
        return False
    except portalocker.LockException as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else OSError(0, str(error))
        raise NoLocks(cause.errno, cause.strerror, str(path)) from error
    return True


def hold(path: Path) -> BinaryIO | None:
    """Opens `path`, created if needed, and locks it until it is closed; None if another process holds the lock.

    Raises OSError if it cannot be written, NoLocks if the file system does not support locks.
    """
    for _ in range(20):  # a process that checks the lock holds it for an instant
        file = files.appending(path)
        try:
            if _lock(file, path, HOLD) and is_at(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # also if the file was removed before it was locked: others lock a new one
        time.sleep(random.uniform(0.01, 0.05))
    return None


def is_at(file: BinaryIO, path: Path) -> bool:
    """True if the open file is the one that is found at `path` now."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return os.path.samestat(found, os.fstat(file.fileno()))


def held(path: Path) -> bool:
    """True if a running process holds the lock of `path`.  Raises OSError if that cannot be found out."""
    for _ in range(1 if SHARED_LOOK else 5):  # without shared locks, two checks can collide
        try:
            with untrusted.open_own(path, append=not SHARED_LOOK and path.exists()) as file:
                if _lock(file, path, LOOK):
                    return False  # closing the file releases the lock
        except FileNotFoundError:
            return False
        time.sleep(0 if SHARED_LOOK else 0.01)
    return True


def held_in(folder: Folder, name: str) -> bool:
    """As `held`, of a file in a folder whose content is not trusted.  Raises UserError for anything but a file."""
    if not SHARED_LOOK:
        return folder.exists(name) and held(folder.path / name)
    try:
        with folder.open_file(name) as file:
            return not _lock(file, file.name, LOOK)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(path: Path, seconds: float = math.inf) -> Iterator[None]:
    """Lets one process at a time into the block.  Without file locks, logs a warning once and uses a lease.

    Raises Busy if another process stays in it for `seconds`, OSError if `path` cannot be written.
    """
    deadline = time.monotonic() + seconds
    held: BinaryIO | leases.Lease | None = None
    while held is None:
        try:
            held = hold(path)
        except NoLocks as error:
            _say_without(path.parent, error)
            held = leases.take(leases.folder_of(path))
            time.sleep(0 if held else random.uniform(0.01, 0.05))
        if held is None and time.monotonic() > deadline:
            raise Busy
    try:
        yield
    finally:
        held.close()


def _say_without(folder: Path, error: NoLocks) -> None:
    """Logs that there are no locks in a folder, once for each."""
    if folder not in _without:
        _without.add(folder)
        log.warning(
            "%s is on a disk without file locks (%s): processes take turns by lease files there, and wait %.0f"
            " seconds for one that was killed on another machine.",
            folder,
            error.strerror,
            leases.EXPIRY,
        )
