"""progress.csv: written a line at a time by a training, read by anybody at any time.  No torch.

The columns are improved-diffusion's, then ours.  The reader keeps a byte offset, ignores a torn last line,
starts over when the file shrinks or its header changes, and lets the newer rows win where a resumed run
went back in `step`.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ddpm import files

REFERENCE_COLUMNS = (
    "grad_norm", "loss", "loss_q0", "loss_q1", "loss_q2", "loss_q3", "mse", "mse_q0", "mse_q1", "mse_q2", "mse_q3",
    "samples", "step",
)  # fmt: skip
OUR_COLUMNS = ("lr", "seconds", "steps_per_second", "param_norm")
COLUMNS = REFERENCE_COLUMNS + OUR_COLUMNS

HELP = {
    "grad_norm": "Length of the gradient before any clipping. It falls fast at first, then stays about level; a jump is a step that shook the network.",
    "loss": "What training makes smaller. With the simple objective it is the mse.",
    "mse": "Mean squared error of the predicted noise: 1 before anything is learnt; 0.02 to 0.1 is usual later. Small changes there are large ones in the pictures.",
    "loss_q0": "Loss at the least noisy quarter of the timesteps; q3 is the noisiest. Fine detail is learnt in q0, layout in q3.",
    "samples": "Pictures seen so far, repeats counted.",
    "step": "Training steps done.",
    "lr": "Learning rate of the step.",
    "seconds": "Seconds of training so far, pauses left out.",
    "steps_per_second": "Training steps a second since the last line.",
    "param_norm": "Length of all weights together.",
}  # fmt: skip


class MetricWriter:
    """The one writer of a progress.csv."""

    def __init__(self, path: Path):
        self._log = files.LineLog(path, ",".join(COLUMNS))

    def write(self, values: Mapping[str, float]) -> bool:
        """Append a row; columns without a value stay empty.  False when there was no room and it waits."""
        return self._log.append(",".join(_text(values.get(column)) for column in COLUMNS))

    def sync(self) -> int:
        """On disk; returns the length in bytes.  Raises files.DiskFull."""
        return self._log.sync()

    def close(self) -> None:
        self._log.close()


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))


class MetricReader:
    """All rows of a progress.csv, kept up to date cheaply."""

    def __init__(self, path: Path):
        self.path = path
        self._start_over(b"")

    def _start_over(self, header: bytes) -> None:
        self._header = header
        self._offset = len(header)
        self._frame = pd.DataFrame(
            {name: pd.Series(dtype=float) for name in header.decode().strip().split(",") if name}
        )
        self.revision = getattr(self, "revision", 0) + 1
        self.bad_lines = 0

    def read(self) -> pd.DataFrame:
        """Rows in order of step, one a step: float columns, NaN for empty and for not-a-number."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            if self._header:
                self._start_over(b"")
            return self._frame
        if size == self._offset:
            return self._frame
        with open(self.path, "rb") as file:
            header = file.readline()
            if size < self._offset or header != self._header:
                if not header.endswith(b"\n"):
                    return self._frame
                self._start_over(header)
            file.seek(self._offset)
            whole, newline, _torn = file.read().rpartition(b"\n")
        if newline:
            self._offset += len(whole) + 1
            self._frame = newest_rows(pd.concat([self._frame, self._parse(whole)], ignore_index=True))
            self.revision += 1
        return self._frame

    def _parse(self, lines: bytes) -> pd.DataFrame:
        names = list(self._frame.columns)
        try:
            return pd.read_csv(io.BytesIO(lines), names=names, header=None, dtype=float)
        except (ValueError, pd.errors.ParserError):
            rows = pd.read_csv(io.BytesIO(lines), names=names, header=None, dtype=str, on_bad_lines="skip")
            rows = rows.apply(pd.to_numeric, errors="coerce")
            good = rows[rows["step"].notna()]
            self.bad_lines += lines.count(b"\n") + 1 - len(good)
            return good


def newest_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop the rows that a resumed run went over again: those with a later row of the same or an earlier step."""
    steps = frame["step"].to_numpy() if "step" in frame else np.arange(len(frame), dtype=float)
    if len(steps) < 2:
        return frame
    least_later = np.minimum.accumulate(steps[::-1])[::-1]
    keep = np.append(steps[:-1] < least_later[1:], True)
    return frame if keep.all() else frame[keep].reset_index(drop=True)


def smooth(values: np.ndarray, weight: float, log: bool = False) -> np.ndarray:
    """Debiased exponential moving average: `weight` 0 leaves values as they are, towards 1 smooths more.

    NaN stays NaN and is skipped.  `log` averages logarithms, as fits a logarithmic axis.
    """
    if weight <= 0:
        return values
    series = pd.Series(np.log(np.where(values > 0, values, np.nan)) if log else values)
    mean = series.ewm(alpha=1 - weight, adjust=True, ignore_na=True).mean().where(series.notna())
    return np.exp(mean.to_numpy()) if log else mean.to_numpy()


def thin(x: np.ndarray, y: np.ndarray, most: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points that look the same: the least and greatest of each bucket, first and last, in order.

    Buckets begin at multiples of a power of two, so that old points do not flicker as new ones come.
    """
    n = len(y)
    if n <= most:
        return x, y
    size = 2 ** math.ceil(math.log2(2 * n / (most - 4)))
    padded = np.full(-(-n // size) * size, np.nan)
    padded[:n] = y
    buckets = padded.reshape(-1, size)
    empty = np.isnan(buckets).all(axis=1)
    low = np.where(np.isnan(buckets), np.inf, buckets).argmin(axis=1)
    high = np.where(np.isnan(buckets), -np.inf, buckets).argmax(axis=1)
    start = np.arange(len(buckets)) * size
    chosen = np.concatenate([(start + low)[~empty], (start + high)[~empty], start[empty], [0, n - 1]])
    chosen = np.unique(chosen[chosen < n])
    return x[chosen], y[chosen]


def means_between(frame: pd.DataFrame, steps: Sequence[int]) -> pd.DataFrame:
    """A row per checkpoint step: the mean of each metric over the log lines since the checkpoint before."""
    edges = np.searchsorted(frame["step"].to_numpy(), np.asarray(steps), side="right")
    starts = np.append(0, edges[:-1])
    rows = [frame.iloc[a:b].drop(columns="step").mean() for a, b in zip(starts, edges, strict=True)]
    return pd.DataFrame(rows).assign(step=list(steps)).reset_index(drop=True)
