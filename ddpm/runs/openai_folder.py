"""Log folders of improved-diffusion: checkpoint files by step.  `openai_log` reads the log in them.

model001000.pt, ema_0.9999_001000.pt and opt001000.pt are one checkpoint; progress.csv and log.txt are the log.
"""

import re
from pathlib import Path
from typing import NamedTuple

from ddpm.config import ema_rates
from ddpm.errors import UserError
from ddpm.storage import paths

FILE = re.compile(
    r"(?:(?P<kind>model|opt)|ema_(?P<rate>(?:power)?[0-9]*[.]?[0-9]+(?:[eE][+-]?[0-9]+)?)_)(?P<step>\d+)\.pt"
)


class Files(NamedTuple):
    """The files of one step."""

    step: int  # as in their names: the 0-based index of the newest update, or at the end the number of updates
    model: Path | None
    averages: dict[str, Path]  # rate as in the file name -> file
    optimizer: Path | None

    @property
    def weights(self) -> dict[str, Path]:
        """Files of weights by name: "model" or "ema_0.9999" -> file."""
        averages = {f"ema_{rate}": path for rate, path in self.averages.items()}
        return {**({"model": self.model} if self.model else {}), **averages}


class Folder(NamedTuple):
    """The checkpoints and the log in a log folder."""

    path: Path
    steps: list[Files]  # with a model file, oldest first
    progress: Path | None

    @property
    def newest(self) -> Files:
        """The files of the last step."""
        return self.steps[-1]


def read_folder(path: Path) -> Folder:
    """Reads a log folder of improved-diffusion.  Raises UserError if it has no checkpoint."""
    path = paths.full(path)
    if not path.is_dir():
        raise UserError(
            f"There is no folder {path}: give the folder that improved-diffusion logged to (OPENAI_LOGDIR).",
            code="not-found",
        )
    if (path / "config.json").exists():
        raise UserError(
            f"{path} is already a run of this program: give its parent folder as --runs_dir.", code="own-run"
        )
    found = [files for files in _by_step(path) if files.model]
    if not found:
        raise UserError(
            f"{path} holds no model file such as model010000.pt: give the folder that improved-diffusion logged to"
            " (OPENAI_LOGDIR).",
            code="no-checkpoint",
        )
    progress = path / "progress.csv"
    return Folder(path, found, progress if progress.exists() else None)


def files_of_same_step(path: Path) -> Files | None:
    """The files of the same step in the folder of a checkpoint file; None if its name has no step."""
    match = FILE.fullmatch(path.name)
    return next((f for f in _by_step(path.parent) if f.step == int(match["step"])), None) if match else None


def step_of(path: Path) -> int:
    """The step in the name of a file; 0 for other files."""
    match = FILE.fullmatch(path.name)
    return int(match["step"]) if match else 0


def ema_rate_of(path: Path) -> str:
    """The EMA rate in the name of a file; empty for other files."""
    match = FILE.fullmatch(path.name)
    return (match["rate"] or "") if match else ""


def _by_step(folder: Path) -> list[Files]:
    steps: dict[int, Files] = {}
    for path in sorted(folder.glob("*.pt")):
        if match := FILE.fullmatch(path.name):
            step = int(match["step"])
            files = steps.setdefault(step, Files(step, None, {}, None))
            if match["rate"]:
                files.averages[match["rate"]] = path
            else:
                steps[step] = files._replace(model=path) if match["kind"] == "model" else files._replace(optimizer=path)
    ordered = [steps[step] for step in sorted(steps)]
    return [f._replace(averages=dict(sorted(f.averages.items(), key=lambda entry: _order(entry[0])))) for f in ordered]


def _order(rate: str) -> tuple[bool, float]:
    """Decay rates first, then power profiles, which only this program writes."""
    width = ema_rates.width_of(rate)
    return width is not None, float(rate) if width is None else width
