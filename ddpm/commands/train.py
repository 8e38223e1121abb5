"""`ddpm train`: a new run, or a stopped one that goes on."""

import argparse
import logging
import platform
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ddpm
from ddpm import config as configs
from ddpm import files, jobs, runs, validation
from ddpm.commands import options as shared
from ddpm.config import SECTIONS, Config
from ddpm.errors import UserError
from ddpm.presets import PRESETS

log = logging.getLogger("ddpm")


def add(commands: Any) -> None:
    train = shared.command(commands, "train", _train, "Train a model, or go on with a stopped run.")
    train.add_argument("--run", metavar="NAME", help="name of the new run (default: from the data)")
    train.add_argument("--resume", metavar="NAME", help="go on with this run, with the settings it has")
    train.add_argument("--preset", choices=list(PRESETS), help="settings to start from; other flags change them")
    train.add_argument("--queue", type=shared.boolean, default=True, metavar="BOOL", help="wait until no other training runs (default: True)")  # fmt: skip
    for name, section in SECTIONS.items():
        shared.add_settings(train.add_argument_group(name), section)
    measure = shared.command(commands, "measure", _measure, "Measure what the settings in FOLDER/config.json cost.", runs_dir=False)  # fmt: skip
    measure.add_argument("folder", type=Path)


def _train(options: argparse.Namespace) -> None:
    given = shared.given(options, *SECTIONS.values())
    if options.resume and set(given) == {"data_dir"} and not (options.preset or options.run):
        run = _give_data(runs.find(options.runs_dir, options.resume), given["data_dir"])
    elif options.resume:
        if given or options.preset or options.run:
            extra = ", ".join(f"--{name}" for name in [*given, *(["preset"] if options.preset else [])]) or "--run"
            raise UserError(f"--resume goes on with the settings that the run has, but {extra} was given too: leave it out, or start a new run.")  # fmt: skip
        run = runs.find(options.runs_dir, options.resume)
    else:
        run = _new_run(options, given)
    with jobs.Worker(run.folder, run.config.train.total_steps, state="queued") as worker:
        to_file = shared.log_to(run)
        log.info(
            "DDPM Workbench %s, Python %s, torch %s", ddpm.__version__, platform.python_version(), version("torch")
        )
        try:
            if options.queue:
                runs.wait_turn(run, worker)
            _train_here(run, worker)
        except Exception as error:
            if to_file and not isinstance(error, jobs.Stopped):
                to_file.emit(logging.makeLogRecord({"msg": traceback.format_exc()}))
            raise


def _train_here(run: runs.Run, worker: jobs.Worker) -> None:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from ddpm.session import Session

    session = Session(run, worker)
    interactive = sys.stderr.isatty()
    with logging_redirect_tqdm([log]):
        line = tqdm(
            session.train(), desc=run.name, total=run.config.train.total_steps, initial=session.trainer.step,
            unit="step", dynamic_ncols=True, disable=not interactive,
        )  # fmt: skip
        for report in line:
            line.set_postfix_str(f"loss {report.losses['loss'].mean():.4f}", refresh=False)


def _new_run(options: argparse.Namespace, given: dict[str, Any]) -> runs.Run:
    from ddpm import data

    base = PRESETS[options.preset].config if options.preset else Config()
    config = configs.resolved(configs.replace(base, given))
    validation.check(config)
    config = data.resolve(config)
    with shared.bar("reading", unit="image") as progress:  # before there is a run, so that bad data leaves none behind
        data.open_dataset(config.data, config.model, progress)
    if config.train.resume_checkpoint:
        from ddpm import adopt

        config = adopt.check_start(config)
    name = options.run or runs.free_name(options.runs_dir, options.preset or Path(config.data.data_dir).stem)
    run = runs.create(options.runs_dir, name, config)
    print(f"Run {run.name} in {run.folder}", file=sys.stderr)
    return run


def _give_data(run: runs.Run, data_dir: str) -> runs.Run:
    """The run, imported without data, with data to train on."""
    from ddpm import data

    if run.config.data.data_dir:
        raise UserError(f"--resume goes on with the settings that the run has, but --data_dir was given too, and {run.name} has data already: leave it out, or start a new run.")  # fmt: skip
    files.write_json(run.folder / "config.json", configs.to_json(data.attach(run.config, data_dir)))
    return runs.Run(run.folder)


def _measure(options: argparse.Namespace) -> None:
    from ddpm.measure import measure_into

    measure_into(options.folder)
