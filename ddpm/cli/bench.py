"""`ddpm bench`: how fast a training is on this machine, what it costs by its settings, and which sampler suits a checkpoint."""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ddpm import formatting
from ddpm.cli import shared, torchrun
from ddpm.config import validation
from ddpm.config.tasks import FrontierConfig, ScaleConfig, SpeedConfig
from ddpm.errors import UserError
from ddpm.planning import solver_grid
from ddpm.reports import speed_tables
from ddpm.runs import results
from ddpm.storage import files

T = TypeVar("T")


def add(commands: Any) -> None:
    """Add the subcommand to the parser."""
    bench = shared.add_command(
        commands,
        "bench",
        _speed,
        "Measure what this machine can do: training speed, its cost by settings, samplers of a checkpoint.",
        runs_dir=False,
    )
    _add_speed(bench)
    benches = bench.add_subparsers(metavar="WHAT")
    _add_speed(
        shared.add_command(
            benches,
            "speed",
            _speed,
            "Measure a training step against the plain network: what `ddpm bench` alone does.",
            runs_dir=False,
        )
    )
    scale = shared.add_command(
        benches,
        "scale",
        _scale,
        "Measure what a step costs by batch size, channels, image size and threads.",
        runs_dir=False,
    )
    shared.add_settings(scale, ScaleConfig)
    _add_output(scale)
    scale.add_argument("--chart", type=shared.path, metavar="FILE", help="draw a chart into this SVG file")
    samplers = shared.add_command(
        benches,
        "samplers",
        _samplers,
        "Compare samplers: how close each comes to the converged pictures, with how many network calls.",
    )
    shared.add_source(samplers, FrontierConfig, "comparing", "frontiers")
    _add_output(samplers)


def _add_speed(parser: argparse.ArgumentParser) -> None:
    shared.add_settings(parser, SpeedConfig)
    _add_output(parser)
    parser.add_argument(
        "--compare",
        type=shared.path,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="print what an earlier --json FILE holds beside it",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    """What is not given is left out, so that a subcommand does not undo what was said before its name."""
    parser.add_argument(
        "--json", type=shared.path, metavar="FILE", default=argparse.SUPPRESS, help="write the result here too"
    )
    parser.add_argument("--markdown", action="store_true", default=argparse.SUPPRESS, help="print tables as Markdown")


def _speed(options: argparse.Namespace) -> None:
    settings = _read(options, SpeedConfig)
    old = _read_old(options.compare) if "compare" in options else None
    from ddpm.bench import speed

    result = _through(lambda: speed.measure(settings), "lap")
    _keep(options, result)
    markdown = "markdown" in options
    print(speed_tables.text(result, markdown))
    print()
    print(f"{speed_tables.verdicts(result['targets'])}.")
    if old is not None:
        print()
        print(speed_tables.side_by_side(old, result, markdown))


def _scale(options: argparse.Namespace) -> None:
    settings = _read(options, ScaleConfig)
    from ddpm.bench import scaling

    result = _through(lambda: scaling.measure(settings), "point")
    _keep(options, result)
    if options.chart:
        files.write_bytes(options.chart, scaling.chart(result).encode())
    print(scaling.table(result, "markdown" in options))


def _read(options: argparse.Namespace, section: type[T]) -> T:
    """The settings that were given.  Raises UserError for one out of its limits, and where several processes measure."""
    if torchrun.is_distributed():
        raise UserError("ddpm bench was started in several processes, and measures one: start it without torchrun.")
    settings = section(**shared.given(options, section))
    for problem in validation.limit_problems(settings):
        raise UserError(problem.sentence)
    return settings


def _read_old(path: Path) -> dict[str, Any]:
    old: Any = files.read_json(path)
    if wrong := "there is no such file" if old is None else speed_tables.problem(old):
        raise UserError(f"{path} cannot be compared with, as {wrong}: name a file that was written by --json.")
    return dict(old)


def _through(measure: Callable[[], Iterator[Any]], unit: str) -> dict[str, Any]:
    """Measure, with a progress line; what came of it."""
    from tqdm import tqdm

    try:
        with tqdm(unit=unit, dynamic_ncols=True, leave=False, disable=not sys.stderr.isatty()) as line:
            for progress in measure():
                line.total = progress.total
                line.set_description_str(progress.doing, refresh=False)
                line.update(progress.done - line.n)
    except KeyboardInterrupt:
        print("ddpm: stopped before everything was measured, so nothing was kept: start it again.", file=sys.stderr)
        raise
    result: dict[str, Any] = progress.result
    return result


def _keep(options: argparse.Namespace, result: dict[str, Any]) -> None:
    if "json" in options:
        files.write_json(options.json, result)


def _samplers(options: argparse.Namespace) -> None:
    if torchrun.is_distributed():
        raise UserError(
            "ddpm bench was started in several processes, and times those of one: start it without torchrun."
        )
    settings, source, flags = shared.read_source(options, FrontierConfig)
    folder = shared.result_folder(options.out, source, "frontiers")
    with shared.job_worker(folder, made=options.out is None) as worker:
        worker.beat(message="Loading the network")
        from tqdm import tqdm

        from ddpm.analysis import solver_benchmark

        with tqdm(unit="call", dynamic_ncols=True, leave=False, disable=not sys.stderr.isatty()) as line:
            for measured in solver_benchmark.compare_source(folder, worker, source, settings, flags, options.probe):
                line.total = measured.total
                if measured.result:
                    line.set_description_str(
                        f"{measured.result.variant.label}, {formatting.plural(measured.result.calls, 'call')}",
                        refresh=False,
                    )
                line.update(measured.done - line.n)
    job = results.FrontierJob(folder)
    result = job.result
    if result.get("rows"):
        _print(result, "markdown" in options)
    if (status := job.status()) and status.message:  # that it was stopped, and where
        print(status.message)
    _keep(options, result)
    print(folder)


def _print(result: dict[str, Any], markdown: bool) -> None:
    """The table, and what its numbers hold for."""
    print(solver_grid.table(solver_grid.from_json(result), markdown))
    print()
    print(solver_grid.about(result))
    if result["left_out"]:
        print(f"{formatting.plural(len(result['left_out']), 'cell')} left out, for one: {result['left_out'][0]['why']}")
