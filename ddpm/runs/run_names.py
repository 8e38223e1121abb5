"""Names of runs, which are the names of their folders."""

import os
import re
from pathlib import Path

from ddpm.errors import UserError
from ddpm.storage import untrusted

MOST_BYTES = 255  # of the name of a file or folder, on every usual disk
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MOST_BYTES - 1}}}")


def check_name(name: str) -> None:
    """Raises UserError unless `name` is a valid name of a new run, and of a folder on every system."""
    if not NAME.fullmatch(name) or untrusted.RESERVED.fullmatch(name) or name.endswith("."):
        raise UserError(
            f"The run name {name!r} is not valid for a folder: use up to {MOST_BYTES} letters, digits, '.', '_' and"
            " '-', starting with a letter or digit, and no path.",
            code="bad-name",
        )


def is_name(name: str) -> bool:
    """True if `name` may be an existing run's: the name of any folder that is not hidden, also if renamed by hand."""
    return untrusted.is_part(name) and not name.startswith(".")


def name_problem(runs_dir: Path, name: str) -> list[str]:
    """The problem with a new run's name as a list of one sentence; empty if there is none."""
    try:
        check_name(name)
    except UserError as error:
        return [str(error)]
    if (runs_dir / name).exists():
        return [f"There is already a run named {name}: {free_name(runs_dir, name)} is free."]
    return []


def free_name(runs_dir: Path, base: str) -> str:
    """`base`, or `base-2`, `base-3`, ...: the first that is not taken."""
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip("-._")[:56].rstrip(".") or "run"
    if untrusted.RESERVED.fullmatch(base):
        base = f"run-{base}"
    return untaken(runs_dir, base)


def untaken(folder: Path, base: str) -> str:
    """`base`, or `base-2`, `base-3`, ...: the first that is not in `folder`.  `base` is cut to what a name may have."""
    number = 1
    while os.path.lexists(folder / (name := _fitting(base, "" if number == 1 else f"-{number}"))):
        number += 1
    return name


def _fitting(base: str, end: str) -> str:
    if len(os.fsencode(base + end)) <= MOST_BYTES:
        return base + end
    return os.fsencode(base)[: MOST_BYTES - len(end)].decode("utf-8", "ignore") + end
