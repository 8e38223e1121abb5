"""Seconds and memory of a training step by batch size, channels, image size and threads, measured and estimated.

for progress in measure(ScaleConfig()):
    print(progress.doing)
print(table(progress.result))
"""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ddpm import formatting
from ddpm.bench.processes import BenchmarkProcess
from ddpm.bench.speed import Progress, cpu_preset
from ddpm.config import codec
from ddpm.config.benchmarks import ScaleConfig
from ddpm.config.fields import settings as settings_of
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.host import memory as host_memory
from ddpm.planning import architecture, memory
from ddpm.reports import speed_tables
from ddpm.storage import files

FORMAT = 1  # of the result
COLOURS = {"measured": "#2364aa", "estimated": "#c8553d"}  # of the chart
VALUES = {"batch_size": (1, 2, 4, 8, 16, 32, 64, 128), "num_channels": (32, 64, 96, 128), "image_size": (16, 32, 64)}
MOST_SECONDS = 60.0  # for a point
MOST_FREE = 0.9  # of the free memory, for a point
LEAST_STEPS = 2
PAGE_SECONDS, QUICK_SECONDS = 4.0, 0.5  # of training from which a time is estimated, as on the Train page


class Point(NamedTuple):
    """One training: the setting that is varied, its value, and all settings."""

    setting: str
    value: int
    config: Config


def points(base: Config, cores: int, quick: bool = False, values: dict[str, tuple[int, ...]] = VALUES) -> list[Point]:
    """One setting varied at a time, smallest first.  Base itself is a point of each setting."""
    found = []
    threads = tuple(n for n in range(1, cores + 1) if n <= 8 or n & (n - 1) == 0 or n == cores)
    for setting, usual in (values | {"threads": threads}).items():
        own = cores if setting == "threads" else getattr(base.train if setting == "batch_size" else base.model, setting)
        wanted = sorted({*usual[:1], own} if quick else {*usual, own})
        found += [Point(setting, n, codec.replace(base, {setting: n})) for n in wanted]
    return found


def measure(
    settings: ScaleConfig, base: Config | None = None, values: dict[str, tuple[int, ...]] = VALUES
) -> Iterator[Progress]:
    """Measures each point in processes of its own; the last record has the result, as it is saved in JSON.

    A point that does not fit in the free memory, or would take more than a minute, is left out, with a sentence.
    """
    base = base or cpu_preset()
    with BenchmarkProcess(codec.replace(base, {"threads": settings.threads})) as process:
        machine = process.request("machine")
    base = codec.replace(base, {"threads": machine["threads"]})
    found = points(base, machine["threads"], settings.quick, values)
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    result = {
        "format": FORMAT,
        "kind": "scale",
        "machine": machine,
        "settings": {
            "steps": settings.steps,
            "quick": settings.quick,
            "network": codec.to_flags(base.model),
            "batch_size": base.train.batch_size,
        },
        "rows": rows,
        "left_out": left_out,
    }
    measured: dict[Config, dict[str, Any]] = {}
    rate = 0.0  # operations a second, as far as it is known
    for done, point in enumerate(found):
        yield Progress(done, len(found), f"{label(point.setting)} {point.value}")
        work = 3 * architecture.flops(point.config.model) * point.config.train.batch_size
        if why := _too_much(point.config, work / rate if rate else 0.0):
            left_out.append({"setting": point.setting, "value": point.value, "why": why})
            continue
        if point.config not in measured:
            expected = work / rate if rate else 1.0
            measured[point.config] = _measured(point.config, _steps(settings.steps, expected), settings.quick)
            rate = work / measured[point.config]["seconds"]
        rows.append({"setting": point.setting, "value": point.value, **measured[point.config]})
    yield Progress(len(found), len(found), "", result)


def _steps(wanted: int, expected: float) -> int:
    """How many steps to time, where one is expected to take so long: as wanted, or what a point's time has room for."""
    return max(LEAST_STEPS, min(wanted, int(MOST_SECONDS / 3 / expected)))


def _too_much(config: Config, expected: float) -> str:
    """Why a point is left out; empty where it is not."""
    needed, free = memory.training_bytes(config.model, config.train), host_memory.available()
    if needed > MOST_FREE * free:
        return f"it needs about {formatting.memory(needed)}, and {formatting.memory(free)} are free"
    seconds = expected * 2 * (LEAST_STEPS + 1)
    return f"it would take about {formatting.duration(seconds)}" if seconds > MOST_SECONDS else ""


def _measured(config: Config, steps: int, quick: bool) -> dict[str, Any]:
    """A point: estimated as the Train page does, then trained."""
    with BenchmarkProcess(config) as process:
        estimate = process.request("step_cost", QUICK_SECONDS if quick else PAGE_SECONDS)
    with BenchmarkProcess(config) as training:
        training.time_step()
        seconds = statistics.median(training.request("time_steps", steps))
        peak = training.request("peak_bytes")
    estimated = memory.training_bytes(config.model, config.train)
    return {
        "steps": steps,
        "seconds": seconds,
        "seconds_per_picture": seconds / config.train.batch_size,
        "peak_bytes": peak,
        "estimated_seconds": estimate["seconds_per_step"],
        "estimated_bytes": estimated,
        "seconds_off": estimate["seconds_per_step"] / seconds - 1,
        "bytes_off": estimated / peak - 1,
    }


def label(setting: str) -> str:
    """Label of a setting."""
    return next(s.label for cls in codec.SECTIONS.values() for s in settings_of(cls) if s.name == setting)


def table(result: dict[str, Any], markdown: bool = False) -> str:
    """A line a point, and what was left out."""
    head = ["", "a step", "an image", "estimated", "off by", "peak memory", "estimated", "off by"]
    body = [
        [
            f"{label(row['setting'])} {row['value']}",
            f"{1000 * row['seconds']:.0f} ms",
            f"{1000 * row['seconds_per_picture']:.1f} ms",
            f"{1000 * row['estimated_seconds']:.0f} ms",
            f"{row['seconds_off']:+.0%}",
            formatting.memory(row["peak_bytes"]),
            formatting.memory(row["estimated_bytes"]),
            f"{row['bytes_off']:+.0%}",
        ]
        for row in result["rows"]
    ]
    lines = [formatting.table(head, body, markdown), ""]
    lines += [f"{label(out['setting'])} {out['value']} was left out: {out['why']}." for out in result["left_out"]]
    lines.append(
        "One setting varied at a time. The time is estimated as the Train page does when asked to measure, from a few "
        f"steps, and the memory is estimated from the settings. {speed_tables.about(result['machine'])}."
    )
    return "\n".join(lines)


def check_chart(path: Path) -> None:
    """Raises UserError if no chart can be written to that file."""
    if path.suffix.lower() != ".html":
        raise UserError(f"--chart {path.name} is not an .html file: name one that ends in .html.", code="wrong-file")
    try:
        import plotly  # noqa: F401
    except ImportError as error:
        raise UserError(
            "A chart needs plotly, which is not installed: pip install 'ddpm-workbench[chart]'.", code="missing-package"
        ) from error


def chart(result: dict[str, Any]) -> Any:
    """A plotly figure: seconds and memory of a step against each setting, measured and estimated, on log axes."""
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    settings = list(dict.fromkeys(row["setting"] for row in result["rows"]))
    kinds = (
        ("seconds a step", "seconds", "estimated_seconds"),
        ("peak memory in bytes", "peak_bytes", "estimated_bytes"),
    )
    figure = make_subplots(2, max(1, len(settings)))
    for line, (title, measured, estimated) in enumerate(kinds, start=1):
        for column, setting in enumerate(settings, start=1):
            rows = sorted((row for row in result["rows"] if row["setting"] == setting), key=lambda row: row["value"])
            for name, key, dash in (("measured", measured, "solid"), ("estimated", estimated, "dot")):
                curve = Scatter(
                    x=[row["value"] for row in rows],
                    y=[row[key] for row in rows],
                    name=name,
                    legendgroup=name,
                    showlegend=line == column == 1,
                    line={"dash": dash, "color": COLOURS[name]},
                )
                figure.add_trace(curve, line, column)
            figure.update_xaxes(type="log", title=label(setting), row=line, col=column)
        figure.update_yaxes(type="log", row=line)
        figure.update_yaxes(title=title, row=line, col=1)
    about = speed_tables.about(result["machine"])
    return figure.update_layout(title=f"A training step by its settings: {about}", template="plotly_white")


def write_chart(result: dict[str, Any], path: Path) -> None:
    """Writes the chart as an .html file that needs nothing else.  Raises UserError without plotly."""
    check_chart(path)
    files.write_bytes(path, chart(result).to_html().encode())
