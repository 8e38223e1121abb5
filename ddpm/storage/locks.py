"""Locks: files that are held by a process for as long as it lives.

Some disks have none to give (network drives without their lock service, some of containers).  That is told apart from
a lock that somebody holds, and whoever needs one decides what to do without.
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

from ddpm.storage import files

log = logging.getLogger("ddpm")

SHARED_LOOK = os.name != "nt"  # Windows' own locks are exclusive only
NOW = portalocker.LockFlags.NON_BLOCKING
HOLD = NOW | portalocker.LockFlags.EXCLUSIVE
LOOK = NOW | (portalocker.LockFlags.SHARED if SHARED_LOOK else portalocker.LockFlags.EXCLUSIVE)

_without: set[Path] = set()  # folders whose lack of locks was told


class NoLocks(OSError):
    """The disk has no locks to give."""


class Busy(Exception):
    """Another process has held it for all the time that one was willing to wait."""


def _lock(file: BinaryIO, path: Path, flags: portalocker.LockFlags) -> bool:
    """Lock an open file; False where another process holds it.  Raises NoLocks."""
    try:
        portalocker.lock(file, flags)
    except portalocker.AlreadyLocked:
        return False
    except portalocker.LockException as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else OSError(0, str(error))
        raise NoLocks(cause.errno, cause.strerror, str(path)) from error
    return True


def hold(path: Path) -> BinaryIO | None:
    """`path`, made where it is not there, open and locked for as long as it stays so; None where another process holds
    it.

    Raises OSError where it cannot be written, NoLocks where it cannot be locked.
    """
    file = files.appending(path)
    try:
        for _ in range(20):  # readers hold it for an instant when they look
            if _lock(file, path, HOLD):
                return file
            time.sleep(random.uniform(0.01, 0.05))
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def held(path: Path) -> bool:
    """Whether a process holds `path`; it does so only while it lives.  Raises OSError where that cannot be told."""
    for _ in range(1 if SHARED_LOOK else 5):  # without shared locks, two who look can hinder each other
        try:
            with open(path, "rb" if SHARED_LOOK else "rb+") as file:
                if _lock(file, path, LOOK):
                    return False  # closed, it is free again
        except FileNotFoundError:
            return False
        time.sleep(0 if SHARED_LOOK else 0.01)
    return True


@contextlib.contextmanager
def locked(path: Path, seconds: float = math.inf) -> Iterator[None]:
    """One process at a time is in the block.  On a disk without locks it goes on all the same, and says so once.

    Raises Busy where another process has been in it for that many seconds, OSError where `path` cannot be written.
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
                "%s is on a disk without locks (%s): do not have two processes work on the same there.",
                path.parent,
                error.strerror,
            )
    try:
        yield
    finally:
        if file:
            file.close()
