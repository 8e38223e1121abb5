"""What a list of runs shows of a progress.csv: of each metric its last and its lowest value, and a coarse curve.

A log of any length is read once, in blocks; what a training appends afterwards is read alone.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm.runs import metrics, progress_log, run_folder

POINTS = 48  # of a curve, at most
LEVELS = 99  # heights of its points are 0 .. LEVELS
PREFERRED = ("loss", "mse", "vb", "grad_norm")  # the curve shows the first of these that is logged
COUNTERS = ("step", "samples", "seconds")  # which have no lowest value worth a name


class Lowest(NamedTuple):
    """A value, and the training step at which it was logged."""

    value: float
    step: int


class LogSummary(NamedTuple):
    """Metrics of a training at a glance."""

    last: dict[str, float | None]  # in the newest row; None for NaN, infinities and empty cells
    lowest: dict[str, Lowest]
    curve_of: str  # the metric of the curve; "" if there is none
    curve: list[int]  # heights 0 .. LEVELS, logarithmic where all values are positive


EMPTY = LogSummary({}, {}, "", [])


class SummaryReader:
    """The summary of a progress.csv; each call of `read` reads new lines only, unless a resumed run went back."""

    def __init__(self, path: Path):
        self._path = path
        self._folder = run_folder.folder_at(path.parent)
        self._seen = (0, 0)  # inode and size at the last look
        self._start_over(b"", 0)

    def _start_over(self, header: bytes, inode: int) -> None:
        self._header, self._inode, self._offset = header, inode, len(header)
        self._columns = progress_log.header_names(header)
        self._curve_of = next((name for name in PREFERRED if name in self._columns), "")
        self._step = -math.inf
        self._last: dict[str, float | None] = {}
        self._lowest: dict[str, Lowest] = {}
        self._sketch = Sketch()

    def read(self) -> LogSummary:
        """The summary of what is logged now.  Raises UserError if the log is a link or anything but a file, OSError."""
        try:
            found = self._folder.stat(self._path.name)
        except FileNotFoundError:
            self._start_over(b"", 0)
            return EMPTY
        if self._seen != (found.st_ino, found.st_size):
            self._read(found)
            self._seen = (found.st_ino, found.st_size)
        return LogSummary(dict(self._last), dict(self._lowest), self._curve_of, self._sketch.heights())

    def _read(self, found: os.stat_result) -> None:
        with run_folder.open_log(self._path) as file:
            header = file.readline(progress_log.MOST_HEADER)
            same = header == self._header and found.st_ino == self._inode and found.st_size >= self._offset
            if not same:
                if not header.endswith(b"\n"):
                    return
                self._start_over(header, found.st_ino)
            if "step" not in self._columns:
                return
            while True:
                file.seek(self._offset)
                block = file.read(metrics.BLOCK_BYTES)
                length = block.rfind(b"\n") + 1  # the rest is an incomplete line
                if not length:
                    return
                if not self._add(rows_of(block[: length - 1], self._columns)):
                    self._start_over(header, found.st_ino)
                    self._add_backwards(file.fileno(), found.st_size)
                    return
                self._offset += length

    def _add(self, rows: np.ndarray) -> bool:
        """Adds the rows of a block that follows; False if one of them goes back in step."""
        steps = rows[:, self._columns.index("step")]
        if not len(rows):
            return True
        if not (np.diff(steps, prepend=self._step) > 0).all():
            return False
        self._step = float(steps[-1])
        for index, name in enumerate(self._columns):
            finite = np.flatnonzero(np.isfinite(rows[:, index]))
            self._last[name] = float(rows[-1, index]) if np.isfinite(rows[-1, index]) else None
            if len(finite) and name not in COUNTERS:
                at = finite[np.argmin(rows[finite, index])]
                new = Lowest(float(rows[at, index]), int(steps[at]))
                self._lowest[name] = min(new, self._lowest.get(name, new), key=lambda lowest: lowest.value)
            if name == self._curve_of:
                self._sketch.add(rows[finite, index])
        return True

    def _add_backwards(self, handle: int, size: int) -> None:
        """Adds the rows that no later row of the same or an earlier step follows."""
        least, kept = math.inf, []
        for rows in self._blocks_backwards(handle, size):
            steps = rows[:, self._columns.index("step")]
            later = np.append(np.minimum.accumulate(steps[::-1])[::-1], least)
            kept.append(rows[steps < np.minimum(later[1:], least)])
            least = min(least, float(later[0]))
        for rows in reversed(kept):
            self._add(rows)

    def _blocks_backwards(self, handle: int, size: int) -> Iterator[np.ndarray]:
        with open(handle, "rb", closefd=False) as file:
            file.seek(len(self._header))
            end = len(self._header) + file.read(size - len(self._header)).rfind(b"\n") + 1
            self._offset = end
            while end > len(self._header):
                start = max(len(self._header), end - metrics.BLOCK_BYTES)
                file.seek(start)
                block = file.read(end - start)
                if start > len(self._header):  # it begins within a line, which the block before this one ends with
                    first = block.find(b"\n") + 1
                    block, start = block[first:], start + first
                yield rows_of(block[:-1], self._columns)
                end = start


class Sketch:
    """Means of a growing series over pieces of equal length, at most 2 x POINTS of them."""

    def __init__(self) -> None:
        self._size = 1  # values in a piece
        self._means = np.empty(0)
        self._rest = np.empty(0)  # of a piece that is not complete

    def add(self, values: np.ndarray) -> None:
        """Adds values.  values: [N], finite."""
        values = np.concatenate([self._rest, values])
        whole = len(values) // self._size * self._size
        self._means = np.concatenate([self._means, values[:whole].reshape(-1, self._size).mean(axis=1)])
        self._rest = values[whole:]
        while len(self._means) > 2 * POINTS:
            if len(self._means) % 2:
                self._rest = np.concatenate([np.full(self._size, self._means[-1]), self._rest])
                self._means = self._means[:-1]
            self._means = self._means.reshape(-1, 2).mean(axis=1)
            self._size *= 2

    def heights(self) -> list[int]:
        """At most POINTS heights 0 .. LEVELS, the last of them of the newest values."""
        means = self._means if not len(self._rest) else np.append(self._means, self._rest.mean())
        if not len(means):
            return []
        parts = np.array([part.mean() for part in np.array_split(means, min(POINTS, len(means)))])
        heights = np.log(parts) if (parts > 0).all() else parts
        low, high = heights.min(), heights.max()
        if high <= low:
            return [LEVELS // 2] * len(heights)
        return np.round((heights - low) / (high - low) * LEVELS).astype(int).tolist()


def rows_of(lines: bytes, columns: list[str]) -> np.ndarray:
    """The valid rows in complete lines: float64 [N, columns], NaN for empty cells, each with a finite step."""
    return metrics.parse(lines, columns, columns)[0].to_numpy(dtype=float)
