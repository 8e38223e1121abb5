"""`ddpm sample`: draw pictures from a run or from a checkpoint file."""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from ddpm import jobs, runs, validation
from ddpm.commands import options as shared
from ddpm.config import SECTIONS, SampleConfig
from ddpm.errors import UserError
from ddpm.fields import settings


def add(commands: Any) -> None:
    draw = shared.command(commands, "sample", _sample, "Draw pictures from a run or a checkpoint file.")
    source = draw.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="NAME", help="draw from this run")
    source.add_argument("--model_path", type=Path, metavar="FILE", help="draw from this checkpoint file")
    draw.add_argument("--out", type=Path, metavar="DIR", help="folder for the pictures (default: samples/TIME in the run's folder, or here)")  # fmt: skip
    shared.add_settings(draw.add_argument_group("drawing"), SampleConfig)
    model = draw.add_argument_group("model", "only for files that another program wrote, without their settings")
    model.add_argument("--probe", type=shared.boolean, default=True, metavar="BOOL", help="find out by denoising a few pictures what shapes do not tell, and refuse flags that fit badly (default: True)")  # fmt: skip
    for name in ("model", "diffusion"):
        shared.add_settings(model, SECTIONS[name], leave_out={s.name for s in settings(SampleConfig)})


def _sample(options: argparse.Namespace) -> None:
    settings = SampleConfig(**shared.given(options, SampleConfig))
    for problem in validation.limit_problems(settings):
        raise UserError(problem.sentence)
    given = shared.given(options, SECTIONS["model"], SECTIONS["diffusion"])
    for name in ("timestep_respacing", "sigma_small"):  # these say how to draw
        given.pop(name, None)
    run = runs.find(options.runs_dir, options.run) if options.run else None
    if run and given:
        raise UserError(f"--run draws with the settings that the run has, but --{next(iter(given))} was given too: leave it out.")  # fmt: skip
    folder = options.out or (run.new_sample_folder() if run else Path("samples") / time.strftime("%Y%m%d-%H%M%S"))
    new = not folder.exists()  # where a page started this, the folder is there and shows what went wrong
    try:
        with jobs.Worker(folder) as worker:
            worker.beat(message="Loading the network")
            from ddpm import sample

            sample.draw_source(folder, worker, run or options.model_path, settings, given, options.probe)
    except UserError:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    print(folder)
