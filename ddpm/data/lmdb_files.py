"""Reads the lmdb databases of strangers: their values, in the order of the keys.

The library of that name maps a database into memory and trusts what stands in it, so that a damaged one ends the
process.  Here each page is judged when it is read.  A database, as 64-bit little-endian machines write it (version 1 of
the format): two pages of metadata, of which that of the later transaction counts; a B+ tree of branch and leaf pages;
and values that do not fit into a leaf, in pages of their own.
"""

import contextlib
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from ddpm.errors import UserError
from ddpm.storage import untrusted

PAGE = struct.Struct("<QHHHH")  # its number, padding, flags, ends of the list of nodes and of the space behind it
META = struct.Struct("<II16s")  # magic, version, address and size of the map; two trees follow
TREE = struct.Struct("<IHHQQQQQ")  # padding or page size, flags, depth, pages of three kinds, entries, root
LAST = struct.Struct("<QQ")  # the last page, the transaction; behind the trees
NODE = struct.Struct("<HHHH")  # low and high half of a size, or of a page's number; flags, or its rest; size of the key
MAGIC, VERSION = 0xBEEFC0DE, 1
META_BYTES = PAGE.size + META.size + 2 * TREE.size + LAST.size
BRANCH, LEAF, OVERFLOW, META_PAGE = 1, 2, 4, 8  # flags of pages
BIG = 1  # flag of a node: its value stands in pages of its own
NONE = 2**64 - 1  # the root of an empty tree
PAGE_SIZES = [2**power for power in range(9, 17)]
MOST_DEPTH = 32  # the library's own limit


class Value(NamedTuple):
    """Where a value stands."""

    key: bytes
    at: int  # bytes from the start of the file
    size: int  # bytes


class Damaged(ValueError):
    """What is wrong with a database."""


class Database:
    """An open database, whose values may be read in several threads.

    entries: how many it says that it has.  Raises Damaged, and OSError.
    """

    def __init__(self, file: IO[bytes]):
        self._file, self._lock = file, threading.Lock()
        self._size = os.fstat(file.fileno()).st_size
        self.page_size, *first = self._meta(0)
        _, *second = self._meta(self.page_size)
        self._last, _, self.entries, self._root, self._depth = max(first, second, key=lambda meta: meta[1])
        if self._size < (needed := (self._last + 1) * self.page_size):
            raise Damaged(f"it is cut short: it has {self._size:,} of {needed:,} bytes")
        if self.entries * (NODE.size + 2) > self._size or self._depth > MOST_DEPTH:
            raise Damaged(f"it cannot have {self.entries:,} entries {self._depth:,} pages deep")

    def values(self) -> Iterator[Value]:
        """Yields all values in the order of their keys.  Raises Damaged where a page is met that cannot be right."""
        waiting = [] if self._root == NONE else [(self._root, 1)]
        last, pages, found = b"", 0, 0
        while waiting:
            number, depth = waiting.pop()
            pages += 1
            if pages > self._last + 1 or depth > self._depth:
                raise Damaged("its pages lead in a circle")
            flags, nodes = self._nodes(number)
            if flags == BRANCH:
                waiting += ((node.at, depth + 1) for node in reversed(nodes))
                continue
            for node in nodes:
                if found and node.key <= last:
                    raise Damaged("its keys are not in order")
                last, found = node.key, found + 1
                yield node
        if found != self.entries:
            raise Damaged(f"it has {found:,} entries instead of {self.entries:,}")

    def read(self, value: Value) -> bytes:
        """The bytes of a value.  Raises Damaged."""
        return self._at(value.at, value.size)

    def _at(self, at: int, size: int) -> bytes:
        if at + size > self._size:
            raise Damaged("it ends before one of its values")
        with self._lock:
            self._file.seek(at)
            content = self._file.read(size)
        if len(content) < size:
            raise Damaged("it is cut short")
        return content

    def _meta(self, at: int) -> tuple[int, int, int, int, int, int]:
        """(page size, last page, transaction, entries, root, depth) in a page of metadata."""
        content = self._at(at, META_BYTES)
        flags = PAGE.unpack_from(content)[2]
        magic, version, _ = META.unpack_from(content, PAGE.size)
        if magic != MAGIC or not flags & META_PAGE:
            raise Damaged("it is no lmdb database")
        if version != VERSION:
            raise Damaged(f"it has version {version} of the format, and {VERSION} is read")
        trees = PAGE.size + META.size
        page_size = TREE.unpack_from(content, trees)[0]
        _, kind, depth, *_, entries, root = TREE.unpack_from(content, trees + TREE.size)
        if page_size not in PAGE_SIZES or kind:
            raise Damaged(f"it has pages of {page_size:,} bytes and a tree of kind {kind}")
        last, transaction = LAST.unpack_from(content, trees + 2 * TREE.size)
        return page_size, last, transaction, entries, root, depth

    def _page(self, number: int) -> bytes:
        if not 2 <= number <= self._last:
            raise Damaged(f"it has no page {number:,}")
        return self._at(number * self.page_size, self.page_size)

    def _nodes(self, number: int) -> tuple[int, list[Value]]:
        """The flags of a page, BRANCH or LEAF, and its nodes; those of a branch have the page below as `at`."""
        page = self._page(number)
        own, _, flags, lower, _ = PAGE.unpack_from(page)
        if own != number or flags not in (BRANCH, LEAF) or not PAGE.size <= lower <= self.page_size:
            raise Damaged(f"its page {number:,} is none of a tree")
        nodes = []
        for (at,) in struct.iter_unpack("<H", page[PAGE.size : lower - lower % 2]):
            if at + NODE.size > self.page_size:
                raise Damaged(f"its page {number:,} has an entry outside of itself")
            low, high, middle, key_size = NODE.unpack_from(page, at)
            start = at + NODE.size + key_size
            key, size = page[at + NODE.size : start], low | high << 16
            if flags == BRANCH:
                nodes.append(Value(key, size | middle << 32, 0))
            elif middle == BIG:
                nodes.append(Value(key, self._overflow(page[start : start + 8], size), size))
            elif middle or start + size > self.page_size:
                raise Damaged(f"its page {number:,} has an entry of another kind, or outside of itself")
            else:
                nodes.append(Value(key, number * self.page_size + start, size))
        return flags, nodes

    def _overflow(self, pointer: bytes, size: int) -> int:
        """Where the value begins whose pages start at the one that `pointer` names."""
        first = int.from_bytes(pointer, "little")
        if not 2 <= first <= self._last or first * self.page_size + PAGE.size + size > self._size:
            raise Damaged("one of its values lies outside of it")
        return first * self.page_size + PAGE.size


@contextlib.contextmanager
def opened(path: Path, wanted: str) -> Iterator[Database]:
    """Opens the data file of a database.

    wanted: the file to use instead, for the error message.  Raises UserError if it is damaged, here and when its values
    are listed in the block.
    """
    try:
        with untrusted.open_regular(path) as file:
            yield Database(file)
    except Damaged as error:
        raise UserError(
            f"{path} is damaged, or no lmdb database, as {error}: download it again, {wanted}.", code="damaged-archive"
        ) from error
