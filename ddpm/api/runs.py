"""The runs on disk."""

import os
from pathlib import Path

from ddpm.errors import UserError
from ddpm.runs import runs
from ddpm.runs.runs import Run

RUNS = Path("runs")  # the folder of runs, unless another is named


def list_runs(runs_dir: str | os.PathLike[str] = RUNS) -> list[Run]:
    """Lists the runs in a folder, newest first.

    A `Run` has `name`, `folder`, `config`, `metrics` (a pandas DataFrame, one row a line of its log), `state()`,
    `status()` and `checkpoints()`.

        ddpm.list_runs()[0].metrics.plot(x="step", y="loss")
    """
    return runs.list_runs(Path(runs_dir))


def open_run(run: str | os.PathLike[str] | Run, runs_dir: str | os.PathLike[str] = RUNS) -> Run:
    """Opens one run, by its name in `runs_dir` or by its folder.  Raises UserError if there is none.

    ddpm.open_run("quick-start").checkpoints()[-1].step
    """
    if isinstance(run, Run):
        return run
    path = expand_path(run)
    if isinstance(run, str) and path.name == run and not (path / "config.json").exists():
        return runs.find_run(Path(runs_dir), run)
    if not (path / "config.json").exists():
        raise UserError(
            f"{path} is not a run, as it has no config.json: name a run in {runs_dir} or the folder of one.",
            code="not-a-run",
        )
    return Run(path)


def expand_path(text: str | os.PathLike[str]) -> Path:
    """A path as a user types it, with ~ for the home folder."""
    return Path(os.path.expanduser(text))
