"""What a disk may hold after a power cut: the calls of a traced process up to one of them, less what was not flushed.

What is written to a file counts once the file is flushed, and a name once its folder is: until then each write may be
there, absent, cut short or read as zeros, and each name may be the old one or the new one.  Renaming is one step.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Call(NamedTuple):
    """A call that changed something, as shim.c traces it."""

    kind: str
    path: str
    other: str
    number: int  # of the file
    at: int  # offset of a write, length after a truncation, 1 for an opening that empties
    data: bytes


def read(trace: Path) -> Iterator[Call]:
    """Yields the calls of a trace."""
    with open(trace, "rb") as file:
        while line := file.readline():
            kind, path, other, number, at, length = os.fsdecode(line.rstrip(b"\n")).split("\t")
            yield Call(kind, path, other, int(number), int(at), file.read(int(length)))


@dataclass
class File:
    """Bytes on disk, and writes and truncations that are not flushed: (offset, bytes), (length, None)."""

    content: bytes = b""
    waiting: list[tuple[int, bytes | None]] = field(default_factory=list)

    def kept(self, how: str, chance: random.Random) -> bytes:
        """What is there after a power cut."""
        content = bytearray(self.content)
        for at, data in self.waiting:
            fate = {"none": "absent", "names": "absent", "zeros": "zeros", "all": "whole"}.get(how) or chance.choice(
                ("whole", "whole", "absent", "zeros", "cut")
            )
            if data is None:
                if fate in ("whole", "zeros"):
                    del content[at:]
                    content.extend(bytes(at - len(content)))
                continue
            data = {"absent": b"", "zeros": bytes(len(data)), "cut": data[: len(data) // 2]}.get(fate, data)
            if data:
                content.extend(bytes(max(0, at + len(data) - len(content))))
                content[at : at + len(data)] = data
        return bytes(content)

    def flush(self) -> None:
        self.content, self.waiting = self.kept("all", random.Random()), []


@dataclass
class Folder:
    """Names on disk, and steps that are not flushed, each of them some names with what they mean, None for nothing."""

    names: "dict[str, File | Folder]" = field(default_factory=dict)
    waiting: "list[dict[str, File | Folder | None]]" = field(default_factory=list)

    def kept(self, how: str, chance: random.Random) -> "dict[str, File | Folder]":
        """What is there after a power cut."""
        names: dict[str, File | Folder | None] = dict(self.names)
        for step in self.waiting:
            if how in ("all", "names", "zeros") or (how == "some" and chance.random() < 0.6):
                names |= step
        return {name: found for name, found in names.items() if found is not None}

    def flush(self) -> None:
        self.names, self.waiting = self.now(), []

    def now(self) -> "dict[str, File | Folder]":
        return self.kept("all", random.Random())


HOWS = ("none", "names", "zeros", "some", "some")  # what is kept of what was not flushed; names: files without it


class Disk:
    """A folder as it is on disk, and as processes see it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.numbers: dict[int, File | Folder] = {}
        self.root = self._taken(folder)

    def _taken(self, path: Path) -> Folder:
        found = Folder()
        self.numbers[path.stat().st_ino] = found
        for one in path.iterdir():
            if one.is_dir():
                found.names[one.name] = self._taken(one)
            else:
                file = found.names[one.name] = File(one.read_bytes())
                self.numbers[one.stat().st_ino] = file
        return found

    def _place(self, path: str) -> tuple[Folder, str]:
        *above, name = Path(path).relative_to(self.folder).parts
        folder = self.root
        for part in above:
            below = folder.now()[part]
            assert isinstance(below, Folder)
            folder = below
        return folder, name

    def play(self, call: Call) -> None:
        """Does what a call did."""
        if call.kind in ("write", "fsync", "truncate"):
            found = self.numbers.get(call.number)
            if call.kind == "fsync" and found is not None:
                found.flush()
            elif isinstance(found, File):
                found.waiting.append((call.at, call.data if call.kind == "write" else None))
            return
        folder, name = self._place(call.path) if call.kind != "rename" else self._place(call.other)
        if call.kind == "open":
            file = folder.now().get(name)
            if not isinstance(file, File):
                file = self.numbers[call.number] = File()
                folder.waiting.append({name: file})
            elif call.at:
                file.waiting.append((0, None))
        elif call.kind == "mkdir":
            made = self.numbers[call.number] = Folder()
            folder.waiting.append({name: made})
        elif call.kind == "unlink":
            folder.waiting.append({name: None})
        elif call.kind == "rename":
            source, old = self._place(call.path)
            moved = source.now()[old]
            if source is folder:
                folder.waiting.append({old: None, name: moved})
            else:
                folder.waiting.append({name: moved})
                source.waiting.append({old: None})

    def write(self, to: Path, how: str, chance: random.Random) -> None:
        """Writes what is there after a power cut into a new folder."""

        def put(folder: Folder, path: Path) -> None:
            path.mkdir()
            for name, found in folder.kept(how, chance).items():
                if isinstance(found, Folder):
                    put(found, path / name)
                else:
                    (path / name).write_bytes(found.kept(how, chance))

        put(self.root, to)


def committed(calls: list[Call]) -> int:
    """The newest step whose manifest, and the folder that it is in, were flushed by these calls; 0 without one."""
    named, flushed = 0, 0
    for call in calls:
        saves, _, name = call.other.rpartition("/saves/")
        if call.kind == "rename" and saves and name[:-5].isdecimal() and name.endswith(".json"):
            named = int(name[:-5])
        elif call.kind == "fsync" and call.path.endswith("/saves"):
            flushed = named
    return flushed
