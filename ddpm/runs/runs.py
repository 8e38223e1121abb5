"""Training runs on disk: the folders in `runs/`, with their settings, checkpoints and results."""

import contextlib
import os
import re
import shlex
import shutil
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ddpm import formatting
from ddpm.config import codec
from ddpm.config.fields import absolute
from ddpm.config.training import Config
from ddpm.errors import AlreadyDone, UserError, as_user_error
from ddpm.runs import about, manifests, run_folder, run_names
from ddpm.runs.about import About
from ddpm.runs.exclusive import guard, not_writable
from ddpm.runs.jobs import ACTIVE, Job
from ddpm.runs.manifests import Checkpoint, Manifests
from ddpm.runs.results import KINDS, EvaluationJob, SampleJob, SolverBenchmarkJob, TrajectoryJob
from ddpm.storage import ballast, files
from ddpm.storage.remembered import Remembered
from ddpm.storage.untrusted import Folder

if TYPE_CHECKING:
    import pandas as pd

LATEST = 1e11  # seconds since the epoch: a time that every system can write as a date
TAKEN = ("config.json", "progress.csv", "saves")  # files that show that a folder holds a training


class Run(Job):
    """A training run: runs/<name>/."""

    def __init__(self, folder: Path, depth: int = 0):
        super().__init__(folder, depth)
        self._settings: Remembered[Config | None] = Remembered()
        self._about: Remembered[About] = Remembered()
        self._kept_config: Config | None = None

    @property
    def config(self) -> Config:
        """The settings in config.json as it is now.  Raises UserError if it is missing or of another version."""
        return self._kept_config or self._config_in(self.content)

    def _config_in(self, content: Folder) -> Config:
        def parse() -> Config | None:
            data = files.json_in(content, "config.json", run_folder.MOST_CONFIG)
            return None if data is None else codec.from_json(data, str(self.folder / "config.json"))

        found = self._settings.read(content, "config.json", parse)
        if found is None:
            raise UserError(
                f"{self.folder} has no config.json, so it is not a run of this program: name the folder of a run.",
                code="not-a-run",
            )
        return found

    def check_files(self) -> None:
        """Raises UserError, or OSError, for the first file of the run that is not what it should be."""
        content = self.content
        with content.kept_open():
            self._config_in(content)
            self._check_files_of_job(content)
            content.exists("progress.csv")
        content.inside("samples").files()
        if wrong := manifests.read_all(content, newest=True).wrong:
            raise UserError(wrong[max(wrong)], code="lost-checkpoints")

    def with_config(self, config: Config | None = None) -> Self:
        """Keeps the settings, or these, for processes that train and may not see the folder.  Raises UserError."""
        self._kept_config = config or self.config
        return self

    def read_about(self) -> About:
        """What the user says of it: title, tags, notes, star, archived.

        Raises UserError if about.json is damaged, OSError if it cannot be read.
        """
        content = self.content
        return self._about.read(content, about.NAME, lambda: about.read(content)) or About()

    def about(self) -> About:
        """As `read_about`; of a damaged file nothing is known, and `about_problem` says why."""
        try:
            return self.read_about()
        except (UserError, OSError):
            return About()

    def about_problem(self) -> str:
        """What is wrong with about.json, as a sentence; empty if nothing is."""
        try:
            self.read_about()
        except UserError as error:
            return str(error)
        except OSError as error:
            return str(as_user_error(error))
        return ""

    def describe(self, **changes: Any) -> About:
        """Changes what the user says of it: title, notes, star, archived, tags, or tags to `add` and to `remove`.

        Returns what is said now; see `about.change`.
        """
        return about.change(self.folder, **changes)

    @property
    def title(self) -> str:
        """What it is called: the title that the user gave it, or the name of its folder."""
        return self.about().title or self.name

    def shell(self, *words: str, more: Sequence[str] = ()) -> str:
        """The shell command `ddpm WORDS NAME MORE`, with --runs_dir if the folder of runs is not ./runs."""
        where = [] if self.folder.parent == Path("runs") else ["--runs_dir", absolute(str(self.folder.parent))]
        return shlex.join(["ddpm", *words, self.name, *more, *where])

    def save_config(self, config: Config) -> None:
        """Replaces the settings in config.json, if they differ."""
        if config != Run(self.folder).config:
            path = self.folder / "config.json"
            created = os.lstat(path).st_mtime_ns
            self.write_json(path, codec.to_json(config))
            os.utime(path, ns=(created, created))  # `created_at` is the time of the file
        self._kept_config = self._kept_config and config

    def again(self, file: Path | None = None) -> Config:
        """The settings of a new run like this one, which begins from the weights in `file` if given.

        Where training would end at once, as the file has done all the steps, there are as many more.
        """
        if file is None:
            return self.config
        train, step = self.config.train, int("".join(re.findall(r"(\d+)\.pt$", file.name)) or 0)
        changed: dict[str, Any] = {"resume_checkpoint": absolute(str(file))}
        if step + 1 >= train.total_steps:
            changed["total_steps"] = step + train.total_steps
            changed["lr_anneal_steps"] = changed["total_steps"] if train.lr_anneal_steps else 0
        return codec.replace(self.config, changed)

    def restart_command(self, file: Path | None = None) -> str:
        """The command that starts a new run with the settings of this one, from the weights in `file` if given.

        DATA is a placeholder if the run does not record its data.
        """
        config = codec.replace(self.again(file), {"data_dir": self.config.data.data_dir or "DATA"})
        flags = codec.to_flags(config if file else codec.replace(config, {"resume_checkpoint": ""}))
        runs_dir = self.folder.parent
        return Run(runs_dir / run_names.free_name(runs_dir, f"{self.name}-again")).shell("train", *flags, "--run")

    def further_command(self, total_steps: int) -> str:
        """The command that trains a run further, up to that step; DATA is a placeholder as in `restart_command`."""
        data = [] if self.config.data.data_dir else ["--data_dir", "DATA"]
        return self.shell("train", "--resume", more=["--total_steps", str(total_steps), *data])

    @property
    def finished_message(self) -> str:
        """The answer to a request to resume a finished run."""
        newest, total = self.checkpoints()[-1:], self.config.train.total_steps
        kinds = newest[0].weights if newest else []  # an example has only an average
        done = f"{self.name} has done all its {formatting.plural(total, 'step')}"
        if newest and newest[0].path("state").name in newest[0].files:
            return f"{done}: `{self.further_command(newest[0].step + total)}` trains it further."
        return (
            f"{done}: to train it further, start a new run: `{self.restart_command(newest[0].path(kinds[-1]))}`."
            if kinds
            else f"{done}."
        )

    def is_complete(self) -> bool:
        """True if the checkpoint of its last step is saved."""
        try:
            total = self.config.train.total_steps
            return any(checkpoint.step >= total for checkpoint in self.checkpoints())
        except (UserError, OSError):
            return False

    @property
    def progress_path(self) -> Path:
        """The log of metrics."""
        return self.folder / "progress.csv"

    @property
    def metrics(self) -> "pd.DataFrame":
        """Rows of progress.csv, read at each access: float64 columns, one row per logged step, NaN for empty cells."""
        from ddpm.runs import metrics  # importing pandas takes a moment

        return metrics.MetricReader(self.progress_path).read()

    @property
    def created_at(self) -> float:
        """Time of creation, in seconds since the epoch; 0 if it cannot be read."""
        try:
            changed = os.lstat(os.path.join(self.folder, "config.json")).st_mtime
            return changed if 0 <= changed < LATEST else 0.0
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError:  # belongs to another user, or the disk is not available
            return 0.0

    def checkpoints(self) -> list[Checkpoint]:
        """Complete checkpoints, oldest first."""
        return self.manifests().found

    def manifests(self) -> Manifests:
        """Complete checkpoints, and by step the errors of manifests that cannot be read."""
        return manifests.read_all(self.content)

    def checkpoint(self, step: int = 0) -> Checkpoint:
        """The checkpoint of a training step; 0 is the newest.  Raises UserError if there is none."""
        found, wrong, _ = self.manifests()
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
        raise UserError(f"{self.name} has no checkpoint of step {step}: choose one of {steps}.", code="unknown-step")

    def previews(self) -> list[tuple[int, Path]]:
        """(training step, file) of the previews, oldest first."""
        folder = self.content.inside("samples")
        names = [name for name in folder.files(".png") if run_folder.PREVIEW_NAME.fullmatch(name)]
        return sorted((int(Path(name).stem), folder.path / name) for name in names)

    def results(self, kind: str) -> list[Any]:
        """Results of a row of `results.KINDS`, newest first."""
        read, folder = KINDS[kind].job, self.content.inside(kind)
        jobs = [read(folder.path / name, depth=2) for name in folder.folders()]
        found = [job for job in jobs if os.path.lexists(job.folder / "status.json")]
        return sorted(found, key=lambda job: job.name, reverse=True)

    def new_result_folder(self, kind: str) -> Path:
        """Creates a folder for a result of that kind, named after the current time."""
        try:
            folder = self.content.inside(kind).make()
        except OSError as error:
            raise not_writable(self.folder / kind, error) from error
        return timestamped_folder(folder.path)

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


def check_known(run: Run) -> None:
    """Raises UserError for a run with a checkpoint that a newer version saved."""
    found = run.manifests()
    if found.newer:
        raise UserError(found.wrong[max(found.newer)], code="newer-format")


def check_unfinished(run: Run) -> None:
    """Raises AlreadyDone for a run whose last step is saved."""
    if run.is_complete():
        raise AlreadyDone(run.finished_message)


def check_resumable(job: SampleJob) -> None:
    """Raises UserError if a sampling job cannot be resumed, AlreadyDone if it has all its images."""
    if "checkpoint" not in job.settings:
        raise UserError(
            f"{job.folder} has no settings.json, so no sampling started there: name the folder of a sampling job.",
            code="not-a-run",
        )
    if job.is_complete():
        count = formatting.plural(job.config.num_samples, "image")
        raise AlreadyDone(f"{job.folder} has all its {count}: start a new sampling job for more.")


def timestamped_folder(folder: Path) -> Path:
    """Creates an empty folder in `folder`, named after the current time.  Raises UserError if that fails."""
    try:
        return files.new_folder(folder / time.strftime("%Y%m%d-%H%M%S"))
    except OSError as error:
        raise UserError(
            f"Cannot write in {folder} ({error.strerror or error}): make it writable, or choose another folder.",
            code="not-writable",
        ) from error


def create_run(runs_dir: Path, name: str, config: Config) -> Run:
    """Creates the folder of a new run in one step.  Raises UserError for an invalid or existing name."""
    run_names.check_name(name)
    with guard(runs_dir):
        folder = runs_dir / name
        if (folder / "config.json").exists():
            raise UserError(
                f"There is already a run named {name}: choose another name, or resume that one.", code="already-exists"
            )
        if folder.exists():
            raise UserError(f"{folder} exists already, and is not a run: choose another name.", code="already-exists")
        files.sweep(runs_dir)
        building = files.temporary_path(folder)
        try:
            files.write_json(building / "config.json", codec.to_json(config))
            ballast.load(building)
            files.rename(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return Run(folder)


def publish(building: Path, folder: Path) -> Run:
    """Moves a run that was built beside its place there.  Raises UserError if the name was taken meanwhile."""
    with guard(folder.parent):
        if folder.exists():
            raise UserError(f"{folder} exists already: choose another name.", code="already-exists")
        files.rename(building, folder)
    return Run(folder)


def create_run_in(folder: Path, config: Config) -> Run:
    """Creates a run in the folder itself.  Raises UserError if it holds a training or cannot be written."""
    training = next((p.name for p in sorted(folder.glob("*")) if p.name in TAKEN or p.suffix == ".pt"), "")
    if training == "config.json":
        raise UserError(
            f"{folder} already holds a run: resume it with `ddpm train --resume`, or give another folder in"
            " OPENAI_LOGDIR.",
            code="already-exists",
        )
    if training:
        raise UserError(
            f"{folder} holds {training} of another training: give another folder in OPENAI_LOGDIR.", code="not-empty"
        )
    try:
        files.write_json(folder / "config.json", codec.to_json(config))
        ballast.load(folder)
    except OSError as error:
        raise UserError(
            f"Cannot write in {folder} ({error.strerror}): give another folder in OPENAI_LOGDIR.", code="not-writable"
        ) from error
    return Run(folder)


def find_run(runs_dir: Path, name: str) -> Run:
    """The run with that name, the name of its folder.  Raises UserError if there is none."""
    if run_names.is_name(name) and (runs_dir / name / "config.json").exists():
        return Run(runs_dir / name)
    found = list_runs(runs_dir)
    for run in found:  # file systems differ in how they normalise Unicode
        if unicodedata.normalize("NFC", run.name) == unicodedata.normalize("NFC", name):
            return run
    if run_names.is_name(name) and (weights := sorted((runs_dir / name).glob("*.pt"))):
        raise UserError(
            f"{runs_dir / name} has lost its config.json: restore it from a copy;"
            f" `{shlex.join(['ddpm', 'sample', '--model_path', absolute(str(weights[0]))])}` samples from its files,"
            " which hold their settings.",
            code="lost-settings",
        )
    newest = ", ".join(run.name for run in found[:5])
    known = f"the newest are {newest}" if newest else "there are none yet; `ddpm example` makes one to try"
    if not run_names.is_name(name):
        raise UserError(
            f"{name!r} is not the name of a run, that is of a folder in {runs_dir}, without a path: {known}.",
            code="bad-name",
        )
    raise UserError(f"There is no run named {name} in {runs_dir}: {known}.", code="unknown-run")


def list_runs(runs_dir: Path) -> list[Run]:
    """All runs, newest first, including those that this user may not read."""
    found = []
    for name in _names_in(runs_dir):
        run = Run(runs_dir / name)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # not a run, or just moved away
            found.append((run.created_at, name, run))
    return [run for _, _, run in sorted(found, key=lambda entry: entry[:2], reverse=True)]


def _names_in(runs_dir: Path) -> list[str]:
    """Names in the folder of runs that a run may have."""
    try:
        return [name for name in os.listdir(runs_dir) if run_names.is_name(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
