"""Heartbeat of the process of a job: a thread that renews its lease, and sees whether folder and lock are still there.

The thread beats through long work too: saving, reading data, compiling.  A process that is stopped by a signal, or
whose machine is asleep, does not beat.
"""

import os
import threading
from pathlib import Path
from typing import BinaryIO, Literal

from ddpm.storage import leases, locks
from ddpm.storage.leases import Lease
from ddpm.storage.processes import LINUX

Loss = Literal["moved", "deleted", "unlocked", "taken"]

FINAL_LOSS = ("deleted", "taken")  # nothing may be written to the folder afterwards


class Heartbeat:
    """Renews `lease` once a second until it is closed, and sets `loss` once the folder or its lock is not as it was."""

    def __init__(self, folder: Path, lock: BinaryIO, lease: Lease):
        self.folder = folder.absolute()
        self.loss: Loss | None = None
        self._lock, self._lease = lock, lease
        # Windows has no handles of folders, and does not move or delete one in which a file is open.
        self._handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY) if hasattr(os, "O_DIRECTORY") else None
        self._one_look, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="ddpm-heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, and the lease."""
        self._end.set()
        self._thread.join()
        self._lease.close()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _beat(self) -> None:
        while not self._end.wait(leases.RENEWAL):
            self.look()

    def look(self) -> Loss | None:
        """Renews the lease now; returns what became of the folder or its lock, None while all is well."""
        with self._one_look:
            try:
                held = self._lease.renew()
                found: Loss | None = "taken" if held == "taken" else self._changed()
                if held == "removed" and not found:
                    found = "unlocked"
            except OSError:  # the disk is not available for now
                return self.loss
            if found and self.loss not in FINAL_LOSS:
                self.loss = found
            return self.loss

    def _changed(self) -> Loss | None:
        if self._handle is not None and not _is(self._handle, self.folder):
            return "moved" if self.place() else "deleted"
        return None if locks.is_at(self._lock, self.folder / "run.lock") else "unlocked"

    def place(self) -> Path | None:
        """Where the folder is now; None if it was deleted, or moved where this process does not find it."""
        if self._handle is None:
            return self.folder if self.folder.is_dir() else None
        return next((path for path in (_path_of(self._handle), self.folder) if path and _is(self._handle, path)), None)


def _is(handle: int, path: Path) -> bool:
    """True if the open folder is the one that is found at `path` now."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _path_of(handle: int) -> Path | None:
    """The path of an open folder, as far as the system tells."""
    if LINUX:
        try:
            return Path(os.readlink(f"/proc/self/fd/{handle}"))
        except OSError:  # no /proc here
            return None
    try:
        import fcntl

        path = fcntl.fcntl(handle, fcntl.F_GETPATH, bytes(1024))  # type: ignore[attr-defined, unused-ignore]
    except (ImportError, AttributeError, OSError):
        return None
    return Path(os.fsdecode(path.rstrip(b"\0")))
