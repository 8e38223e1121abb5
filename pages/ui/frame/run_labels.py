"""What runs are called where one is chosen."""

from collections.abc import Sequence
from pathlib import Path

from ddpm.errors import UserError
from ddpm.formatting import printable
from ddpm.runs import about
from ddpm.runs.about import About
from ddpm.runs.runs import Run

_read: dict[Path, tuple[int, About]] = {}  # folder of a run -> when its about.json was changed, and what it says


def labels(found: Sequence[Run]) -> dict[str, str]:
    """Name of each run, and what it is called: its title and its name.  Those that are archived stand last."""
    said = {run.name: _about(run) for run in found}
    ordered = sorted(said, key=lambda name: said[name].archived)  # otherwise in their order
    return {name: _label(name, said[name]) for name in ordered}


def _label(name: str, said: About) -> str:
    title = f"{printable(said.title)} · {printable(name)}" if said.title else printable(name)
    return f"{title} (archived)" if said.archived else title


def _about(run: Run) -> About:
    """What is said of a run; read again only when the file has changed, as there may be thousands."""
    try:
        changed = run.changed_at(run.folder / about.NAME)
    except (OSError, UserError):
        _read.pop(run.folder, None)
        return About()
    before = _read.get(run.folder)
    if before is None or before[0] != changed:
        before = _read[run.folder] = changed, run.about()
    return before[1]
