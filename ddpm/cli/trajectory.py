"""`ddpm microscope`: the trajectory of one image, denoising step by denoising step."""

import argparse
import sys
from typing import Any

from ddpm.cli import output, shared, torchrun
from ddpm.cli.output import Output
from ddpm.config.tasks import SampleConfig
from ddpm.errors import UserError
from ddpm.runs import results


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    look = shared.add_command(
        commands,
        "microscope",
        _microscope,
        "Sample one image and keep its trajectory: a strip, a GIF, an MP4, and all numbers.",
    )
    shared.add_source(look, SampleConfig, "sampling", "microscopes")
    look.add_argument(
        "--number",
        type=int,
        default=0,
        metavar="INT",
        help="which of the images of these settings (default: 0)",
    )


def _microscope(options: argparse.Namespace) -> Output:
    if torchrun.is_distributed():
        raise UserError(
            "ddpm microscope samples a single image: start it without torchrun.", code="single-process-only"
        )
    settings, source, flags = shared.read_source(options, SampleConfig)
    folder = shared.result_folder(options.out, source, "microscopes")
    with shared.job_worker(folder, made=options.out is None) as worker:
        worker.beat(message="Loading the network")
        from tqdm import tqdm

        from ddpm.analysis import trajectory

        with tqdm(unit="call", dynamic_ncols=True, leave=False, disable=not sys.stderr.isatty()) as line:
            for look in trajectory.look_source(folder, worker, source, settings, options.number, flags, options.probe):
                line.total = look.total
                line.update(look.done - line.n)
    job = results.TrajectoryJob(folder)
    document = {**output.of_job(job), **job.result}
    return Output(document, "\n".join(filter(None, (document["message"], str(folder)))))
