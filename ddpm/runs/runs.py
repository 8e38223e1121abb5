"""Training runs on disk: the folders under `runs/`, and what lies in them.  No torch, no Streamlit."""

import contextlib
import os
import re
import secrets
import shlex
import shutil
import time
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from ddpm import formatting
from ddpm.config import codec
from ddpm.config.fields import absolute
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.runs import run_names
from ddpm.runs.jobs import ACTIVE, Job, guard
from ddpm.runs.results import KINDS, EvaluationJob, SampleJob, SolverBenchmarkJob, TrajectoryJob
from ddpm.storage import files

if TYPE_CHECKING:
    import pandas as pd

TAKEN = ("config.json", "progress.csv", "saves")  # in a folder, show that it holds a training


class Checkpoint(NamedTuple):
    """A committed set of checkpoint files: its manifest, read."""

    folder: Path
    step: int
    files: dict[str, dict[str, Any]]  # name -> {"bytes", "sha256"}
    log_bytes: int  # how long progress.csv was
    seconds: float  # of training until then
    theirs: bool = False  # whether another program wrote its weights, in a folder that was opened in place

    @property
    def weights(self) -> list[str]:
        """What can be drawn from: model, ema_0.999, ..., averages first."""
        suffix = f"{self.step:06d}.pt"
        names = [n.removesuffix(suffix).rstrip("_") for n in self.files if n.endswith(suffix)]
        return sorted((n for n in names if n.startswith(("ema", "model"))), key=lambda n: n == "model")

    def path(self, weights: str) -> Path:
        """The file of `model` or `ema_0.999` (or `opt`, `state`)."""
        separator = "_" if weights.startswith("ema") else ""
        return self.folder / f"{weights}{separator}{self.step:06d}.pt"


class Run(Job):
    """A training run: runs/<name>/."""

    @cached_property
    def config(self) -> Config:
        """Raises UserError when config.json is missing or of another version."""
        data = files.read_json(self.folder / "config.json")
        if data is None:
            raise UserError(
                f"{self.folder} has no config.json, so it is no run of this program: name a run's folder.",
                code="not-a-run",
            )
        return codec.from_json(data)

    def with_config(self) -> Self:
        """Reads the settings, for processes that do not see the folder.  Raises UserError as `config` does."""
        self.__dict__["config"] = self.config
        return self

    def shell(self, *words: str, more: Sequence[str] = ()) -> str:
        """The shell command `ddpm WORDS NAME MORE`, with --runs_dir if the folder of runs is not ./runs."""
        where = [] if self.folder.parent == Path("runs") else ["--runs_dir", absolute(str(self.folder.parent))]
        return shlex.join(["ddpm", *words, self.name, *more, *where])

    def save_config(self, config: Config) -> None:
        """Put other settings in the place of those in its folder, where they differ."""
        if config != Run(self.folder).config:
            files.write_json(self.folder / "config.json", codec.to_json(config))
        self.config = config

    def restart_command(self, file: Path | None = None) -> str:
        """The command that begins a new run with the settings of this one: from the weights in `file`, if it is named.

        DATA stands for the data of a run that does not know its own.
        """
        train = self.config.train
        changed: dict[str, Any] = {"resume_checkpoint": "", "data_dir": self.config.data.data_dir or "DATA"}
        if file:
            step = int("".join(re.findall(r"(\d+)\.pt$", file.name)) or 0)
            changed["resume_checkpoint"] = absolute(str(file))
            if step + 1 >= train.total_steps:  # as training ends there
                changed["total_steps"] = step + train.total_steps
                changed["lr_anneal_steps"] = changed["total_steps"] if train.lr_anneal_steps else 0
        runs_dir = self.folder.parent
        flags = codec.to_flags(codec.replace(self.config, changed))
        return Run(runs_dir / run_names.free_name(runs_dir, f"{self.name}-again")).shell("train", *flags, "--run")

    @property
    def finished_message(self) -> str:
        """What is said to whoever wants to go on with a finished run."""
        newest = self.checkpoints()[-1:]
        kinds = newest[0].weights if newest else []  # an example has but an average
        done = f"{self.name} has done all its {formatting.plural(self.config.train.total_steps, 'step')}"
        return (
            f"{done}: to go on from its weights, begin a new run: `{self.restart_command(newest[0].path(kinds[-1]))}`."
            if kinds
            else f"{done}."
        )

    @property
    def progress_path(self) -> Path:
        return self.folder / "progress.csv"

    @property
    def metrics(self) -> "pd.DataFrame":
        """Rows of progress.csv, read anew each time: float64 columns, one row a logged step, NaN for empty cells."""
        from ddpm.runs import metrics  # imports pandas, which takes a moment

        return metrics.MetricReader(self.progress_path).read()

    @property
    def created_at(self) -> float:
        try:
            return (self.folder / "config.json").stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError:  # another user's, or of a disk that is away
            return 0.0

    def checkpoints(self) -> list[Checkpoint]:
        """Committed checkpoints, oldest first."""
        return self.manifests()[0]

    def manifests(self) -> tuple[list[Checkpoint], dict[int, str]]:
        """Committed checkpoints, oldest first, and what is wrong with manifests that cannot be read, by their steps."""
        for _ in range(10):
            found, wrong, gone = [], {}, False
            for path in sorted(self.folder.glob("saves/*.json")):
                if not path.stem.isdecimal():
                    continue
                try:
                    manifest = files.read_json(path)
                    if manifest is None:  # removed just now, as a newer one came: that one may not have been listed
                        gone = True
                        continue
                    found.append(self._checkpoint(manifest))
                except UserError as error:
                    wrong[int(path.stem)] = str(error)
                except (KeyError, TypeError, ValueError, AttributeError):
                    wrong[int(path.stem)] = (
                        f"{path} is no list of a checkpoint's files: restore it from a copy, or delete it."
                    )
            if not gone:
                break
        return sorted(found, key=lambda c: c.step), wrong

    def _checkpoint(self, manifest: Any) -> Checkpoint:
        """What a manifest says.  Raises KeyError, TypeError or ValueError where it is none."""
        known = {k: manifest[k] for k in Checkpoint._fields if k in manifest}
        found = Checkpoint(**{**known, "folder": self.folder})
        if not all(
            isinstance(entry["bytes"], int) and isinstance(entry["sha256"], str) for entry in found.files.values()
        ):
            raise ValueError
        return found._replace(step=int(found.step))

    def checkpoint(self, step: int = 0) -> Checkpoint:
        """The one of that step, or the newest.  Raises UserError when there is none."""
        found, wrong = self.manifests()
        if sentence := wrong.get(step or max(wrong, default=0)) if step or not found else "":
            raise UserError(sentence, code="lost-checkpoints")
        if not found:
            soon = "wait for the first one, or press Save now on its Monitor page"
            train = f"let it train until it saves one: `{self.shell('train', '--resume')}`"
            raise UserError(
                f"{self.name} has no checkpoint yet: {soon if self.state() in ACTIVE else train}.", code="no-checkpoint"
            )
        if not step:
            return found[-1]
        for checkpoint in found:
            if checkpoint.step == step:
                return checkpoint
        steps = ", ".join(str(c.step) for c in found)
        raise UserError(f"{self.name} has no checkpoint of step {step}: there are {steps}.", code="unknown-step")

    def previews(self) -> list[tuple[int, Path]]:
        """(step, file) of the grids drawn while training, oldest first."""
        return sorted((int(p.stem), p) for p in self.folder.glob("samples/*.png") if p.stem.isdecimal())

    def results(self, kind: str) -> list[Any]:
        """Results of a row of `results.KINDS`, newest first."""
        read = KINDS[kind].job
        found = [read(path.parent) for path in self.folder.glob(f"{kind}/*/status.json")]
        return sorted(found, key=lambda job: job.name, reverse=True)

    def new_result_folder(self, kind: str) -> Path:
        """A new folder for a result of that kind, named after the time it is now."""
        return timestamped_folder(self.folder / kind)

    def sample_jobs(self) -> list[SampleJob]:
        """Samples of this run, newest first."""
        return self.results("samples")

    def evaluation_jobs(self) -> list[EvaluationJob]:
        """Evaluations of this run, newest first."""
        return self.results("evaluations")

    def trajectory_jobs(self) -> list[TrajectoryJob]:
        """Trajectories of single images of this run, newest first."""
        return self.results("microscopes")

    def solver_benchmark_jobs(self) -> list[SolverBenchmarkJob]:
        """Comparisons of samplers on this run, newest first."""
        return self.results("frontiers")


def check_resumable(job: SampleJob) -> None:
    """Raises UserError for a drawing that cannot be gone on with."""
    if "checkpoint" not in job.settings:
        raise UserError(
            f"{job.folder} holds no drawing that began: name the folder of one, with its settings.json.",
            code="not-a-run",
        )
    status, asked = job.status(), job.config.num_samples
    if status and status.state == "finished" and job.shape and job.shape[0] == asked:
        raise UserError(
            f"{job.folder} has all its {formatting.plural(asked, 'picture')}: there is nothing left to draw.",
            code="nothing-left",
        )


def timestamped_folder(folder: Path) -> Path:
    """A new, empty folder in `folder`, named after the time it is now.  Raises UserError where it cannot be made."""
    try:
        return files.new_folder(folder / time.strftime("%Y%m%d-%H%M%S"))
    except OSError as error:
        raise UserError(
            f"Cannot write in {folder} ({error.strerror or error}): make it writable, or choose another folder.",
            code="not-writable",
        ) from error


def create_run(runs_dir: Path, name: str, config: Config) -> Run:
    """Make the folder of a new run, whole or not at all.  Raises UserError for a bad or taken name."""
    run_names.check_name(name)
    with guard(runs_dir):
        folder = runs_dir / name
        if (folder / "config.json").exists():
            raise UserError(
                f"There is already a run named {name}: choose another name, or resume that one.", code="already-exists"
            )
        if folder.exists():
            raise UserError(f"{folder} is there already, and holds no run: choose another name.", code="already-exists")
        files.sweep(runs_dir)
        building = runs_dir / f"{files.TEMPORARY}{secrets.token_hex(4)}"
        try:
            files.write_json(building / "config.json", codec.to_json(config))
            files.rename(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return Run(folder)


def create_run_in(folder: Path, config: Config) -> Run:
    """Make a run in this very folder, which may be there but not hold a training.  Raises UserError."""
    training = next((p.name for p in sorted(folder.glob("*")) if p.name in TAKEN or p.suffix == ".pt"), "")
    if training == "config.json":
        raise UserError(
            f"{folder} holds a run already: go on with it by `ddpm train --resume`, or name another folder in"
            " OPENAI_LOGDIR.",
            code="already-exists",
        )
    if training:
        raise UserError(
            f"{folder} holds {training} of another training: name another folder in OPENAI_LOGDIR.", code="not-empty"
        )
    try:
        files.write_json(folder / "config.json", codec.to_json(config))
    except OSError as error:
        raise UserError(
            f"Cannot write in {folder} ({error.strerror}): name another folder in OPENAI_LOGDIR.", code="not-writable"
        ) from error
    return Run(folder)


def find_run(runs_dir: Path, name: str) -> Run:
    """The run of that name, which is that of its folder.  Raises UserError when there is none."""
    if run_names.is_name(name) and (runs_dir / name / "config.json").exists():
        return Run(runs_dir / name)
    found = list_runs(runs_dir)
    for run in found:  # systems write the same letters in more than one way
        if unicodedata.normalize("NFC", run.name) == unicodedata.normalize("NFC", name):
            return run
    if run_names.is_name(name) and (weights := sorted((runs_dir / name).glob("*.pt"))):
        raise UserError(
            f"{runs_dir / name} has lost its config.json: restore it from a copy;"
            f" `{shlex.join(['ddpm', 'sample', '--model_path', absolute(str(weights[0]))])}` draws from its files,"
            " which hold their settings.",
            code="lost-settings",
        )
    newest = ", ".join(run.name for run in found[:5])
    known = f"the newest are {newest}" if newest else "there are none yet; `ddpm example` makes one to try"
    if not run_names.is_name(name):
        raise UserError(
            f"{name!r} is no name of a run, which is that of a folder in {runs_dir}, without a path: {known}.",
            code="bad-name",
        )
    raise UserError(f"There is no run named {name} in {runs_dir}: {known}.", code="unknown-run")


def list_runs(runs_dir: Path) -> list[Run]:
    """Every run, newest first; those that this user may not look into, too."""
    found = []
    for name in _names_in(runs_dir):
        run = Run(runs_dir / name)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # no run, or one that is just moved away
            found.append((run.created_at, name, run))
    return [run for _, _, run in sorted(found, key=lambda entry: entry[:2], reverse=True)]


def _names_in(runs_dir: Path) -> list[str]:
    """What is in the folder of runs, except what is hidden."""
    try:
        return [name for name in os.listdir(runs_dir) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
