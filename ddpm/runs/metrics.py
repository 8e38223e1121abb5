"""Tables of progress.csv, which a training writes and other processes read at any time.

The reader keeps a byte offset, ignores an incomplete last line, starts over when the file shrinks or its header
changes, and keeps the newer rows where a resumed run went back in `step`.
"""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ddpm.runs import run_folder
from ddpm.runs.metric_table import Table, newest, newest_rows
from ddpm.runs.progress_log import AT_STEP, MOST_HEADER, columns_of, header_names, is_row

BLOCK_BYTES = 2**24  # bytes per read, which bounds the memory for a long log
MANY_BYTES = 2**20  # bytes from which on the faster parser pays off

_NAN = ["", "nan", "NaN", "-nan", "-NaN"]  # texts of missing values and NaN


class MetricReader:
    """The rows of a progress.csv; each call of `read` parses new lines only.

    only: read these columns and `step` alone.
    """

    def __init__(self, path: Path, only: Sequence[str] = ()):
        self.path = path
        self._folder = run_folder.folder_at(path.parent)
        self.only = {*only, "step"} if only else None
        self.revision = 0  # rises with every change
        self.epoch = 0  # rises when rows that were there have changed
        self._start_over(b"", 0)

    def _start_over(self, header: bytes, inode: int) -> None:
        self._header, self._inode = header, inode
        self._offset = len(header)
        self._columns = header_names(header)
        self._kept = [name for name in self._columns if self.only is None or name in self.only]
        self._table = Table(self._kept)
        self.revision += 1
        self.epoch += 1
        self.bad_lines = 0

    def read(self) -> pd.DataFrame:
        """Rows in order of step, one per step: float64 columns, NaN for empty cells too."""
        try:
            stat = self._folder.stat(self.path.name)
        except FileNotFoundError:
            if self._header:
                self._start_over(b"", 0)
            return self._table.frame
        if (stat.st_size, stat.st_ino) == (self._offset, self._inode):
            return self._table.frame
        with run_folder.open_log(self.path) as file:
            header = file.readline(MOST_HEADER)
            if stat.st_size < self._offset or stat.st_ino != self._inode or header != self._header:
                if not header.endswith(b"\n"):
                    return self._table.frame
                self._start_over(header, stat.st_ino)
            new = []
            file.seek(self._offset)
            while newline := (block := file.read(BLOCK_BYTES)).rfind(b"\n") + 1:  # the rest is an incomplete line
                rows, bad = parse(block[: newline - 1], self._columns, self._kept)
                new.append(rows)
                self.bad_lines += bad
                self._offset += newline
                file.seek(self._offset)
        if new:
            self.epoch += self._table.append(pd.concat(new, ignore_index=True))
            self.revision += 1
        return self._table.frame

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._table.nbytes

    @property
    def unread(self) -> int:
        """Bytes that `read` would parse now."""
        try:
            size = self._folder.stat(self.path.name).st_size
        except FileNotFoundError:
            return 0
        return size - self._offset if size >= self._offset else size


def sketch(path: Path, only: Sequence[str], pieces: int = 512, piece: int = 4096) -> pd.DataFrame:
    """Rows of `step` and other columns at `pieces` positions of a long progress.csv, which are read alone."""
    with run_folder.open_log(path) as file:
        columns = header_names(file.readline(MOST_HEADER))
        start, end = file.tell(), file.seek(0, os.SEEK_END)
        found = []
        for position in np.linspace(start, max(start, end - piece), pieces).astype(int):
            file.seek(position - 1)
            found += file.read(piece).split(b"\n")[1:-1]  # complete lines
    rows = parse(b"\n".join(found), columns, [name for name in columns if name in {*only, "step"}])[0]
    return newest_rows(rows)


def steps_after(path: Path, offset: int) -> np.ndarray:
    """The steps of the rows of a progress.csv from byte `offset` on, the end of a line: float64 [N]."""
    columns = list(columns_of(path))
    if "step" not in columns:
        return np.empty(0)
    with run_folder.open_log(path) as file:
        file.seek(offset)
        lines = file.read()
    end = lines.rfind(b"\n")
    return parse(lines[:end], columns, ["step"])[0]["step"].to_numpy() if end > 0 else np.empty(0)


def parse(lines: bytes, columns: list[str], kept: list[str]) -> tuple[pd.DataFrame, int]:
    """The columns `kept` of the valid rows, and the number of lines that are not valid rows."""
    rows = _read_fast(lines, columns, kept) if columns and len(lines) > MANY_BYTES else None
    count = len(rows) if rows is not None else lines.count(b"\n") + 1
    if rows is None:
        rows = _read_carefully(lines, columns, count)[kept]
    if "step" in rows and not (finite := np.isfinite(rows["step"])).all():
        rows = rows[finite].reset_index(drop=True)
    return rows, count - len(rows)


def _read_carefully(lines: bytes, columns: list[str], count: int) -> pd.DataFrame:
    try:
        commas = len(columns) - 1
        if lines.count(b",") != commas * count or lines.partition(b"\n")[0].count(b",") != commas:
            raise ValueError("some lines have more or fewer fields")  # pandas checks those after the first
        return _read_csv(lines, columns)
    except ValueError:
        return _read_csv(b"\n".join(line for line in lines.split(b"\n") if is_row(line, len(columns))), columns)


def _read_csv(lines: bytes, columns: list[str]) -> pd.DataFrame:
    if not lines:
        return pd.DataFrame(columns=columns, dtype=float)
    return pd.read_csv(
        io.BytesIO(lines), names=columns, header=None, dtype=float, index_col=False, quoting=csv.QUOTE_NONE,
        keep_default_na=False, na_values=_NAN,
    )  # fmt: skip


def _read_fast(lines: bytes, columns: list[str], kept: list[str]) -> pd.DataFrame | None:
    """Parses with pyarrow, in a third of the time; None if it is not installed or a line is invalid."""
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import csv as arrow_csv
    except ImportError:
        return None
    try:
        table = arrow_csv.read_csv(
            pyarrow.BufferReader(lines),
            arrow_csv.ReadOptions(column_names=columns),
            arrow_csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pyarrow.float64()), null_values=_NAN, include_columns=kept
            ),
        )
    except pyarrow.ArrowInvalid:
        return None
    return pd.DataFrame({name: table[name].to_numpy() for name in kept}, copy=False)


class Lines(NamedTuple):
    """The rows that a MetricReader returns, with their lines, which distinguish empty cells from NaN."""

    frame: pd.DataFrame
    lines: list[bytes]
    bad: int  # number of invalid lines


def newest_lines(path: Path) -> Lines:
    """Reads a whole progress.csv with its lines."""
    try:
        with run_folder.open_log(path) as file:
            header, _, rest = file.read().partition(b"\n")
    except FileNotFoundError:
        return Lines(pd.DataFrame(), [], 0)
    columns = header_names(header)
    found = rest.split(b"\n")[:-1]
    lines = [line for line in found if is_row(line, len(columns))]
    frame = _read_csv(b"\n".join(lines), columns)
    if "step" not in columns:
        return Lines(frame, lines, len(found) - len(lines))
    keep = frame["step"].notna().to_numpy().copy()
    bad = len(found) - int(keep.sum())
    keep[keep] = newest(frame["step"].to_numpy()[keep])
    return Lines(
        frame[keep].reset_index(drop=True), [line for line, kept in zip(lines, keep, strict=True) if kept], bad
    )


def sparkline(path: Path, column: str, points: int = 48, piece: int = 4096) -> list[float]:
    """A metric over the whole training as at most `points` means; a long log is read at `points` positions only."""
    try:
        file = run_folder.open_log(path)
        size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return []
    with file:
        names = header_names(file.readline(MOST_HEADER))
        start = file.tell()
        if column not in names or "step" not in names or size <= start:
            return []
        whole = file.read() if size - start <= points * piece else b""
    if whole:
        frame = newest_rows(parse(whole.rpartition(b"\n")[0], names, ["step", column])[0])
    else:
        frame = sketch(path, [column], points, piece)
    values = frame[column].to_numpy()
    values = values[np.isfinite(values)]
    parts = np.array_split(values, min(points, len(values))) if len(values) else []
    return [float(part.mean()) for part in parts]


def at_checkpoints(frame: pd.DataFrame, steps: Sequence[int]) -> pd.DataFrame:
    """The metrics at the checkpoints of `steps`, increasing: one row each.

    Columns of AT_STEP are interpolated between two log lines, and NaN after the last one (except samples, which are
    extrapolated); the others are means over the log lines since the previous checkpoint.
    """
    columns = frame.drop(columns="step", errors="ignore")
    logged, wanted = (frame["step"].to_numpy() if "step" in frame else np.empty(0)), np.asarray(steps, dtype=float)
    edges = np.searchsorted(logged, wanted, side="right")
    with np.errstate(invalid="ignore"):  # infinities of both signs
        rows = [columns.iloc[a:b].mean() for a, b in zip(np.append(0, edges)[:-1], edges, strict=True)]
        found = pd.DataFrame(rows, columns=columns.columns).assign(step=list(steps)).reset_index(drop=True)
        for name in [name for name in AT_STEP if name in columns]:
            found[name] = np.interp(wanted, logged, columns[name], left=np.nan, right=np.nan) if len(logged) else np.nan
        if "samples" in columns and len(logged) > 1:
            (first, last), (before, there) = logged[-2:], columns["samples"].iloc[-2:]
            found.loc[wanted > last, "samples"] = there + (wanted[wanted > last] - last) * (there - before) / (
                last - first
            )
    return found
