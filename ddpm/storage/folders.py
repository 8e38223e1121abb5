"""Folders to write in: made, except those that must not come back, and held open; and what they hold."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ddpm.storage import flushing
from ddpm.storage.untrusted import HANDLES, Folder

_kept: list[Folder] = []  # in which this process works


class Place(NamedTuple):
    """A folder to write in.  What is done there by name stays there, whatever is put in the place of its path since."""

    path: Path
    handle: int | None  # None where the system has none: paths are used

    def to(self, name: str) -> str | Path:
        """How a call that takes the handle, as `dir_fd`, names a file in the folder."""
        return self.path / name if self.handle is None else name

    def sync(self) -> None:
        """Flushes the names in the folder to disk."""
        if self.handle is None:
            flushing.sync_folder(self.path)
        else:
            flushing.flush(self.handle)


@contextlib.contextmanager
def opened(folder: Path, create: bool = True) -> Iterator[Place]:
    """Holds a folder open to write in it.  create: makes it if it does not exist, as `make` does.

    In a folder of `kept`, no part of the path below it may be a link.  Raises UserError, FileNotFoundError, OSError.
    """
    if inside := _in_kept(folder):
        if create:
            inside.make_parts()
        with inside.handle() as handle:
            yield Place(folder, handle if HANDLES else None)
        return
    if create:
        make(folder)
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY) if HANDLES else -1
    except PermissionError:  # a folder that may be written to but not listed
        handle = -1
    try:
        yield Place(folder, None if handle < 0 else handle)
    finally:
        if handle >= 0:
            os.close(handle)


def _in_kept(folder: Path) -> Folder | None:
    """The folder, as one in a folder of `kept`."""
    whole = folder.absolute()
    for kept in tuple(_kept):
        top = kept.path.absolute()
        if whole.is_relative_to(top):
            return kept.inside(*whole.relative_to(top).parts)
    return None


def make(folder: Path) -> None:
    """Creates a folder and those above it, where they do not exist, each flushed to disk.

    Raises FileNotFoundError instead of creating a folder of `kept` again: it was moved or deleted by somebody, who
    would find an empty one in its place.
    """
    if not folder.is_dir() and any(folder.absolute() == kept.path.absolute() for kept in _kept):
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
    total, inside = 0, [os.fspath(folder)]
    while inside:
        with contextlib.suppress(OSError), os.scandir(inside.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # just removed
                    if entry.is_dir(follow_symlinks=False):
                        inside.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
    return total


@contextlib.contextmanager
def kept(folder: Folder) -> Iterator[None]:
    """While the block lasts, this process does not create that folder, and writes through no link in it."""
    _kept.append(folder)
    try:
        yield
    finally:
        _kept.remove(folder)
