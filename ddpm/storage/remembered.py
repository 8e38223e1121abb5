"""What was read of a file, for as long as the file stays the same."""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

from ddpm.storage.untrusted import Folder

T = TypeVar("T")

# Nanoseconds after which a file that changes is seen to have another time of change, on any disk.
SETTLED = 2 * 10**9


class Remembered(Generic[T]):
    """The last value that was read of one file."""

    def __init__(self) -> None:
        self._last: tuple[tuple[int, ...], T] | None = None

    def read(self, folder: Folder, name: str, parse: Callable[[], T]) -> T | None:
        """What `parse` makes of the file, called only if the file is another one than the last time.

        None if there is no file.  Raises UserError unless it is a regular file, what `parse` raises, and OSError.
        """
        try:
            found = folder.stat(name)
        except FileNotFoundError:
            return None
        # The time of change of its entry too: what replaces a file may have its size, inode and time of change.
        which = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        last = self._last  # read once: another thread may change it
        if last and last[0] == which:
            return last[1]
        value = parse()
        # What has just been written may change again within what the disk takes for the same instant.
        is_settled = min(abs(time.time_ns() - changed) for changed in which[-2:]) > SETTLED
        self._last = (which, value) if is_settled else None
        return value
