"""Opens zip files of strangers: the directory is judged before it is read, and the entries before they are unpacked."""

import contextlib
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import IO, Any

from ddpm.errors import UserError
from ddpm.formatting import memory
from ddpm.storage import untrusted

MOST_DIRECTORY = 2**23  # bytes of the list of entries; each takes about ten times as much in memory
MOST_ENTRIES = 2**16
MOST_NAME = 1024  # characters of an entry's name
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others, such as lzma, may ask for gigabytes to unpack a byte

# An entry beyond both limits is refused as a zip bomb: images and arrays hardly shrink when they are compressed.
BOMB_BYTES, BOMB_RATIO = 2**26, 200

# What reading a damaged zip file raises.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError)


@contextlib.contextmanager
def opened(source: Path | IO[bytes], where: str, remedy: str) -> Iterator[zipfile.ZipFile]:
    """Opens a zip file whose entries may be unpacked one by one; nothing of it is unpacked yet.

    where: its name in messages, which end with `remedy`.  Raises UserError (unsafe-archive) for more than the limits,
    for links and for names that point outside; one of DAMAGE, here and while an entry is read.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(untrusted.open_regular(source)) if isinstance(source, Path) else source
        guarded = _Guarded(file, where, remedy)
        archive = stack.enter_context(zipfile.ZipFile(guarded))
        guarded.reading_directory = False
        _check_entries(archive, where, remedy)
        yield archive


class _Guarded:
    """A file that refuses to be read in large pieces while the directory of a zip file is read, which is one piece."""

    def __init__(self, file: IO[bytes], where: str, remedy: str):
        self.file, self.where, self.remedy = file, where, remedy
        self.reading_directory = True

    def read(self, size: int = -1) -> bytes:
        if self.reading_directory and size > MOST_DIRECTORY:
            raise UserError(
                f"{self.where} has a directory of {memory(size)}, more than the limit of"
                f" {memory(MOST_DIRECTORY)}: {self.remedy}.",
                code="unsafe-archive",
            )
        return self.file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def check_entry(name: str, is_link: bool, where: str, remedy: str) -> None:
    """Raises UserError if an entry is a link, or would be written outside the folder it is unpacked to."""
    windows = PureWindowsPath(name)  # accepts both slashes
    if is_link or windows.drive or windows.root or ".." in windows.parts or len(name) > MOST_NAME:
        what = "is a link" if is_link else "points outside of the archive" if len(name) <= MOST_NAME else "is too long"
        raise UserError(
            f"{where} is unsafe, as its entry {name[:MOST_NAME]!r} {what}: {remedy}.", code="unsafe-archive"
        )


def _check_entries(archive: zipfile.ZipFile, where: str, remedy: str) -> None:
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise UserError(
            f"{where} has {len(entries):,} entries, more than the limit of {MOST_ENTRIES:,}: {remedy}.",
            code="unsafe-archive",
        )
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        check_entry(entry.filename, stat.S_ISLNK(entry.external_attr >> 16), where, remedy)
        if entry.file_size > max(BOMB_BYTES, BOMB_RATIO * entry.compress_size):
            raise UserError(
                f"{where} has an entry {entry.filename!r} of {memory(entry.compress_size)} that unpacks to"
                f" {memory(entry.file_size)}, more than {BOMB_RATIO} times as much, as neither images nor arrays"
                f" do: {remedy}.",
                code="unsafe-archive",
            )
        if entry.compress_type not in METHODS:
            raise zipfile.BadZipFile(f"{entry.filename!r} is compressed by method {entry.compress_type}")
        if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
            raise zipfile.BadZipFile(f"{entry.filename!r} is stored in another size than its own")
        if entry.header_offset < end:
            raise zipfile.BadZipFile(f"{entry.filename!r} overlaps another entry")
        end = entry.header_offset + zipfile.sizeFileHeader + entry.compress_size  # type: ignore[attr-defined]
    if end > archive.start_dir:
        raise zipfile.BadZipFile("entries reach into its directory")
    if len({entry.filename for entry in entries}) < len(entries):
        raise zipfile.BadZipFile("two entries have the same name")
