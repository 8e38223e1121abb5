"""The command line.  Each subcommand imports what it needs when it needs it, so that `ddpm runs` answers at once."""

import argparse
import contextlib
import logging
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ddpm
from ddpm import config as configs
from ddpm import jobs, process, runs, words
from ddpm.config import SECTIONS, Config, SampleConfig
from ddpm.errors import UserError
from ddpm.presets import PRESETS

log = logging.getLogger("ddpm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 2 for what the user can put right."""
    # Threads that wait for each other by spinning starve whatever else the machine does, and then each other: beside
    # a busy browser a training was 4 to 10 times slower.  Spinning briefly costs nothing; not at all, half the speed
    # (measured on two cores).  GNU's and LLVM's OpenMP read this when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("KMP_BLOCKTIME", "1")
    options = _parser().parse_args(arguments)
    try:
        return options.command(options) or 0
    except UserError as error:
        print(f"ddpm: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `ddpm runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ddpm", description="Train image diffusion models, and draw from them.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = _command(commands, "train", _train, "Train a model, or go on with a stopped run.")
    train.add_argument("--run", metavar="NAME", help="name of the new run (default: from the data)")
    train.add_argument("--resume", metavar="NAME", help="go on with this run, with the settings it has")
    train.add_argument("--preset", choices=list(PRESETS), help="settings to start from; other flags change them")
    train.add_argument("--queue", type=_bool, default=True, metavar="BOOL", help="wait until no other training runs (default: True)")  # fmt: skip
    for name, section in SECTIONS.items():
        _add_settings(train.add_argument_group(name), section)

    draw = _command(commands, "sample", _sample, "Draw pictures from a run or a checkpoint file.")
    source = draw.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="NAME", help="draw from this run")
    source.add_argument("--model_path", type=Path, metavar="FILE", help="draw from this checkpoint file")
    draw.add_argument("--out", type=Path, metavar="DIR", help="folder for the pictures (default: samples/TIME in the run's folder, or here)")  # fmt: skip
    _add_settings(draw.add_argument_group("drawing"), SampleConfig)
    model = draw.add_argument_group("model", "only for files that another program wrote, without their settings")
    for name in ("model", "diffusion"):
        _add_settings(model, SECTIONS[name], leave_out={s.name for s in configs.settings(SampleConfig)})

    stop = _command(commands, "stop", _stop, "Ask a run to stop: it finishes its step, saves and leaves.")
    stop.add_argument("name", metavar="NAME")
    stop.add_argument("--wait", type=_bool, default=True, metavar="BOOL", help="wait until it has left (default: True)")
    stop.add_argument("--kill", type=_bool, default=False, metavar="BOOL", help="end it at once; steps since the last checkpoint are lost")  # fmt: skip

    _command(commands, "runs", _runs, "List the runs, newest first.")

    export = _command(commands, "export", _export, "Write a run's numbers as a spreadsheet.")
    export.add_argument("name", metavar="NAME")
    export.add_argument("--xlsx", type=Path, metavar="FILE", help="file to write (default: results.xlsx in the run's folder)")  # fmt: skip

    prepare = _command(commands, "data", _data, "Fetch a data set.", runs_dir=False)
    prepare.add_argument("name", choices=["cifar10"])
    prepare.add_argument("--archive", type=Path, metavar="FILE", help="the archive, where it is here already")

    measure = _command(commands, "measure", _measure, "Measure what the settings in FOLDER/config.json cost.", runs_dir=False)  # fmt: skip
    measure.add_argument("folder", type=Path)
    return parser


def _command(commands: Any, name: str, run: Any, help: str, runs_dir: bool = True) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
    parser.set_defaults(command=run)
    if runs_dir:
        parser.add_argument("--runs_dir", type=Path, default=Path("runs"), metavar="DIR", help="where the runs are (default: runs)")  # fmt: skip
    return parser


def _bool(text: str) -> bool:
    return configs.parse(bool, text)


def _add_settings(group: Any, section: type, leave_out: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """A flag for every setting.  What is not given is left out of the parsed options."""
    for s in configs.settings(section):
        if s.name in leave_out:
            continue
        default = "as trained" if s.default is None else repr(s.default) if s.type is str else s.default
        group.add_argument(
            f"--{s.name}",
            type=_parser_of(s.type),
            choices=s.choices or None,
            default=argparse.SUPPRESS,
            metavar=None if s.choices else s.type.__name__.upper(),
            help=f"{s.help} (default: {default})".replace("%", "%%"),
        )


def _parser_of(kind: type) -> Any:
    def parse(text: str) -> Any:
        return configs.parse(kind, text)

    parse.__name__ = "True or False" if kind is bool else kind.__name__  # what argparse calls it in its error
    return parse


def _given(options: argparse.Namespace, *sections: type) -> dict[str, Any]:
    names = {s.name for section in sections for s in configs.settings(section)}
    return {name: value for name, value in vars(options).items() if name in names}


def _train(options: argparse.Namespace) -> None:
    given = _given(options, *SECTIONS.values())
    if options.resume:
        if given or options.preset or options.run:
            extra = ", ".join(f"--{name}" for name in [*given, *(["preset"] if options.preset else [])]) or "--run"
            raise UserError(f"--resume goes on with the settings that the run has, but {extra} was given too: leave it out, or start a new run.")  # fmt: skip
        run = runs.find(options.runs_dir, options.resume)
    else:
        run = _new_run(options, given)
    with jobs.Worker(run.folder, run.config.train.total_steps, state="queued") as worker:
        to_file = _log_to(run)
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
    configs.check(config)
    config = data.resolve(config)
    with _bar("reading", unit="image") as progress:  # before there is a run, so that bad data leaves none behind
        data.open_dataset(config.data, config.model, progress)
    name = options.run or runs.free_name(options.runs_dir, options.preset or Path(config.data.data_dir).stem)
    run = runs.create(options.runs_dir, name, config)
    print(f"Run {run.name} in {run.folder}", file=sys.stderr)
    return run


def _log_to(run: jobs.Job) -> "logging.FileHandler | None":
    """Log to log.txt, and to the terminal where that is another place.  Returns the handler of log.txt, if any."""
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.raiseExceptions = False  # no room for a log line is no reason to stop
    form = logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S")
    terminal = logging.StreamHandler()
    terminal.setFormatter(form)
    log.handlers = [terminal]
    if _is_stderr(run.log_path):  # started by process.start: what is printed is in log.txt
        return None
    file = logging.FileHandler(run.log_path, encoding="utf-8")
    file.setFormatter(form)
    log.handlers.append(file)
    return file


def _is_stderr(path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(sys.stderr.fileno()), path.stat())
    except (OSError, ValueError):
        return False


def _sample(options: argparse.Namespace) -> None:
    settings = SampleConfig(**_given(options, SampleConfig))
    for problem in configs.limit_problems(settings):
        raise UserError(problem.sentence)
    given = _given(options, SECTIONS["model"], SECTIONS["diffusion"])
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

            sample.draw_source(folder, worker, run or options.model_path, settings, given)
    except UserError:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    print(folder)


def _stop(options: argparse.Namespace) -> None:
    run = runs.find(options.runs_dir, options.name)
    if options.kill:
        process.kill(run)
        print(f"{run.name} was ended.")
        return
    process.stop(run)
    print(f"{run.name} was asked to stop: it finishes its step, saves and leaves.")
    while options.wait and run.state() in jobs.ACTIVE:
        time.sleep(0.2)
    if options.wait:
        status = run.status()
        print(f"{run.name} is {run.state()} at step {status.step if status else 0}.")


def _runs(options: argparse.Namespace) -> None:
    found = runs.all_runs(options.runs_dir)
    if not found:
        print(f"No runs in {options.runs_dir} yet: `ddpm train --preset quick-start` starts one.")
        return
    rows = [("run", "state", "step", "it/s", "time left", "loss")]
    for run in found:
        status = run.status() or jobs.Status("stopped")
        state = run.state()
        loss, active = status.metrics.get("loss"), state in jobs.ACTIVE
        rows.append(
            (
                run.name,
                state,
                f"{status.step}/{status.total_steps}",
                f"{status.steps_per_second:.3g}" if active and status.steps_per_second else "",
                words.duration(status.seconds_left) if active else "",
                f"{loss:.4f}" if loss is not None else "",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _export(options: argparse.Namespace) -> None:
    from ddpm import export

    run = runs.find(options.runs_dir, options.name)
    path = options.xlsx or run.folder / "results.xlsx"
    export.write_xlsx(run, path)
    print(path)


@contextlib.contextmanager
def _bar(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress line, on a terminal only: a function of (done, total)."""
    from tqdm import tqdm

    with tqdm(desc=title, unit=unit, unit_scale=unit == "B", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def _data(options: argparse.Namespace) -> None:
    from ddpm import download

    with _bar(options.name, unit="B") as progress:
        archive = options.archive or download.fetch_cifar10(progress)
        path = download.import_cifar10(archive, progress)
    print(path)


def _measure(options: argparse.Namespace) -> None:
    from ddpm.measure import measure_into

    measure_into(options.folder)
