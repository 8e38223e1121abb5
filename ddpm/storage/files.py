"""Atomic, flushed and checksummed file writes; the only module that writes files.

A file is written under a temporary name in its own folder, flushed, and renamed into place, so that a
kill, a full disk or a power cut at any instant leaves either the old file or the new one.
"""

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import os
import platform
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import psutil

from ddpm.errors import UserError, with_filename
from ddpm.formatting import memory
from ddpm.storage import flushing, folders, processes, strict_json, untrusted
from ddpm.storage.folders import Place
from ddpm.storage.untrusted import Folder

TEMPORARY = ".tmp-"  # prefix of the names of unfinished files
MOST_JSON = 2**26  # bytes of a JSON file without a limit of its own
UNFINISHED = re.compile(
    re.escape(TEMPORARY) + r"(?:(?P<machine>[0-9a-f]{8})(?P<pid>[0-9a-f]{8}))?[0-9a-f]{1,8}(?:-.*)?", re.DOTALL
)

T = TypeVar("T")


class DiskFull(UserError):
    """There was no room to write a file; an earlier file of that name is untouched."""

    def __init__(self, path: Path):
        free = ""
        with contextlib.suppress(OSError):  # of a disk that answers no more
            free = f" ({memory(free_bytes(path.parent))} free)"
        super().__init__(
            f"No room to write {path.name} in {path.parent}{free}: free some space and try again;"
            " everything saved before is intact.",
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


def is_full(error: OSError | None) -> bool:
    """True for the errors of a disk, or a share of it, without room."""
    return error is not None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def free_bytes(folder: Path) -> int:
    """Free bytes for this user on the disk of `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def write(path: Path, save: Callable[[Any], object], durable: bool = True, mode: int = 0o666) -> Written:
    """Calls `save(file)` on a new binary file, then replaces `path` with it in one step.

    durable: flush to disk first.  False is much faster for thousands of files that can be written again, but a power
    cut may leave the last ones empty.  mode: who may read it, less what the umask takes away; 0o600 for this user
    alone.  Returns size and checksum.  Raises DiskFull and leaves `path` unchanged.
    """
    target = None
    try:
        with folders.opened(path.parent) as place:
            with _temporary(path, place, mode) as (file, name):
                target = _Hashing(file)
                save(target)
                file.flush()
                if durable:
                    flushing.flush(file.fileno())
                if os.fstat(file.fileno()).st_size != target.bytes:
                    raise OSError(errno.ENOSPC, "fewer bytes reached the disk than were written")
                file.close()
                _replace(place, name, place, path.name)
            if durable:
                place.sync()
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else target.error if target else None
        if cause is None:
            raise
        if is_full(cause):
            raise DiskFull(path) from error
        if cause.filename is None or Path(os.fsdecode(cause.filename)).name.startswith(TEMPORARY):
            cause.filename, cause.filename2 = str(path), None
        raise cause from None if cause is error else error
    return Written(target.bytes, target.hash.hexdigest())


@contextlib.contextmanager
def _temporary(path: Path, place: Place, mode: int) -> Iterator[tuple[BinaryIO, str]]:
    """A new file in the folder of `path`, and its name, under which it is removed after the block if it is there."""
    name = temporary_path(path).name
    try:
        with open(
            place.to(name), "xb", opener=lambda new, flags: os.open(new, flags, mode, dir_fd=place.handle)
        ) as file:
            yield file, name
    finally:
        with contextlib.suppress(OSError):  # gone after a success
            os.unlink(place.to(name), dir_fd=place.handle)


def _replace(place: Place, old: str, place_after: Place, new: str) -> None:
    """Renames within or between open folders, in one step."""
    source, target = place.to(old), place_after.to(new)
    retry_on_windows(lambda: os.replace(source, target, src_dir_fd=place.handle, dst_dir_fd=place_after.handle))


def retry_on_windows(call: Callable[[], T]) -> T:
    """Calls `call`, again for up to a second on Windows, where a file cannot be replaced while it is being read."""
    for _ in range(50 if os.name == "nt" else 0):
        try:
            return call()
        except PermissionError:
            time.sleep(0.02)
    return call()


def rename(old: Path, new: Path) -> None:
    """Renames a file or folder on the same disk in one step; a file is flushed first."""
    with folders.opened(old.parent, create=False) as source, folders.opened(new.parent, create=False) as target:
        if old.is_file() and not old.is_symlink():
            with untrusted.open_own(old, append=True, folder=source.handle) as file, with_filename(old):
                flushing.flush(file.fileno())
        _replace(source, old.name, target, new.name)
        for place in (source, target)[: 1 + (old.parent != new.parent)]:
            place.sync()


def link(target: Path, path: Path) -> None:
    """Makes `path` a link to the folder `target`.  Raises OSError if `path` exists or links are not supported."""
    os.symlink(target, path, target_is_directory=True)
    flushing.sync_folder(path.parent)


def appending(path: Path, buffering: int = -1) -> BinaryIO:
    """Opens `path` for appending, and creates it if it does not exist: logs, downloads, locks.

    Raises UserError if it is a link or anything else than a regular file.
    """
    with folders.opened(path.parent) as place:
        return untrusted.open_own(path, append=True, buffering=buffering, folder=place.handle)


@functools.cache
def _machine() -> str:
    """Eight hex digits that name this start of this machine: a process number means something within it alone."""
    return f"{zlib.crc32((platform.node() + processes.boot()).encode()):08x}"


def temporary_path(path: Path) -> Path:
    """A new name for an unfinished file or folder, next to `path`; it tells `sweep` which process it belongs to."""
    return path.with_name(f"{TEMPORARY}{_machine()}{os.getpid():08x}{secrets.token_hex(4)}-{path.name[-40:]}")


def create(path: Path) -> None:
    """Creates an empty file.  Raises FileExistsError if it exists: of several processes, one succeeds."""
    with folders.opened(path.parent, create=False) as place:
        os.close(os.open(place.to(path.name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=place.handle))


def sweep(folder: Path, seconds: float = 60.0) -> None:
    """Removes from `folder` the temporary files of processes that have ended.

    Those of other machines, and of earlier versions, are removed once they are older than `seconds`.
    """
    for path in folder.glob(f"{TEMPORARY}*"):
        if not (name := UNFINISHED.fullmatch(path.name)):
            continue
        with contextlib.suppress(OSError):  # it may just have been renamed to its final name
            here = name["machine"] == _machine()
            ended = not psutil.pid_exists(int(name["pid"], 16)) if here else None
            if ended or (ended is None and time.time() - path.lstat().st_mtime > seconds):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def remove(path: Path) -> None:
    """Removes a file, if it exists.  Raises UserError if its folder is one to write in and a link, OSError."""
    with (
        contextlib.suppress(FileNotFoundError),
        with_filename(path),
        folders.opened(path.parent, create=False) as place,
    ):
        retry_on_windows(lambda: os.unlink(place.to(path.name), dir_fd=place.handle))


def remove_all(paths: Iterable[Path]) -> None:
    """Removes files, as far as they exist.  Raises the first error of the system after the others are removed."""
    errors = []
    for path in paths:
        try:
            remove(path)
        except OSError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def keep_newest(folder: Path, most: int) -> None:
    """Removes the oldest files and folders in a cache, so that `most` stay; those written to last are the newest."""
    found: list[tuple[int, Path]] = []
    with contextlib.suppress(OSError):
        for path in (path for path in folder.iterdir() if not path.name.startswith(".")):
            with contextlib.suppress(OSError):  # another process removes it too
                found.append((path.lstat().st_mtime_ns, path))
    for _, path in sorted(found)[: max(0, len(found) - most)]:
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def write_bytes(path: Path, data: bytes, durable: bool = True) -> Written:
    """Replaces `path` with `data` in one step, as `write` does.  Raises DiskFull."""
    return write(path, lambda file: file.write(data), durable)


def copy(source: Path, target: Path) -> Written:
    """Copies the file `source` over `target` in one step.  Raises DiskFull."""

    def read() -> bytes:
        with with_filename(source):
            return file.read(2**20)

    with untrusted.open_regular(source) as file:
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
            flushing.sync_folder(free.parent)
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


def read_json(path: Path, most: int = MOST_JSON) -> Any | None:
    """Parses a JSON file of at most `most` bytes; None if there is none.  Raises UserError if it is not strictly JSON.

    See `strict_json.parse`; `json_in` is for files in the folder of a run.
    """

    def read() -> bytes:
        with untrusted.open_regular(path, most) as file, with_filename(path):
            return untrusted.read_all(file)

    return _parsed(read, path)


def json_in(folder: Folder, name: str, most: int = MOST_JSON) -> Any | None:
    """Parses a JSON file in a folder whose content is not trusted, as `read_json` does."""
    return _parsed(lambda: folder.read(name, most), os.path.join(folder.path, name))


def _parsed(read: Callable[[], bytes], path: str | Path) -> Any | None:
    try:
        return strict_json.parse(retry_on_windows(read))
    except FileNotFoundError:
        return None
    except strict_json.Invalid as error:
        raise UserError(
            f"{path} is not readable JSON ({error}): restore it from a copy, or delete it.", code="damaged-json"
        ) from error


def crc32(path: Path) -> int:
    """CRC-32 of a file: less to compute than SHA-256, where damage is to be found and nobody is to be kept out."""
    found = 0
    with open(path, "rb") as file:
        while chunk := file.read(2**16):
            found = zlib.crc32(chunk, found)
    return found


def sha256(path: Path, most: int | None = None) -> str:
    """SHA-256 of a file, or of its first `most` bytes, in hex, read in pieces."""
    with untrusted.open_regular(path) as file, with_filename(path):
        if most is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        found = hashlib.sha256()
        while most > 0 and (block := file.read(min(most, 2**20))):
            found.update(block)
            most -= len(block)
        return found.hexdigest()
