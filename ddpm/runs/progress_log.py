"""progress.csv, line by line: its columns, its writer, and what is found in it without a table of all rows.

The columns are those of improved-diffusion, followed by this program's.  `ddpm.runs.metrics` reads whole tables, with
pandas, which training and sampling do without.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ddpm.runs import run_folder
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

MOST_HEADER = 2**16  # bytes of a line
MOST_COLUMNS = 200

HELP = {
    "grad_norm": "Norm of the gradient before clipping. It falls fast at first, then stays about level; a spike marks a step with unusually large gradients.",
    "loss": "The training objective: L_simple is the mse, L_hybrid adds vb for a learned variance, L_vlb is the bound times the number of timesteps.",
    "mse": "Mean squared error of what the network predicts. Of noise: 1 before training; 0.02 to 0.1 is usual later. Small differences there are large ones in the images.",
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


_FIELD = rb"(?:[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|-?(?:nan|NaN|inf))?"
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


def columns_of(path: Path) -> tuple[str, ...]:
    """The columns of a progress.csv; none if the file does not exist."""
    try:
        with run_folder.open_log(path) as file:
            return tuple(header_names(file.readline(MOST_HEADER)))
    except FileNotFoundError:
        return ()


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
    if not is_row(line, len(columns)):
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


def header_names(header: bytes) -> list[str]:
    """The columns that a header names; none if it is not the header of a log."""
    names = [name for name in header.decode("utf-8-sig", errors="replace").strip().split(",") if name]
    return names if len(set(names)) == len(names) <= MOST_COLUMNS else []


def is_row(line: bytes, columns: int) -> bool:
    """Whether a line is a row of so many columns."""
    return line != b"" and line.count(b",") == columns - 1 and _ROW.fullmatch(line) is not None
