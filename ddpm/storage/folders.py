"""Making folders, except those that must not come back once they are gone; and what they hold."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ddpm.storage import flushing

_kept: list[Path] = []  # absolute paths of the folders in which this process works


def make(folder: Path) -> None:
    """Creates a folder and those above it, where they do not exist, each flushed to disk.

    Raises FileNotFoundError instead of creating a folder of `kept` again: it was moved or deleted by somebody, who
    would find an empty one in its place.
    """
    whole = folder.absolute()
    if whole in _kept and not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    try:
        _make_one(folder)
    except FileNotFoundError:
        make(folder.parent)
        with contextlib.suppress(FileExistsError):
            _make_one(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise


def _make_one(folder: Path) -> None:
    """Creates a folder, whose name is on disk before anything in it."""
    folder.mkdir()
    flushing.sync_folder(folder.parent)


def size(folder: Path) -> int:
    """Bytes of all files in a folder, as far as they can be seen; what links lead to is not counted."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # just removed
                inner = entry.is_dir(follow_symlinks=False)
                total += size(Path(entry.path)) if inner else entry.stat(follow_symlinks=False).st_size
    return total


@contextlib.contextmanager
def kept(folder: Path) -> Iterator[None]:
    """While the block lasts, this process does not create that folder."""
    whole = folder.absolute()
    _kept.append(whole)
    try:
        yield
    finally:
        _kept.remove(whole)
