"""The index of tar shards: where each image is, its label and the hash of its content, in the cache folder.

It is made once, by reading all shards, and made anew after one of them changed or where the index is damaged.  Opening
it maps it into memory: nothing of it is read but what is asked for, and a checksum.
"""

import functools
import hashlib
import json
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ddpm.config.codec import MOST_CLASSES
from ddpm.data import decoded, shard_entries
from ddpm.data.decoded import Progress
from ddpm.data.listing import file_stamp, is_rewritten
from ddpm.data.shard_entries import ENTRY, Found
from ddpm.data.source import IDENTITY_BYTES
from ddpm.errors import UserError
from ddpm.formatting import printable
from ddpm.storage import files, paths

FORMAT = 1  # increase it if the same shards give another index
BLOCK = 2**16  # images whose labels are numbered at once
MOST_NAMED = 1000  # samples that are left out and named
WAIT = 0.5  # seconds between two calls of `progress`
FILES = {  # dtype and shape of what each file holds for an image
    ".entries": (ENTRY, ()),
    ".labels": (np.dtype("<i8"), ()),
    ".identities": (np.dtype("u1"), (IDENTITY_BYTES,)),
}


class Index(NamedTuple):
    """The N images of some shards."""

    path: Path  # of the index, without a suffix
    entries: np.ndarray  # ENTRY [N], memory-mapped, in the order of the shards
    labels: np.ndarray | None  # int64 [N], memory-mapped, indices into class_names; -1 for none; None if all have none
    identities: np.ndarray  # uint8 [N, 32], memory-mapped, see `checked_identities`
    checksum: int  # of the identities
    class_names: tuple[str, ...]
    counts: tuple[int, ...]  # images of each class
    wrong: int  # samples that are left out, or shards that are cut short
    sentences: tuple[str, ...]  # on these, at most MOST_NAMED
    others: dict[str, int]  # other entries by extension
    size: tuple[int, int] | None  # width and height of the first image of which the header was read
    smallest: int  # shorter side of the smallest of those, which are one in a thousand; 0 if there are none


def path_of(shards: Sequence[Path], stamps: Sequence[str]) -> Path:
    """Where the index of shards of these stamps is, without a suffix."""
    where = _short_hash("|".join(os.path.realpath(shard) for shard in shards))
    return paths.cache_folder() / "images" / f"{where}-shards-{_short_hash(json.dumps([FORMAT, *stamps]))}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def open_index(path: Path, shards: Sequence[Path], stamps: Sequence[str], progress: Progress | None = None) -> Index:
    """Opens the index of `shards`; makes it where that was not done, with calls of `progress`, which may raise.

    A second process waits for the first.  Raises UserError for shards that are unsafe, compressed, gone or written to
    meanwhile; DiskFull.
    """

    def fill() -> Index:
        return _open(path) or _build(path, shards, stamps, progress)

    return _open(path) or decoded.locked(path, fill)


def _open(path: Path) -> Index | None:
    stamps = tuple(file_stamp(path.with_suffix(suffix)) for suffix in (".json", *FILES))
    return None if "missing" in stamps else _checked(path, stamps)


@functools.lru_cache(maxsize=4)  # a training opens its data several times
def _checked(path: Path, stamps: tuple[str, ...]) -> Index | None:
    """Opens an index whose files have these stamps; None if it is damaged.

    Entries and labels are compared with their checksums here, identities when they are used.
    """
    try:
        about = files.read_json(path.with_suffix(".json"))
        if about is None:
            return None
        count, names = about["count"], tuple(map(str, about["class_names"]))
        arrays = []
        for suffix, (dtype, width) in FILES.items():
            file, shape = path.with_suffix(suffix), (count, *width)
            if file.stat().st_size != math.prod(shape) * dtype.itemsize:
                return None
            if suffix != ".identities" and files.crc32(file) != about[suffix]:
                return None
            arrays.append(
                np.memmap(file, dtype, "r", shape=shape).view(np.ndarray) if count else np.zeros(shape, dtype)
            )
        entries, labels, identities = arrays
        counts, sentences = tuple(map(int, about["counts"])), tuple(map(str, about["sentences"]))
        others = {str(kind): int(number) for kind, number in about["others"].items()}
        return Index(
            path,
            entries,
            labels if names else None,
            identities,
            about[".identities"],
            names,
            counts,
            int(about["wrong"]),
            sentences,
            others,
            (int(about["size"][0]), int(about["size"][1])) if about["size"] else None,
            int(about["smallest"]),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, UserError):
        return None


def checked_identities(index: Index) -> np.ndarray:
    """The identities of an index, uint8 [N, 32].  Raises UserError if they are damaged; then the index is made anew."""
    if files.crc32(index.path.with_suffix(".identities")) == index.checksum:
        return index.identities
    index.path.with_suffix(".json").unlink(missing_ok=True)
    raise UserError(
        f"The index of the shards in {index.path.parent} is damaged: try again, and it is made anew.",
        code="changed-data",
    )


class _Summary:
    """What the shards hold together, while they are added one by one."""

    def __init__(self) -> None:
        self.count = self.wrong = 0
        self.classes: dict[str, int] = {}  # their numbers, in the order in which they are met
        self.counts = np.zeros(0, np.int64)
        self.sentences: list[str] = []
        self.others = Counter[str]()
        self.sizes: list[tuple[int, int]] = []

    def add(self, found: Found) -> np.ndarray:
        """Adds a shard; returns its labels in the numbers of `classes`: int64 [n], -1 for none."""
        numbers = [self.classes.setdefault(name, len(self.classes)) for name in found.classes]
        labels = np.array([*numbers, -1])[found.labels]
        self.counts = np.bincount(labels[labels >= 0], minlength=len(self.classes)) + np.pad(
            self.counts, (0, len(self.classes) - len(self.counts))
        )
        self.count += len(labels)
        self.wrong += len(found.wrong)
        self.sentences += found.wrong[: MOST_NAMED - len(self.sentences)]
        self.others.update(found.others)
        self.sizes += found.sizes
        return labels


def _build(path: Path, shards: Sequence[Path], stamps: Sequence[str], progress: Progress | None) -> Index:
    path.with_suffix(".json").unlink(missing_ok=True)  # written last: it marks the other files as complete
    summary, met = _Summary(), path.with_suffix(".met")  # labels in the order in which they are met

    def scan(entries: IO[bytes], identities: IO[bytes], labels: IO[bytes]) -> None:
        for number, found in enumerate(_scanned(shards, progress)):
            found.entries["shard"] = number
            entries.write(found.entries.tobytes())
            identities.write(found.identities.tobytes())
            labels.write(summary.add(found).astype("<i8").tobytes())

    def with_identities(entries: IO[bytes]) -> None:
        files.write(
            path.with_suffix(".identities"),
            lambda identities: files.write(met, lambda labels: scan(entries, identities, labels), durable=False),
        )

    files.write(path.with_suffix(".entries"), with_identities)
    try:
        order = _in_order(list(summary.classes))
        if len(order) > MOST_CLASSES:  # each image has its own number
            order = []
        files.write(path.with_suffix(".labels"), lambda file: _number(met, order, file))
    finally:
        files.remove(met)
    changed = [shard for shard, stamp in zip(shards, stamps, strict=True) if is_rewritten(stamp, file_stamp(shard))]
    if changed:
        raise UserError(
            f"{changed[0]} changed while it was read: wait until no program writes there, and try again.",
            code="changed-data",
        )
    names = list(summary.classes)
    about = dict(
        count=summary.count,
        class_names=[printable(names[k]) for k in order],
        counts=[int(summary.counts[k]) for k in order],
        wrong=summary.wrong,
        sentences=summary.sentences,
        others=dict(summary.others),
        size=summary.sizes[0] if summary.sizes else None,
        smallest=min(map(min, summary.sizes), default=0),
        **{suffix: files.crc32(path.with_suffix(suffix)) for suffix in FILES},
    )
    files.write_json(path.with_suffix(".json"), about)
    decoded.remove_superseded(path)
    opened = _open(path)
    if opened is None:
        raise decoded.changed_by_another(path)
    return opened


def _in_order(names: list[str]) -> list[int]:
    """The order of the names, of numbers by value: indices into `names`."""
    if all(name.removeprefix("-").isdecimal() for name in names):
        return sorted(range(len(names)), key=lambda k: int(names[k]))
    return sorted(range(len(names)), key=lambda k: names[k])


def _number(met: Path, order: list[int], file: IO[bytes]) -> None:
    """Writes the labels of the file `met` in the numbers that `order` gives them; -1 without classes."""
    numbers = np.full(len(order) + 1, -1, np.int64)
    numbers[order] = np.arange(len(order))
    with open(met, "rb") as read:
        while block := read.read(8 * BLOCK):
            labels = np.frombuffer(block, "<i8")
            file.write((numbers[labels] if order else np.full_like(labels, -1)).astype("<i8").tobytes())


def _scanned(shards: Sequence[Path], progress: Progress | None) -> Iterator[Found]:
    """Scans the shards in their order, several at once."""
    total = sum(shard.stat().st_size for shard in shards)
    workers = os.cpu_count() or 1
    seen = [Counter[str]() for _ in shards]

    def say() -> None:
        if progress:
            done, read = sum(one["images"] for one in seen), sum(one["bytes"] for one in seen)
            progress(done, max(done, round(done * total / max(1, read))))  # of all, about as many as of those read

    waiting: deque[Future[Found]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for shard, one in zip(shards, seen, strict=True):
                waiting.append(pool.submit(shard_entries.scan, shard, one))
                if len(waiting) > workers:
                    yield _result(waiting.popleft(), say)
            while waiting:
                yield _result(waiting.popleft(), say)
        finally:  # those that are left, after an error
            for one in seen:
                one["stop"] = 1


def _result(future: Future[Found], say: Callable[[], None]) -> Found:
    """Waits for a shard."""
    while not wait([future], WAIT).done:
        say()
    say()
    return future.result()
