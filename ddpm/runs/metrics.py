"""progress.csv: written line by line by a training, read by other processes at any time.

The columns are those of improved-diffusion, followed by this program's.  The reader keeps a byte offset, ignores an
incomplete last line, starts over when the file shrinks or its header changes, and keeps the newer rows where a resumed
run went back in `step`.
"""

import csv
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ddpm.runs import run_folder
from ddpm.runs.metric_table import Table, newest, newest_rows
from ddpm.storage.files import Written
from ddpm.storage.line_log import LineLog

OUR_COLUMNS = ("lr", "seconds", "steps_per_second", "param_norm", "memory_mb")
# Values at a training step; all others are means.
AT_STEP = ("step", "samples", "lr", "seconds", "param_norm", "memory_mb", "lg_loss_scale")


def columns_for(parts: Sequence[str], scale: bool = False, held_out: Sequence[str] = ()) -> tuple[str, ...]:
    """The columns of progress.csv for losses with these parts; scale: with the loss scale of fp16.

    held_out: those of the loss on held-out images, where it is measured.
    """
    losses = [name for part in parts for name in (part, *(f"{part}_q{k}" for k in range(4)))]
    more = ["lg_loss_scale"] if scale else []
    return ("grad_norm", *losses, "samples", "step", *more, *OUR_COLUMNS, *held_out)


def held_out_columns(averages: Sequence[str]) -> tuple[str, ...]:
    """Columns of the loss on held-out images.  averages: names of the moving averages, such as ema_0.9999."""
    quarters = [f"eval_mse_q{k}" for k in range(4)]
    return ("eval_mse", *quarters, "eval_train_mse", "eval_gap", *(f"eval_{name}_mse" for name in averages))


def is_of_held_out(column: str) -> bool:
    """Whether a column holds what is measured now and then on held-out images."""
    return column.startswith("eval_")


COLUMNS = columns_for(("loss", "mse"))  # with the simple loss

BLOCK_BYTES = 2**24  # bytes per read, which bounds the memory for a long log
MOST_HEADER = 2**16  # bytes of a line
MOST_COLUMNS = 200
MANY_BYTES = 2**20  # bytes from which on the faster parser pays off

HELP = {
    "grad_norm": "Norm of the gradient before clipping. It falls fast at first, then stays about level; a spike marks a step with unusually large gradients.",
    "loss": "The training objective: L_simple is the mse, L_hybrid adds vb for a learned variance, L_vlb is the bound times the number of timesteps.",
    "mse": "Mean squared error of the predicted noise: 1 before training; 0.02 to 0.1 is usual later. Small differences there are large ones in the images.",
    "vb": "Term of the variational bound in bits per dimension, scaled as in training. It trains the learned variance and is noisy; usually far below the mse.",
    "lg_loss_scale": "Logarithm (base 2) of the factor that keeps fp16 gradients from vanishing. It climbs slowly and falls by 1 when a step overflows, which is normal now and then.",
    "loss_q0": "Loss in the least noisy quarter of the timesteps; q3 is the noisiest. Fine detail is learned in q0, layout in q3.",
    "eval_mse": "Mean squared error of the noise on held-out images, always the same with the same noise, by the raw weights. It is the error of the noise whatever the network predicts, so that runs compare; that of a network that predicts x_start is large at the smallest t, where the noise is hardly seen.",
    "eval_train_mse": "The same on as many training images.",
    "eval_gap": "Held-out minus training loss. Near 0 the model does as well on images that it never saw; a gap that grows is overfitting: stop there, or use more images, dropout or flips.",
    "samples": "Training images seen so far, repeats included.",
    "step": "Training steps done.",
    "lr": "Learning rate of the step.",
    "seconds": "Seconds of training so far, without pauses.",
    "steps_per_second": "Training steps per second since the last row.",
    "param_norm": "Norm of all weights.",
    "memory_mb": "Memory of the training process, in MB; of several processes, that of the first.",
}  # fmt: skip


_NAN = ["", "nan", "NaN", "-nan", "-NaN"]  # texts of missing values and NaN
_FIELD = rb"(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|-?(?:nan|NaN|inf))?"
_ROW = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*\r?")


class MetricWriter:
    """The only writer of a progress.csv.  An existing file keeps its columns."""

    def __init__(self, path: Path, columns: Sequence[str] = COLUMNS):
        self._log = LineLog(path, ",".join(columns))
        self.columns = self._log.header.split(",")

    def write(self, values: Mapping[str, float]) -> bool:
        """Appends a row; missing values are left empty.  Returns False if the disk is full and the row is buffered."""
        return self._log.append(",".join(_text(values.get(column)) for column in self.columns))

    def sync(self) -> int:
        """Flushes to disk; returns the length in bytes.  Raises files.DiskFull."""
        return self._log.sync()

    def written(self) -> Written:
        """Flushes to disk; returns length and checksum.  Raises files.DiskFull."""
        return Written(self._log.sync(), self._log.sha256())

    def close(self) -> None:
        """Closes the file."""
        self._log.close()


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))


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


def columns_of(path: Path) -> tuple[str, ...]:
    """The columns of a progress.csv; none if the file does not exist."""
    try:
        with run_folder.open_log(path) as file:
            return tuple(header_names(file.readline(MOST_HEADER)))
    except FileNotFoundError:
        return ()


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


def row_before(path: Path, end: int | None = None) -> dict[str, float | None]:
    """The last row of a progress.csv, or the last that ends before byte `end`; None for NaN and infinities.

    Empty if there is none.
    """
    columns = list(columns_of(path))
    if not columns:
        return {}
    with run_folder.open_log(path) as file:
        header, size = len(file.readline(MOST_HEADER)), file.seek(0, os.SEEK_END)
        end = size if end is None else min(end, size)
        start = max(header, end - 65536)
        file.seek(start)
        lines = file.read(max(0, end - start))
    rows = (_row(line, columns) for line in reversed(lines[: lines.rfind(b"\n") + 1].splitlines()))
    return next((row for row in rows if row), {})


def _row(line: bytes, columns: list[str]) -> dict[str, float | None]:
    """The values in a line, None for NaN and infinities; empty if the line is not a valid row."""
    if not _is_row(line, len(columns)):
        return {}
    found = {name: float(text) for name, text in zip(columns, line.decode().split(","), strict=True) if text.strip()}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def step_range(path: Path) -> tuple[int, int]:
    """The first and the last step in a progress.csv; zeros if there is none."""
    columns = list(columns_of(path))
    if "step" not in columns:
        return 0, 0
    with run_folder.open_log(path) as file:
        file.readline(MOST_HEADER)
        first = _row(file.readline(MOST_HEADER).rstrip(b"\n"), columns).get("step")
    last = row_before(path).get("step") or 0
    return int(first or last), int(last)


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


def header_names(header: bytes) -> list[str]:
    """The columns that a header names; none if it is not the header of a log."""
    names = [name for name in header.decode("utf-8-sig", errors="replace").strip().split(",") if name]
    return names if len(set(names)) == len(names) <= MOST_COLUMNS else []


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
        return _read_csv(b"\n".join(line for line in lines.split(b"\n") if _is_row(line, len(columns))), columns)


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


def _is_row(line: bytes, columns: int) -> bool:
    return line != b"" and line.count(b",") == columns - 1 and _ROW.fullmatch(line) is not None


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
    lines = [line for line in found if _is_row(line, len(columns))]
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
