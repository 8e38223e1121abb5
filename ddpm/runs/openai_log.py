"""Logs of improved-diffusion: the rows of its progress.csv, and ours in its columns.  With pandas."""

import os
from pathlib import Path

import pandas as pd

from ddpm.errors import UserError
from ddpm.runs import metrics, progress_log


def read_progress(progress: Path) -> pd.DataFrame:
    """Reads a log of improved-diffusion, with `step` as the number of updates; there it is the index of the newest.

    Raises UserError if it has no column step.
    """
    place = Path(os.path.realpath(progress.parent))  # the user named it, and may have named a link
    frame = metrics.MetricReader(place / progress.name).read()
    if "step" not in frame:
        raise UserError(
            f"{progress} has no column step, so it is not a log of improved-diffusion: move it away, or restore it.",
            code="wrong-file",
        )
    return frame.assign(step=frame["step"] + 1)


def batch_size(frame: pd.DataFrame) -> int:
    """Images per update, from the log; 0 if unknown."""
    if "samples" not in frame or frame.empty:
        return 0
    last = frame.iloc[-1]
    return int(last["samples"] // last["step"]) if last["samples"] >= last["step"] > 0 else 0


def to_openai_columns(frame: pd.DataFrame, last: float = -1) -> pd.DataFrame:
    """Converts a log to that of improved-diffusion: its columns, sorted, and `step` counted from 0.

    In a folder that was opened in place, rows up to step `last` are improved-diffusion's and stay as they are.
    """
    ours = {*progress_log.OUR_COLUMNS, *filter(progress_log.is_of_held_out, frame.columns)}
    kept = frame[sorted(set(frame.columns) - ours)]
    if "step" in kept:
        kept = kept.assign(step=kept["step"] - (kept["step"] > last))
    whole = {name: "Int64" for name in ("step", "samples") if name in kept}
    return kept.astype(whole)
