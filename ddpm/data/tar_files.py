"""Reads tar archives of strangers entry by entry: names and sizes are judged before anything is read.

Extended headers are passed over, but for a size: the archives that are read have short names, which stand in the plain
headers.
"""

import bz2
import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from ddpm.data import tar_headers
from ddpm.data.archives import CHUNK
from ddpm.data.tar_headers import EXTENDED, FOLDER, LINKS, LONG_NAME, PASSED_OVER, REGULAR
from ddpm.errors import UserError
from ddpm.formatting import memory
from ddpm.storage.zip_files import check_entry

MOST_ENTRIES = 1000
MOST_EXTENDED = 2**16  # bytes of an extended header that are looked at
MOST_BYTES = 2**30  # unpacked, of all entries together
OTHERS = (EXTENDED, LONG_NAME, *PASSED_OVER)  # entries that are headers themselves
DAMAGE = (EOFError, OSError, zlib.error, ValueError)  # what reading a damaged archive raises
OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {  # by the first two bytes; else it is not compressed
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZ": bz2.BZ2File,
}


class Entry(NamedTuple):
    """A regular file in an archive, at whose content the archive is."""

    name: str
    size: int  # bytes
    stream: IO[bytes]

    def read(self) -> bytes:
        """Reads the whole content.  Raises EOFError if it is cut short."""
        content = self.stream.read(self.size)
        if len(content) < self.size:
            raise EOFError("the archive is cut short")
        return content


def entries(path: Path, file: IO[bytes], wanted: str, largest: int) -> Iterator[Entry]:
    """Yields the regular files of an open archive, plain or compressed with gzip or bzip2, and reads it to its end.

    wanted: the file to use instead, for the error message.  largest: bytes of an entry.  Raises UserError for links,
    devices, names that point outside of the archive, and for more or larger entries than the limits; one of DAMAGE.
    """
    opener = OPENERS.get(file.read(2))
    file.seek(0)
    stream = opener(file) if opener else file
    total, count = 0, 0
    declared: int | None = None  # the size of the next entry
    while member := _header(stream, first=not count):
        count += 1
        if declared is not None and member.kind not in OTHERS:
            member, declared = member._replace(size=declared), None
        total += member.size
        check_entry(member.name, member.kind in LINKS, str(path), f"use {wanted}")
        if member.kind not in (*REGULAR, FOLDER, *OTHERS):
            raise UserError(
                f"{path} is unsafe, as its entry {member.name!r} is no regular file (type {member.kind!r}): use"
                f" {wanted}.",
                code="unsafe-archive",
            )
        if not 0 <= member.size <= largest or total > MOST_BYTES or count > MOST_ENTRIES:
            raise UserError(
                f"{path} has an entry {member.name!r} of {memory(member.size)}, its number {count}, and"
                f" {memory(total)} so far, more than the limits of {memory(largest)},"
                f" {MOST_ENTRIES:,} entries and {memory(MOST_BYTES)}: use {wanted}.",
                code="unsafe-archive",
            )
        content = _Counted(stream, member.size)
        if member.kind == EXTENDED:
            declared = tar_headers.declared(content.read(MOST_EXTENDED))[1]
        elif member.kind in REGULAR:
            yield Entry(member.name, member.size, content)  # type: ignore[arg-type]
        _skip(stream, content.left + member.padded - member.size)
    rest = 0
    while chunk := stream.read(CHUNK):  # to the end, where gzip stores its checksum
        rest += len(chunk)
        if rest > MOST_BYTES:
            raise UserError(
                f"{path} has more than {memory(MOST_BYTES)} behind its last entry: use {wanted}.",
                code="unsafe-archive",
            )


class _Counted:
    """The content of an entry, with how much of it is left to read."""

    def __init__(self, stream: IO[bytes], size: int):
        self.stream, self.left = stream, size

    def read(self, size: int) -> bytes:
        content = self.stream.read(min(size, self.left))
        self.left -= len(content)
        return content


def _header(stream: IO[bytes], first: bool) -> tar_headers.Header | None:
    """Reads the header of the next entry; None at the end of the archive.  Raises tar_headers.Damaged."""
    block = stream.read(tar_headers.BLOCK)
    header = tar_headers.parse(block) if block or first else None
    if first and header is None:
        raise tar_headers.Damaged("it is no tar archive")
    return header


def _skip(stream: IO[bytes], size: int) -> None:
    while size:
        chunk = stream.read(min(size, CHUNK))
        if not chunk:
            raise EOFError("the archive is cut short")
        size -= len(chunk)
