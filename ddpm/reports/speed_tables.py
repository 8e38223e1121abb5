"""How fast a training is meant to be, and tables of how fast it is: what becomes of a result of `ddpm.bench.speed`.
No torch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ddpm import formatting

PARTS = {
    "network": "forward and backward",
    "draw": "drawing the batch",
    "update": "gradient norm, optimiser, averages, bookkeeping",
    "log": "log, status, requests",
}


NO_BF16 = "this processor has no bf16 instructions, and torch is slow in bf16 without them"


class Target(NamedTuple):
    """A number that is to be reached."""

    name: str
    words: str
    least: float  # what it must be: at least, or at most where less is better
    aim: float | None
    more: bool  # whether more is better
    unit: str  # "x": times, "s": seconds more, "%": a share, "": a plain number
    value: Callable[[dict[str, Any]], float | None]
    needs: str = ""  # the way without which there is no value


def _bf16_torch(result: dict[str, Any]) -> float | None:
    step = result["steps"]["torch"]
    return float(step["ratio"]) if step["precision"] == "bf16" else None


# fmt: off
TARGETS = (
    Target("step_bf16", "training step, bf16", 2.2, 2.6, True, "x", lambda r: r["steps"]["bf16"]["ratio"], "bf16"),
    Target("step_fp32", "training step, fp32", 1.25, 1.4, True, "x", lambda r: r["steps"]["fp32"]["ratio"], "fp32"),
    Target("exact_fp32", "fp32: largest relative deviation", 1e-5, None, False, "", lambda r: max(r["exactness"]["fp32"][name] for name in ("output", "output_most", "gradient")), "fp32"),
    Target("cosine_bf16", "bf16: cosine of the gradient", 0.999, None, True, "", lambda r: r["exactness"]["bf16"]["cosine"], "bf16"),
    Target("call_16", "network call, 16 pictures, bf16", 2.4, 2.8, True, "x", lambda r: r["calls"]["bf16"]["16"]["ratio"], "bf16"),
    Target("call_64", "network call, 64 pictures, bf16", 2.4, 3.0, True, "x", lambda r: r["calls"]["bf16"]["64"]["ratio"], "bf16"),
    Target("step_torch", "training step, bf16, torch alone", 1.7, 1.9, True, "x", _bf16_torch),
    Target("start_cold", "first step, kernels to be compiled, beyond torch alone", 5.0, None, False, "s", lambda r: r["start"].get("cold_more")),
    Target("start_later", "first step, kernels compiled, beyond torch alone", 1.0, None, False, "s", lambda r: r["start"].get("later_more")),
    Target("memory", "peak memory of training, of the yardstick's", 0.8, 0.65, False, "x", lambda r: r["memory"]["default"] / r["memory"]["yardstick"]),
    Target("outside", "outside forward and backward, of a step", 0.06, 0.04, False, "%", lambda r: r["parts"]["outside"]),
)
# fmt: on


def judged(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Each target with what was measured: name, words, value, least, aim, verdict, aim_verdict, why.

    A verdict is met, not met, or not measurable here; `why` says why not.
    """
    rows = []
    for target in TARGETS:
        why = result["left_out"].get(target.needs, "")
        value = None if why else target.value(result)
        if value is None and not why:
            why = _why_none(target, result)
        rows.append(
            {
                "name": target.name,
                "words": target.words,
                "value": value,
                "unit": target.unit,
                "least": target.least,
                "aim": target.aim,
                "more": target.more,
                "verdict": _verdict(value, target.least, target.more),
                "aim_verdict": None if target.aim is None else _verdict(value, target.aim, target.more),
                "why": why,
            }
        )
    return rows


def _why_none(target: Target, result: dict[str, Any]) -> str:
    if target.name == "step_torch":
        return NO_BF16 if not result["machine"]["bf16"] else "torch alone does not train in bf16 by default"
    return str(result["left_out"].get("fp32", ""))  # which has no other reason than that there are no kernels


def _verdict(value: float | None, limit: float, more: bool) -> str:
    if value is None:
        return "not measurable here"
    return "met" if (value >= limit if more else value <= limit) else "not met"


def text(result: dict[str, Any], markdown: bool = False) -> str:
    """The tables of a result, and what its numbers hold for."""
    parts = [_targets_table(result, markdown), _steps_table(result, markdown)]
    if calls := _calls_table(result, markdown):
        parts.append(calls)
    parts += [_parts_table(result, markdown), "\n".join(_sentences(result))]
    return "\n\n".join(parts)


def _targets_table(result: dict[str, Any], markdown: bool) -> str:
    body = [
        [
            row["words"],
            said(row["value"], row["unit"]),
            _limit(row, "least"), row["verdict"],
            _limit(row, "aim"), row["aim_verdict"] or "",
        ]
        for row in result["targets"]
    ]  # fmt: skip
    return formatting.table(["against the plain network", "measured", "target", "", "aim", ""], body, markdown)


def _limit(row: dict[str, Any], which: str) -> str:
    return "" if row[which] is None else f"{'≥' if row['more'] else '≤'} {said(row[which], row['unit'])}"


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
    head = ["training step", "computed in, by", "a step", "plain", "times as fast", "peak memory", "of the peak of products"]  # fmt: skip
    return formatting.table(head, body, markdown)


def _calls_table(result: dict[str, Any], markdown: bool) -> str:
    body = [
        [f"{pictures} pictures, {result['steps'][name]['words']}", f"{1000 * call['seconds']:.0f} ms", f"{1000 * call['yardstick']:.0f} ms", _ratio(call)]
        for name, calls in result["calls"].items()
        for pictures, call in calls.items()
    ]  # fmt: skip
    return formatting.table(["network call", "a call", "plain", "times as fast"], body, markdown) if body else ""


def _parts_table(result: dict[str, Any], markdown: bool) -> str:
    parts = result["parts"]
    whole = sum(parts[name] for name in PARTS)
    body = [[said_, f"{1000 * parts[name]:.2f} ms", f"{parts[name] / whole:.1%}"] for name, said_ in PARTS.items()]
    return formatting.table(["of a step in a training", "takes", "share"], body, markdown)


def _ratio(measured: dict[str, Any]) -> str:
    return f"{measured['ratio']:.2f}x ({measured['low']:.2f} to {measured['high']:.2f})"


def _sentences(result: dict[str, Any]) -> list[str]:
    machine, settings, start = result["machine"], result["settings"], result["start"]
    peaks = " and ".join(f"{rate / 1e9:.0f} GFLOP/s in {kind}" for kind, rate in result["products"].items())
    lines = [
        f"{about(machine)}.",
        f"Medians of {formatting.plural(settings['rounds'], 'pair')} of steps, ours and plain in turn, with {formatting.plural(settings['batch_size'], 'picture')} each; in brackets the middle half of the pairs.",
        f"A step is counted as {result['flops'] / 1e9:.1f} GFLOP, with direct convolutions. Winograd's need fewer operations than that, so that a step may reach more than 100 % of the peak of products measured here: {peaks}.",
    ]  # fmt: skip
    names = {"torch": "torch alone", "cold": "kernels to be compiled", "later": "kernels compiled"}
    lines.append("From the start of a process to its first step: " + ", ".join(f"{names[n]} {formatting.duration(start[n])}" for n in names if n in start) + ".")  # fmt: skip
    if "bf16" in result["exactness"]:
        lines.append(f"The output in bf16 is {result['exactness']['bf16']['output']:.1e} from that in fp32, relatively.")  # fmt: skip
    for name, why in result["left_out"].items():
        lines.append(f"Not measurable here: {name}, as {why}.")
    return lines


def about(machine: dict[str, Any]) -> str:
    """A machine in words."""
    bf16 = "with" if machine["bf16"] else "without"
    return f"{machine['processor']}, {formatting.plural(machine['cores'], 'core')}, {formatting.plural(machine['threads'], 'thread')}, {bf16} bf16 instructions, torch {machine['torch']}, {machine['system']}"  # fmt: skip


def said(value: float | None, unit: str) -> str:
    """2.31x, +1.2 s, 4.1 %, 0.999950, 8.0e-07; a dash for what is not known."""
    if value is None:
        return "–"
    return {"x": f"{value:.2f}x", "s": f"{value:+.1f} s", "%": f"{100 * value:.1f} %"}.get(
        unit, f"{value:.6f}" if value > 0.01 else f"{value:.1e}"
    )


def side_by_side(old: dict[str, Any], new: dict[str, Any], markdown: bool = False) -> str:
    """The targets of two results, and what both were measured on."""
    before = {row["name"]: row for row in old["targets"]}
    body = [
        [row["words"], said(before.get(row["name"], {}).get("value"), row["unit"]), said(row["value"], row["unit"])]
        for row in new["targets"]
    ]
    for name, step in new["steps"].items():
        was = old["steps"].get(name)
        body.append([f"{step['words']}: a step", *(f"{1000 * s['seconds']:.0f} ms" if s else "–" for s in (was, step))])
    lines = [formatting.table(["", "then", "now"], body, markdown), f"Then: {about(old['machine'])}.", f"Now: {about(new['machine'])}."]  # fmt: skip
    if old["settings"] != new["settings"]:
        lines.append("They were measured with different settings.")
    return "\n".join(lines)


def problem(result: Any) -> str:
    """Why something read from a file is no result of this program's; empty where it is one."""
    if not isinstance(result, dict) or result.get("kind") != "speed" or result.get("format") != 1:
        return "it is not what `ddpm bench --json FILE` wrote"
    return ""


def verdicts(rows: Sequence[dict[str, Any]]) -> str:
    """5 targets met, 1 not met, 4 not measurable here."""
    counts = {said_: sum(row["verdict"] == said_ for row in rows) for said_ in ("met", "not met", "not measurable here")}  # fmt: skip
    met = counts.pop("met")
    return ", ".join([f"{formatting.plural(met, 'target')} met", *(f"{n} {said_}" for said_, n in counts.items() if n)])
