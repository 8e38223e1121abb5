"""`ddpm bench`: training speed, its kernels, the cost of a step by its settings, and samplers on a checkpoint."""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ddpm import formatting
from ddpm.cli import output, shared, torchrun
from ddpm.cli.output import Output
from ddpm.config import validation
from ddpm.config.benchmarks import KernelsConfig, OptionsConfig, QualityBenchmarkConfig, ScaleConfig, SpeedConfig
from ddpm.config.tasks import SolverBenchmarkConfig
from ddpm.errors import UserError
from ddpm.planning import solver_grid
from ddpm.reports import speed_tables
from ddpm.runs import results
from ddpm.storage import files

T = TypeVar("T")


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    bench = shared.add_command(
        commands,
        "bench",
        _speed,
        "Measure training speed, the cost of a training step by its settings, what presets learn in a CPU budget, or"
        " the samplers of a checkpoint.",
        runs_dir=False,
    )
    _add_speed(bench)
    benches = bench.add_subparsers(metavar="WHAT")
    _add_speed(
        shared.add_command(
            benches,
            "speed",
            _speed,
            "Measure a training step and the plain network in turn; the same as `ddpm bench` alone.",
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
    _add_markdown(scale)
    scale.add_argument("--chart", type=shared.path, metavar="FILE", help="write a chart to this .html file")
    options = shared.add_command(
        benches,
        "options",
        _options,
        "Measure what each option of training costs, in turn with a step without it.",
        runs_dir=False,
    )
    shared.add_settings(options, OptionsConfig)
    _add_markdown(options)
    kernels = shared.add_command(
        benches,
        "kernels",
        _kernels,
        "Measure the kernels of a training step by shape, next to the peaks of products and of memory.",
        runs_dir=False,
    )
    shared.add_settings(kernels, KernelsConfig)
    _add_markdown(kernels)
    quality = shared.add_command(
        benches,
        "quality",
        _quality,
        "Train presets for a budget of CPU time each, and measure what they have learned.",
    )
    shared.add_settings(quality, QualityBenchmarkConfig)
    _add_markdown(quality)
    samplers = shared.add_command(
        benches,
        "samplers",
        _samplers,
        "Compare samplers: distance to the converged images, by number of model evaluations.",
    )
    shared.add_source(samplers, SolverBenchmarkConfig, "comparing", "frontiers")
    _add_markdown(samplers)


def _add_speed(parser: argparse.ArgumentParser) -> None:
    shared.add_settings(parser, SpeedConfig)
    _add_markdown(parser)
    parser.add_argument(
        "--compare",
        type=shared.path,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="compare with the result of an earlier --json FILE",
    )


def _add_markdown(parser: argparse.ArgumentParser) -> None:
    """If --markdown is not given it is left out, so that a subcommand does not undo a flag before its name."""
    parser.add_argument("--markdown", action="store_true", default=argparse.SUPPRESS, help="print tables as Markdown")


def _speed(options: argparse.Namespace) -> Output:
    settings = _read(options, SpeedConfig)
    old = _read_old(options.compare) if "compare" in options else None
    from ddpm.bench import speed

    result = _measure(lambda: speed.measure(settings), "measurement")
    markdown = "markdown" in options
    parts = [speed_tables.text(result, markdown)]
    if old is not None:
        parts.append(speed_tables.side_by_side(old, result, markdown))
    return Output(result, "\n\n".join(parts))


def _scale(options: argparse.Namespace) -> Output:
    settings = _read(options, ScaleConfig)
    from ddpm.bench import scaling

    if options.chart:
        scaling.check_chart(options.chart)
    result = _measure(lambda: scaling.measure(settings), "point")
    found = Output(result, scaling.table(result, "markdown" in options))
    if options.chart:
        try:
            scaling.write_chart(result, options.chart)
        except (UserError, OSError):
            output.say(found.text, aside=True)  # what took minutes is not lost with the chart
            raise
    return found


def _options(options: argparse.Namespace) -> Output:
    settings = _read(options, OptionsConfig)
    from ddpm.bench import options as training_options

    result = _measure(lambda: training_options.measure(settings), "pair")
    return Output(result, training_options.table(result, "markdown" in options))


def _kernels(options: argparse.Namespace) -> Output:
    settings = _read(options, KernelsConfig)
    from ddpm.bench import kernels

    result = _measure(lambda: kernels.measure(settings), "measurement")
    return Output(result, kernels.table(result, "markdown" in options))


def _quality(options: argparse.Namespace) -> Output:
    settings = _read(options, QualityBenchmarkConfig)
    from ddpm.bench import quality

    result = _measure(lambda: quality.measure(settings, options.runs_dir), "‰")
    return Output(result, quality.table(result, "markdown" in options))


def _read(options: argparse.Namespace, section: type[T]) -> T:
    """Reads the settings.  Raises UserError if one is out of its limits, and under torchrun."""
    if torchrun.is_distributed():
        raise UserError(
            "ddpm bench measures one process, and was started in several: start it without torchrun.",
            code="single-process-only",
        )
    settings = section(**shared.given(options, section))
    for problem in validation.limit_problems(settings):
        raise UserError(problem.sentence, code=problem.code)
    return settings


def _read_old(path: Path) -> dict[str, Any]:
    old: Any = files.read_json(path)
    if wrong := "there is no such file" if old is None else speed_tables.problem(old):
        raise UserError(
            f"{path} cannot be compared with, as {wrong}: name a file that --json wrote.", code="wrong-file"
        )
    return dict(old)


def _measure(measure: Callable[[], Iterator[Any]], unit: str) -> dict[str, Any]:
    """Measure, with a progress bar; returns the result."""
    from tqdm import tqdm

    try:
        with tqdm(unit=unit, dynamic_ncols=True, leave=False, disable=not sys.stderr.isatty()) as line:
            for progress in measure():
                line.total = progress.total
                line.set_description_str(progress.doing, refresh=False)
                line.update(progress.done - line.n)
    except KeyboardInterrupt:
        output.say("ddpm: stopped before everything was measured, so there is no result: start it again.", aside=True)
        raise
    result: dict[str, Any] = progress.result
    return result


def _samplers(options: argparse.Namespace) -> Output:
    if torchrun.is_distributed():
        raise UserError(
            "ddpm bench measures one process, and was started in several: start it without torchrun.",
            code="single-process-only",
        )
    settings, source, flags = shared.read_source(options, SolverBenchmarkConfig)
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
    job = results.SolverBenchmarkJob(folder)
    result, status = job.result, job.status()
    lines = [_describe(result, "markdown" in options)] if result.get("rows") else []
    lines += [status.message] if status and status.message else []  # that it was stopped, and when
    return Output({**result, "folder": folder.absolute()}, "\n".join([*lines, str(folder)]))


def _describe(result: dict[str, Any], markdown: bool) -> str:
    """The table of a comparison, and under which conditions its numbers hold."""
    lines = [solver_grid.table(solver_grid.from_json(result), markdown), "", solver_grid.about(result)]
    if left_out := result["left_out"]:
        lines.append(f"{formatting.plural(len(left_out), 'cell')} left out, for one: {left_out[0]['why']}")
    return "\n".join(lines)
