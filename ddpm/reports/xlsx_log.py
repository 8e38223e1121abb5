"""The log of a run as results.xlsx needs it: numbers, lines as written, and notes on what was left out."""

import math
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pandas as pd

from ddpm.formatting import plural
from ddpm.runs import curves, metrics
from ddpm.runs.runs import Run


@dataclass
class RunLog:
    """The rows of progress.csv, as numbers and as text."""

    frame: pd.DataFrame
    lines: list[bytes]  # rows of the Metrics sheet: all rows of the frame, or a selection
    nan: pd.DataFrame  # 1.0 where the file has a NaN; `frame` has NaN for empty cells too
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, run: Run, most_rows: int) -> Self:
        """Reads the log of `run`; keeps at most `most_rows` - 1 lines, for a sheet with a header."""
        frame, lines, bad = metrics.newest_lines(run.progress_path)
        nan = np.zeros(frame.shape)
        for number, line in enumerate(lines):
            if b"n" in line:  # nan, or inf
                nan[number] = [b"nan" in cell.lower() for cell in line.split(b",")]
        log = cls(frame, lines, pd.DataFrame(nan, columns=frame.columns))
        if bad:
            log.notes.append(f"{plural(bad, 'line')} of progress.csv left out, because no numbers can be read from it.")
        if len(lines) > most_rows - 1:
            kept = curves.downsample_indices(log.column("loss"), most_rows - 1)
            log.lines = [lines[i] for i in kept]
            log.notes.append(
                f"Metrics has {len(kept):,} of {len(lines):,} log lines, because a sheet holds {most_rows:,} rows: "
                "of each interval, the lines with the lowest and the highest loss. progress.csv has all of them."
            )
        return log

    @property
    def columns(self) -> list[str]:
        return list(self.frame.columns)

    def column(self, name: str) -> np.ndarray:
        """Values of a metric, float64 [N]; NaN if the log has no such column."""
        return self.frame[name].to_numpy() if name in self.frame else np.full(len(self.frame), np.nan)

    def last(self, name: str) -> float | None:
        """Value of a metric on the last line; None if it is empty."""
        if not len(self.frame) or name not in self.frame:
            return None
        value = float(self.frame[name].iloc[-1])
        return None if math.isnan(value) and not self.nan[name].iloc[-1] else value

    def at_checkpoints(self, steps: list[int]) -> pd.DataFrame:
        """The values of `metrics.at_checkpoints`, with NaN only if a NaN was logged, and None if nothing was logged."""
        step = self.frame["step"]
        found = metrics.at_checkpoints(self.frame, steps)
        nans = metrics.at_checkpoints(self.nan.assign(step=step), steps) > 0
        infinities = (
            metrics.at_checkpoints(self.frame.isin([math.inf, -math.inf]).astype(float).assign(step=step), steps) > 0
        )
        invalid = nans | (infinities & found.isna())  # from a NaN, or from infinities of both signs
        return found.astype(object).where(found.notna(), None).mask(invalid[found.columns], math.nan)
