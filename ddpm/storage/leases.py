"""Leases: who works in a place, said by a file that is renewed every second.

Unlike a lock, a lease needs nothing from the disk but that a file can be created only once, so it serves on network
disks without locks, and between machines whose locks do not reach each other.  A lease is judged by whether it changes,
timed by the clock of who looks: clocks of two machines are never compared.  On the same machine the process itself is
looked at.

    run.lease/000007.json    the seventh holder: process, machine, renewals.  The highest number holds.

Taking a lease creates the next number, which only one process can; a holder that finds a higher number than its own
has lost the lease.  The newest file stays when its holder ends, marked as released, so that no number comes twice.
"""

import contextlib
import errno
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ddpm.storage import files, folders
from ddpm.storage.processes import Owner

RENEWAL = 1.0  # seconds between two renewals
EXPIRY = 30.0  # seconds without renewal until a lease of another machine can be taken over
RECORD_BYTES = 1024  # of the file: always the same, so that it is overwritten in place
LOOK_GAP = 2.0  # seconds counted between two looks, at most: who looks may have been asleep in between

# Flags for files of a folder that anybody may have prepared: no links are followed, and no device is waited for.
CAREFUL = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))

BY_HANDLE = os.open in os.supports_dir_fd and os.listdir in os.supports_fd  # not on Windows

Held = Literal["held", "taken", "removed"]


class Record(NamedTuple):
    """Content of a lease file."""

    owner: Owner = Owner()
    token: str = ""  # of this holder; empty if the file cannot be read, as when it is just being created
    beat: int = 0  # number of renewals
    renewed: float = 0.0  # reading of the owner's monotonic clock, which all processes of its machine share
    released: bool = False
    content: bytes = b""

    @property
    def silent(self) -> float:
        """Seconds since the last renewal of an owner that is `here`, by the clock that both share."""
        return time.monotonic() - self.renewed


class Pulse:
    """Times how long values have not changed, by the clock of the reader, whatever happens to the system time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Hashable, tuple[Any, float, float]] = {}  # value, time of the last look, seconds unchanged

    def still(self, key: Hashable, value: Any) -> float:
        """Seconds for which `value` is known not to have changed; a gap between two looks counts as LOOK_GAP only."""
        now = self._clock()
        before, looked, still = self._seen.get(key, (value, now, 0.0))
        still = still + min(now - looked, LOOK_GAP) if value == before else 0.0
        self._seen[key] = (value, now, still)
        return still


PULSE = Pulse()  # of this process


def folder_of(lock: Path) -> Path:
    """Folder of the lease that belongs to a lock file: run.lock -> run.lease."""
    return lock.with_suffix(".lease")


def read(folder: Path) -> Record | None:
    """The newest lease; None if there is none.  Raises OSError if that cannot be found out."""
    for _ in range(10):
        number = _newest(folder)
        if not number:
            return None
        with contextlib.suppress(FileNotFoundError):  # just superseded
            return _parse(_content(folder / _name(number)))
    return Record()


def _content(path: Path) -> bytes:
    """Reads a lease file: nothing but a small regular file, whatever has been put in its place."""
    handle = os.open(path, os.O_RDONLY | CAREFUL)
    try:
        return os.read(handle, RECORD_BYTES) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
    finally:
        os.close(handle)


def unseen(folder: Path, record: Record | None) -> float | None:
    """Seconds since a holder on another machine renewed the lease, by the time of its file and the clock here.

    The two may differ: only several looks tell whether it works, and this is what one look can say.  None for a holder
    on this machine, and where nobody holds the lease.
    """
    if record is None or record.released or (record.token and record.owner.here):
        return None
    try:
        return max(0.0, time.time() - os.lstat(folder / _name(_newest(folder))).st_mtime)
    except FileNotFoundError:
        return None


def is_held(folder: Path, record: Record | None, pulse: Pulse = PULSE) -> bool:
    """True if the holder still works: its process exists, or on another machine renewed the lease within EXPIRY."""
    if record is None or record.released:
        return False
    if record.token and record.owner.here:
        return record.owner.condition() != "gone"
    return pulse.still(folder, record.content) < EXPIRY


def _newest(folder: Path) -> int:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return max(map(_number, names), default=0)


def _number(name: str) -> int:
    stem, _, suffix = name.partition(".")
    return int(stem) if suffix == "json" and stem.isdecimal() and stem.isascii() and len(stem) < 12 else 0


def _name(number: int) -> str:
    return f"{number:06d}.json"


def _parse(content: bytes) -> Record:
    try:
        found = json.loads(content)
        owner = Owner(str(found["host"]), str(found["boot"]), int(found["pid"]), float(found["start"]))
        return Record(
            owner, str(found["token"]), int(found["beat"]), float(found["renewed"]), found["released"] is True, content
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return Record(content=content)


class Lease:
    """A lease that this process holds."""

    def __init__(self, folder: Path, number: int):
        self.folder, self.number = folder, number
        self._record = Record(Owner.this(), secrets.token_hex(8))
        # Reached by a handle of the folder, the file is found wherever the folder is moved, and never created anew.
        self._handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | CAREFUL) if BY_HANDLE else None

    def renew(self) -> Held:
        """Renews the lease, unless it was taken over or removed.  Raises OSError if the disk fails."""
        try:
            numbers = list(map(_number, os.listdir(self.folder if self._handle is None else self._handle)))
            if max(numbers, default=0) > self.number:
                return "taken"
            if self.number not in numbers:
                return "removed"
            record = self._record._replace(beat=self._record.beat + 1, renewed=time.monotonic())
            self._write(record)
        except FileNotFoundError:
            return "removed"
        self._record = record
        return "held"

    def close(self) -> None:
        """Releases the lease, if it is still held."""
        with contextlib.suppress(OSError):  # the place is gone, or the disk failed: it is seen to expire
            if not self._record.released and self.renew() == "held":
                self._record = self._record._replace(released=True)
                self._write(self._record)
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _write(self, record: Record) -> None:
        """Overwrites the file; closing it sends it to a network disk, and costs no flush on a local one."""
        document = {**record.owner._asdict(), **record._asdict(), "time": time.time()}
        del document["owner"], document["content"]
        content = json.dumps(document).encode().ljust(RECORD_BYTES - 1) + b"\n"
        name = _name(self.number)
        flags = os.O_WRONLY | CAREFUL
        if self._handle is None:
            handle = os.open(self.folder / name, flags)
        else:
            handle = os.open(name, flags, dir_fd=self._handle)
        try:
            os.write(handle, content)
        finally:
            os.close(handle)


def take(folder: Path, patience: float = EXPIRY) -> Lease | None:
    """Takes the lease of a place; None if another process holds it.

    A holder on this machine is looked at; one on another machine is given `patience` seconds to renew.  Of several
    processes that take the place of one that ended, one succeeds.  Raises OSError if the folder cannot be written.
    """
    folders.make(folder)
    if folder.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    pulse, began = Pulse(), time.monotonic()
    while True:
        number, record = _newest(folder), read(folder)
        if record and not record.released:
            if record.token and record.owner.here:
                if record.owner.condition() != "gone":
                    return None
            else:
                still = pulse.still(folder, record.content)
                if still < patience:
                    if time.monotonic() - began > still + 1:  # it has changed: somebody renews it
                        return None
                    time.sleep(min(0.2, patience))
                    continue
        if _number(_name(number + 1)) != number + 1:
            raise OSError(
                errno.EOVERFLOW, "its leases have numbers that no program gives: remove the folder", str(folder)
            )
        try:
            files.create(folder / _name(number + 1))
        except FileExistsError:  # another process was faster
            continue
        lease = Lease(folder, number + 1)
        held: Held = "removed"
        try:
            held = lease.renew()
        finally:
            if held != "held":  # the disk refused, or this number had been used already, and a higher one since
                lease.close()
                with contextlib.suppress(FileNotFoundError):
                    (folder / _name(number + 1)).unlink()
        if held != "held":
            continue
        for lower in set(map(_number, os.listdir(folder))) - {0}:
            if lower <= number:
                with contextlib.suppress(FileNotFoundError):
                    (folder / _name(lower)).unlink()
        return lease
