"""Whether any file of a run has changed, found out without opening one."""

import os
from pathlib import Path

LOOKED_AT = ("config.json", "status.json", "about.json", "progress.csv", "samples", "saves")

Stamp = tuple[tuple[int, ...], ...]


def stamp(folder: Path) -> Stamp:
    """Differs from before if a file of the run that a list shows was written, added or removed since."""
    found: list[tuple[int, ...]] = []
    for name in LOOKED_AT:
        try:
            stat = os.lstat(os.path.join(folder, name))
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        except OSError:
            found.append(())
    return tuple(found)
