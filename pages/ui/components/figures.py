"""Charts of a training as pure functions: a frame of metrics in, a Plotly figure as plain lists and dicts out.

No colours here: a trace names its `palette` number and its `role`, the component dresses it in the page's theme.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ddpm.formatting import plural, printable
from ddpm.runs import metrics

Figure = dict[str, Any]

MAIN = ("grad_norm", "loss", "mse", "vb", "lg_loss_scale")  # shown where the log has them
PARTS = ("loss", "mse", "vb")  # also logged by quarter of the timesteps
AXES = ("step", "seconds", "samples")  # columns that a horizontal axis needs
QUARTER_LABELS = ("least noisy quarter", "second", "third", "noisiest quarter")

RAW_POINTS = 2000
SMOOTH_POINTS = 1000  # a smoothed line hides nothing between its points
MARKS = 100
PANEL_HEIGHT = 185


# Plotly shows a subset of HTML in its texts, with links, and fills in %{...} in those of a hover label.
_MEANINGFUL = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "{": "&#123;"})


def plain(text: object) -> str:
    """`text` as Plotly shows it literally; control characters are shown as in \\x1b."""
    return printable(" ".join(str(text).split())).translate(_MEANINGFUL)


def quarters(part: str) -> tuple[str, ...]:
    """Columns of a loss, or of one of its parts, by quarter of the timesteps."""
    return tuple(f"{part}_q{k}" for k in range(4))


@dataclass(frozen=True)
class ChartOptions:
    """View options: horizontal axis, smoothing, log scale."""

    x: str = "step"  # step, time or images
    smoothing: float = 0.6
    log: bool = True


@dataclass(frozen=True)
class Axis:
    """Horizontal axis: its values for every row, and its title."""

    values: np.ndarray
    title: str


def axis(frame: pd.DataFrame, name: str) -> Axis:
    """The requested axis; training steps where the log does not have it."""
    if name == "time" and "seconds" in frame and frame["seconds"].notna().any():
        seconds = frame["seconds"].to_numpy()
        unit, divisor = _time_unit(float(np.nanmax(seconds)))
        return Axis(seconds / divisor, f"training time, {unit}")
    if name == "images" and "samples" in frame and frame["samples"].notna().any():
        return Axis(frame["samples"].to_numpy(), "images seen")
    return Axis(frame["step"].to_numpy() if "step" in frame else np.arange(len(frame), dtype=float), "step")


def _time_unit(longest: float) -> tuple[str, float]:
    for unit, divisor, most in (("seconds", 1.0, 300.0), ("minutes", 60.0, 3 * 3600.0), ("hours", 3600.0, 4 * 86400.0)):
        if longest < most:
            return unit, divisor
    return "days", 86400.0


def panels(frame: pd.DataFrame, options: ChartOptions, columns: Sequence[str] = MAIN) -> Figure:
    """Panels with a common x axis: raw values faint, smoothed values bold, labelled with their last value."""
    x = axis(frame, options.x)
    shown = [name for name in columns if name in frame]
    data: list[dict[str, Any]] = []
    layout = base_layout(x, options, len(shown))
    for number, name in enumerate(shown):
        values = frame[name].to_numpy()
        raw = lines(x.values, values, options, name=name, axis_number=number, palette=number)
        data += raw
        data += not_a_number(x.values, values, options, name=name, axis_number=number)
        layout[axis_key(number)] = y_axis(number, len(shown), options)
        layout["annotations"] += _labels(values, raw[-1]["y"], options, name, number, len(shown))
    return {"data": data, "layout": layout}


def overlay(
    frame: pd.DataFrame, options: ChartOptions, columns: Sequence[str], labels: Sequence[str] = QUARTER_LABELS
) -> Figure:
    """Several metrics in one panel.  Rows without a value are skipped."""
    x = axis(frame, options.x)
    data: list[dict[str, Any]] = []
    for number, (name, label) in enumerate(zip(columns, labels, strict=True)):
        if name in frame:
            there = np.isfinite(frame[name].to_numpy())
            values = frame[name].to_numpy()[there]
            data += lines(x.values[there], values, options, name=name, label=label, palette=number)
    layout = base_layout(x, options, 1)
    layout["yaxis"] = y_axis(0, 1, options)
    layout["height"] = plot = 300
    layout["legend"]["y"] = -50 / (plot - 104)
    return {"data": data, "layout": layout}


def lines(
    x: np.ndarray,
    values: np.ndarray,
    options: ChartOptions,
    *,
    name: str,
    palette: int,
    axis_number: int = 0,
    label: str = "",
) -> list[dict[str, Any]]:
    """Raw line, with the smoothed line over it where there is smoothing.  Gaps are None."""
    raw = drawable(values, options.log)
    mode = "lines" if np.isfinite(raw).sum() > 1 else "lines+markers"  # a line of one point cannot be seen
    common = dict(
        type="scatter",
        mode=mode,
        name=plain(label or name),
        legendgroup=name,
        yaxis=axis_id(axis_number),
        palette=palette,
    )
    if options.smoothing <= 0 or np.isfinite(raw).sum() < 3:
        return [trace(common, x, raw, RAW_POINTS, uid=f"{name}-smooth", role="smooth")]
    smoothed = metrics.smooth(raw, options.smoothing, options.log)
    return [
        trace(common, x, raw, RAW_POINTS, uid=f"{name}-raw", role="raw", showlegend=False, hoverinfo="skip"),
        trace(common, x, smoothed, SMOOTH_POINTS, uid=f"{name}-smooth", role="smooth"),
    ]


def trace(common: dict[str, Any], x: np.ndarray, y: np.ndarray, most: int, **more: Any) -> dict[str, Any]:
    """A trace thinned to `most` points, with a hover label unless it is switched off."""
    x, y = metrics.downsample(x, y, most)
    hover = {} if more.get("hoverinfo") == "skip" else {"hovertemplate": "%{y:.4g}"}
    return {**common, "x": numbers(x), "y": numbers(y), **hover, **more}


def not_a_number(
    x: np.ndarray, values: np.ndarray, options: ChartOptions, *, name: str, axis_number: int = 0
) -> list[dict[str, Any]]:
    """Crosses where a metric was NaN or infinite, at the height of the value before."""
    bad = np.flatnonzero(~np.isfinite(values))
    good = np.isfinite(drawable(values, options.log))
    if not len(bad):
        return []
    level = pd.Series(np.where(good, values, np.nan)).ffill().bfill().fillna(1.0).to_numpy()
    chosen = bad[np.unique(np.linspace(0, len(bad) - 1, min(MARKS, len(bad))).astype(int))]
    return [
        dict(
            type="scatter",
            mode="markers",
            name=f"{plain(name)} is not a number",
            uid=f"{name}-nan",
            showlegend=False,
            legendgroup=name,
            role="nan",
            yaxis=axis_id(axis_number),
            x=numbers(x[chosen]),
            y=numbers(level[chosen]),
            hovertemplate=f"{plain(name)} is not a number",
        )
    ]


def drawable(values: np.ndarray, log: bool) -> np.ndarray:
    """Values with NaN where the axis cannot show them."""
    return np.where(np.isfinite(values) & ((values > 0) | (not log)), values, np.nan)


def numbers(values: np.ndarray) -> list[float | int | None]:
    """Converts values for JSON: None for NaN, at most six significant digits, integers where exact."""
    values = np.asarray(values, dtype=float)
    finite = np.isfinite(values)
    safe = np.where(finite & (values != 0), values, 1.0)
    scale = 10.0 ** (5 - np.floor(np.log10(np.abs(safe))))
    rounded = np.where(values == np.round(values), values, np.round(values * scale) / scale)
    as_list = rounded.tolist()
    return [(int(v) if v.is_integer() else v) if ok else None for v, ok in zip(as_list, finite.tolist(), strict=True)]


def axis_id(number: int) -> str:
    """Name of axis `number` in a trace: y, y2, ..."""
    return "y" if number == 0 else f"y{number + 1}"


def axis_key(number: int) -> str:
    """Name of axis `number` in the layout: yaxis, yaxis2, ..."""
    return "yaxis" if number == 0 else f"yaxis{number + 1}"


def base_layout(x: Axis, options: ChartOptions, count: int) -> dict[str, Any]:
    """Layout of `count` panels with a common horizontal axis."""
    plot = PANEL_HEIGHT * max(count, 1)
    return dict(
        height=plot + 104,
        margin=dict(l=48, r=60, t=30, b=74),
        hovermode="x unified",
        hoversubplots="axis",
        showlegend=True,
        legend=dict(orientation="h", x=0.5, xanchor="center", y=-50 / plot, yanchor="top"),
        uirevision="view",
        xaxis=dict(
            title=dict(text=plain(x.title), font=dict(size=13), standoff=6),
            anchor=axis_id(count - 1) if count else "y",
            uirevision=x.title,
        ),
        annotations=[],
    )


def y_axis(number: int, count: int, options: ChartOptions) -> dict[str, Any]:
    """Vertical axis of panel `number` of `count`."""
    gap = 0.06 if count > 1 else 0.0
    height = (1 - gap * (count - 1)) / count
    top = 1 - number * (height + gap)
    return dict(
        domain=[round(max(top - height, 0.0), 6), round(top, 6)],
        type="log" if options.log else "linear",
        uirevision="log" if options.log else "linear",
        anchor="x",
    )


def _labels(
    values: np.ndarray, line: list[float | None], options: ChartOptions, name: str, number: int, count: int
) -> list[dict[str, Any]]:
    """Title in the panel's corner, and the newest value at the end of its line."""
    title = panel_title(name, number, count, options)
    value = line[-1] if line else None
    lost = int((~np.isfinite(values)).sum())
    if lost:
        rows = plural(lost, "row")
        title["text"] += f" – not a number in {rows} (✕)"
    if value is None:
        return [title]
    height = float(np.log10(value)) if options.log else value
    mark = dict(
        text=f"{value:.4g}",
        xref="paper",
        yref=axis_id(number),
        x=1,
        y=height,
        xanchor="left",
        xshift=6,
        showarrow=False,
        role="last",
        palette=number,
    )
    return [title, mark]


def panel_title(text: str, number: int, count: int, options: ChartOptions) -> dict[str, Any]:
    """Title in the corner of panel `number` of `count`."""
    domain = y_axis(number, count, options)["domain"]
    return dict(
        text=f"<b>{plain(text)}</b>",
        xref="paper",
        yref="paper",
        x=0,
        y=domain[1],
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
        role="title",
    )
