"""`ddpm evaluate quality`: the quality of samples, by their distances from real images."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ddpm.cli import output, shared, torchrun
from ddpm.cli.output import Output
from ddpm.config.codec import SECTIONS
from ddpm.config.quality import QualityConfig
from ddpm.errors import UserError
from ddpm.planning import metadata, quality_figures
from ddpm.runs.results import KINDS, QualityJob

KIND = "qualities"


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    parser = commands.add_parser(
        "evaluate", help="Evaluate samples.", description="Evaluate samples.", allow_abbrev=False
    )
    kinds = parser.add_subparsers(required=True, metavar="WHAT")
    quality = shared.add_command(kinds, "quality", _quality, KINDS[KIND].words)
    source = shared.add_source(quality, QualityConfig, "measuring", KIND, required=False)
    source.add_argument(
        "--resume", type=shared.path, metavar="FOLDER", help="resume the evaluation in this folder, with its settings"
    )
    quality.add_argument(
        "--compare",
        type=shared.path,
        nargs="+",
        metavar="FOLDER",
        default=[],
        help="put the results in these folders beside the new one, or beside each other; refused where they differ in"
        " what matters",
    )
    quality.add_argument("--markdown", action="store_true", help="print tables as Markdown")


def _quality(options: argparse.Namespace) -> Output:
    if torchrun.is_distributed():
        raise UserError(
            "ddpm evaluate quality works in a single process: start it without torchrun.", code="single-process-only"
        )
    others = [_result(folder) for folder in options.compare]
    measures = options.run or options.model_path or options.resume or "samples" in options
    if len(others) > 1 and not measures:
        return _compared(options, options.compare, others)
    folder, whole = _resumed(options) if options.resume else _new(options, others)
    job = QualityJob(folder)
    document = {**output.of_job(job), "result": job.result}
    if not whole:
        return Output(document, f"Stopped; `ddpm evaluate quality --resume {folder}` goes on.")
    if others:
        return _compared(options, [folder, *options.compare], [job.result, *others])
    result = job.result
    lines = [
        quality_figures.table(result, options.markdown),
        quality_figures.described(result["about"]),
        f"Real images: {result['about']['real']}.",
        quality_figures.applicability(result),
        *quality_figures.further(result),
        str(folder),
    ]
    return Output(document, "\n".join(line for line in lines if line))


def _result(folder: Path) -> dict[str, Any]:
    result = QualityJob(folder).result
    if not result:
        raise UserError(
            f"{folder} holds no result of an evaluation: name a folder that `ddpm evaluate quality` made.",
            code="not-found",
        )
    return result


def _compared(options: argparse.Namespace, folders: list[Path], results: list[dict[str, Any]]) -> Output:
    for other in results[1:]:
        quality_figures.check_comparable(results[0]["about"], other["about"])
    lines = [quality_figures.side_by_side([folder.name for folder in folders], results, options.markdown)]
    lines += [
        f"{folder.name} also differs from {folders[0].name} in {', '.join(also)}."
        for folder, other in zip(folders[1:], results[1:], strict=True)
        if (also := quality_figures.also_differ(results[0]["about"], other["about"]))
    ]
    lines += [f"{folder}: {quality_figures.described(r['about'])}" for folder, r in zip(folders, results, strict=True)]
    return Output({"folders": [str(folder) for folder in folders], "results": results}, "\n".join(lines))


def _new(options: argparse.Namespace, others: list[dict[str, Any]]) -> tuple[Path, bool]:
    settings, source, flags = shared.read_source(options, QualityConfig)
    quality_figures.check(settings, bool(source))
    for other in others if not settings.samples else []:  # before anything is sampled
        known = {"n": settings.num_samples, "half": settings.half}
        quality_figures.check_comparable({**other["about"], **known}, other["about"])
    folder = shared.result_folder(options.out, source, KIND)
    return folder, _measure(folder, source or None, settings, flags, options.probe, made=options.out is None)


def _resumed(options: argparse.Namespace) -> tuple[Path, bool]:
    folder: Path = options.resume
    others = list(shared.given(options, QualityConfig, SECTIONS["model"], SECTIONS["diffusion"]))
    if others or options.out:
        raise UserError(
            f"--resume uses the settings in {folder}, but --{(others or ['out'])[0]} was given too: leave it out.",
            code="settings-are-fixed",
        )
    job = QualityJob(folder)
    if "quality" not in job.settings:
        raise UserError(
            f"{folder} has no settings.json, so no evaluation began there: name the folder of one.", code="not-a-run"
        )
    source = None
    if "checkpoint" in job.settings:
        near = folder.absolute().parent.parent
        source = metadata.checkpoint_of(job.settings, f"the evaluation {job.name}", "start a new one", near)
    return folder, _measure(folder, source, job.config, {}, True)


def _measure(folder: Path, source: Any, settings: QualityConfig, flags: Any, probe: bool, made: bool = False) -> bool:
    """Measures into a folder; returns whether all was done."""
    whole = False
    with shared.job_worker(folder, made=made) as worker:
        worker.beat(message="Loading the network")
        from tqdm import tqdm

        from ddpm.quality import evaluation

        progress = None
        with tqdm(dynamic_ncols=True, leave=False, disable=not sys.stderr.isatty(), bar_format=BAR) as line:
            for progress in evaluation.measure_source(folder, worker, source, settings, flags, probe):
                line.total = progress.total
                line.update(progress.done - line.n)
                worker.beat(state="running", step=progress.done, total_steps=progress.total)
        whole = progress is not None and progress.done == progress.total
        worker.beat(state="finished" if whole else "stopped", seconds_left=0.0, now=True)
    return whole


BAR = "{percentage:3.0f} %|{bar}| {elapsed} < {remaining}"
