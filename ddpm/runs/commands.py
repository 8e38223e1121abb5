"""Shell commands for the buttons of the dashboard."""

import shlex
from pathlib import Path

from ddpm.config import codec
from ddpm.config.fields import absolute
from ddpm.config.presets import PRESETS
from ddpm.config.tasks import OWN_DATA
from ddpm.config.training import Config
from ddpm.runs.runs import Run

RUNS = Path("runs")  # default folder of runs


def runs_dir_flags(runs_dir: Path) -> list[str]:
    """The flags `--runs_dir DIR`, or none for the default folder of runs."""
    return [] if runs_dir == RUNS else ["--runs_dir", absolute(str(runs_dir))]


def train(config: Config, name: str, runs_dir: Path = RUNS) -> str:
    """Shortest `ddpm train` command for a new run `name`: from the nearest preset, or from the defaults."""
    candidates = [codec.to_flags(config)]
    candidates += [["--preset", preset, *codec.to_flags(config, PRESETS[preset].config)] for preset in PRESETS]
    return shlex.join(["ddpm", "train", *min(candidates, key=len), "--run", name, *runs_dir_flags(runs_dir)])


def for_buttons(run: Run) -> list[tuple[str, str]]:
    """Commands equivalent to the buttons for a run: (title, command)."""
    config = run.config
    sampling = ["--num_samples", "64", "--steps", str(min(20, config.diffusion.diffusion_steps))]
    sampling += ["--base_samples", OWN_DATA] if config.model.super_res else []
    if config.model.class_cond and not config.class_names:  # without names it is unknown which were trained
        sampling += ["--classes", f"0-{min(10, config.model.num_classes) - 1}"]
    further = ("Train more steps", run.further_command(2 * config.train.total_steps))
    return [
        ("Train again with the same settings", run.restart_command()),
        further if run.is_complete() else ("Resume", run.shell("train", "--resume")),
        ("Stop", run.shell("stop")),
        ("Sample images", run.shell("sample", "--run", more=[*sampling, "--out", "samples"])),
        ("Evaluate bits per dimension", run.shell("nll", "--run", more=["--num_samples", "100"])),
        ("Export metrics as a spreadsheet", run.shell("export", more=["--xlsx", f"{run.name}.xlsx"])),
    ]
