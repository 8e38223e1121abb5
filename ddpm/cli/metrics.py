"""`ddpm metrics`: rows of a run's log."""

import argparse
import math
from typing import TYPE_CHECKING, Any

from ddpm import formatting
from ddpm.cli import shared
from ddpm.cli.output import Output
from ddpm.errors import UserError
from ddpm.runs import runs

if TYPE_CHECKING:
    import pandas as pd


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    parser = shared.add_command(commands, "metrics", _metrics, "Print rows of a run's log: the last ones, or a range.")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--column", default="", metavar="A,B,C", help="columns to print next to step (default: all that have values)"
    )
    parser.add_argument("--from", dest="begin", type=int, metavar="STEP", help="from this training step on")
    parser.add_argument("--to", dest="end", type=int, metavar="STEP", help="up to this training step")
    parser.add_argument(
        "--last",
        dest="count",
        type=int,
        metavar="INT",
        help="print the last INT rows of these; 0 prints all (default: 10, or all with --from or --to)",
    )


def _metrics(options: argparse.Namespace) -> Output:
    run = runs.find_run(options.runs_dir, options.name)
    frame = _columns(run, run.metrics, [name.strip() for name in options.column.split(",") if name.strip()])
    ranged = options.begin is not None or options.end is not None
    if not frame.empty and "step" not in frame:
        raise UserError(
            f"{run.progress_path} has no column step, so it is no log of a training: restore it from a copy.",
            code="wrong-file",
        )
    if not frame.empty:
        low = -math.inf if options.begin is None else options.begin
        high = math.inf if options.end is None else options.end
        frame = frame[(frame["step"] >= low) & (frame["step"] <= high)]
    count = (0 if ranged else 10) if options.count is None else options.count
    if count < 0:
        raise UserError(f"--last is {count}: give the number of rows to print, or 0 for all.", code="out-of-range")
    frame = frame.tail(count) if count else frame
    rows = [
        {str(name): int(value) if name == "step" else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]
    text = _table(frame) if rows else f"{run.name} has no rows{' in this range' if ranged else ' yet'}."
    return Output({"run": run.name, "columns": list(frame.columns), "rows": rows}, text)


def _columns(run: runs.Run, frame: "pd.DataFrame", names: list[str]) -> "pd.DataFrame":
    """The columns `names` of a log [rows, columns] next to its step; without names, all that have values."""
    if unknown := [name for name in names if name not in frame.columns]:
        known = ", ".join(map(str, frame.columns)) or "none yet"
        raise UserError(
            f"The log of {run.name} has no column {unknown[0]}: its columns are {known}.", code="unknown-setting"
        )
    if names:
        return frame[[name for name in dict.fromkeys(["step", *names]) if name in frame.columns]]
    rest = [name for name in frame.columns if name != "step" and frame[name].notna().any()]
    return frame[["step", *rest]] if "step" in frame.columns else frame


def _table(frame: "pd.DataFrame") -> str:
    """Text of some rows, a line each."""
    integers = {"step": "{:,.0f}".format, "samples": "{:,.0f}".format}
    formatters = {name: format for name, format in integers.items() if name in frame.columns}
    return str(
        frame.to_string(
            index=False, na_rep="", float_format=lambda value: formatting.number(value, 5), formatters=formatters
        )
    )
