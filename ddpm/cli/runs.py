"""`ddpm runs`, `ddpm stop` and `ddpm export`: what there is, how it ends, and what is taken home."""

import argparse
import sys
import time
from typing import Any

from ddpm import formatting
from ddpm.cli import shared
from ddpm.config import fields
from ddpm.config.tasks import FromCheckpoint
from ddpm.runs import jobs, launch, runs


def add(commands: Any) -> None:
    """Add the subcommand to the parser."""
    stop = shared.add_command(commands, "stop", _stop, "Ask a run to stop: it finishes its step, saves and leaves.")
    stop.add_argument("name", metavar="NAME")
    stop.add_argument(
        "--wait", type=shared.boolean, default=True, metavar="BOOL", help="wait until it has left (default: True)"
    )
    stop.add_argument(
        "--kill",
        type=shared.boolean,
        default=False,
        metavar="BOOL",
        help="end it at once; steps since the last checkpoint are lost",
    )

    shared.add_command(commands, "runs", _runs, "List the runs, newest first.")

    export = shared.add_command(
        commands,
        "export",
        _export,
        "Write a run's numbers as a spreadsheet, or a checkpoint as improved-diffusion's files.",
    )
    export.add_argument("name", metavar="NAME")
    export.add_argument(
        "--openai",
        type=shared.path,
        metavar="DIR",
        help="write a checkpoint as improved-diffusion does, to load and resume there, into this folder instead",
    )
    others = {s.name for s in fields.settings(FromCheckpoint)} - {"step"}
    shared.add_settings(export.add_argument_group("with --openai"), FromCheckpoint, leave_out=others)
    export.add_argument(
        "--xlsx", type=shared.path, metavar="FILE", help="file to write (default: results.xlsx in the run's folder)"
    )


def _stop(options: argparse.Namespace) -> None:
    run = runs.find(options.runs_dir, options.name)
    if options.kill:
        launch.kill(run)
        print(f"{run.name} was ended.")
        return
    launch.stop(run)
    print(f"{run.name} was asked to stop: it finishes its step, saves and leaves.")
    while options.wait and run.state() in jobs.ACTIVE:
        time.sleep(0.2)
    if options.wait:
        status = run.status()
        print(f"{run.name} is {run.state()} at step {status.step if status else 0}.")


def _runs(options: argparse.Namespace) -> None:
    found = runs.all_runs(options.runs_dir)
    if not found:
        print(f"No runs in {options.runs_dir} yet: `ddpm train --preset quick-start` starts one.")
        return
    rows = [("run", "state", "step", "it/s", "time left", "loss")]
    told = []
    for run in found:
        status = run.status() or jobs.Status("stopped")
        state = run.state()
        loss, active = status.metrics.get("loss"), state in jobs.ACTIVE
        rows.append(
            (
                run.name,
                state,
                f"{status.step}/{status.total_steps}",
                f"{status.steps_per_second:.3g}" if active and status.steps_per_second else "",
                formatting.duration(status.seconds_left) if active else "",
                f"{loss:.4f}" if loss is not None else "",
            )
        )
        if state == "unreadable":
            told.append(f"{run.name}: {run.unreadable()}")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for sentence in told:
        print(sentence, file=sys.stderr)


def _export(options: argparse.Namespace) -> None:
    from ddpm.reports import xlsx

    run = runs.find(options.runs_dir, options.name)
    if options.openai:
        from ddpm.interop import export_openai

        for sentence in export_openai.export_checkpoint(run, options.openai, getattr(options, "step", 0)):
            print(sentence, file=sys.stderr)
        print(options.openai)
        return
    path = options.xlsx or run.folder / "results.xlsx"
    xlsx.write_xlsx(run, path)
    print(path)
