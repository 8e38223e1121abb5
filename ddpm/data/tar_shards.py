"""Data source: images in tar shards, as webdataset writes them, read from where they are."""

import contextlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.data import shard_index, tar_headers
from ddpm.data.decoded import Progress
from ddpm.data.labelling import TEST, TRAIN, WORD, label
from ddpm.data.listing import file_stamp, is_rewritten
from ddpm.data.shard_index import Index
from ddpm.data.source import Item, Read, Source
from ddpm.errors import UserError, as_user_error
from ddpm.formatting import plural, printable, some
from ddpm.storage import image_files, paths, untrusted

BRACES = re.compile(r"\{(?:(\d{1,9})\.\.(\d{1,9})|([^{}]*,[^{}]*))\}")  # {000..099} or {train,val}
MOST_SHARDS = 100_000
NUMBER = re.compile(r"[-_.]*\d*\.tar$", re.IGNORECASE)  # at the end of a name


class Shards(Source):
    """Images of tar shards in the order of the shards; labels are int64 [count], -1 for none, or None.

    Opening them costs a look at each shard, and the checksum of the index; the index is mapped into memory.
    """

    def __init__(self, shards: Sequence[Path], kind: str, progress: Progress | None = None):
        self.shards, self.kind = shards, kind
        self._stamps = [file_stamp(shard) for shard in shards]
        self.index: Index = shard_index.open_index(
            shard_index.path_of(shards, self._stamps), shards, self._stamps, progress
        )
        if not len(self.index.entries):
            why = f" ({self.index.sentences[0]})" if self.index.sentences else ""
            raise UserError(
                f"There are no images in {_named(shards)}{why}: name shards of samples such as KEY.jpg and KEY.cls.",
                code="no-images",
            )
        self.labels, self.class_names = self.index.labels, self.index.class_names
        self.count, self.size = len(self.index.entries), self.index.size
        self.left_out = tuple(
            plural(count, f"{kind} entry" if kind else "other entry", f"{kind or 'other'} entries")
            for kind, count in sorted(self.index.others.items())
        )
        self.test: Shards | None = None
        self._chosen: np.ndarray | None = None  # int64 [count], into the index; None: all
        if self.labels is not None and (without := self.count - sum(self.index.counts)):
            self.notices = (
                f"{plural(without, 'image')} without a label {'is' if without == 1 else 'are'} used only if class_cond"
                " is False.",
            )

    @property
    def identities(self) -> np.ndarray:
        """Hashes of the content of the images: uint8 [count, 32].  Raises UserError if the index is damaged."""
        found = shard_index.checked_identities(self.index)
        return found if self._chosen is None else found[self._chosen]

    def class_counts(self) -> tuple[int, ...]:
        return self.index.counts

    def test_part(self) -> Source | None:
        return self.test

    def labelled(self) -> Source:
        if self.labels is None or sum(self.index.counts) == self.count:
            return self
        found = Shards(self.shards, self.kind)
        found._chosen = np.flatnonzero(self.labels >= 0)
        found.labels, found.count, found.subset = self.labels[found._chosen], len(found._chosen), "labelled"
        found.test, found.left_out, found.notices = self.test, self.left_out, self.notices
        found.class_names = self.class_names  # a test part has those of the training part
        return found

    def stamps(self) -> Any:
        return self._stamps

    def has_changed(self) -> bool:
        return any(map(self._is_rewritten, range(len(self.shards))))

    def _is_rewritten(self, number: int) -> bool:
        return is_rewritten(self._stamps[number], file_stamp(self.shards[number]))

    def items(self, size: int, channels: int) -> Iterator[Item]:
        return map(self.item, range(self.count))

    def some_items(self, indices: Sequence[int], size: int, channels: int) -> Iterator[Item]:
        return map(self.item, indices)

    def item(self, index: int, least: int = 0) -> Item:
        """One image.  least: as in `image_files.read`."""
        entry = self.index.entries[index if self._chosen is None else self._chosen[index]]
        number, at, size = int(entry["shard"]), int(entry["at"]), int(entry["size"])
        identity = self.index.identities[index if self._chosen is None else self._chosen[index]]
        name = f"the image at byte {at:,} of {printable(self.shards[number].name)}"
        return Item(name, partial(self._open, number, at, size, identity.tobytes(), least), identity.tobytes)

    @contextlib.contextmanager
    def _open(self, number: int, at: int, size: int, identity: bytes, least: int) -> Iterator[Read]:
        name, content = self._content(number, at, size)
        with image_files.read(io.BytesIO(content), f"{self.shards[number]}: {printable(name)}", least) as image:
            yield Read(image, identity)

    def _content(self, number: int, at: int, size: int) -> tuple[str, bytes]:
        """Name and bytes of an entry.  Raises UserError if it is not what the index says."""
        shard = self.shards[number]
        try:
            with untrusted.open_regular(shard) as file:
                file.seek(at - tar_headers.BLOCK)
                block, content = file.read(tar_headers.BLOCK), file.read(size)
            header = tar_headers.parse(block)
        except tar_headers.Damaged:
            header = None
        except OSError as error:
            raise as_user_error(error) from error
        if header is None or len(content) < size or self._is_rewritten(number):
            raise UserError(
                f"{shard} has changed since it was opened: restore it, or start again.", code="changed-data"
            )
        return header.name, content


def _named(shards: Sequence[Path]) -> str:
    return f"{shards[0]}{f' and {len(shards) - 1:,} more' if len(shards) > 1 else ''}"


def is_pattern(data_dir: str) -> bool:
    """True if `data_dir` names tar shards: a .tar file, or several in braces."""
    return data_dir.lower().endswith(".tar")


def expanded(data_dir: str) -> list[Path]:
    """The shards that a pattern such as train-{000..099}.tar names, in order.  Raises UserError if one is missing."""
    found, waiting = list[str](), [str(paths.full(data_dir))]
    while waiting:
        text = waiting.pop()
        matched = BRACES.search(text)
        if matched is None:
            found.append(text)
            continue
        first, last, listed = matched.groups()
        count = 1 + listed.count(",") if listed else int(last) - int(first) + 1
        if not 0 < count <= MOST_SHARDS - len(found) - len(waiting):
            raise UserError(
                f"{data_dir} names no shards, or more than {MOST_SHARDS:,}: write the first and the last number, as in"
                " train-{000000..000099}.tar.",
                code="bad-value",
            )
        inner = listed.split(",") if listed else [f"{k:0{len(first)}d}" for k in range(int(first), int(last) + 1)]
        waiting += [text[: matched.start()] + one + text[matched.end() :] for one in reversed(inner)]
    missing = [path for path in map(Path, found) if not path.is_file()]
    if missing:
        raise UserError(
            f"There is no shard {missing[0]}, one of {len(missing):,} missing of {len(found):,}: check the path, and"
            " the numbers in braces.",
            code="not-found",
        )
    return [Path(one) for one in found]


def open_shards(shards: Sequence[Path], progress: Progress | None = None) -> Shards:
    """Opens tar shards; where some have `train` in their names or folders and others `test` or `val`, as two splits.

    The index is made where there is none, see `shard_index.open_index`.  Raises UserError if there is no image, if an
    archive is unsafe, or if the splits are unclear.
    """
    found = split(shards)
    source = Shards(found[0], f"Tar shards{f' ({len(found[0]):,})' if len(found[0]) > 1 else ''}", progress)
    if found[1]:
        source.test = _test_part(source, Shards(found[1], "Tar shards, test split", progress))
    if found[2]:
        names = some([printable(shard.name) for shard in found[2]], 5)
        source.notices = (*source.notices, f"{plural(len(found[2]), 'shard')} outside of the splits: {names}.")
    return source


def split(shards: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Shards for training, for testing, and for neither, by the rules for folders in `ddpm.data.labelling`.

    Raises UserError if they are unclear.
    """
    common = Path(os.path.commonpath([shard.parent for shard in shards]))
    sorted_ = label([(_part(shard.relative_to(common)), f"{k}.tar") for k, shard in enumerate(shards)])
    if sorted_.unclear:
        raise UserError(
            f"The training and test shards cannot be identified ({some(list(sorted_.unclear), 6)}): name those to train"
            " on, as in train-{000000..000099}.tar.",
            code="unclear-parts",
        )
    if not sorted_.test:
        return list(shards), [], []
    rest = set(range(len(shards))) - set(sorted_.train) - set(sorted_.test)
    return (
        [shards[k] for k in sorted(sorted_.train)],
        [shards[k] for k in sorted(sorted_.test)],
        [shards[k] for k in sorted(rest)],
    )


def _part(shard: Path) -> str:
    """The part of a shard's path that says whether it is for training or testing, without its number."""
    names = (NUMBER.sub("", shard.name), *reversed(shard.parts[:-1]))
    return next((name for name in names if {*TRAIN, *TEST} & {w.lower() for w in WORD.findall(name)}), "others")


def _test_part(source: Shards, test: Shards) -> Shards:
    """The test split with the classes of the training split.  Raises UserError if it has others."""
    if test.class_names == source.class_names:
        return test
    numbers = {name: number for number, name in enumerate(source.class_names)}
    unknown = [name for name in test.class_names if name not in numbers]
    if unknown or not test.class_names:
        what = f"classes that the training shards lack ({some(unknown, 5)})" if unknown else "no labels"
        raise UserError(
            f"The test shards ({_named(test.shards)}) have {what}: correct the labels, or name the training shards"
            " alone.",
            code="bad-labels",
        )
    assert test.labels is not None
    test.labels = np.array([*(numbers[name] for name in test.class_names), -1])[test.labels]
    test.class_names = source.class_names
    return test
