"""What this project asks of its own speed: pass marks for the figures of `ddpm bench --json FILE`.

python tests/bench/pass_marks.py FILE
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple


class Mark(NamedTuple):
    """Limits of a figure."""

    least: float  # what it must be: at least, or at most where less is better
    aim: float | None = None
    more: bool = True  # more is better


MARKS = {
    "step_bf16": Mark(2.2, 2.6),
    "step_fp32": Mark(1.25, 1.4),
    "exact_fp32": Mark(1e-5, more=False),
    "cosine_bf16": Mark(0.999),
    "call_16": Mark(2.4, 2.8),
    "call_64": Mark(2.4, 3.0),
    "step_torch": Mark(1.7, 1.9),
    "start_cold": Mark(5.0, more=False),
    "start_later": Mark(1.0, more=False),
    "memory": Mark(0.8, 0.65, more=False),
    "outside": Mark(0.06, 0.04, more=False),
}


def verdict(value: float | None, limit: float | None, more: bool) -> str:
    """met, not met, or not measurable here; empty without a limit."""
    if limit is None:
        return ""
    if value is None:
        return "not measurable here"
    return "met" if (value >= limit if more else value <= limit) else "not met"


def judge(figures: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Name of each figure -> (verdict, verdict on the aim)."""
    return {
        row["name"]: (verdict(row["value"], mark.least, mark.more), verdict(row["value"], mark.aim, mark.more))
        for row in figures
        if (mark := MARKS.get(row["name"]))
    }


if __name__ == "__main__":
    found = judge(json.loads(Path(sys.argv[1]).read_text("utf-8"))["targets"])
    for name, (least, aim) in found.items():
        print(f"{name:12} {least:20} {aim and f'aim {aim}'}")
    sys.exit(any(least == "not met" for least, _ in found.values()))
