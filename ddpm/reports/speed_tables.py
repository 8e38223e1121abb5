"""Tables of a result of `ddpm bench speed`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ddpm import formatting

PARTS = {
    "network": "forward and backward",
    "draw": "batch preparation",
    "update": "gradient norm, optimiser, averages, bookkeeping",
    "log": "log, status, requests",
}


NO_BF16 = "this processor has no bf16 instructions, without which torch is slow in bf16"


class Figure(NamedTuple):
    """A figure of the benchmark, by which machines and versions are compared."""

    name: str
    words: str
    unit: str  # "x": ratio, "s": difference in seconds, "%": share, "": number
    value: Callable[[dict[str, Any]], float | None]
    needs: str = ""  # the case that the value is computed from


def _bf16_torch(result: dict[str, Any]) -> float | None:
    step = result["steps"]["torch"]
    return float(step["ratio"]) if step["precision"] == "bf16" else None


# fmt: off
FIGURES = (
    Figure("step_bf16", "training step, bf16", "x", lambda r: r["steps"]["bf16"]["ratio"], "bf16"),
    Figure("step_fp32", "training step, fp32", "x", lambda r: r["steps"]["fp32"]["ratio"], "fp32"),
    Figure("exact_fp32", "fp32: largest relative deviation", "", lambda r: max(r["exactness"]["fp32"][name] for name in ("output", "output_most", "gradient")), "fp32"),
    Figure("cosine_bf16", "bf16: cosine of the gradient", "", lambda r: r["exactness"]["bf16"]["cosine"], "bf16"),
    Figure("call_16", "model evaluation, 16 images, bf16", "x", lambda r: r["calls"]["bf16"]["16"]["ratio"], "bf16"),
    Figure("call_64", "model evaluation, 64 images, bf16", "x", lambda r: r["calls"]["bf16"]["64"]["ratio"], "bf16"),
    Figure("step_torch", "training step, bf16, torch alone", "x", _bf16_torch),
    Figure("start_cold", "first step, kernels compiled first, more than torch alone", "s", lambda r: r["start"].get("cold_more")),
    Figure("start_later", "first step, kernels cached, more than torch alone", "s", lambda r: r["start"].get("later_more")),
    Figure("memory", "peak memory of training, relative to the baseline", "x", lambda r: r["memory"]["default"] / r["memory"]["yardstick"]),
    Figure("outside", "share of a step outside forward and backward", "%", lambda r: r["parts"]["outside"]),
)
# fmt: on


def figures(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures as rows: name, words, value, unit, and in `why` the reason if there is no value."""
    rows = []
    for figure in FIGURES:
        why = result["left_out"].get(figure.needs, "")
        value = None if why else figure.value(result)
        if value is None and not why:
            why = _why_none(figure, result)
        rows.append({"name": figure.name, "words": figure.words, "value": value, "unit": figure.unit, "why": why})
    return rows


def _why_none(figure: Figure, result: dict[str, Any]) -> str:
    if figure.name == "step_torch":
        return NO_BF16 if not result["machine"]["bf16"] else "torch alone does not train in bf16 by default"
    return str(result["left_out"].get("fp32", ""))  # all other values are missing only without kernels


def text(result: dict[str, Any], markdown: bool = False) -> str:
    """The tables of a result, followed by the machine and the settings."""
    parts = [_figures_table(result, markdown), _steps_table(result, markdown)]
    if calls := _calls_table(result, markdown):
        parts.append(calls)
    parts += [_parts_table(result, markdown), "\n".join(_sentences(result))]
    return "\n\n".join(parts)


def _figures_table(result: dict[str, Any], markdown: bool) -> str:
    body = [[row["words"], formatted(row["value"], row["unit"])] for row in result["targets"]]
    return formatting.table(["compared with the baseline", "measured"], body, markdown)


def _steps_table(result: dict[str, Any], markdown: bool) -> str:
    body = []
    for name, step in result["steps"].items():
        peak = step["share_of_peak"]
        body.append(
            [
                step["words"],
                f"{step['precision']}, {step['kernels']}",
                f"{1000 * step['seconds']:.0f} ms",
                f"{1000 * step['yardstick']:.0f} ms",
                _ratio(step),
                formatting.memory(result["memory"][name]),
                "–" if peak is None else f"{peak:.0%}",
            ]
        )
    head = ["training step", "precision, backend", "step time", "baseline", "speed-up", "peak memory", "share of peak rate"]  # fmt: skip
    return formatting.table(head, body, markdown)


def _calls_table(result: dict[str, Any], markdown: bool) -> str:
    body = [
        [f"{count} images, {result['steps'][name]['words']}", f"{1000 * call['seconds']:.0f} ms", f"{1000 * call['yardstick']:.0f} ms", _ratio(call)]
        for name, calls in result["calls"].items()
        for count, call in calls.items()
    ]  # fmt: skip
    return formatting.table(["model evaluation", "time", "baseline", "speed-up"], body, markdown) if body else ""


def _parts_table(result: dict[str, Any], markdown: bool) -> str:
    parts = result["parts"]
    whole = sum(parts[name] for name in PARTS)
    body = [[label, f"{1000 * parts[name]:.2f} ms", f"{parts[name] / whole:.1%}"] for name, label in PARTS.items()]
    return formatting.table(["part of a training step", "time", "share"], body, markdown)


def _ratio(measured: dict[str, Any]) -> str:
    return f"{measured['ratio']:.2f}x ({measured['low']:.2f} to {measured['high']:.2f})"


def _sentences(result: dict[str, Any]) -> list[str]:
    machine, settings, start = result["machine"], result["settings"], result["start"]
    peaks = " and ".join(f"{rate / 1e9:.0f} GFLOP/s in {kind}" for kind, rate in result["products"].items())
    lines = [
        f"{about(machine)}.",
        f"Medians of {formatting.plural(settings['rounds'], 'pair')} of steps, this program and the baseline in turn, with {formatting.plural(settings['batch_size'], 'image')} each; in brackets the interquartile range.",
        f"A step is counted as {result['flops'] / 1e9:.1f} GFLOP, with direct convolutions. Winograd's need fewer operations, so a step may exceed 100 % of the peak rate of matrix products measured here: {peaks}.",
    ]  # fmt: skip
    names = {"torch": "torch alone", "cold": "kernels compiled first", "later": "kernels cached"}
    lines.append("From the start of a process to the end of its first step: " + ", ".join(f"{names[n]} {formatting.duration(start[n])}" for n in names if n in start) + ".")  # fmt: skip
    if "bf16" in result["exactness"]:
        lines.append(f"The relative deviation of the output in bf16 from that in fp32 is {result['exactness']['bf16']['output']:.1e}.")  # fmt: skip
    for name, why in result["left_out"].items():
        lines.append(f"Not measured here: {name}, because {why}.")
    return lines


def about(machine: dict[str, Any]) -> str:
    """A machine in one line: processor, cores, threads, bf16, torch and system."""
    bf16 = "with" if machine["bf16"] else "without"
    return f"{machine['processor']}, {formatting.plural(machine['cores'], 'core')}, {formatting.plural(machine['threads'], 'thread')}, {bf16} bf16 instructions, torch {machine['torch']}, {machine['system']}"  # fmt: skip


def formatted(value: float | None, unit: str) -> str:
    """2.31x, +1.2 s, 4.1 %, 0.999950, 8.0e-07; a dash for None."""
    if value is None:
        return "–"
    return {"x": f"{value:.2f}x", "s": f"{value:+.1f} s", "%": f"{100 * value:.1f} %"}.get(
        unit, f"{value:.6f}" if value > 0.01 else f"{value:.1e}"
    )


def side_by_side(old: dict[str, Any], new: dict[str, Any], markdown: bool = False) -> str:
    """The figures of two results in one table, and their machines."""
    before = {row["name"]: row for row in old["targets"]}
    body = [
        [
            row["words"],
            formatted(before.get(row["name"], {}).get("value"), row["unit"]),
            formatted(row["value"], row["unit"]),
        ]
        for row in new["targets"]
    ]
    for name, step in new["steps"].items():
        was = old["steps"].get(name)
        body.append(
            [f"{step['words']}: step time", *(f"{1000 * s['seconds']:.0f} ms" if s else "–" for s in (was, step))]
        )
    lines = [formatting.table(["", "before", "now"], body, markdown), f"Before: {about(old['machine'])}.", f"Now: {about(new['machine'])}."]  # fmt: skip
    if old["settings"] != new["settings"]:
        lines.append("The two were measured with different settings.")
    return "\n".join(lines)


def problem(result: Any) -> str:
    """Why `result`, read from a file, is no result of this benchmark; empty if it is one."""
    if not isinstance(result, dict) or result.get("kind") != "speed" or result.get("format") != 1:
        return "it was not written by `ddpm bench --json FILE`"
    return ""
