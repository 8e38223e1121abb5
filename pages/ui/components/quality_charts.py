"""The chart of sample quality as a pure function: where samples stand among sets of known quality."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm.planning.quality_figures import ROWS
from pages.ui.components import figures
from pages.ui.components.figures import plain


def distances(result: Mapping[str, Any]) -> figures.Figure:
    """The Fréchet distance of each set of images, on a logarithmic scale, with its interval where there is one."""
    rows = {row["name"]: row for row in result["rows"]}
    names = [name for name in reversed(ROWS) if name in rows]
    data = []
    for name in names:
        value, low, high = rows[name]["figures"]["fd"]
        whiskers = (
            {}
            if low is None or high is None
            else {
                "error_x": dict(
                    type="data",
                    symmetric=False,
                    array=figures.numbers(np.array([high - value])),
                    arrayminus=figures.numbers(np.array([min(value - low, 0.999 * value)])),
                )
            }
        )
        data.append(
            dict(
                type="scatter",
                mode="markers",
                name=plain(ROWS[name]),
                uid=name,
                palette=0 if name == "samples" else 7,
                role="smooth",
                x=figures.numbers(np.array([value])),
                y=[plain(ROWS[name])],
                marker=dict(size=12 if name == "samples" else 9, symbol="diamond" if name == "samples" else "circle"),
                hovertemplate="%{y}: %{x:,.4~r}<extra></extra>",
                showlegend=False,
                **whiskers,
            )
        )
    layout = dict(
        height=230,
        margin=dict(l=150, r=30, t=30, b=50),
        showlegend=False,
        uirevision="view",
        xaxis=dict(title=dict(text="FD-c10v1", font=dict(size=13), standoff=6), type="log"),
        yaxis=dict(type="category", automargin=True),
        annotations=[],
    )
    return {"data": data, "layout": layout}
