"""Common parts of the subcommands: flags made from settings, the source of weights, progress bars, the log."""

import argparse
import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ddpm.cli import output, torchrun
from ddpm.config import codec, fields, reference_names, validation
from ddpm.config.codec import SECTIONS
from ddpm.config.fields import settings
from ddpm.config.tasks import FromCheckpoint, SampleConfig
from ddpm.config.training import LOG_FORMATS, Config
from ddpm.errors import UserError
from ddpm.planning import timesteps
from ddpm.runs import exclusive, jobs, log_file, runs
from ddpm.runs.log_file import Lines
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import files, paths

log = logging.getLogger("ddpm")

S = TypeVar("S", bound=FromCheckpoint)
SUPER_RES = codec.replace(Config(), dict(image_size=256, small_size=64))  # defaults of super-res-*
SUPER_RES_NAMES = {"image_size": "large_size"}  # flags as improved-diffusion names them there
PROBE = "infer by denoising a few images what shapes do not say, and report flags that fit badly (default: True)"
RUN_FLAGS = ("--run", "--name")  # Python 3.11's torchrun takes the first for its own --run_path, and refuses it

NOT_RESULTS = {
    "run.lock",
    "status.json",
    "control.json",
    "settings.json",
    "log.txt",
    "preview.png",
    "mask.png",
}  # files that every job writes before its results


def add_command(commands: Any, name: str, run: Any, help: str, runs_dir: bool = True) -> argparse.ArgumentParser:
    """Adds a subcommand that calls `run` with its options, and takes --json; with `runs_dir`, also --runs_dir."""
    parser = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
    parser.set_defaults(command=run)
    output.add_json_flag(parser)
    if runs_dir:
        parser.add_argument(
            "--runs_dir", type=path, default=Path("runs"), metavar="DIR", help="where the runs are (default: runs)"
        )
    return parser


def path(text: str) -> Path:
    """Parses a path as a user types it, with ~ for the home folder, which not every shell expands."""
    return Path(os.path.expanduser(fields.path_text(text)))


def boolean(text: str) -> bool:
    """Parses True or False, as improved-diffusion writes them, and their usual short forms."""
    return fields.parse(bool, text)


def log_format() -> str | None:
    """Value of the setting log_format that OPENAI_LOG_FORMAT asks for; None if it is not set.

    Of improved-diffusion's formats, stdout, log and csv are always written.  Raises UserError for an unknown format.
    """
    named = os.environ.get("OPENAI_LOG_FORMAT", "")
    formats = [name.strip() for name in named.split(",") if name.strip()]
    known = ("stdout", "log", *LOG_FORMATS)
    for name in formats:
        if name not in known:
            raise UserError(
                f"OPENAI_LOG_FORMAT names {name!r}: choose among {', '.join(known)}, with commas between.",
                code="bad-value",
            )
    return ",".join(["csv", *(name for name in formats if name in LOG_FORMATS and name != "csv")]) if formats else None


def result_folder(out: Path | None, source: object, kind: str) -> Path:
    """Folder of a job's result: `out`, or else KIND/TIME in OPENAI_LOGDIR, in the run's folder or in this folder."""

    def make() -> Path:
        target = paths.log_folder()
        if isinstance(source, Run) and not target:
            return source.new_result_folder(kind)
        return runs.timestamped_folder((target or Path()) / kind)

    return out or torchrun.run_on_main(make)


def copy_arrays_to_log_folder(out: Path | None, folder: Path) -> None:
    """Copies the .npz files of a finished job to OPENAI_LOGDIR, where improved-diffusion's scripts write them.

    Files of an earlier job stay: where names are the same, the new ones get a number.
    """
    target, own = paths.log_folder(), sorted(folder.glob("*.npz"))
    if not target or out is not None or not own:
        return
    with exclusive.guard(target):
        there = files.copy_all(own, target)
    if there[0].name != own[0].name:
        names = ", ".join(path.name for path in there)
        output.say(
            f"{target} already has another {own[0].name}, which stays: the files of this job there are {names}",
            aside=True,
        )


def add_settings(
    group: Any,
    section: type,
    leave_out: set[str] = frozenset(),  # type: ignore[assignment]
    base: Any = None,
    names: Mapping[str, str] = {},
    dashes: bool = False,
) -> None:
    """Adds a flag for every setting of `section`.  Settings that are not given are left out of the parsed options.

    `base` has the defaults that the help shows, if they are not the section's own; `names` are other names of flags.
    dashes: accept --image-size as well as --image_size.
    """
    for s in settings(section):
        if s.name in leave_out:
            continue
        own = getattr(base or section(), s.name)
        default = repr(s.display(own)) if s.type is str else own
        if own is None:
            default = s.empty[1] if s.empty else "as trained"
        flag = names.get(s.name, s.name)
        also = [s.flag] if s.flag else []
        group.add_argument(
            *dict.fromkeys(
                [f"--{n}" for name in (flag, *also) for n in (name, name.replace("_", "-") if dashes else name)]
            ),
            dest=s.name,
            type=_parser_of(s.type, s.aliases),
            choices=s.choices or None,
            default=argparse.SUPPRESS,
            metavar=f"{{{','.join(s.shown_choices)}}}" if s.choices else s.type.__name__.upper(),
            help=f"{s.flag_help} (default: {default})".replace("%", "%%"),
        )
        if s.name == "prediction":
            _add_reference_switches(group, own)


def _add_reference_switches(group: Any, prediction: str) -> None:
    """Adds improved-diffusion's own flags for what the network predicts.  prediction: what is predicted by default."""
    for name, value in reference_names.SWITCHES.items():
        group.add_argument(
            f"--{name}",
            type=_parser_of(bool),
            default=argparse.SUPPRESS,
            metavar="BOOL",
            help=f"--prediction {value}, as improved-diffusion writes it (default: {prediction == value})",
        )


def _parser_of(kind: type, aliases: Mapping[str, str] = {}) -> Any:
    def parse(text: str) -> Any:
        return fields.parse(kind, aliases.get(text, text))

    parse.__name__ = "True or False" if kind is bool else kind.__name__  # its name in argparse's error
    return parse


def given(options: argparse.Namespace, *sections: type) -> dict[str, Any]:
    """Settings of the `sections` that were given, by name; paths are absolute."""
    known = {s.name: s for section in sections for s in settings(section)}
    names = {*known, *(reference_names.SWITCHES if "prediction" in known else ())}
    values = reference_names.to_own({name: value for name, value in vars(options).items() if name in names})
    return {name: known[name].normalize(value) for name, value in values.items()}


def add_source(
    parser: argparse.ArgumentParser,
    section: type[FromCheckpoint],
    title: str,
    out: str,
    base: Config = Config(),  # noqa: B008
    names: Mapping[str, str] = {},
    required: bool = True,
    leave_out: set[str] = frozenset(),  # type: ignore[assignment]
) -> Any:
    """Adds the flags of a command that works with a checkpoint: its source, the result's folder, the settings.

    out: where results go by default.  base: defaults for a file without settings of its own, some of whose flags have
    other `names`.  Returns the group of flags that name the source: one at most may be given, one must if `required`.
    """
    parser.set_defaults(base=base)
    source = parser.add_mutually_exclusive_group(required=required)
    source.add_argument(*RUN_FLAGS, metavar="NAME", help="use a checkpoint of this run")
    source.add_argument("--model_path", type=path, metavar="FILE", help="use this checkpoint file")
    if out:
        parser.add_argument(
            "--out",
            type=path,
            metavar="DIR",
            help=f"folder for the result (default: {out}/TIME in OPENAI_LOGDIR, in the run's folder, or here)",
        )
    add_settings(parser.add_argument_group(title), section, leave_out)
    model = parser.add_argument_group("model", "only for files of another program, which do not hold their settings")
    model.add_argument("--probe", type=boolean, default=True, metavar="BOOL", help=PROBE)
    known = {s.name for s in settings(section)}
    for name in ("model", "diffusion"):
        add_settings(model, SECTIONS[name], leave_out=known, base=getattr(base, name), names=names)
    return source


def read_source(
    options: argparse.Namespace, section: type[S], whole: bool = True
) -> tuple[S, runs.Run | Path, dict[str, Any]]:
    """Reads the flags of `add_source`: settings, run or file, and settings of a file that does not hold its own.

    whole: the flags are all settings of the request, and not changes of others.
    """
    wanted = section(**given(options, section))
    for problem in validation.limit_problems(wanted):
        raise UserError(problem.sentence, code=problem.code)
    if whole and isinstance(wanted, SampleConfig):
        timesteps.check_typed(wanted)
    flags = given(options, SECTIONS["model"], SECTIONS["diffusion"])
    flags = {name: value for name, value in flags.items() if name not in {s.name for s in settings(section)}}
    if not options.run:
        return wanted, options.model_path, flags
    if flags:
        raise UserError(
            f"--run uses the settings of the run, but --{next(iter(flags))} was given too: leave it out.",
            code="settings-are-fixed",
        )
    return wanted, torchrun.run_on_main(lambda: runs.find_run(options.runs_dir, options.run)), flags


@contextlib.contextmanager
def job_worker(folder: Path, made: bool = False) -> Iterator[Worker]:
    """Worker in `folder`.  After a UserError a new folder is removed again, unless it already holds results.

    made: the folder was made for this job alone.
    """
    new = made or not folder.exists()  # if a page started this, the folder exists and shows the error
    try:
        with torchrun.worker_for(folder) as worker:
            yield worker
    except UserError:
        if new and torchrun.is_main():
            if _holds_results(folder):
                log.warning("The finished results are in %s", folder)
            else:
                shutil.rmtree(folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def status_of(job: Path | None) -> Iterator[Worker | None]:
    """Keeps the status of work in the folder `job`, which may ask it to stop; None where there is no such folder.

    A block that a request to stop ended has nothing to report, and ends the program.
    """
    ended = False
    with Worker(job) if job else contextlib.nullcontext() as worker:
        if worker:
            worker.beat(state="running")
        yield worker
        ended = True
        if worker:
            worker.beat(state="finished", step=worker.status.total_steps)
    if not ended:  # the Worker took the Stopped that ended the block
        raise SystemExit(0)


def _holds_results(folder: Path) -> bool:
    """True if the folder holds more than every job writes; on a full disk a likelihood is in its status alone."""
    status = jobs.Job(folder).status()
    if status and status.metrics.get("pictures"):
        return True
    own = [path for path in folder.rglob("*") if path.is_file() and path.parent.name not in ("given", "run.lease")]
    names = {path.name for path in own}
    return any(name not in NOT_RESULTS and not name.startswith(files.TEMPORARY) for name in names)


def log_to(run: jobs.Job) -> logging.Handler | None:
    """Logs to log.txt, and to the terminal unless it is redirected there.  Returns the handler of log.txt, if any.

    Of several processes, only the main one logs.
    """
    log.setLevel(logging.INFO)
    log.propagate = False
    if not torchrun.is_main():
        log.handlers = [logging.NullHandler()]
        return None
    logging.raiseExceptions = False  # no room for a log line is no reason to stop
    terminal = logging.StreamHandler()
    terminal.setFormatter(Lines())
    log.handlers = [terminal]
    if _is_stderr(run.log_path):  # started by runs.launch: stderr is log.txt
        return None
    file = log_file.opened(run.log_path)
    log.handlers += [file] if file else []
    return file


def _is_stderr(path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(sys.stderr.fileno()), path.stat())
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def progress_bar(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Progress bar on stderr, shown on a terminal only: a function of (done, total)."""
    from tqdm import tqdm

    with tqdm(desc=title, unit=unit, unit_scale=unit == "B", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
