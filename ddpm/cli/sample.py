"""`ddpm sample` and `ddpm super-res-sample`: samples images from a run or a checkpoint file."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from ddpm.cli import output, shared, torchrun
from ddpm.cli.output import Output
from ddpm.config import validation
from ddpm.config.codec import SECTIONS
from ddpm.config.tasks import SampleConfig
from ddpm.errors import UserError
from ddpm.planning import metadata, timesteps
from ddpm.runs import results, runs

SOURCE = ("run", "model_path")


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    sample = shared.add_command(commands, "sample", _sample, "Sample images from a run or a checkpoint file.")
    _add_flags(sample, shared.add_source(sample, SampleConfig, "sampling", "samples", required=False))
    enlarge = shared.add_command(
        commands, "super-res-sample", _sample, "Enlarge small images with a super-resolution run or checkpoint file."
    )
    _add_flags(
        enlarge,
        shared.add_source(
            enlarge, SampleConfig, "sampling", "samples", shared.SUPER_RES, shared.SUPER_RES_NAMES, required=False
        ),
    )


def _add_flags(parser: argparse.ArgumentParser, source: Any) -> None:
    source.add_argument(
        "--resume",
        type=shared.path,
        metavar="FOLDER",
        help="resume the sampling job in this folder, with its own settings",
    )
    parser.add_argument(
        "--like",
        type=shared.path,
        metavar="FILE.png",
        help=(
            "start from the settings stored in this image; further flags change them, and its own checkpoint is used"
            " unless another is named"
        ),
    )


def _sample(options: argparse.Namespace) -> Output | None:
    folder = _resumed(options) if options.resume else _new(options)
    if not torchrun.is_main():
        return None
    shared.copy_arrays_to_log_folder(None if options.resume else options.out, folder)
    job = results.SampleJob(folder)
    paths = {"npz": job.npz, "grid": job.grid, "pairs": job.pairs, "noise": job.noise}
    document = {
        **output.of_job(job),
        "shape": job.shape,
        **{name: path.absolute() for name, path in paths.items() if path and path.exists()},
        "images": [path.absolute() for path in job.images],
        **job.settings,
    }
    return Output(document, str(folder))


def _resumed(options: argparse.Namespace) -> Path:
    folder: Path = options.resume
    others = list(shared.given(options, SampleConfig, SECTIONS["model"], SECTIONS["diffusion"]))
    others += [name for name in ("out", "like") if getattr(options, name)]
    if others:
        raise UserError(
            f"--resume uses the settings in {folder}, but --{others[0]} was given too: leave it out.",
            code="settings-are-fixed",
        )
    torchrun.run_on_main(lambda: runs.check_resumable(results.SampleJob(folder)))
    with shared.job_worker(folder) as worker:
        worker.beat(message="Loading the network")
        from ddpm.sampling import job

        job.resume(folder, worker)
    return folder


def _new(options: argparse.Namespace) -> Path:
    like = torchrun.run_on_main(lambda: metadata.in_image(options.like)) if options.like else None
    if like is not None:
        settings, source, flags = _changed(options, like)
    elif not (options.run or options.model_path):
        raise UserError(
            "No model is named: give --run NAME or --model_path FILE, or --like FILE.png with an image that holds its"
            " settings.",
            code="missing-value",
        )
    else:
        settings, source, flags = shared.read_source(options, SampleConfig)
    folder = shared.result_folder(options.out, source, "samples")
    with shared.job_worker(folder, made=options.out is None) as worker:
        worker.beat(message="Loading the network")
        from ddpm.sampling import job

        job.sample_source(folder, worker, source, settings, flags, options.base, options.probe)
    return folder


def _changed(
    options: argparse.Namespace, like: dict[str, Any]
) -> tuple[SampleConfig, runs.Run | Path | metadata.RecordedCheckpoint, dict[str, Any]]:
    """Returns the settings in an image changed by the flags of the command line, the model, and flags of a file
    without settings.
    """
    settings = metadata.sample_of(like, options.like.name)
    explicit = any(getattr(options, name) for name in SOURCE)
    if explicit:  # the image names no checkpoint of another run
        settings = dataclasses.replace(settings, step=0, weights="")
    elif other := [name for name in ("weights", "step") if name in shared.given(options, SampleConfig)]:
        raise UserError(
            f"--like samples from the weights that the image names, but --{other[0]} was given too: leave it out, or"
            " name the run with --run.",
            code="settings-are-fixed",
        )
    given = shared.given(options, SampleConfig)
    changed = dataclasses.replace(settings, **given)
    for problem in validation.limit_problems(changed):
        raise UserError(problem.sentence, code=problem.code)
    asks_anew = {"eta", "sampler", "steps", "use_ddim"} & set(given)  # earlier versions recorded what does nothing
    (timesteps.check_typed if asks_anew else timesteps.check)(changed)
    if explicit:
        _, source, flags = shared.read_source(options, SampleConfig, whole=False)
        return changed, source, flags
    flags = shared.given(options, SECTIONS["model"], SECTIONS["diffusion"])
    own = {name for name in flags if name not in SampleConfig.__dataclass_fields__}
    if own:
        raise UserError(
            f"--like has the settings of its model, but --{min(own)} was given too: leave it out, or name the file with"
            " --model_path.",
            code="settings-are-fixed",
        )
    remedy = "name a checkpoint with --run or --model_path to sample anyway"
    return changed, torchrun.run_on_main(lambda: metadata.checkpoint_of(like, options.like.name, remedy)), {}
