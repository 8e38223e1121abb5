"""Atomic, flushed and checksummed file writes; the only module that writes files.

A file is written under a temporary name in its own folder, flushed, and renamed into place, so that a
kill, a full disk or a power cut at any instant leaves either the old file or the new one.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from ddpm.errors import UserError, with_filename
from ddpm.storage import folders

TEMPORARY = ".tmp-"  # prefix of the names of unfinished files

# Errors of file systems that do not support fsync; they keep what is written as well as they can.
UNABLE = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY}

T = TypeVar("T")


class DiskFull(UserError):
    """There was no room to write a file; an earlier file of that name is untouched."""

    def __init__(self, path: Path):
        super().__init__(
            f"No room to write {path.name} in {path.parent} ({free_bytes(path.parent) / 1e6:.0f} MB free): "
            "free some space and try again; everything saved before is intact.",
            code="disk-full",
        )


class Written(NamedTuple):
    """Size and checksum of a file that was written."""

    bytes: int
    sha256: str


class _Hashing:
    """Binary file that counts and hashes what is written to it, and keeps the first error.

    torch.save reports a failed write as a RuntimeError that does not name the cause.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.bytes = 0
        self.hash = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self.file.write(data)  # buffered: writes all of it, or raises
        except OSError as error:
            self.error = error
            raise
        self.bytes += memoryview(data).nbytes
        self.hash.update(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        self.file.flush()


def _is_full(error: OSError | None) -> bool:
    return error is not None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def free_bytes(folder: Path) -> int:
    """Free bytes for this user on the disk of `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def sync_folder(folder: Path) -> None:
    """Flushes the file names in `folder` to disk, so that they survive a power cut; not needed on Windows."""
    if os.name == "nt":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written to but not listed
        return
    try:
        with with_filename(folder):
            _flush(handle)
    finally:
        os.close(handle)


def _flush(handle: int) -> None:
    """Flushes an open file or folder to disk, where the file system supports it."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNABLE:
            raise


def write(path: Path, save: Callable[[Any], object], durable: bool = True) -> Written:
    """Calls `save(file)` on a new binary file, then replaces `path` with it in one step.

    durable: flush to disk first.  False is much faster for thousands of files that can be written again, but a power
    cut may leave the last ones empty.  Returns size and checksum.  Raises DiskFull and leaves `path` unchanged.
    """
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")
    target = None
    try:
        folders.make(path.parent)
        with open(temporary, "xb") as file:
            target = _Hashing(file)
            save(target)
            file.flush()
            if durable:
                _flush(file.fileno())
            if os.fstat(file.fileno()).st_size != target.bytes:
                raise OSError(errno.ENOSPC, "fewer bytes reached the disk than were written")
        _retry_on_windows(lambda: os.replace(temporary, path))
        if durable:
            sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else target.error if target else None
        if cause is None:
            raise
        if _is_full(cause):
            raise DiskFull(path) from error
        if cause.filename is None or str(cause.filename) == str(temporary):
            cause.filename, cause.filename2 = str(path), None
        raise cause from None if cause is error else error
    finally:
        with contextlib.suppress(OSError):  # gone after a success, or if the folder could not be created
            temporary.unlink()
    return Written(target.bytes, target.hash.hexdigest())


def _retry_on_windows(call: Callable[[], T]) -> T:
    """Calls `call`, again for up to a second on Windows, where a file cannot be replaced while it is being read."""
    for _ in range(50 if os.name == "nt" else 0):
        try:
            return call()
        except PermissionError:
            time.sleep(0.02)
    return call()


def rename(old: Path, new: Path) -> None:
    """Renames a file or folder on the same disk in one step; a file is flushed first."""
    if old.is_file():
        with open(old, "rb+") as file, with_filename(old):
            _flush(file.fileno())
    _retry_on_windows(lambda: os.replace(old, new) if old.is_file() else os.rename(old, new))
    for folder in {old.parent, new.parent}:
        sync_folder(folder)


def link(target: Path, path: Path) -> None:
    """Makes `path` a link to the folder `target`.  Raises OSError if `path` exists or links are not supported."""
    os.symlink(target, path, target_is_directory=True)
    sync_folder(path.parent)


def appending(path: Path) -> BinaryIO:
    """Opens `path` for appending, and creates it if it does not exist: logs, downloads, locks."""
    folders.make(path.parent)
    return open(path, "ab+")


def create(path: Path) -> None:
    """Creates an empty file.  Raises FileExistsError if it exists: of several processes, one succeeds."""
    open(path, "xb").close()


def sweep(folder: Path, seconds: float = 60.0) -> None:
    """Removes temporary files of killed writers from `folder` that are older than `seconds`."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):  # it may just have been renamed to its final name
            if time.time() - path.stat().st_mtime > seconds:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_bytes(path: Path, data: bytes, durable: bool = True) -> Written:
    """Replaces `path` with `data` in one step, as `write` does.  Raises DiskFull."""
    return write(path, lambda file: file.write(data), durable)


def copy(source: Path, target: Path) -> Written:
    """Copies the file `source` over `target` in one step.  Raises DiskFull."""

    def read() -> bytes:
        with with_filename(source):
            return file.read(2**20)

    with open(source, "rb") as file:
        return write(target, lambda copied: [copied.write(block) for block in iter(read, b"")])


def numbered(path: Path) -> Iterator[Path]:
    """`a.npz`, `a-2.npz`, `a-3.npz`, ...: names for a file that must not replace another."""
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def new_folder(path: Path) -> Path:
    """Creates a new folder `path`, or `path-2`, ...; two processes never get the same one."""
    folders.make(path.parent)
    for free in numbered(path):
        with contextlib.suppress(FileExistsError):
            free.mkdir()
            return free
    raise AssertionError("there is always another number")


def copy_all(sources: Sequence[Path], folder: Path) -> list[Path]:
    """Copies files into `folder`, all under their own names or all with the same number appended; returns the paths.

    Existing files stay as they are, and are used if their content is the same.  Raises DiskFull.
    """
    for targets in zip(*(numbered(folder / source.name) for source in sources), strict=True):
        pairs = list(zip(sources, targets, strict=True))
        if all(not target.exists() or _same(source, target) for source, target in pairs):
            for source, target in pairs:
                if not target.exists():
                    copy(source, target)
            return list(targets)
    return []


def _same(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and sha256(one) == sha256(other)


def write_json(path: Path, value: Any) -> Written:
    """Writes indented, strictly standard JSON; NaN and infinity raise ValueError."""
    return write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any | None:
    """Parses a JSON file; None if there is none.  Raises UserError if it is not JSON.

    UTF-8, UTF-16 and UTF-32 are detected, with or without the byte order mark that some editors add.
    """
    try:
        with with_filename(path):
            return json.loads(_retry_on_windows(path.read_bytes))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(
            f"{path} is not readable JSON ({error}): restore it from a copy, or delete it.", code="damaged-json"
        ) from error


def sha256(path: Path) -> str:
    """SHA-256 of a file in hex, read in pieces."""
    with open(path, "rb") as file, with_filename(path):
        return hashlib.file_digest(file, "sha256").hexdigest()


class LineLog:
    """Append-only text file of whole lines, with one writer and any number of readers.

    A line that a crash left incomplete is removed when the file is opened again.  If the disk is full, a line waits
    in memory and is written with the next one: logging never ends training.  header: the first line, if any.
    """

    def __init__(self, path: Path, header: str = ""):
        folders.make(path.parent)
        self.path = path
        self.header = header  # or the first line that the file already has
        self._file = open(path, "ab+", buffering=0)
        with with_filename(path):
            self._length = _end_of_last_line(self._file)
            self._file.truncate(self._length)
        self._waiting = b""
        if self._length == 0:
            if header:
                self.append(header)
            sync_folder(path.parent)
        elif header:
            with open(path, "rb") as file:
                self.header = file.readline().decode("utf-8-sig", errors="replace").rstrip("\r\n")

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
        """Writes the line with one system call; False if the disk is full and the line waits in memory."""
        self._waiting += line.encode(errors="backslashreplace") + b"\n"
        try:
            with with_filename(self.path):
                self._drain()
        except OSError as error:
            if not _is_full(error):
                raise
        return not self._waiting

    def sync(self) -> int:
        """Flushes to disk and returns the flushed length in bytes.  Raises DiskFull while lines wait in memory."""
        try:
            with with_filename(self.path):
                self._drain()
                _flush(self._file.fileno())
        except OSError as error:
            if _is_full(error):
                raise DiskFull(self.path) from error
            raise
        return self._length

    def _drain(self) -> None:
        written = self._file.write(self._waiting) if self._waiting else 0
        if written != len(self._waiting):
            self._file.truncate(self._length)  # so that readers do not keep seeing half a line
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
