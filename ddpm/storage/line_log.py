"""Logs of whole lines that grow at their end: progress.csv, progress.json."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddpm.errors import UserError, with_filename
from ddpm.storage import files, flushing, untrusted

MOST_HEADER = 2**16  # bytes of the first line


class LineLog:
    """Append-only text file of whole lines, with one writer and any number of readers.

    A line that a crash left incomplete is removed when the file is opened again.  Where a line cannot be written, it
    waits in memory and is written with the next one: logging never ends training.  header: the first line, if any.

    Raises UserError if the file is a link or anything else than a regular file.
    """

    def __init__(self, path: Path, header: str = ""):
        self.path = path
        self.header = header  # or the first line that the file already has
        self._file = files.appending(path, buffering=0)
        with with_filename(path):
            self._length = _end_of_last_line(self._file)
            self._file.truncate(self._length)
        self._waiting = b""
        self._torn = False  # whether half a line is at the end of the file
        self._hash, self._hashed = hashlib.sha256(), 0  # of the first bytes, and how many
        if self._length == 0:
            if header:
                self.append(header)
            flushing.sync_folder(path.parent)
        elif header:
            with untrusted.open_own(path) as file:
                self.header = file.readline(MOST_HEADER).decode("utf-8-sig", errors="replace").rstrip("\r\n")

    def cut(self, over: Callable[[str], bool]) -> None:
        """Removes lines from the end of the file while `over(line)` is true."""
        while self._length:
            start = max(0, self._length - 65536)
            self._file.seek(start)
            before, end, last = self._file.read(self._length - start - 1).rpartition(b"\n")
            if start and not end:
                raise UserError(
                    f"{self.path} has a line of more than 64 kB, not one of this program: move the file away.",
                    code="wrong-file",
                )
            if not over(last.decode(errors="replace")):
                break
            self._length = start + len(before + end)
        self._file.truncate(self._length)

    def append(self, line: str) -> bool:
        """Writes the line with one system call; False if the disk is full and the line waits in memory.

        After another OSError, which is raised, it waits too.
        """
        self._waiting += line.encode(errors="backslashreplace") + b"\n"
        try:
            with with_filename(self.path):
                self._drain()
        except OSError as error:
            if not files.is_full(error):
                raise
        return not self._waiting

    def sync(self) -> int:
        """Flushes to disk and returns the flushed length in bytes.  Raises DiskFull while lines wait in memory."""
        try:
            with with_filename(self.path):
                self._drain()
                flushing.flush(self._file.fileno())
        except OSError as error:
            if files.is_full(error):
                raise files.DiskFull(self.path) from error
            raise
        return self._length

    def sha256(self) -> str:
        """SHA-256 of the whole lines in the file, in hex; what was read for it once is not read again."""
        with with_filename(self.path):
            if self._hashed > self._length:
                self._hash, self._hashed = hashlib.sha256(), 0
            self._file.seek(self._hashed)
            while block := self._file.read(min(2**20, self._length - self._hashed)):
                self._hash.update(block)
                self._hashed += len(block)
        return self._hash.hexdigest()

    def _drain(self) -> None:
        if self._torn:
            self._file.truncate(self._length)
            self._torn = False
        written = self._file.write(self._waiting) if self._waiting else 0
        if written != len(self._waiting):
            self._torn = True
            self._file.truncate(self._length)  # so that readers do not keep seeing half a line
            self._torn = False
            raise OSError(errno.ENOSPC, "short write")
        self._length += len(self._waiting)
        self._waiting = b""

    def close(self) -> None:
        self._file.close()


def _end_of_last_line(file: Any) -> int:
    """Length of `file` in bytes up to and including its last newline."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
