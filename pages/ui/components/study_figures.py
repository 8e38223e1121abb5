"""Charts of studies of a checkpoint as pure functions: terms of the bound, comparison of samplers, trajectory."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm import formatting
from ddpm.planning import solver_grid
from ddpm.planning.solver_grid import GridResult
from ddpm.spacings import SPACINGS
from pages.ui.components import figures
from pages.ui.components.figures import plain

TERMS = {"vb": "vb (bits per dimension)", "mse": "mse", "xstart_mse": "xstart_mse"}


@dataclass(frozen=True)
class Curve:
    """The terms of one evaluation: TERMS -> [T], over timesteps [T] of the full process."""

    label: str
    timesteps: Sequence[int]
    terms: Mapping[str, np.ndarray]


def terms(curves: Sequence[Curve], log: bool) -> figures.Figure:
    """Terms of the bound over t: a panel for each term, a line for each evaluation."""
    options = figures.ChartOptions(smoothing=0.0, log=log)
    data: list[dict[str, Any]] = []
    layout = figures.base_layout(figures.Axis(np.zeros(0), "timestep t"), options, len(TERMS))
    layout["margin"]["l"] = 72  # for small numbers
    for number, (name, title) in enumerate(TERMS.items()):
        for palette, curve in enumerate(curves):
            common = dict(
                type="scatter",
                mode="lines",
                name=plain(curve.label),
                legendgroup=curve.label,
                yaxis=figures.axis_id(number),
                palette=palette,
            )
            values = figures.drawable(curve.terms[name], log)
            legend = number == 0 and len(curves) > 1
            data.append(
                figures.trace(
                    common,
                    np.asarray(curve.timesteps),
                    values,
                    figures.RAW_POINTS,
                    uid=f"{name}-{palette}",
                    role="smooth",
                    showlegend=legend,
                )
            )
        layout[figures.axis_key(number)] = figures.y_axis(number, len(TERMS), options)
        layout["annotations"].append(figures.panel_title(title, number, len(TERMS), options))
    return {"data": data, "layout": layout}


def solver_benchmark(found: Sequence[GridResult], tolerance: float, best: GridResult | None) -> figures.Figure:
    """Distance to the converged images over seconds per image, one line per sampler; `best` gets a star.

    Those without a distance have no line.  A dashed line shows the tolerance.
    """
    data: list[dict[str, Any]] = []
    hover = "%{fullData.name}<br>%{customdata} NFE: %{y:,.3~r} levels, %{x:,.3~r} s<extra></extra>"
    known = {way: [c for c in by.values() if c.distance is not None] for way, by in solver_grid.rows(found).items()}
    for palette, (way, line) in enumerate((way, line) for way, line in known.items() if line):
        label = way.label
        x, y = np.array([c.seconds for c in line]), np.array([c.distance for c in line], dtype=float)
        common = dict(type="scatter", palette=palette, legendgroup=label, hovertemplate=hover, role="smooth")
        data.append(
            dict(
                **common,
                mode="lines+markers",
                name=plain(label),
                uid=label,
                x=figures.numbers(x),
                y=figures.numbers(figures.drawable(y, True)),
                customdata=[c.calls for c in line],
                marker=dict(symbol=SPACINGS[way.spacing].symbol, size=7),
            )
        )
        if best in line and best is not None and best.distance:
            data.append(
                dict(
                    **common,
                    mode="markers",
                    name=plain(label),
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
    layout = figures.base_layout(figures.Axis(np.zeros(0), "seconds per image"), figures.ChartOptions(), 1)
    layout |= dict(height=420, hovermode="closest")
    layout["margin"]["b"] = 140
    layout["legend"]["y"] = -60 / (420 - 170)
    layout["xaxis"] |= dict(
        type="log",
        tickmode="array",
        tickvals=(ticks := _ticks(seconds)),
        ticktext=[formatting.number(t) for t in ticks],
    )
    layout["yaxis"] = figures.y_axis(0, 1, figures.ChartOptions(log=True))
    layout["annotations"].append(
        figures.panel_title("distance to the converged images (levels)", 0, 1, figures.ChartOptions())
    )
    return {"data": data, "layout": layout}


def trajectory(result: Mapping[str, Any], call: int) -> figures.Figure:
    """Change of x_t and of the predicted clean image by each model evaluation, log SNR below; dashed line at `call`."""
    x = np.arange(1, len(result["t"]) + 1)
    changes = {"x_t": result["change"], "predicted clean image": result["x_start_change"]}
    panels = [
        (changes, figures.ChartOptions(log=True), "change (levels of 0 .. 255)"),
        (
            {"log SNR": [None if lam is None else 2 * lam for lam in result["lam"]]},
            figures.ChartOptions(log=False),
            "log SNR",
        ),
    ]
    data: list[dict[str, Any]] = []
    layout = figures.base_layout(figures.Axis(np.zeros(0), "model evaluation"), figures.ChartOptions(), len(panels))
    palette = 0
    for number, (values, options, title) in enumerate(panels):
        for name, column in values.items():
            y = np.array([np.nan if value is None else value for value in column], dtype=float)
            data.append(
                dict(
                    type="scatter",
                    mode="lines+markers",
                    name=plain(name),
                    uid=name,
                    palette=palette,
                    role="smooth",
                    yaxis=figures.axis_id(number),
                    x=figures.numbers(x),
                    y=figures.numbers(figures.drawable(y, options.log)),
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
                yaxis=figures.axis_id(number),
                x=[call, call],
                y=[min(known), max(known)],
                showlegend=False,
                hoverinfo="skip",
            )
        )
        layout["yaxis" if not number else f"yaxis{number + 1}"] = figures.y_axis(number, len(panels), options)
        layout["annotations"].append(figures.panel_title(title, number, len(panels), options))
    return {"data": data, "layout": layout}


def _ticks(values: Sequence[float]) -> list[float]:
    """Tick values of a logarithmic axis, from below the smallest of `values` to above the largest."""
    if not values:
        return []
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    return [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
