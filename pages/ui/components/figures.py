"""Charts of a training as pure functions: a frame of metrics in, a Plotly figure as plain lists and dicts out.

No colours here: a trace names its `palette` number and its `role`, the component dresses it in the page's theme.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm.formatting import printable
from ddpm.runs import curves

Figure = dict[str, Any]

RAW_POINTS = 2000
PANEL_HEIGHT = 185


# Plotly shows a subset of HTML in its texts, with links, and fills in %{...} in those of a hover label.
_MEANINGFUL = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "{": "&#123;"})


def plain(text: object) -> str:
    """`text` as Plotly shows it literally; control characters are shown as in \\x1b."""
    return printable(" ".join(str(text).split())).translate(_MEANINGFUL)


COLOURS = 10  # in the theme's palette


def run_colours(names: Sequence[str], before: Mapping[str, int]) -> dict[str, int]:
    """A number in the palette for each run: the one it had before, or else one that follows from its name.

    Where that is taken, it gets the next that is free, as long as there are any.
    """
    found = {name: before[name] for name in names if name in before}
    for name in names:
        if name in found:
            continue
        wanted = zlib.crc32(name.encode("utf-8", "surrogateescape")) % COLOURS
        order = [(wanted + k) % COLOURS for k in range(COLOURS)]
        found[name] = next((colour for colour in order if colour not in found.values()), wanted)
    return {name: found[name] for name in names}


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


def trace(common: dict[str, Any], x: np.ndarray, y: np.ndarray, most: int, **more: Any) -> dict[str, Any]:
    """A trace thinned to `most` points, with a hover label unless it is switched off."""
    x, y = curves.downsample(x, y, most)
    hover = {} if more.get("hoverinfo") == "skip" else {"hovertemplate": "%{y:,.4~r}"}
    return {**common, "x": numbers(x), "y": numbers(y), **hover, **more}


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
