"""What the subcommands share: flags from settings, a progress line, the log."""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ddpm import fields, files, jobs, runs
from ddpm.config import LOG_FORMATS
from ddpm.errors import UserError
from ddpm.fields import settings
from ddpm.runs import Run

log = logging.getLogger("ddpm")


def command(commands: Any, name: str, run: Any, help: str, runs_dir: bool = True) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
    parser.set_defaults(command=run)
    if runs_dir:
        parser.add_argument("--runs_dir", type=Path, default=Path("runs"), metavar="DIR", help="where the runs are (default: runs)")  # fmt: skip
    return parser


def boolean(text: str) -> bool:
    return fields.parse(bool, text)


def log_folder() -> Path | None:
    """The folder that OPENAI_LOGDIR names for whatever is written, as in improved-diffusion; None without it."""
    named = os.environ.get("OPENAI_LOGDIR", "")
    return Path(named).expanduser().absolute() if named else None


def log_format() -> str | None:
    """The setting that OPENAI_LOG_FORMAT stands for; None without it.  Raises UserError for an unknown format.

    Of improved-diffusion's formats, stdout and log are always there, as csv is.
    """
    named = os.environ.get("OPENAI_LOG_FORMAT", "")
    formats = [name.strip() for name in named.split(",") if name.strip()]
    known = ("stdout", "log", *LOG_FORMATS)
    for name in formats:
        if name not in known:
            raise UserError(f"OPENAI_LOG_FORMAT names {name!r}: choose among {', '.join(known)}, with commas between.")
    return ",".join(["csv", *(name for name in formats if name in LOG_FORMATS and name != "csv")]) if formats else None


def result_folder(out: Path | None, run: Run | None, kind: str) -> Path:
    """Where a job writes: where it was told to, else KIND/TIME in OPENAI_LOGDIR, in the run's folder or here."""
    return out or runs.new_folder((log_folder() or (run.folder if run else Path())) / kind)


def hand_over(out: Path | None, folder: Path) -> None:
    """Put the .npz files of a finished job into OPENAI_LOGDIR too, where improved-diffusion's scripts have them."""
    target = log_folder()
    if target and out is None:
        for path in sorted(folder.glob("*.npz")):
            files.copy(path, target / path.name)


def add_settings(group: Any, section: type, leave_out: set[str] = frozenset(), dashes: bool = False) -> None:  # type: ignore[assignment]  # fmt: skip
    """A flag for every setting.  What is not given is left out of the parsed options.

    dashes: --image-size is understood as well as --image_size.
    """
    for s in settings(section):
        if s.name in leave_out:
            continue
        default = "as trained" if s.default is None else repr(s.default) if s.type is str else s.default
        group.add_argument(
            *dict.fromkeys([f"--{s.name}", f"--{s.name.replace('_', '-') if dashes else s.name}"]),
            type=_parser_of(s.type),
            choices=s.choices or None,
            default=argparse.SUPPRESS,
            metavar=None if s.choices else s.type.__name__.upper(),
            help=f"{s.help} (default: {default})".replace("%", "%%"),
        )


def _parser_of(kind: type) -> Any:
    def parse(text: str) -> Any:
        return fields.parse(kind, text)

    parse.__name__ = "True or False" if kind is bool else kind.__name__  # what argparse calls it in its error
    return parse


def given(options: argparse.Namespace, *sections: type) -> dict[str, Any]:
    names = {s.name for section in sections for s in settings(section)}
    return {name: value for name, value in vars(options).items() if name in names}


def log_to(run: jobs.Job) -> "logging.FileHandler | None":
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


@contextlib.contextmanager
def bar(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress line, on a terminal only: a function of (done, total)."""
    from tqdm import tqdm

    with tqdm(desc=title, unit=unit, unit_scale=unit == "B", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
