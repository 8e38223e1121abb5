"""Opens, lists and removes what lies in a folder that may be damaged or a stranger's, such as that of a run.

A name there is one plain part of a path.  Files are reached from a handle of their folder, without following links;
only regular files are opened, without waiting for whoever holds the other end of a pipe.  Where the system has no such
handles (Windows), each part is looked at before it is opened, and what was opened is compared with what was seen: this
keeps out what lies there, not what another program puts there at that very instant.
"""

import contextlib
import errno
import io
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ddpm.errors import UserError, with_filename
from ddpm.storage import flushing

HANDLES = hasattr(os, "O_NOFOLLOW") and {os.open, os.stat, os.unlink, os.mkdir, os.rename} <= os.supports_dir_fd
_FILE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE |= getattr(os, "O_BINARY", 0)
_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT
_FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_JUNCTION = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", 0)
_LINKED = {errno.ELOOP, errno.EMLINK, getattr(errno, "EFTYPE", errno.ELOOP)}  # of O_NOFOLLOW, by system

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFREG: "a file",
}
PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,200}")  # names that nothing more need be asked about
RESERVED = re.compile(
    r"(con|conin\$|conout\$|prn|aux|nul|(com|lpt)[\d\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE
)  # device names on Windows
TURNING = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}  # the direction of text
NO_LETTERS = ("Cc", "Zl", "Zp")  # categories of characters: control, and ends of lines and paragraphs
MOST_BYTES = 2**40  # of a file without a limit of its own: weights, arrays


def is_part(name: str) -> bool:
    """True if `name` is one plain part of a path: no `..`, without separators, and nothing that a line cannot show.

    Those are control characters, ends of lines, and marks that have text run the other way.  On Windows, it is no
    device either.
    """
    if PLAIN.fullmatch(name):
        return os.name != "nt" or not _is_of_windows(name)
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError:  # half of a character, as JSON can hold; those that stand for bytes are names on Unix
        return False
    return (
        0 < length < 256
        and name not in (".", "..")
        and not any(
            letter in TURNING or letter in "/\\" or unicodedata.category(letter) in NO_LETTERS for letter in name
        )
        and (os.name != "nt" or not _is_of_windows(name))
    )


def _is_of_windows(name: str) -> bool:
    """True for a name that Windows takes for a device or another file's: `nul.txt`, `a.png:b`, `a.`."""
    return ":" in name or name[-1] in ". " or RESERVED.fullmatch(name) is not None


class Folder:
    """A folder none of whose content is trusted.  The folder itself, and those in it, are never links.

    path: up to its parent the user named it, so links there are followed.  parts: folders inside, one below the other.
    may_link: decides whether a `path` that is a link may be followed nevertheless, from the folder that it leads to.
    """

    def __init__(self, path: Path, *parts: str, may_link: Callable[["Folder"], bool] | None = None):
        self._top = path
        self._parts = parts
        self._may_link = may_link
        self._kept = -1  # a handle of it
        self.path = path.joinpath(*parts) if parts else path
        self._text = os.fspath(self.path)

    def inside(self, *parts: str) -> "Folder":
        """A folder in this one."""
        return Folder(self._top, *self._parts, *parts, may_link=self._may_link)

    def check(self) -> None:
        """Raises UserError if it is a link, or anything but a folder; FileNotFoundError, OSError."""
        with _named(self.path), self.handle():
            pass

    @contextlib.contextmanager
    def kept_open(self) -> Iterator[None]:
        """Looks for the folder once for all that is done with it in the block.  Raises UserError, OSError."""
        with self.handle() as self._kept:
            try:
                yield
            finally:
                self._kept = -1

    def open_file(self, name: str, most: int = MOST_BYTES) -> io.BufferedReader:
        """Opens a regular file for reading.  Raises UserError for anything else and for more than `most` bytes.

        Raises FileNotFoundError if there is none, and OSError.
        """
        return self._open(name, os.O_RDONLY, "rb", most, -1)

    def read(self, name: str, most: int) -> bytes:
        """The content of a file of at most `most` bytes; see `open_file`."""
        path = self._path_of(name)
        with _named(path), self.handle() as handle:
            opened = _opened(*self._place(name, path, handle), os.O_RDONLY, most)
            try:
                return _content(opened)
            finally:
                os.close(opened)

    def append(self, name: str) -> BinaryIO:
        """Opens a regular file for reading and appending, unbuffered, and creates it if there is none.

        Raises UserError for anything else, and OSError.
        """
        return self._open(name, _APPEND, "ab+", MOST_BYTES, 0)

    def stat(self, name: str) -> os.stat_result:
        """What the system says of a regular file.  Raises UserError for anything else, FileNotFoundError, OSError."""
        path = self._path_of(name)
        with _named(path), self.handle() as handle:
            found = self._look(name, handle)
        _check(path, found, MOST_BYTES)
        return found

    def exists(self, name: str) -> bool:
        """True if there is a regular file of that name.  Raises UserError for anything else."""
        try:
            self.stat(name)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def files(self, suffix: str = "") -> list[str]:
        """Names of the regular files that end in `suffix`, in order; none if the folder does not exist.

        Hidden ones, links and whatever else is there are left out.  Raises UserError if it is not a folder.
        """
        return [name for name, kind in self._entries() if name.endswith(suffix) and kind == stat.S_IFREG]

    def folders(self) -> list[str]:
        """Names of the folders in this one, in order, as `files` lists files."""
        return [name for name, kind in self._entries() if kind == stat.S_IFDIR]

    def remove(self, name: str) -> None:
        """Removes a regular file if it is there.  Raises UserError for anything else, which stays, and OSError."""
        with contextlib.suppress(FileNotFoundError), self.handle() as handle, with_filename(self.path / name):
            _check(self.path / name, self._look(name, handle), MOST_BYTES)
            os.unlink(name if HANDLES else self.path / name, dir_fd=handle if HANDLES else None)

    def make(self) -> "Folder":
        """Creates the folders in `path` that do not exist yet.  Raises UserError if one is anything else, OSError."""
        self._top.mkdir(parents=True, exist_ok=True)
        self.make_parts()
        with self.handle():
            return self

    def make_parts(self) -> None:
        """Creates the folders inside `path`, which exists, each flushed to disk.  Raises as `make` does."""
        for count in range(len(self._parts)):
            above = Folder(self._top, *self._parts[:count], may_link=self._may_link)
            path = above.path / _part(self._parts[count], above.path)
            with contextlib.suppress(FileExistsError), above.handle() as handle, with_filename(path):
                os.mkdir(path.name if HANDLES else path, dir_fd=handle if HANDLES else None)
                if HANDLES:
                    flushing.flush(handle)

    # --- how

    def _open(self, name: str, flags: int, mode: str, most: int, buffering: int) -> Any:
        path = self._path_of(name)
        with _named(path), self.handle() as handle:
            return _as_file(_opened(*self._place(name, path, handle), flags, most), path, mode, buffering)

    def _path_of(self, name: str) -> str:
        return os.path.join(self._text, _part(name, self.path))

    def _place(self, name: str, path: str, handle: int) -> tuple[str, str, int | None]:
        return (name, path, handle) if HANDLES else (path, path, None)

    def _look(self, name: str, handle: int) -> os.stat_result:
        _part(name, self.path)
        return os.stat(name, dir_fd=handle, follow_symlinks=False) if HANDLES else os.lstat(self.path / name)

    def _entries(self) -> list[tuple[str, int]]:
        """Visible names with the kind of each, in order."""
        found: list[tuple[str, int]] = []
        with (
            contextlib.suppress(FileNotFoundError),
            self.handle() as handle,
            with_filename(self.path),
            os.scandir(handle if HANDLES else self.path) as entries,
        ):
            for entry in entries:
                if entry.name.startswith(".") or not is_part(entry.name) or _leads_away(entry):
                    continue
                if entry.is_file(follow_symlinks=False):
                    found.append((entry.name, stat.S_IFREG))
                elif entry.is_dir(follow_symlinks=False):
                    found.append((entry.name, stat.S_IFDIR))
        return sorted(found)

    @contextlib.contextmanager
    def handle(self) -> Iterator[int]:
        """A handle of this folder, or -1 where the system has none, after a look at each part of its path.

        Raises UserError if a part is a link, or anything but a folder; FileNotFoundError, OSError.
        """
        if self._kept >= 0:
            yield self._kept
            return
        if not HANDLES:
            self._checked()
            yield -1
            return
        handle = self._open_top()
        try:
            for count, name in enumerate(self._parts):
                path = self._top.joinpath(*self._parts[: count + 1])
                with with_filename(path):
                    try:
                        inner = os.open(_part(name, path.parent), _FOLDER | _NO_LINK, dir_fd=handle)
                    except OSError as error:
                        if error.errno in _LINKED | {errno.ENOTDIR}:
                            raise refusal(path, "a folder", _kind(os.lstat(path))) from error
                        raise
                os.close(handle)
                handle = inner
            yield handle
        finally:
            os.close(handle)

    def _open_top(self) -> int:
        try:
            return os.open(self._top, _FOLDER | _NO_LINK)
        except OSError as error:
            if error.errno not in _LINKED | {errno.ENOTDIR}:
                raise
            found = os.lstat(self._top)
            if stat.S_ISDIR(found.st_mode):
                raise
            return os.open(self._follow(found), _FOLDER | _NO_LINK)

    def _checked(self) -> None:
        """Raises UserError if a part of the path is no folder: `handle` where the system has no handles."""
        top = self._top
        found = os.lstat(top)
        if _is_link(found):
            top = self._follow(found)
            found = os.lstat(top)
        for name in ("", *self._parts):
            if name:
                top = top / _part(name, top)
                found = os.lstat(top)
            if _is_link(found) or not stat.S_ISDIR(found.st_mode):
                raise refusal(top, "a folder", _kind(found))

    def _follow(self, found: os.stat_result) -> Path:
        """The folder that a link in place of `path` leads to.  Raises UserError unless it may be followed."""
        if _is_link(found) and self._may_link:
            target = Path(os.path.realpath(self._top))
            with contextlib.suppress(UserError, OSError):
                if self._may_link(Folder(target)):
                    return target
        raise refusal(self._top, "a folder", _kind(found))


def open_regular(path: Path, most: int = MOST_BYTES) -> io.BufferedReader:
    """Opens a file that the user named, links followed, for reading: a regular one of at most `most` bytes.

    Never waits, as opening a named pipe does.  Raises UserError for anything else, FileNotFoundError, OSError.
    """
    return _as_file(_opened(path, path, None, os.O_RDONLY, most, follow=True), path, "rb", -1)


def read_all(file: BinaryIO) -> bytes:
    """The content of an open file, of the length that it has now."""
    return file.read(os.fstat(file.fileno()).st_size)  # of a limit, it would take that much memory


def _content(handle: int) -> bytes:
    size = os.fstat(handle).st_size
    found = os.read(handle, size)
    while len(found) < size and (more := os.read(handle, size - len(found))):
        found += more
    return found


def open_own(path: Path, append: bool = False, buffering: int = -1, folder: int | None = None) -> BinaryIO:
    """Opens a file of this program, such as a lock or a log: a regular one, and no link; links to its folder count.

    append: for reading and appending; created if there is none.  folder: a handle of the file's folder, if there is
    one.  Raises UserError for anything else, FileNotFoundError, OSError.
    """
    flags, mode = (_APPEND, "ab+") if append else (os.O_RDONLY, "rb")
    place = path if folder is None else path.name
    return _as_file(_opened(place, path, folder, flags, MOST_BYTES), path, mode, buffering)


def _opened(
    place: str | Path, path: str | Path, handle: int | None, flags: int, most: int, follow: bool = False
) -> int:
    """Opens `place` (relative to `handle` if there is one), which errors call `path`, and looks at what it got."""
    look = os.stat if follow else os.lstat
    with with_filename(path):
        before = None
        if not HANDLES and (before := look(path) if os.path.lexists(path) else None):
            _check(path, before, most, follow)
        try:
            opened = os.open(place, flags | _FILE | (0 if follow else _NO_LINK), 0o666, dir_fd=handle)
        except OSError as error:
            if error.errno in _LINKED | {errno.ENXIO, errno.ENODEV}:
                _check(path, look(path), most, follow)
            raise
    try:
        found = os.fstat(opened)
        _check(path, found, most, follow)
        if before is not None and not os.path.samestat(before, found):
            raise refusal(path, "a file", "another one at every look")
    except BaseException:
        os.close(opened)
        raise
    return opened


def _as_file(handle: int, path: str | Path, mode: str, buffering: int) -> Any:
    return open(path, mode, buffering, opener=lambda *_: handle)  # its name is the path, which messages show


def _check(path: str | Path, found: os.stat_result, most: int, named: bool = False) -> None:
    """Raises UserError for what is not a regular file of at most `most` bytes."""
    if not stat.S_ISREG(found.st_mode) or _is_link(found):
        raise refusal(path, "a file", _kind(found), named)
    if found.st_size > most:
        raise UserError(
            f"{path} has {found.st_size:,} bytes and may have {most:,} at most: it is too large"
            " to be read here; copy it from its folder, or move it away.",
            code="too-large",
        )


def refusal(path: str | Path, wanted: str, found: str, named: bool = False) -> UserError:
    """The error for something else than a regular file or a folder.  named: the user named it, and can name another."""
    sentence = (
        f"{path} is not {wanted} but {found}: {f'name {wanted}' if named else f'put {wanted} there, or remove it'}."
    )
    if wanted == "a folder":
        return UserError(sentence, code="not-a-folder")
    return UserError(sentence, code="not-a-file")


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Has an error of the system in the block name this file, also where it concerns a folder above it."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def _part(name: str, folder: Path) -> str:
    """`name`, if it is one plain part of a path.  Raises UserError."""
    if not is_part(name):
        raise UserError(f"{name!r} is not the name of a file in {folder}: correct it.", code="bad-name")
    return name


def _is_link(found: os.stat_result) -> bool:
    """True for a symbolic link, and on Windows for a junction."""
    return stat.S_ISLNK(found.st_mode) or (_JUNCTION != 0 and getattr(found, "st_reparse_tag", 0) == _JUNCTION)


def _leads_away(entry: os.DirEntry[str]) -> bool:
    """True for a symbolic link, and on Windows for a junction, which Python tells from 3.12 on."""
    return entry.is_symlink() or getattr(entry, "is_junction", bool)()


def _kind(found: os.stat_result) -> str:
    return "a link" if _is_link(found) else KINDS.get(stat.S_IFMT(found.st_mode), "something else")
