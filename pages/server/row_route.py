"""What was logged at a training step, as text.

run/row?run=NAME&step=STEP    {"step", "label", "previous", "next", "values": [[label, text]]} of the nearest row
run/row?run=NAME              of the newest row
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from starlette.routing import Route

from ddpm.formatting import duration
from pages.server.asked import Asked, answering
from pages.ui.frame.run_status import format_number

COLUMNS = ("loss", "grad_norm", "lr")
LABELS = {"loss": "Loss", "grad_norm": "Gradient norm", "lr": "Learning rate"}


def row(asked: Asked) -> Any:
    """The row of a step, and the steps of the rows beside it; all null where there is no row."""
    frame, step = asked.store.rows(asked.run, COLUMNS).frame, asked.number("step")
    if "step" not in frame or frame.empty:
        return {"step": None, "label": "", "previous": None, "next": None, "values": []}
    steps = frame["step"].to_numpy()
    at = len(steps) - 1 if step is None else nearest(steps, step)
    return {
        "step": int(steps[at]),
        "label": f"{steps[at]:,.0f}",
        "previous": int(steps[at - 1]) if at else None,
        "next": int(steps[at + 1]) if at + 1 < len(steps) else None,
        "values": _values(frame, at),
    }


def nearest(steps: np.ndarray, step: int) -> int:
    """Number of the row whose step is nearest.  steps: [N], increasing."""
    after = int(np.searchsorted(steps, step))
    if after == len(steps) or (after and step - steps[after - 1] <= steps[after] - step):
        return after - 1
    return after


def _values(frame: pd.DataFrame, at: int) -> list[tuple[str, str]]:
    """Labels and values of a row."""
    there = frame.iloc[at]
    found = [(LABELS[name], format_number(_known(there[name]))) for name in COLUMNS if name in there]
    if (seconds := _known(there.get("seconds"))) is not None:
        found.append(("Trained for", duration(seconds)))
    if (samples := _known(there.get("samples"))) is not None:
        found.append(("Images seen", f"{samples:,.0f}"))
    return found


def _known(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


ROUTES = [Route("/run/row", answering(row), methods=["GET"])]
