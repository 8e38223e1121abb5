"""What a run takes of the disk, and whether any of its files has changed, found out without opening one."""

import os
from pathlib import Path

from ddpm.errors import UserError
from ddpm.runs.run_folder import folder_at
from ddpm.storage.untrusted import Folder

LOOKED_AT = ("config.json", "status.json", "about.json", "progress.csv", "samples", "saves")
MOST_FILES = 200_000  # that are counted
MOST_DEPTH = 6  # folders within folders


def disk_use(folder: Path) -> int:
    """Bytes of the files in the folder of a run; a file with several names counts once, and links count nothing.

    Raises UserError if it is no folder, and OSError.
    """
    seen: set[tuple[int, int]] = set()
    return _size(folder_at(folder), 0, seen)


def _size(folder: Folder, depth: int, seen: set[tuple[int, int]]) -> int:
    total = 0
    with folder.kept_open():
        for name in folder.files():
            try:
                found = folder.stat(name)
            except (UserError, OSError):  # it was removed or replaced just now
                continue
            which = (found.st_dev, found.st_ino)
            if which not in seen and len(seen) < MOST_FILES:
                seen.add(which)
                total += found.st_size
        names = folder.folders() if depth < MOST_DEPTH else []
    for name in names:
        try:
            total += _size(folder.inside(name), depth + 1, seen)
        except (UserError, OSError):
            continue
    return total


def stamp(folder: Path) -> tuple[tuple[int, int, int], ...]:
    """Differs from before if a file of the run that a list shows was written, added or removed since."""
    found = []
    for name in LOOKED_AT:
        try:
            stat = os.lstat(os.path.join(folder, name))
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        except OSError:
            found.append((0, 0, 0))
    return tuple(found)
