"""Results of commands: as text for people, or with --json as one JSON document for scripts."""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ddpm import formatting
from ddpm.config import fields
from ddpm.errors import UserError
from ddpm.runs import jobs
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from ddpm.storage import files

C1 = re.compile("[\x7f-\x9f]")  # control characters that JSON leaves as they are


class Output(NamedTuple):
    """Result of a command."""

    document: Mapping[str, Any]  # for --json
    text: str = ""  # printed without it


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a UserError: one sentence instead of a page of usage, and code `usage` in JSON."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}: see `{self.prog} --help`.", code="usage")


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --json.  If it is not given it is left out, so that a subcommand does not undo a flag before its name."""
    parser.add_argument(
        "--json",
        type=_target,
        metavar="True|FILE",
        default=argparse.SUPPRESS,
        help="True: print the result as one JSON document, and nothing else on stdout; or a FILE to also write it to",
    )


def _target(text: str) -> bool | Path:
    """Parses the value of --json: True or False, or else a file."""
    try:
        return bool(fields.parse(bool, text))
    except ValueError:
        return Path(os.path.expanduser(fields.path_text(text)))


def is_json(words: Sequence[str]) -> bool:
    """True if a command line asks for JSON on stdout, whether or not it can be parsed otherwise."""
    values = [after for word, after in zip(words, [*words[1:], ""], strict=True) if word == "--json"]
    values += [word.removeprefix("--json=") for word in words if word.startswith("--json=")]
    return bool(values) and _target(values[-1]) is True


def show(output: Output | None, target: bool | Path) -> None:
    """Prints the result, as `target` (the value of --json) says."""
    if target is True:
        print_document(output.document if output else {})
    elif output and output.text:
        say(output.text)
    if isinstance(target, Path):  # last, as it may fail
        files.write_json(target, finite(output.document if output else {}))


def say(text: str, *, aside: bool = False) -> None:
    """Prints `text`; aside: on stderr.  Everything that a command says in words goes through here.

    Control characters in names and messages, with which a file could steer the terminal, are shown as in \\x1b.
    """
    print(formatting.printable_lines(text), file=sys.stderr if aside else None, flush=True)


def show_error(error: UserError) -> None:
    """Prints an error as a JSON document."""
    print_document({"error": {"message": str(error), "code": error.code}})


def print_document(document: Mapping[str, Any]) -> None:
    """Prints a JSON document on stdout."""
    text = json.dumps(finite(document), indent=2, ensure_ascii=False, allow_nan=False)
    print(C1.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)


def finite(value: Any) -> Any:
    """`value` as JSON can hold it: paths as text, arrays as lists, null for numbers that are not finite."""
    match value:
        case Mapping():
            return {str(key): finite(entry) for key, entry in value.items()}
        case np.ndarray() | np.generic():
            return finite(value.tolist())
        case list() | tuple() | set():
            return [finite(entry) for entry in value]
        case Path():
            return str(value)
        case float():
            return value if math.isfinite(value) else None
    return value


# --- runs and jobs as documents


def of_run(run: Run) -> dict[str, Any]:
    """A run in short: where it is, its state, its last metrics."""
    state = run.state()
    status, about = jobs.settled(run.status() or jobs.Status("stopped"), state), run.about()
    return {
        "run": run.name,
        "title": about.title,
        "tags": list(about.tags),
        "star": about.star,
        "archived": about.archived,
        "folder": run.folder.absolute(),
        "state": state,
        "unseen_seconds": run.unseen() if state in jobs.ACTIVE else None,
        "step": status.step,
        "total_steps": status.total_steps,
        "steps_per_second": status.steps_per_second,
        "seconds_left": status.seconds_left,
        "metrics": status.metrics,
        "message": status.message or run.unreadable(),
        "warning": status.warning,
    }


def of_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint: its step, and the file of each kind of weights in it."""
    return {
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "weights": {kind: checkpoint.path(kind).absolute() for kind in checkpoint.weights},
    }


def of_job(job: jobs.Job) -> dict[str, Any]:
    """A job in short: its folder and state."""
    status = job.status()
    return {
        "folder": job.folder.absolute(),
        "state": job.state(),
        "message": status.message if status else "",
    }
