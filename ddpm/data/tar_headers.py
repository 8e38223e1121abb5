"""Headers of tar archives: one block of 512 bytes before each entry, which may be extended by entries of their own.

Of extended headers only the name and the size are read, and only as many bytes as a caller allows: tarfile itself reads
them at any size into memory.
"""

from typing import NamedTuple

BLOCK = 512  # bytes of a header; contents are filled up to a multiple of it
REGULAR = (b"0", b"\0", b"7")
FOLDER, LINKS, SPARSE = b"5", (b"1", b"2"), b"S"
EXTENDED, LONG_NAME = b"x", b"L"  # of the next entry, as POSIX and as GNU tar have it
PASSED_OVER = (b"g", b"X", b"K")  # of all entries, of Solaris, and a long target of a link


class Damaged(ValueError):
    """What is wrong with a header."""


class Header(NamedTuple):
    """What stands before an entry."""

    name: str
    size: int  # bytes
    kind: bytes  # of REGULAR, FOLDER, ...

    @property
    def padded(self) -> int:
        """Bytes from the start of the content to the next header."""
        return self.size + -self.size % BLOCK


def parse(block: bytes) -> Header | None:
    """Reads the block before an entry; None for one of zeros, as at the end of an archive.  Raises Damaged."""
    if len(block) < BLOCK:
        raise Damaged("the archive is cut short")
    try:
        checksum = _number(block[148:156])
        if checksum != sum(block) - sum(block[148:156]) + 8 * 32:  # itself counted as spaces
            if not block.strip(b"\0"):
                return None
            raise Damaged("a header is damaged, or it is no tar archive")
        size = _number(block[124:136])
    except ValueError as error:
        raise error if isinstance(error, Damaged) else Damaged("a header holds no numbers") from error
    if size < 0:
        raise Damaged(f"an entry has {size:,} bytes")
    name, kind = text(block[:100]), block[156:157]
    if kind == b"\0" and name.endswith("/"):  # before there were kinds
        kind = FOLDER
    if (prefix := block[345:500]).strip(b"\0") and block[257:265] == b"ustar\x0000":
        name = f"{text(prefix)}/{name}"
    return Header(name, size, kind)


def text(field: bytes) -> str:
    """The text of a field that a zero ends."""
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    """A number in octal digits, or in base 256 where the first byte is 128 or 255.  Raises ValueError."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big", signed=field[0] == 0xFF)
    digits = field.partition(b"\0")[0].strip()
    if not digits:
        return 0
    if not digits.isdigit():  # int() takes signs and underscores too
        raise ValueError
    return int(digits, 8)


def records(content: bytes) -> dict[bytes, bytes]:
    """The records of an extended header, each "LENGTH KEY=VALUE\\n", up to one that is cut off.  Raises Damaged."""
    found, at = {}, 0
    while at < len(content):
        space = content.find(b" ", at, at + 20)
        length = content[at:space] if space > 0 else b""
        if not length.isdigit() or int(length) <= space - at + 1:
            raise Damaged("an extended header is damaged")
        key, _, value = content[space + 1 : at + int(length) - 1].partition(b"=")
        at += int(length)
        if at <= len(content):
            found[key] = value
    return found


def declared(content: bytes) -> tuple[str | None, int | None]:
    """Name and size in an extended header; None where it has none.  Raises Damaged."""
    found = records(content)
    name, size = found.get(b"path"), found.get(b"size")
    if size is not None and not (size.isdigit() and len(size) < 20):
        raise Damaged("an extended header is damaged")
    return None if name is None else text(name), None if size is None else int(size)
