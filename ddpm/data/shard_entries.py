"""Finds the images of one tar archive and their labels, as webdataset groups its entries.

Consecutive entries whose names are the same up to the first dot of the file name form a sample: KEY.jpg or another
image, and KEY.cls with a number, or KEY.json with `label` or `cls`.  Nothing is unpacked.  What is wrong with a sample
is noted, and the sample left out; what makes an archive unsafe is an error.
"""

import hashlib
import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ddpm.data import tar_headers
from ddpm.data.source import IDENTITY_BYTES
from ddpm.data.tar_headers import EXTENDED, FOLDER, LINKS, LONG_NAME, PASSED_OVER, REGULAR, Damaged
from ddpm.errors import UserError, as_user_error
from ddpm.formatting import plural, printable
from ddpm.storage import image_files, untrusted
from ddpm.storage.image_files import EXTENSIONS
from ddpm.storage.zip_files import check_entry

KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)  # KEY, and what stands behind the dot
PLAIN = re.compile(
    r"(?:[\w-][\w.-]{0,100}/){0,5}[\w-][\w.-]{0,200}/?", re.ASCII
)  # names that nothing more need be asked about
NUMBER = re.compile(r"\s*([+-]?\d{1,9})\s*", re.ASCII)
IMAGES = frozenset(extension[1:] for extension in EXTENSIONS)
LABELS = ("label", "cls")  # keys of a JSON object, the first that is there
MOST_EXTENDED = 2**16  # bytes of an extended header
MOST_LABEL = {"cls": 64, "json": 2**20}  # bytes
MOST_IMAGE = 2**26  # bytes
SAMPLED = 1000  # of so many images the header of one is read
MOST_CLASS_NAME = 200  # characters
MOST_KINDS = 50  # of other entries that are counted apart
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}  # by the first two bytes

ENTRY = np.dtype([("at", "<u8"), ("size", "<u4"), ("shard", "<u4")])  # where the bytes of an image are


class Found(NamedTuple):
    """The n images of an archive."""

    entries: np.ndarray  # ENTRY [n], all of shard 0
    labels: np.ndarray  # int64 [n], indices into `classes`; -1 for none
    identities: np.ndarray  # uint8 [n, 32], SHA-256 of the bytes of each image
    classes: list[str]  # in the order in which they are met
    wrong: list[str]  # a sentence on each sample that is left out
    others: Counter[str]  # other entries by extension
    sizes: list[tuple[int, int]]  # width and height of the first image, and of each SAMPLED-th, where they can be read


class _Entry(NamedTuple):
    name: str
    at: int  # bytes from the start of the archive
    size: int
    content: bytes  # of an image or a label that is not too large; else empty


def scan(path: Path, seen: Counter[str]) -> Found:
    """Reads an archive from its start to its end.

    seen: its "bytes" and "images" are kept up to date; "stop" in it ends the scan early.  Raises UserError for a file
    that is no tar archive, or compressed, and for links, devices and names that point outside of it.
    """
    try:
        with untrusted.open_regular(path) as file:
            start = file.peek(2)[:2]
            if start in COMPRESSED:
                raise UserError(
                    f"{path} is compressed with {COMPRESSED[start]}, and images are read from anywhere in an archive:"
                    " unpack it to a plain .tar first.",
                    code="not-data",
                )
            return _Scan(path, file, seen).found()
    except OSError as error:
        error.filename = error.filename or str(path)
        raise as_user_error(error) from error


class _Scan:
    def __init__(self, path: Path, file: IO[bytes], seen: Counter[str]):
        self.path, self.file, self.seen = path, file, seen
        # Arrays, as an archive may hold millions of samples.
        self.at, self.sizes, self.labels, self.keys = array("Q"), array("Q"), array("q"), array("q")
        self.identities = bytearray()
        self.numbers: dict[str, int] = {}  # of classes
        self.wrong: list[str] = []
        self.others = Counter[str]()
        self.sampled: list[tuple[int, int]] = []

    def found(self) -> Found:
        key, sample = "", dict[str, _Entry]()
        try:
            for entry in self._entries():
                matched = KEY.fullmatch(entry.name)
                if matched is None:  # a hidden file, or one without an extension
                    self.others[""] += 1
                    continue
                if matched[1] != key:
                    self._add(key, sample)
                    key, sample = matched[1], {}
                suffix = matched[2].lower()
                if suffix in sample:
                    self._note(f"{self._called(entry.name)} is there twice: remove one of them.")
                else:
                    sample[suffix] = entry
            self._add(key, sample)
        except Damaged as error:
            self._add(key, sample)  # what is whole of it
            where = f"after {len(self.at):,} images" if self.at else "at its start"
            self._note(f"{self.path} is damaged {where}, as {error}: download or create it again.")
        entries = np.zeros(len(self.at), ENTRY)
        entries["at"], entries["size"] = self.at, self.sizes
        identities = np.frombuffer(self.identities, np.uint8).reshape(-1, IDENTITY_BYTES)
        kept = np.sort(np.unique(np.array(self.keys, np.int64), return_index=True)[1])  # of each key the first
        if again := len(entries) - len(kept):
            self._note(
                f"{plural(again, 'sample')} of {self.path} {'has' if again == 1 else 'have'} the names of earlier ones,"
                " or entries in two places: give each a name of its own, and write its entries one after the other."
            )
        labels = np.array(self.labels, np.int64)
        classes = list(self.numbers)
        return Found(entries[kept], labels[kept], identities[kept], classes, self.wrong, self.others, self.sampled)

    def _called(self, name: str) -> str:
        return f"{printable(name)} in {self.path}"

    def _note(self, sentence: str) -> None:
        self.wrong.append(sentence)

    def _add(self, key: str, sample: dict[str, _Entry]) -> None:
        """Adds the image of a sample: its entries by what stands behind the first dot of their names."""
        images = [suffix for suffix in sample if suffix in IMAGES]
        kinds = [f".{suffix}" for suffix in sample if suffix not in IMAGES and suffix not in MOST_LABEL]
        self.others.update(kind if len(self.others) < MOST_KINDS or kind in self.others else "" for kind in kinds)
        if not sample or not (images or set(sample) & set(MOST_LABEL)):
            return
        try:
            if len(images) != 1:
                raise ValueError(f"has {len(images) or 'no'} images: give it one, or remove it")
            image = sample[images[0]]
            if not image.content:
                raise ValueError("has an image that is empty or too large: replace or remove it")
            label = _label(sample)
        except ValueError as error:
            self._note(f"Sample {self._called(key)} {error}.")
            return
        if len(self.at) % SAMPLED == 0 and (size := image_files.size_in(image.content, image.name)):
            self.sampled.append(size)
        self.labels.append(-1 if label is None else self.numbers.setdefault(label, len(self.numbers)))
        self.at.append(image.at)
        self.sizes.append(image.size)
        self.keys.append(hash(key))
        self.identities += hashlib.sha256(image.content).digest()
        self.seen["images"] += 1

    def _entries(self) -> Iterator[_Entry]:
        """Yields all regular files in the archive.  Raises Damaged, UserError."""
        at, name, size = 0, None, None  # of the next entry, where an extended header says so
        while not self.seen["stop"]:
            header = tar_headers.parse(self.file.read(tar_headers.BLOCK))
            if header is None:
                if not at:
                    raise Damaged("it is no tar archive")
                return
            at += tar_headers.BLOCK
            if header.kind in (EXTENDED, LONG_NAME, *PASSED_OVER):
                extended = self._read(header.size, MOST_EXTENDED)
                if header.kind == LONG_NAME:
                    name = tar_headers.text(extended)
                elif header.kind == EXTENDED:
                    declared = tar_headers.declared(extended)
                    name, size = declared[0] or name, declared[1] if declared[1] is not None else size
                at += header.padded
                self.seen["bytes"] = at
                continue
            header = header._replace(name=name or header.name, size=header.size if size is None else size)
            name = size = None
            self._check(header)
            suffix = header.name.rpartition("/")[2].partition(".")[2].lower()
            most = MOST_LABEL.get(suffix) or (MOST_IMAGE if suffix in IMAGES else 0)
            content = self._read(header.size, most)
            if header.kind in REGULAR:
                yield _Entry(header.name, at, header.size, content)
            at += header.padded
            self.seen["bytes"] = at

    def _check(self, header: tar_headers.Header) -> None:
        """Raises UserError for what has no place in an archive of images."""
        remedy = "create it again from plain files (tar --dereference)"
        if header.kind in LINKS or not PLAIN.fullmatch(header.name):
            check_entry(header.name, header.kind in LINKS, str(self.path), remedy)
        if header.kind not in (*REGULAR, FOLDER):
            raise UserError(
                f"{self.path} is unsafe, as its entry {header.name!r} is no regular file (type {header.kind!r}):"
                f" {remedy}.",
                code="unsafe-archive",
            )

    def _read(self, size: int, most: int) -> bytes:
        """Reads a content of `size` bytes, and what fills it up; none of one of more than `most`.  Raises Damaged."""
        padded = size + -size % tar_headers.BLOCK
        if size <= most:
            content = self.file.read(padded)
            if len(content) < size:
                raise Damaged("it is cut short")
            return content[:size]
        start = self.file.tell()
        if start + size > (end := self.file.seek(0, 2)):
            raise Damaged(f"it is cut short, or an entry is said to have {size:,} of {end:,} bytes")
        self.file.seek(start + padded)
        return b""


def _label(sample: dict[str, _Entry]) -> str | None:
    """The class of a sample by its entries; None if it has none.  Raises ValueError."""
    if (entry := sample.get("cls")) is not None:
        matched = NUMBER.fullmatch(entry.content.decode("utf-8", "replace"))
        if matched is None:
            raise ValueError(f"has the label {entry.content[:20]!r}, which is not a number: correct it")
        return str(int(matched[1]))
    if (entry := sample.get("json")) is None:
        return None
    try:
        found = json.loads(entry.content)
    except (ValueError, RecursionError):
        raise ValueError("has a damaged .json, or one of more than a megabyte: correct it") from None
    label = next((found[key] for key in LABELS if key in found), None) if isinstance(found, dict) else None
    if label is None:
        return None
    if type(label) is int and abs(label) < 10**9:
        return str(label)
    if isinstance(label, str) and 0 < len(label) <= MOST_CLASS_NAME:
        return label
    raise ValueError("has a label in its .json that is neither a number nor a name: correct it")
