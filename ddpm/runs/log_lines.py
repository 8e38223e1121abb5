"""Lines of log.txt by the training step that they name: the end of the log, or what was logged around a step."""

import os
import re
from bisect import bisect_right
from typing import BinaryIO, NamedTuple

from ddpm.errors import UserError, as_user_error
from ddpm.formatting import printable
from ddpm.runs.jobs import Job

STEP = re.compile(rb"\bstep (\d{1,15})\b")
BLOCK = 2**15  # bytes of an entry of the index
TAIL = 2**16  # bytes of the end that are read
MOST_INDEXED = 2**28  # bytes from the end beyond which a step is not looked for
MOST_LINES, MOST_LINE = 160, 1000  # lines that are returned, and characters of each


class Line(NamedTuple):
    """A line, and the training step that it names."""

    step: int | None
    text: str


class Lines(NamedTuple):
    """Consecutive lines of a log."""

    revision: str  # changes when the log does
    end: bool  # they are its last lines
    lines: list[Line]


class Block(NamedTuple):
    """Where some lines of a log lie, and which steps they name."""

    start: int
    least: int
    most: int


class LogReader:
    """Reads the log of a job; what was read once is indexed, so that a step is found in a log of any length."""

    def __init__(self, job: Job):
        self._job = job
        self._start_over(0)

    def _start_over(self, inode: int) -> None:
        self._inode, self._offset = inode, 0
        self._blocks: list[Block] = []

    def tail(self) -> Lines:
        """The end of the log; a sentence if it cannot be read, and no line if there is none."""
        try:
            with self._job.content.open_file("log.txt") as file:
                stat = os.fstat(file.fileno())
                start = max(0, stat.st_size - TAIL)
                return Lines(_revision(stat), True, _lines(file, start, stat.st_size, whole=start == 0)[-MOST_LINES:])
        except FileNotFoundError:
            return Lines("none", True, [])
        except UserError as error:
            return Lines("wrong", True, [Line(None, str(error))])
        except OSError as error:
            return Lines("wrong", True, [Line(None, str(as_user_error(error)))])

    def around(self, step: int) -> Lines:
        """The lines around the last one that names `step`, or else the nearest step before it, or the first after.

        As `tail` where the log names no step at all.
        """
        try:
            with self._job.content.open_file("log.txt") as file:
                stat = os.fstat(file.fileno())
                self._index(file, stat)
                start = self._find(step)
                if start is None:
                    return self.tail()
                end = min(stat.st_size, start + BLOCK + TAIL // 4)
                begin = max(0, start - TAIL // 4)
                lines = _lines(file, begin, end, whole=begin == 0)
        except (UserError, OSError):
            return self.tail()
        at = nearest(lines, step)
        first = max(0, min(at - MOST_LINES // 2, len(lines) - MOST_LINES))
        chosen = lines[first : first + MOST_LINES]
        return Lines(_revision(stat), end == stat.st_size and first + len(chosen) == len(lines), chosen)

    def _index(self, file: BinaryIO, stat: os.stat_result) -> None:
        """Adds what is new in the log to the index."""
        if stat.st_ino != self._inode or stat.st_size < self._offset:
            self._start_over(stat.st_ino)
            self._offset = max(0, stat.st_size - MOST_INDEXED)
        while True:
            file.seek(self._offset)
            read = file.read(BLOCK)
            whole = read.rfind(b"\n") + 1 or (len(read) if len(read) == BLOCK else 0)
            if not whole:
                return
            steps = [int(found) for found in STEP.findall(read[:whole])]
            if steps:
                self._blocks.append(Block(self._offset, min(steps), max(steps)))
            self._offset += whole

    def _find(self, step: int) -> int | None:
        """Start of the block of the last line that names `step`, or the nearest step; None if none names any."""
        there = [block for block in self._blocks if block.least <= step <= block.most]
        if there:
            return there[-1].start
        before = [block for block in self._blocks if block.most < step]
        if before:
            return max(before, key=lambda block: (block.most, block.start)).start
        return self._blocks[0].start if self._blocks else None


def nearest(lines: list[Line], step: int) -> int:
    """Number of the last line that names `step`, or the nearest step before it; else of the first that names one.

    0 if none does.
    """
    named = sorted((line.step, k) for k, line in enumerate(lines) if line.step is not None)
    if not named:
        return 0
    at = bisect_right(named, (step, len(lines)))
    return named[at - 1][1] if at else named[0][1]


def _revision(stat: os.stat_result) -> str:
    return f"{stat.st_ino:x}-{stat.st_size:x}"


def _lines(file: BinaryIO, start: int, end: int, whole: bool) -> list[Line]:
    """The lines between two bytes of a log.  whole: the first of them begins at its start."""
    file.seek(start)
    found = file.read(end - start).splitlines()
    return [
        Line(int(named[1]) if (named := STEP.search(line)) else None, _text(line[: 4 * MOST_LINE]))
        for line in (found if whole or len(found) == 1 else found[1:])
    ]


def _text(line: bytes) -> str:
    text = printable(line.decode(errors="replace"))
    return text if len(text) <= MOST_LINE else f"{text[:MOST_LINE]} …"
