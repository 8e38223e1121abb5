"""Metrics of a run for the charts, thinned for the width of the screen.

    run/metrics?run=NAME&columns=loss,lr&x=step&from=&to=&width=1000&have=&since=&size=

The answer is a line of JSON and, from the next multiple of eight bytes on, float64 arrays in little-endian order:

    of each axis in `axes`         first[buckets], and last[buckets] if size > 1
    of each column in `columns`    values[buckets] if size is 1; else count, least, most, mean, first, each [buckets]

A bucket is `size` rows; if size is 1, all rows are there.  `from` is the number of the first row: a client that names
what it has (`have`, `since`, `size`) is sent the buckets from row `since` on, if those before are the same; 204 if
nothing changed.  from and to are a range of the axis x: of a part, more detail fits.
"""

import json
import math
import re
from typing import Any, NamedTuple

import numpy as np
from starlette.responses import Response
from starlette.routing import Route

from ddpm.errors import UserError
from ddpm.runs import curves, progress_log
from ddpm.runs.jobs import ACTIVE
from pages.server.asked import NO_STORE, Asked, answering
from pages.ui.frame.metric_rows import AXES, MAIN, Rows

NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,2})?", re.ASCII)
WIDTHS = (16, 8192)  # pixels
MOST_NAMES = 4096  # characters of `columns`
MOST_COLUMNS = 64
MOST_SPIKES = 200  # listed with their steps, the highest ones; the others are counted
MOST_LOST = 100  # places of values that are not finite, of which each is listed


class Part(NamedTuple):
    """Rows from `start` up to `stop`, a multiple of `size` and the end of a bucket or of the log."""

    start: int
    stop: int
    size: int


def read(asked: Asked) -> Response:
    """Answers with the metrics.  Raises UserError for arguments that are none."""
    columns = asked_columns(asked)
    axis = asked.text("x", "step")
    if axis not in AXES:
        raise UserError(f"The axis x is {axis[:40]!r}: give one of {', '.join(AXES)}.", code="bad-value")
    low, high = number(asked, "from", -math.inf), number(asked, "to", math.inf)
    width = min(max(asked.number("width") or 1000, WIDTHS[0]), WIDTHS[1])
    since, size = asked.number("since"), asked.number("size")
    run = asked.run
    rows = asked.store.rows(run, columns)
    if asked.text("have") == rows.name:
        return Response(status_code=204, headers=NO_STORE)
    view = asked.store.view(run)
    values = axis_values(rows)
    part = stretch(values[axis] if axis in values else values["step"], low, high, width)
    follows = asked.text("have").rpartition(".")[0] == rows.epoch and part.size == size
    known = follows and since is not None and since < len(rows.frame)
    start = max(part.start, since // part.size * part.size) if known and since is not None else part.start
    found = [name for name in columns if name in rows.frame]
    head: dict[str, Any] = {
        "name": rows.name,
        "whole": rows.whole,
        "live": view.state() in ACTIVE,
        "rows": len(rows.frame),
        "from": start,
        "start": part.start,
        "stop": part.stop,
        "size": part.size,
        "axes": [*values],
        "columns": found,
        "all": [name for name in view.columns() if name not in AXES],
        "newest": {name: newest(rows, name) for name in found},
        "spikes": {
            name: spikes(rows, values["step"], name, part, start) for name in found if name not in progress_log.AT_STEP
        },
        "lost": {
            name: lost(rows, values["step"], name, part)
            for name in found
            if name in MAIN and not progress_log.is_of_held_out(name)
        },
    }
    return Response(
        packed(head, arrays(rows, values, found, part._replace(start=start))),
        media_type="application/octet-stream",
        headers={**NO_STORE, "content-encoding": "identity"},  # to compress numbers takes longer than to send them
    )


def asked_columns(asked: Asked) -> list[str]:
    """Names of columns, each once.  Raises UserError for too many."""
    text = asked.text("columns", most=MOST_NAMES)
    names = [*dict.fromkeys(name for name in text.split(",") if name)]
    if len(names) > MOST_COLUMNS:
        raise UserError(f"The request names {len(names)} columns: give at most {MOST_COLUMNS}.", code="bad-value")
    return names


def number(asked: Asked, name: str, other: float) -> float:
    """A number, or `other` if it is not given.  Raises UserError."""
    text = asked.text(name)
    if text and not NUMBER.fullmatch(text):
        raise UserError(f"{name} is {text[:40]!r}: give a number.", code="bad-value")
    return float(text) if text else other


def axis_values(rows: Rows) -> dict[str, np.ndarray]:
    """The horizontal axes that have a place for every row; the step is counted where the log does not have it.

    A log that another program began has no training time up to there.
    """
    frame = rows.frame
    found = {
        name: frame[name].to_numpy() for name in AXES if name in frame and len(frame) and np.isfinite(frame[name]).all()
    }
    return {"step": np.arange(1, len(frame) + 1, dtype=float), **found}


def stretch(x: np.ndarray, low: float, high: float, width: int) -> Part:
    """Rows with x in [low, high] and one bucket more on each side, in buckets of a size for `width` pixels."""
    inside = (
        np.flatnonzero((x >= low) & (x <= high)) if math.isfinite(low) or math.isfinite(high) else np.arange(len(x))
    )
    if not len(inside):
        after = int(np.searchsorted(x, low)) if math.isfinite(low) else 0
        inside = np.array([min(max(after, 0), max(len(x) - 1, 0))])
    size = curves.bucket_size(int(inside[-1] - inside[0]) + 1, width)
    start = max(0, (int(inside[0]) // size - 1) * size)
    return Part(start, min(len(x), (int(inside[-1]) // size + 2) * size), size)


def arrays(rows: Rows, axes: dict[str, np.ndarray], columns: list[str], part: Part) -> list[np.ndarray]:
    """The arrays of an answer, in order."""
    found: list[np.ndarray] = []
    for x in axes.values():
        x = x[part.start : part.stop]
        found.append(x[:: part.size])
        if part.size > 1:
            found.append(x[np.minimum(np.arange(part.size - 1, len(x) + part.size - 1, part.size), len(x) - 1)])
    for name in columns:
        buckets = curves.buckets(rows.frame[name].to_numpy()[part.start : part.stop], part.size)
        found += [*buckets] if part.size > 1 else [buckets.mean]
    return found


def newest(rows: Rows, name: str) -> float | None:
    """The value of the last row that has one."""
    values = rows.frame[name].to_numpy()
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else None


def spikes(rows: Rows, steps: np.ndarray, name: str, part: Part, start: int) -> dict[str, Any]:
    """Values of a column that stick out: the highest with their rows and steps, and how many more there are.

    They are those from row `from` on: of an answer that begins at `start`, the ones before are known.
    """
    around = curves.AROUND * part.size
    begin = max(part.start, start - 2 * around)
    values = rows.frame[name].to_numpy()[begin : part.stop]
    found = curves.spikes(values, curves.buckets(values, part.size).most, part.size)
    known = part.start if begin == part.start else begin + around
    found = found[found + begin >= known]
    highest = np.sort(found[np.argsort(values[found])[-MOST_SPIKES:]])
    places = [(int(row) + begin, float(values[row])) for row in highest]
    return {
        "from": known,
        "more": len(found) - len(highest),
        "highest": [[row, float(steps[row]), value] for row, value in places],
    }


def lost(rows: Rows, steps: np.ndarray, name: str, part: Part) -> dict[str, Any]:
    """How many values of a column are not finite, and the steps of some of them."""
    bad = part.start + np.flatnonzero(~np.isfinite(rows.frame[name].to_numpy()[part.start : part.stop]))
    some = bad[np.unique(np.linspace(0, len(bad) - 1, min(MOST_LOST, len(bad))).astype(int))]
    return {"count": len(bad), "rows": some.tolist(), "steps": steps[some].tolist()}


def packed(head: dict[str, Any], found: list[np.ndarray]) -> bytes:
    """The line of JSON, filled up with spaces, and the arrays."""
    line = json.dumps(head, allow_nan=False, separators=(",", ":")).encode()
    line += b" " * (-(len(line) + 1) % 8) + b"\n"
    return line + b"".join(np.ascontiguousarray(array, dtype="<f8").tobytes() for array in found)


ROUTES = [Route("/run/metrics", answering(read), methods=["GET"])]
