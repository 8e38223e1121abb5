"""Small charts side by side, with logarithmic axes, as one SVG file that needs nothing else.  Pure functions."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 250, 200  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 40  # what surrounds its axes
HEAD = 46
INK, FAINT, COLOURS = "#333", "#ddd", ("#2364aa", "#c8553d")


class Curve(NamedTuple):
    """Points that belong together; those of a dashed one are hollow."""

    name: str
    points: Sequence[tuple[float, float]]  # positive; increasing in x
    dashed: bool = False


class Panel(NamedTuple):
    """One chart."""

    title: str
    x_label: str
    curves: Sequence[Curve]
    y_words: Callable[[float], str]  # what stands beside the y axis


def small_multiples(title: str, panels: Sequence[Panel], columns: int) -> str:
    """The panels, row by row.  Each point is a circle of class "point", with its numbers as a tooltip."""
    rows = -(-len(panels) // columns)
    width, height = columns * WIDTH, HEAD + rows * HEIGHT
    drawn = [_panel(panel, n % columns * WIDTH, HEAD + n // columns * HEIGHT) for n, panel in enumerate(panels)]
    names = dict.fromkeys((curve.name, curve.dashed) for panel in panels for curve in panel.curves)
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
                f' height="{height}" font-family="system-ui, sans-serif" font-size="11">'
            ),
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="white"/>',
            f'<text x="12" y="20" font-size="14" fill="{INK}">{escape(title)}</text>',
            *_legend(list(names)),
            *drawn,
            "</svg>\n",
        ]
    )


def _legend(names: list[tuple[str, bool]]) -> list[str]:
    return [
        f'{_mark(20 + 150 * n, 34, dashed)}/><text x="{28 + 150 * n}" y="38" fill="{INK}">{escape(name)}</text>'
        for n, (name, dashed) in enumerate(names)
    ]


def _mark(x: float, y: float, dashed: bool, radius: float = 3.5) -> str:
    """A circle, not yet closed."""
    colour = COLOURS[dashed]
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" stroke="{colour}" fill="{"white" if dashed else colour}"'


def _panel(panel: Panel, left: float, top: float) -> str:
    xs = [x for curve in panel.curves for x, _ in curve.points]
    ys = [y for curve in panel.curves for _, y in curve.points]
    lines = [
        f'<g transform="translate({left} {top})">',
        f'<text x="{LEFT}" y="22" fill="{INK}">{escape(panel.title)}</text>',
    ]
    if xs:
        x_ticks, y_ticks = sorted(set(xs)), ticks(min(ys), max(ys))
        across = _scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
        up = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
        for y in y_ticks:
            lines.append(
                f'<path d="M{LEFT} {up(y):.1f}H{WIDTH - RIGHT}" stroke="{FAINT}"/><text x="{LEFT - 5}"'
                f' y="{up(y) + 4:.1f}" text-anchor="end" fill="{INK}">{escape(panel.y_words(y))}</text>'
            )
        for x in x_ticks:
            lines.append(
                f'<path d="M{across(x):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{FAINT}"/><text x="{across(x):.1f}"'
                f' y="{HEIGHT - BOTTOM + 14}" text-anchor="middle" fill="{INK}">{x:g}</text>'
            )
        for curve in panel.curves:
            lines += _curve(curve, across, up, panel)
    lines.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle"'
        f' fill="{INK}">{escape(panel.x_label)}</text></g>'
    )
    return "\n".join(lines)


def _curve(curve: Curve, across: Callable[[float], float], up: Callable[[float], float], panel: Panel) -> list[str]:
    way = "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in curve.points)
    dashes = ' stroke-dasharray="4 3"' if curve.dashed else ""
    lines = [f'<path d="M{way}" fill="none" stroke="{COLOURS[curve.dashed]}"{dashes}/>'] if curve.points else []
    for x, y in curve.points:
        told = escape(f"{curve.name}: {panel.x_label} {x:g}, {panel.y_words(y)}")
        lines.append(f'{_mark(across(x), up(y), curve.dashed)} class="point"><title>{told}</title></circle>')
    return lines


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Where a number lies between two pixels, by its logarithm; in the middle where there is but one number."""
    if low == high:
        return lambda value: (start + end) / 2
    span = math.log(high / low)
    return lambda value: start + (end - start) * math.log(value / low) / span


def ticks(low: float, high: float) -> list[float]:
    """Round numbers, 1, 2 and 5 times powers of 10, around all of what lies between;
    fewer where there would be many.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    all_of_them = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    below = max(tick for tick in all_of_them if tick <= low * (1 + 1e-9))
    above = min(tick for tick in all_of_them if tick >= high * (1 - 1e-9))
    within = [tick for tick in all_of_them if below <= tick <= above]
    if len(within) <= 7:
        return within
    return [below, *(10.0**power for power in range(first, last + 1) if below < 10.0**power < above), above]
