"""File locks, which a process holds for as long as it lives.

Some file systems have no locks (network drives without a lock service, some containers).  That raises NoLocks, unlike
a lock held by another process, and the caller decides how to proceed.
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

from ddpm.storage import files, untrusted

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


def _lock(file: BinaryIO, path: Path, flags: portalocker.LockFlags) -> bool:
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
    file = files.appending(path)
    try:
        for _ in range(20):  # a process that checks the lock holds it for an instant
            if _lock(file, path, HOLD):
                return file
            time.sleep(random.uniform(0.01, 0.05))
    except BaseException:
        file.close()
        raise
    file.close()
    return None


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


@contextlib.contextmanager
def locked(path: Path, seconds: float = math.inf) -> Iterator[None]:
    """Lets one process at a time into the block; without file locks, logs a warning once and enters the block anyway.

    Raises Busy if another process stays in it for `seconds`, OSError if `path` cannot be written.
    """
    deadline = time.monotonic() + seconds
    file = None
    try:
        while (file := hold(path)) is None:
            if time.monotonic() > deadline:
                raise Busy
    except NoLocks as error:
        if path.parent not in _without:
            _without.add(path.parent)
            log.warning(
                "%s is on a disk without file locks (%s): do not let two processes work on the same files there.",
                path.parent,
                error.strerror,
            )
    try:
        yield
    finally:
        if file:
            file.close()
