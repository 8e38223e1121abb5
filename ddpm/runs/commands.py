"""Shell commands that do what a button of the dashboard does."""

import shlex
from pathlib import Path

from ddpm.config import codec
from ddpm.config.fields import absolute
from ddpm.config.presets import PRESETS
from ddpm.config.training import Config

RUNS = Path("runs")  # the folder of runs where none is named


def runs_dir_flags(runs_dir: Path) -> list[str]:
    """`--runs_dir DIR` where it is not the usual folder of runs, as flags of a command."""
    return [] if runs_dir == RUNS else ["--runs_dir", absolute(str(runs_dir))]


def train(config: Config, name: str, runs_dir: Path = RUNS) -> str:
    """Shortest `ddpm train` command for a new run `name`: from the nearest preset, or from the defaults."""
    candidates = [codec.to_flags(config)]
    candidates += [["--preset", preset, *codec.to_flags(config, PRESETS[preset].config)] for preset in PRESETS]
    return shlex.join(["ddpm", "train", *min(candidates, key=len), "--run", name, *runs_dir_flags(runs_dir)])
