"""`ddpm bench`: what can be measured of a checkpoint on this machine, so far its samplers."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ddpm import cells, files, results, words
from ddpm.commands import options as shared
from ddpm.commands import together
from ddpm.config import FrontierConfig
from ddpm.errors import UserError


def add(commands: Any) -> None:
    bench = commands.add_parser("bench", help="Measure what suits a checkpoint on this machine.")
    benches = bench.add_subparsers(required=True, metavar="WHAT")
    samplers = shared.command(benches, "samplers", _samplers, "Compare samplers: how close each comes to the converged pictures, with how many network calls.")  # fmt: skip
    shared.add_source(samplers, FrontierConfig, "comparing", "frontiers")
    samplers.add_argument("--json", type=Path, metavar="FILE", help="write the result here too")
    samplers.add_argument("--markdown", action="store_true", help="print the table as Markdown")


def _samplers(options: argparse.Namespace) -> None:
    if together.several():
        raise UserError("ddpm bench was started in several processes, and times those of one: start it without torchrun.")  # fmt: skip
    settings, source, flags = shared.read_source(options, FrontierConfig)
    folder = shared.result_folder(options.out, source, "frontiers")
    with shared.working_in(folder) as worker:
        worker.beat(message="Loading the network")
        from tqdm import tqdm

        from ddpm import frontier

        with tqdm(unit="call", dynamic_ncols=True, leave=False, disable=not sys.stderr.isatty()) as line:
            for measured in frontier.compare_source(folder, worker, source, settings, flags, options.probe):
                line.total = measured.total
                if measured.cell:
                    line.set_description_str(f"{measured.cell.way.label}, {measured.cell.calls} calls", refresh=False)
                line.update(measured.done - line.n)
    job = results.FrontierJob(folder)
    result = job.result
    if result.get("rows"):
        _print(result, options.markdown)
    if (status := job.status()) and status.message:  # that it was stopped, and where
        print(status.message)
    if options.json:
        files.write_json(options.json, result)
    print(folder)


def _print(result: dict[str, Any], markdown: bool) -> None:
    """The table, and what its numbers hold for."""
    print(cells.table(cells.from_json(result), markdown))
    print()
    print(cells.about(result))
    if result["left_out"]:
        print(f"{words.plural(len(result['left_out']), 'cell')} left out, for one: {result['left_out'][0]['why']}")
