"""`ddpm train` and `ddpm super-res-train`: train a new run, or resume a stopped one."""

import argparse
import dataclasses
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm import formatting
from ddpm.cli import output, shared, torchrun
from ddpm.cli.output import Output
from ddpm.config import codec
from ddpm.config.codec import SECTIONS
from ddpm.config.presets import PRESETS
from ddpm.config.training import Config
from ddpm.data import sources
from ddpm.errors import UserError
from ddpm.runs import extending, jobs, launch, queue, run_names, runs
from ddpm.runs.worker import Worker
from ddpm.storage import paths
from ddpm.training import start

log = logging.getLogger("ddpm")

# With --resume: where the data is now, how it is read, up to which step or for how long it goes on, and on how many
# threads, as it may be on another machine.
MAY_CHANGE = {"data_dir", "enlarge", "skip_broken", "total_steps", "train_for", "threads"}
SETTLED = {"resume_checkpoint", "num_classes", "lr_schedule", "lr_anneal_steps"}  # may have become others meanwhile


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    _add_train(commands, "train", "Train a model, or resume a stopped run.", Config(), {})
    _add_train(
        commands,
        "super-res-train",
        "Train a super-resolution model: like train, with large_size and small_size.",
        shared.SUPER_RES,
        shared.SUPER_RES_NAMES,
    )
    measure = shared.add_command(
        commands,
        "measure",
        _measure,
        "Measure time and memory of a training step with the settings in FOLDER/config.json.",
        runs_dir=False,
    )
    measure.add_argument("folder", type=Path)


def _add_train(commands: Any, name: str, help: str, base: Config, names: Mapping[str, str]) -> None:
    """Adds a command that trains; `base` has its defaults, and `names` other names of flags."""
    train = shared.add_command(commands, name, _train, help)
    train.set_defaults(base=base)
    train.add_argument(
        *shared.RUN_FLAGS,
        metavar="NAME",
        help="name of the new run (default: of the preset, or of the data; with OPENAI_LOGDIR, the run is that folder)",
    )
    train.add_argument(
        "--resume",
        metavar="NAME",
        nargs="?",
        const="",
        help="resume this run, or the one in OPENAI_LOGDIR, with its own settings",
    )
    train.add_argument("--preset", choices=list(PRESETS), help="settings to start from; other flags change them")
    train.add_argument(
        "--queue",
        type=shared.boolean,
        default=True,
        metavar="BOOL",
        help="wait until no other training is running (default: True)",
    )
    train.add_argument(
        "--dry_run",
        type=shared.boolean,
        default=False,
        metavar="BOOL",
        help="print what the training would cost (parameters, memory, time), and start nothing (default: False)",
    )
    train.add_argument(
        "--measure",
        type=shared.boolean,
        default=False,
        metavar="BOOL",
        help="with --dry_run: time a few steps first, unless that was done before with such settings (default: False)",
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
            f"--resume uses the settings of the run, but {extra} was given too: leave it out, or start a new run.",
            code="settings-are-fixed",
        )
    if options.dry_run:
        return _estimate(options, given)
    begun = torchrun.run_on_main(lambda: _begun_before_restart(options))
    if begun is not None:
        torchrun.run_on_main(lambda: _check_same(options, given))
        options, given = argparse.Namespace(**{**vars(options), "resume": begun, "run": None}), {}
    run = torchrun.run_on_main(lambda: _run(options, given))
    with torchrun.worker_for(run.folder, run.config.train.total_steps, state="queued") as worker:
        to_file = shared.log_to(run)
        start.log_versions()
        with start.failures_in(to_file):
            if options.resume is not None:
                torchrun.run_on_main(lambda: _show_past(run, worker))
            if options.queue and run.folder.parent == options.runs_dir:  # a run in OPENAI_LOGDIR does not wait
                torchrun.run_on_main(lambda: queue.wait_in_queue(run, worker))
            if options.resume is not None:
                run = torchrun.run_on_main(lambda: _ready(run, given, worker))
            _train_here(run, worker)
    return Output(output.of_run(run))


def _begun_before_restart(options: argparse.Namespace) -> str | None:
    """The run to resume, as --resume names it, where torchrun starts a new training again; None where it is the first.

    Raises UserError where a restart could not find the run.
    """
    if options.resume is not None:
        return None
    folder = options.runs_dir / options.run if options.run and run_names.is_name(options.run) else paths.log_folder()
    if folder is None:
        if torchrun.may_restart() and not options.run:
            raise UserError(
                "A training that torchrun restarts when it fails (--max-restarts) needs a name by which the restart"
                " finds it: give --name.",
                code="missing-value",
            )
        return None
    if not (folder / "config.json").exists():
        return None
    run = runs.Run(folder)
    unfinished = run.state() not in ("finished", "stopped")
    begun = torchrun.has_started(run.created_at) or (unfinished and torchrun.began(folder))
    return (options.run or "") if begun else None


def _check_same(options: argparse.Namespace, given: dict[str, Any]) -> None:
    """Raises UserError where a restart names settings that the run does not have: it is another training then."""
    folder = options.runs_dir / options.run if options.run else paths.log_folder()
    assert folder is not None
    there = runs.Run(folder).config
    kept = {name: value for name, value in given.items() if name not in MAY_CHANGE | SETTLED}
    if codec.replace(there, kept) != there:
        raise UserError(
            f"There is already a run named {folder.name}, begun by the same job of torchrun with other settings:"
            " choose another name, or another --rdzv_id, or resume it with --resume.",
            code="already-exists",
        )


def _find(options: argparse.Namespace) -> runs.Run:
    """Finds the run to resume."""
    from ddpm.training import resume

    if options.resume:
        if run_names.is_name(options.resume) and (options.runs_dir / options.resume).is_dir():
            resume.restore_settings(runs.Run(options.runs_dir / options.resume))
        return runs.find_run(options.runs_dir, options.resume)
    folder = paths.log_folder()
    if folder is None:
        raise UserError(
            "--resume names no run, and OPENAI_LOGDIR names no folder: give the name of a run, as `ddpm runs` lists"
            " them.",
            code="missing-value",
        )
    run = runs.Run(folder)
    resume.restore_settings(run)
    return run


def _train_here(run: runs.Run, worker: Worker) -> None:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from ddpm.training.loop import TrainingLoop

    loop = TrainingLoop(run, worker)
    interactive = sys.stderr.isatty() and torchrun.is_main()
    with logging_redirect_tqdm([log] if torchrun.is_main() else []):
        line = tqdm(
            loop.train(),
            desc=formatting.printable(run.name),
            total=run.config.train.total_steps,
            initial=loop.trainer.step,
            unit="step",
            dynamic_ncols=True,
            disable=not interactive,
        )
        for report in line:
            line.total = loop.config.train.total_steps
            line.set_postfix_str(f"loss {formatting.number(report.losses['loss'].mean().item())}", refresh=False)


def _run(options: argparse.Namespace, given: dict[str, Any]) -> runs.Run:
    """Finds or makes the run, with its settings read, as other processes may not see its folder."""
    if options.resume is None:
        run = _new_run(options, given)
    else:
        run = _find(options)
        runs.check_known(run)
        extending.extend_by(run, given)
        if run.checkpoints():
            from ddpm.training import resume

            resume.check_unfinished(run)
    return run.with_config()


def _show_past(run: runs.Run, worker: Worker) -> None:
    """Shows what the run has done.  Raises UserError if resuming would overwrite some of it."""
    from ddpm.runs import lost_checkpoints

    lost_checkpoints.check(run)
    lost_checkpoints.report_saved(run, worker)


def _ready(run: runs.Run, given: Mapping[str, Any], worker: Worker) -> runs.Run:
    from ddpm.training import resume

    return resume.ready(run, given, worker)


def _config(options: argparse.Namespace, given: dict[str, Any]) -> Config:
    """Settings of a new training."""
    base = PRESETS[options.preset].config if options.preset else options.base
    if (formats := shared.log_format()) is not None:
        given = {"log_format": formats, **given}
    config = codec.replace(base, extending.one_length(given))
    if options.base.model.super_res and not config.model.super_res:
        raise UserError(
            "super-res-train trains a model that enlarges images, but small_size is 0: give --small_size, or use ddpm"
            " train.",
            code="missing-value",
        )
    return config


@sources.opened_once()
def _new_run(options: argparse.Namespace, given: dict[str, Any]) -> runs.Run:
    folder = paths.log_folder()
    with shared.progress_bar("indexing", unit="image") as progress:  # of tar shards that are new here
        sentences = start.warnings(_config(options, given), folder or options.runs_dir, progress)
    for sentence in sentences:
        output.say(f"Warning: {sentence}", aside=True)
    with shared.progress_bar("reading", unit="image") as progress:
        config, _ = start.prepare(_config(options, given), progress)
    if folder and not options.run:
        run = runs.create_run_in(folder, config)
        torchrun.mark(run.folder)
        output.say(f"Run in {run.folder}", aside=True)
        return run
    name = options.run or run_names.free_name(options.runs_dir, options.preset or Path(config.data.data_dir).stem)
    run = runs.create_run(options.runs_dir, name, config)
    torchrun.mark(run.folder)
    output.say(f"Run {run.name} in {run.folder}", aside=True)
    return run


@sources.opened_once()
def _estimate(options: argparse.Namespace, given: dict[str, Any]) -> Output:
    """Estimates what a training costs, as the page Train does."""
    from ddpm.data import datasets
    from ddpm.planning.training_cost import estimate_training_cost

    if options.resume is not None:
        raise UserError(
            "--dry_run is about a new run, but --resume was given too: leave it out.", code="not-applicable"
        )
    config = start.settle(_config(options, given))
    about = datasets.describe(config.data.data_dir)
    held_out = datasets.held_out_count(about.count, config.data.hold_out)
    if options.measure:
        _measure_speed(config)
    cost = estimate_training_cost(config, about.count - held_out, about.test_count or held_out)
    nearly = "about " if config.train.train_for else ""
    steps, measured = config.train.total_steps, "" if cost.memory_measured else "about "
    seconds = cost.seconds_per_step
    rows = [
        ("Parameters", f"{cost.parameters:,}"),
        ("Memory", f"{measured}{formatting.memory(cost.memory_bytes)} of {formatting.memory(cost.available_bytes)}"),
        ("Time per step", formatting.duration(seconds) if seconds else "not measured yet: --measure True times it"),
        (
            "Training steps",
            f"{nearly}{steps:,}" + (f", {cost.epochs:,.1f} epochs" if cost.epochs else ""),
        ),
        ("Previews", f"{cost.previews:,}"),
        *([("Held-out loss", f"measured {cost.measurements:,} times")] if cost.measurements else []),
    ]
    if cost.finish_time:
        rows += [
            ("Total time", formatting.duration(cost.total_seconds)),
            ("Finish", f"{formatting.clock(cost.finish_time)}, if it started now"),
        ]
    if not cost.fits:
        rows.append(("Warning", "this is more memory than is available: reduce --microbatch"))
    warnings = start.warnings(config, options.runs_dir)
    rows += [("Warning", sentence) for sentence in warnings]
    document = {**dataclasses.asdict(cost), "finish_time": cost.finish_time, "fits": cost.fits, "total_steps": steps}
    document["warnings"] = warnings
    return Output({**document, "config": codec.to_json(config)}, "\n".join(f"{name:15} {text}" for name, text in rows))


def _measure_speed(config: Config) -> None:
    """Times a training step with these settings, unless that was done before; progress goes to stderr."""
    job = launch.start_measuring(config)
    if job.state() in jobs.ACTIVE:
        output.say("Timing a few training steps ...", aside=True)
    while job.state() in jobs.ACTIVE:
        time.sleep(0.1)
    status = job.status()
    if job.state() != "finished":
        message = status.message if status else ""
        raise UserError(
            f"Timing a training step failed ({message or job.state()}): see {job.log_path}.", code="process-failed"
        )


def _measure(options: argparse.Namespace) -> None:
    from ddpm.bench.step_cost import measure_into

    measure_into(options.folder)
