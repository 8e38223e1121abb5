"""Rows of metrics in memory, in order of step: where a resumed run repeated a step, the newer row wins."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd


class Table:
    """Rows of some columns in order of step, one per step, in memory that grows with room to spare."""

    def __init__(self, columns: Sequence[str]):
        self._columns = list(columns)
        self._values = np.empty((len(self._columns), 0))
        self._set(0)

    def append(self, rows: pd.DataFrame) -> bool:
        """Adds rows; the newer ones win.  True if that took some away that were there; frames handed out keep them."""
        old, new = len(self.frame), rows[self._columns].to_numpy().T
        steps = rows["step"].to_numpy() if "step" in rows else np.arange(len(rows), dtype=float)
        before = self.frame["step"].iloc[-1] if old and "step" in rows else -math.inf
        if len(steps) and not (steps[0] > before and (np.diff(steps) > 0).all()):
            both = np.concatenate([self._values[:, :old], new], axis=1)
            keep = newest(both[self._columns.index("step")])
            self._values = both[:, keep]
            self._set(int(keep.sum()))
            return not keep[:old].all()
        if old + len(rows) > self._values.shape[1]:
            room = old + len(rows) if not old else max(2 * old, old + len(rows))
            self._values = np.concatenate([self._values[:, :old], np.empty((len(new), room - old))], axis=1)
        self._values[:, old : old + len(rows)] = new
        self._set(old + len(rows))
        return False

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._values.nbytes

    def _set(self, count: int) -> None:
        self.frame = pd.DataFrame(self._values[:, :count].T, columns=self._columns, copy=False)


def newest_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Drops the rows that a resumed run repeated: those followed by a row of the same or an earlier step."""
    if "step" not in frame:
        return frame
    keep = newest(frame["step"].to_numpy())
    return frame if keep.all() else frame[keep].reset_index(drop=True)


def newest(steps: np.ndarray) -> np.ndarray:
    """True for rows that no later row of the same or an earlier step follows.  steps: [N] without NaN -> bool [N]."""
    least_from_here = np.minimum.accumulate(steps[::-1])[::-1]
    return steps < np.append(least_from_here[1:], np.inf)
