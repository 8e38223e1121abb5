"""`ddpm ema`: makes an average of the weights of another width, after the training."""

import argparse
from typing import Any

from ddpm.cli import shared
from ddpm.cli.output import Output
from ddpm.config import fields
from ddpm.config.tasks import FromCheckpoint
from ddpm.formatting import number, plural
from ddpm.runs import runs
from ddpm.runs.worker import Stopped


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    parser = shared.add_command(
        commands,
        "ema",
        _ema,
        "Make an average of the weights of another width for a checkpoint, from the power averages in this one and the"
        " earlier ones (Karras et al. 2024).",
    )
    parser.add_argument(
        *shared.RUN_FLAGS, required=True, metavar="NAME", help="run that was trained with --ema_rate power0.05,power0.1"
    )
    parser.add_argument(
        "--width",
        type=float,
        required=True,
        metavar="FLOAT",
        help="standard deviation of the average's profile, as a share of the training up to the checkpoint",
    )
    others = {s.name for s in fields.settings(FromCheckpoint)} - {"step"}
    shared.add_settings(parser, FromCheckpoint, leave_out=others)
    parser.add_argument(
        "--job", type=shared.path, metavar="FOLDER", help="folder for the status of this job, which the dashboard shows"
    )


def _ema(options: argparse.Namespace) -> Output:
    from ddpm.checkpoints import post_hoc_ema

    run, step = runs.find_run(options.runs_dir, options.run), getattr(options, "step", 0)
    with (
        shared.status_of(options.job) as worker,
        shared.progress_bar("reading", unit="average") as bar,
    ):

        def progress(done: int, total: int) -> None:
            bar(done, total)
            if worker:
                worker.beat(step=done, total_steps=total)
                if "stop" in worker.poll_requests():
                    raise Stopped

        made = post_hoc_ema.make(run, options.width, step, progress)
    path = made.checkpoint.path(made.weights)
    how = (
        "was there already"
        if made.error is None
        else f"of {plural(made.read, 'average')}, to within {number(100 * made.error, 2)} %"
    )
    more = ["--weights", made.weights, *(["--step", str(step)] if step else [])]
    document = {
        "run": run.name,
        "step": made.checkpoint.step,
        "weights": made.weights,
        "path": path.absolute(),
        "error": made.error,
    }
    return Output(document, f"{path} ({how}): `{run.shell('sample', '--run', more=more)}` samples with it.")
