"""Commands of the kinds of results that have no module of their own here: one for each row of `runs.results.KINDS`."""

import argparse
import pkgutil
import sys
from typing import Any

from ddpm.cli import output, shared, torchrun
from ddpm.cli.output import Output
from ddpm.errors import UserError
from ddpm.runs.results import KINDS, Kind


def add(commands: Any) -> None:
    """Adds the subcommands to the parser."""
    for folder, kind in KINDS.items():
        if kind.work:
            parser = shared.add_command(commands, kind.command, _make, kind.words)
            shared.add_source(parser, kind.settings, kind.title.lower(), folder)
            parser.set_defaults(kind=kind, kind_folder=folder)


def _make(options: argparse.Namespace) -> Output:
    kind: Kind = options.kind
    if torchrun.is_distributed():
        raise UserError(
            f"ddpm {kind.command} works in a single process: start it without torchrun.", code="single-process-only"
        )
    settings, source, flags = shared.read_source(options, kind.settings)
    folder = shared.result_folder(options.out, source, options.kind_folder)
    with shared.job_worker(folder, made=options.out is None) as worker:
        worker.beat(message="Loading the network")
        from tqdm import tqdm

        work, progress = pkgutil.resolve_name(kind.work), None
        with tqdm(dynamic_ncols=True, leave=False, disable=not sys.stderr.isatty()) as line:
            for progress in work(folder, worker, source, settings, flags, options.probe):
                line.total = progress.total
                line.update(progress.done - line.n)
                worker.beat(state="running", step=progress.done, total_steps=progress.total)
        whole = progress is not None and progress.done == progress.total
        worker.beat(state="finished" if whole else "stopped", seconds_left=0.0, now=True)
    document = {**output.of_job(kind.job(folder)), "result": kind.job(folder).result}
    lines = [str(document["message"]), str(folder)]
    return Output(document, "\n".join(line for line in lines if line))
