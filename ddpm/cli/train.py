"""`ddpm train` and `ddpm super-res-train`: a new run, or a stopped one that goes on."""

import argparse
import logging
import platform
import sys
import traceback
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ddpm
from ddpm.cli import output, shared, torchrun
from ddpm.cli.output import Output
from ddpm.config import codec, validation
from ddpm.config.codec import SECTIONS
from ddpm.config.presets import PRESETS
from ddpm.config.training import Config
from ddpm.errors import UserError, as_user_error
from ddpm.runs import jobs, runs
from ddpm.storage import paths

log = logging.getLogger("ddpm")

MAY_CHANGE = {"data_dir", "enlarge", "skip_broken"}  # by --resume: where the data is, and how it is read


def add(commands: Any) -> None:
    """Add the subcommand to the parser."""
    _add_train(commands, "train", "Train a model, or go on with a stopped run.", Config(), {})
    _add_train(
        commands,
        "super-res-train",
        "Train a model that enlarges small pictures: train with the sizes that go with it.",
        shared.SUPER_RES,
        shared.SUPER_RES_NAMES,
    )
    measure = shared.add_command(
        commands, "measure", _measure, "Measure what the settings in FOLDER/config.json cost.", runs_dir=False
    )
    measure.add_argument("folder", type=Path)


def _add_train(commands: Any, name: str, help: str, base: Config, names: Mapping[str, str]) -> None:
    """A command that trains from `base`, in which settings may have other `names`."""
    train = shared.add_command(commands, name, _train, help)
    train.set_defaults(base=base)
    train.add_argument(
        *shared.RUN_FLAGS,
        metavar="NAME",
        help="name of the new run (default: from the data; with OPENAI_LOGDIR, the run is that folder)",
    )
    train.add_argument(
        "--resume",
        metavar="NAME",
        nargs="?",
        const="",
        help="go on with this run, or with the one in OPENAI_LOGDIR, with the settings it has",
    )
    train.add_argument("--preset", choices=list(PRESETS), help="settings to start from; other flags change them")
    train.add_argument(
        "--queue",
        type=shared.boolean,
        default=True,
        metavar="BOOL",
        help="wait until no other training runs (default: True)",
    )
    for part, section in SECTIONS.items():
        shared.add_settings(train.add_argument_group(part), section, base=getattr(base, part), names=names)


def _train(options: argparse.Namespace) -> Output:
    given = shared.given(options, *SECTIONS.values())
    if options.resume is not None and (set(given) - MAY_CHANGE or options.preset or options.run):
        extra = (
            ", ".join(
                f"--{name}" for name in [*sorted(set(given) - MAY_CHANGE), *(["preset"] if options.preset else [])]
            )
            or "--run"
        )
        raise UserError(
            f"--resume goes on with the settings that the run has, but {extra} was given too: leave it out, or start a"
            " new run.",
            code="settings-are-fixed",
        )
    run = torchrun.run_on_main(lambda: _run(options, given))
    with torchrun.worker_for(run.folder, run.config.train.total_steps, state="queued") as worker:
        to_file = shared.log_to(run)
        log.info(
            "DDPM Workbench %s, Python %s, torch %s", ddpm.__version__, platform.python_version(), version("torch")
        )
        try:
            if options.resume is not None:
                torchrun.run_on_main(lambda: _look_back(run, worker))
            if options.queue and run.folder.parent == options.runs_dir:  # one in OPENAI_LOGDIR waits for nobody
                torchrun.run_on_main(lambda: runs.wait_in_queue(run, worker))
            if options.resume is not None:
                run = torchrun.run_on_main(lambda: _ready(run, given, worker))
            _train_here(run, worker)
        except Exception as error:
            if to_file and not isinstance(error, jobs.Stopped):  # of a fault of the program, where it happened
                told = as_user_error(error) if isinstance(error, OSError | UnicodeError) else error
                text = str(told) if isinstance(told, UserError) else traceback.format_exc()
                to_file.emit(logging.makeLogRecord({"msg": text}))
            raise
    return Output(output.of_run(run))


def _find(options: argparse.Namespace) -> runs.Run:
    """The run to go on with."""
    if options.resume:
        return runs.find_run(options.runs_dir, options.resume)
    folder = paths.log_folder()
    if folder is None:
        raise UserError(
            "--resume names no run, and OPENAI_LOGDIR names no folder: give the name of a run, as `ddpm runs` lists"
            " them.",
            code="missing-value",
        )
    return runs.Run(folder)


def _train_here(run: runs.Run, worker: jobs.Worker) -> None:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from ddpm.training.loop import TrainingLoop

    loop = TrainingLoop(run, worker)
    interactive = sys.stderr.isatty() and torchrun.is_main()
    with logging_redirect_tqdm([log] if torchrun.is_main() else []):
        line = tqdm(
            loop.train(),
            desc=run.name,
            total=run.config.train.total_steps,
            initial=loop.trainer.step,
            unit="step",
            dynamic_ncols=True,
            disable=not interactive,
        )
        for report in line:
            line.set_postfix_str(f"loss {report.losses['loss'].mean():.4f}", refresh=False)


def _run(options: argparse.Namespace, given: dict[str, Any]) -> runs.Run:
    """The run that goes on, or a new one; its settings are read, as other processes may not see its folder."""
    if options.resume is None:
        run = _new_run(options, given)
    else:
        run = _find(options)
        if any(c.step >= run.config.train.total_steps for c in run.checkpoints()):
            from ddpm.training import resume

            if resume.is_done(run):  # nothing of it is touched
                raise UserError(run.finished_message, code="nothing-left")
    return run.with_config()


def _look_back(run: runs.Run, worker: jobs.Worker) -> None:
    """Show what the run has done, and go on only where that is not written over."""
    from ddpm.runs import lost_checkpoints

    lost_checkpoints.check(run)
    lost_checkpoints.report_saved(run, worker)


def _ready(run: runs.Run, given: Mapping[str, Any], worker: jobs.Worker) -> runs.Run:
    from ddpm.training import resume

    return resume.ready(run, given, worker)


def _new_run(options: argparse.Namespace, given: dict[str, Any]) -> runs.Run:
    from ddpm.data import datasets

    base = PRESETS[options.preset].config if options.preset else options.base
    if (formats := shared.log_format()) is not None:
        given = {"log_format": formats, **given}
    config = codec.replace(base, given)
    validation.check(config)
    config = codec.resolved(config)
    if options.base.model.super_res and not config.model.super_res:
        raise UserError(
            "super-res-train was to train a model that enlarges nothing: say --small_size, or use ddpm train.",
            code="missing-value",
        )
    config = datasets.resolve(config)
    with shared.progress_bar(
        "reading", unit="image"
    ) as progress:  # before there is a run, so that bad data leaves none behind
        datasets.open_dataset(config.data, config.model, progress, seed=config.train.seed)
    if config.train.resume_checkpoint:
        from ddpm.training import warm_start

        config = warm_start.check_start(config)
    folder = paths.log_folder()
    if folder and not options.run:
        run = runs.create_run_in(folder, config)
        print(f"Run in {run.folder}", file=sys.stderr)
        return run
    name = options.run or runs.free_name(options.runs_dir, options.preset or Path(config.data.data_dir).stem)
    run = runs.create_run(options.runs_dir, name, config)
    print(f"Run {run.name} in {run.folder}", file=sys.stderr)
    return run


def _measure(options: argparse.Namespace) -> None:
    from ddpm.bench.step_cost import measure_into

    measure_into(options.folder)
