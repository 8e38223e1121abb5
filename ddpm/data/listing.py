"""Lists the image files of a folder, and what is left out and why.

Only files whose kind does not follow from the name are opened.
"""

import os
import stat
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ddpm import formatting
from ddpm.data.file_kinds import HIDDEN, KIND, MANY, OF_A_RUN, OTHER, SHEETS, SYSTEM, UNNAMED, UNREAD
from ddpm.data.own_folders import holds_samples, made_by_us
from ddpm.errors import UserError
from ddpm.storage import image_files, images, paths
from ddpm.storage.image_files import EXTENSIONS


class File(NamedTuple):
    """Image file of a folder."""

    parts: tuple[str, ...]  # path relative to the listed folder, as names
    stamp: str  # changes with the file


class Listing(NamedTuple):
    """Image files of a folder and its subfolders, in the order of their names."""

    files: list[File]
    left_out: tuple[str, ...]  # other files, by kind: "3 .heic files"
    unread: tuple[str, ...]  # of these, images in unsupported formats
    shards: list[File]  # of these, tar archives


def list_folder(folder: Path) -> Listing:
    """Lists a folder and its subfolders.  Raises UserError if one cannot be listed, or holds samples."""
    return _Lister(folder).listing()


def stamp(status: os.stat_result) -> str:
    """Stamp of a file: size, modification time, change time and inode; a different stamp means a different content.

    A file that replaces another, or is overwritten with its modification time restored, has another inode or change
    time.
    """
    return f"{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}"


def file_stamp(path: Path) -> str:
    """Stamp of a file, or "missing"."""
    try:
        return stamp(os.stat(path))
    except FileNotFoundError:
        return "missing"


def is_rewritten(before: str, now: str) -> bool:
    """True if a file was written to between two of its stamps.

    Hard links and changes of the owner change the rest of a stamp, and inodes are not stable on all file systems.
    """
    return before.split("|")[:2] != now.split("|")[:2]


class _Lister:
    def __init__(self, folder: Path):
        self.folder = folder
        self.found: list[File] = []
        self.shards: list[File] = []
        self.others: Counter[str] = Counter()  # by phrase
        self.kinds: Counter[str] = Counter()  # by extension
        self.ours: list[str] = []  # folders, by their names from `folder` on
        self.system: list[str] = []
        self.seen: set[tuple[int, int]] = set()
        self.links: deque[tuple[str, tuple[str, ...]]] = deque()  # to folders; listed last
        self.caches = set(_folder_ids(paths.cache_folder(), paths.cache_folder() / "images"))

    def listing(self) -> Listing:
        waiting: list[tuple[str, tuple[str, ...]]] = [(str(self.folder), ())]
        while waiting or self.links:
            path, parts = waiting.pop() if waiting else self.links.popleft()
            waiting += reversed(self._folder(path, parts))
        self.found.sort()
        unread = tuple(self._kind(kind) for kind in sorted(self.kinds) if kind in UNREAD)
        return Listing(self.found, (*unread, *self._rest()), unread, sorted(self.shards))

    def _kind(self, kind: str) -> str:
        count = self.kinds[kind]
        return (
            formatting.plural(count, f"{kind} file")
            if kind
            else f"{formatting.plural(count, 'file')} without an extension"
        )

    def _rest(self) -> Iterator[str]:
        """Yields what is left out, apart from unsupported images."""
        yield from (self._kind(kind) for kind in sorted(self.kinds) if kind not in UNREAD)
        yield from (
            f"{count:,} {phrase if count == 1 else MANY[phrase]}" for phrase, count in sorted(self.others.items())
        )
        if self.system:
            yield (
                f"{formatting.plural(len(self.system), 'system folder')}"
                f" ({formatting.some(sorted(set(self.system)), 5)})"
            )
        if self.ours:
            yield (
                f"{formatting.plural(len(self.ours), 'folder')} written by this program"
                f" ({formatting.some(sorted(self.ours), 5)})"
            )

    def _folder(self, path: str, parts: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
        """Lists one folder; returns the subfolders to list next."""
        try:
            status = os.stat(path)
            with os.scandir(path) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)  # the order of scandir is arbitrary
        except OSError as error:
            raise UserError(
                f"{path} cannot be listed ({error.strerror}): change its permissions.", code="unreadable-file"
            ) from error
        identity = (status.st_dev, status.st_ino)
        if identity in self.seen:
            self.others["link to a folder that is listed already"] += 1
            return []
        self.seen.add(identity)
        names = {entry.name for entry in inside}
        what = made_by_us(path, names)
        if parts and (what or identity in self.caches):
            self.ours.append("/".join(map(formatting.printable, parts)))
            return []
        if what == "samples":
            raise UserError(
                f"{path} holds samples with their settings: to train on them, name {os.path.join(path, 'images')}.",
                code="not-data",
            )
        deeper: list[tuple[str, tuple[str, ...]]] = []
        for entry in inside:
            try:
                is_folder = entry.is_dir()
                status = os.stat(entry.path)  # entry.stat() has no inode on Windows
            except OSError:
                self.others["link that leads nowhere" if entry.is_symlink() else "file that cannot be looked at"] += 1
                continue
            if is_folder:
                if self._is_listed(entry.name, what):
                    (self.links if _is_link(entry) else deeper).append((entry.path, (*parts, entry.name)))
            else:
                self._file(entry, (*parts, entry.name), status, names, what)
        return deeper

    def _is_listed(self, name: str, what: str) -> bool:
        """True if a folder of this name is listed; what: the kind of its parent folder, see `made_by_us`."""
        if name.startswith("."):
            self.others["hidden folder"] += 1
            return False
        if name.lower() in SYSTEM or name.lower().endswith(".lrdata"):
            self.system.append(formatting.printable(name))
            return False
        if what and name in OF_A_RUN:
            self.ours.append(name)
            return False
        return True

    def _file(
        self, entry: os.DirEntry, parts: tuple[str, ...], status: os.stat_result, names: set[str], what: str
    ) -> None:
        name = entry.name.lower()
        kind = os.path.splitext(name)[1]
        kind = kind if KIND.fullmatch(kind) else UNNAMED
        if not stat.S_ISREG(status.st_mode):
            self.others["pipe, socket or device"] += 1
        elif name.startswith(HIDDEN):
            self.others["hidden file"] += 1
        elif name in SHEETS and (
            what or holds_samples(Path(entry.path).parent, names) or images.settings_in(Path(entry.path)) is not None
        ):
            self.others["sheet of samples"] += 1
        elif kind in EXTENSIONS or (
            kind not in UNREAD and kind not in OTHER and image_files.size(Path(entry.path)) is not None
        ):
            self.found.append(File(parts, stamp(status)))
        else:
            self.kinds[kind] += 1
            if kind == ".tar":
                self.shards.append(File(parts, stamp(status)))


def _is_link(entry: os.DirEntry) -> bool:
    """True for a link to a folder or, on Windows with Python 3.12 or later, a junction."""
    is_junction = getattr(entry, "is_junction", None)
    return entry.is_symlink() or (is_junction is not None and is_junction())


def _folder_ids(*folders: Path) -> Iterator[tuple[int, int]]:
    """Yields (device, inode) of the folders that exist."""
    for folder in folders:
        try:
            status = os.stat(folder)
        except OSError:
            continue
        yield status.st_dev, status.st_ino
