"""Charts as pure functions of rows: a frame of metrics in, a Plotly figure as plain lists and dicts out.

No colours here: a trace names its `palette` number and its `role`, the component dresses it in the page's theme.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ddpm.formatting import plural
from ddpm.planning import solver_grid
from ddpm.planning.solver_grid import Cell
from ddpm.runs import metrics
from ddpm.spacings import SPACINGS

Figure = dict[str, Any]

MAIN = ("grad_norm", "loss", "mse", "vb", "lg_loss_scale")  # those that the log has are drawn
PARTS = ("loss", "mse", "vb")  # what is also logged by quarter of the timesteps
AXES = ("step", "seconds", "samples")  # the columns that an axis is made of
TERMS = {"vb": "vb (bits per dimension)", "mse": "mse", "xstart_mse": "xstart_mse"}
QUARTER_LABELS = ("least noisy quarter", "second", "third", "noisiest quarter")

RAW_POINTS = 2000
SMOOTH_POINTS = 1000  # a smoothed line hides nothing between its points
MARKS = 100
PANEL_HEIGHT = 185


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
class Curve:
    """The terms of one evaluation: TERMS -> [T], over timesteps [T] of the full process."""

    label: str
    timesteps: Sequence[int]
    terms: Mapping[str, np.ndarray]


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
    layout = _layout(x, options, len(shown))
    for number, name in enumerate(shown):
        values = frame[name].to_numpy()
        raw = lines(x.values, values, options, name=name, axis_number=number, palette=number)
        data += raw
        data += not_a_number(x.values, values, options, name=name, axis_number=number)
        layout[_axis_key(number)] = _y_axis(number, len(shown), options)
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
    layout = _layout(x, options, 1)
    layout["yaxis"] = _y_axis(0, 1, options)
    layout["height"] = plot = 300
    layout["legend"]["y"] = -50 / (plot - 104)
    return {"data": data, "layout": layout}


def terms(curves: Sequence[Curve], log: bool) -> Figure:
    """Terms of the bound over t: a panel for each term, a line for each evaluation."""
    options = ChartOptions(smoothing=0.0, log=log)
    data: list[dict[str, Any]] = []
    layout = _layout(Axis(np.zeros(0), "timestep t"), options, len(TERMS))
    layout["margin"]["l"] = 72  # for small numbers
    for number, (name, title) in enumerate(TERMS.items()):
        for palette, curve in enumerate(curves):
            common = dict(
                type="scatter",
                mode="lines",
                name=curve.label,
                legendgroup=curve.label,
                yaxis=_axis_id(number),
                palette=palette,
            )
            values = drawable(curve.terms[name], log)
            legend = number == 0 and len(curves) > 1
            data.append(
                _trace(
                    common,
                    np.asarray(curve.timesteps),
                    values,
                    RAW_POINTS,
                    uid=f"{name}-{palette}",
                    role="smooth",
                    showlegend=legend,
                )
            )
        layout[_axis_key(number)] = _y_axis(number, len(TERMS), options)
        layout["annotations"].append(_title(title, number, len(TERMS), options))
    return {"data": data, "layout": layout}


def frontier(found: Sequence[Cell], tolerance: float, best: Cell | None) -> Figure:
    """Distance to the converged images over seconds per image, one line per sampler; `best` gets a star.

    Those without a distance have no line.  A dashed line shows the tolerance.
    """
    data: list[dict[str, Any]] = []
    told = "%{fullData.name}<br>%{customdata} NFE: %{y:.3g} levels, %{x:.3g} s<extra></extra>"
    known = {way: [c for c in by.values() if c.distance is not None] for way, by in solver_grid.rows(found).items()}
    for palette, (way, line) in enumerate((way, line) for way, line in known.items() if line):
        label = way.label
        x, y = np.array([c.seconds for c in line]), np.array([c.distance for c in line], dtype=float)
        common = dict(type="scatter", palette=palette, legendgroup=label, hovertemplate=told, role="smooth")
        data.append(
            dict(
                **common,
                mode="lines+markers",
                name=label,
                uid=label,
                x=numbers(x),
                y=numbers(drawable(y, True)),
                customdata=[c.calls for c in line],
                marker=dict(symbol=SPACINGS[way.spacing].symbol, size=7),
            )
        )
        if best in line and best is not None and best.distance:
            data.append(
                dict(
                    **common,
                    mode="markers",
                    name=label,
                    uid="best",
                    x=[best.seconds],
                    y=[best.distance],
                    customdata=[best.calls],
                    marker=dict(symbol="star", size=18),
                    showlegend=False,
                )
            )
    seconds = [c.seconds for c in found if c.distance is not None]
    if seconds:
        ends = [min(seconds), max(seconds)]
        data.append(
            dict(
                type="scatter",
                mode="lines",
                role="limit",
                name="tolerance",
                uid="limit",
                x=ends,
                y=[tolerance] * 2,
                showlegend=False,
                hoverinfo="skip",
            )
        )
    layout = _layout(Axis(np.zeros(0), "seconds per image"), ChartOptions(), 1)
    layout |= dict(height=420, hovermode="closest")
    layout["margin"]["b"] = 140
    layout["legend"]["y"] = -60 / (420 - 170)
    layout["xaxis"] |= dict(
        type="log", tickmode="array", tickvals=(ticks := _ticks(seconds)), ticktext=[f"{t:g}" for t in ticks]
    )
    layout["yaxis"] = _y_axis(0, 1, ChartOptions(log=True))
    layout["annotations"].append(_title("distance to the converged images (levels of 0 .. 255)", 0, 1, ChartOptions()))
    return {"data": data, "layout": layout}


def microscope(result: Mapping[str, Any], call: int) -> Figure:
    """Change of x_t and of the predicted clean image by each model evaluation, log SNR below; dashed line at `call`."""
    x = np.arange(1, len(result["t"]) + 1)
    changes = {"x_t": result["change"], "predicted clean image": result["x_start_change"]}
    panels = [
        (changes, ChartOptions(log=True), "change (levels of 0 .. 255)"),
        ({"log SNR": [2 * lam for lam in result["lam"]]}, ChartOptions(log=False), "log SNR"),
    ]
    data: list[dict[str, Any]] = []
    layout = _layout(Axis(np.zeros(0), "model evaluation"), ChartOptions(), len(panels))
    palette = 0
    for number, (values, options, title) in enumerate(panels):
        for name, column in values.items():
            y = np.array([np.nan if value is None else value for value in column], dtype=float)
            data.append(
                dict(
                    type="scatter",
                    mode="lines+markers",
                    name=name,
                    uid=name,
                    palette=palette,
                    role="smooth",
                    yaxis=_axis_id(number),
                    x=numbers(x),
                    y=numbers(drawable(y, options.log)),
                    marker=dict(size=5),
                )
            )
            palette += 1
        known = [v for v in data[-1]["y"] if v is not None] or [1]
        data.append(
            dict(
                type="scatter",
                mode="lines",
                role="limit",
                uid=f"call{number}",
                yaxis=_axis_id(number),
                x=[call, call],
                y=[min(known), max(known)],
                showlegend=False,
                hoverinfo="skip",
            )
        )
        layout["yaxis" if not number else f"yaxis{number + 1}"] = _y_axis(number, len(panels), options)
        layout["annotations"].append(_title(title, number, len(panels), options))
    return {"data": data, "layout": layout}


def _ticks(values: Sequence[float]) -> list[float]:
    """Tick values of a logarithmic axis, from below the smallest of `values` to above the largest."""
    if not values:
        return []
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    return [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]


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
        type="scatter", mode=mode, name=label or name, legendgroup=name, yaxis=_axis_id(axis_number), palette=palette
    )
    if options.smoothing <= 0 or np.isfinite(raw).sum() < 3:
        return [_trace(common, x, raw, RAW_POINTS, uid=f"{name}-smooth", role="smooth")]
    smoothed = metrics.smooth(raw, options.smoothing, options.log)
    return [
        _trace(common, x, raw, RAW_POINTS, uid=f"{name}-raw", role="raw", showlegend=False, hoverinfo="skip"),
        _trace(common, x, smoothed, SMOOTH_POINTS, uid=f"{name}-smooth", role="smooth"),
    ]


def _trace(common: dict[str, Any], x: np.ndarray, y: np.ndarray, most: int, **more: Any) -> dict[str, Any]:
    x, y = metrics.downsample(x, y, most)
    told = {} if more.get("hoverinfo") == "skip" else {"hovertemplate": "%{y:.4g}"}
    return {**common, "x": numbers(x), "y": numbers(y), **told, **more}


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
            name=f"{name} is not a number",
            uid=f"{name}-nan",
            showlegend=False,
            legendgroup=name,
            role="nan",
            yaxis=_axis_id(axis_number),
            x=numbers(x[chosen]),
            y=numbers(level[chosen]),
            hovertemplate=f"{name} is not a number",
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


def _axis_id(number: int) -> str:
    return "y" if number == 0 else f"y{number + 1}"


def _axis_key(number: int) -> str:
    return "yaxis" if number == 0 else f"yaxis{number + 1}"


def _layout(x: Axis, options: ChartOptions, count: int) -> dict[str, Any]:
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
            title=dict(text=x.title, font=dict(size=13), standoff=6),
            anchor=_axis_id(count - 1) if count else "y",
            uirevision=x.title,
        ),
        annotations=[],
    )


def _y_axis(number: int, count: int, options: ChartOptions) -> dict[str, Any]:
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
    title = _title(name, number, count, options)
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
        yref=_axis_id(number),
        x=1,
        y=height,
        xanchor="left",
        xshift=6,
        showarrow=False,
        role="last",
        palette=number,
    )
    return [title, mark]


def _title(text: str, number: int, count: int, options: ChartOptions) -> dict[str, Any]:
    domain = _y_axis(number, count, options)["domain"]
    return dict(
        text=f"<b>{text}</b>",
        xref="paper",
        yref="paper",
        x=0,
        y=domain[1],
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
        role="title",
    )
