"""Training as an iterator of reports, in memory or into a run's folder."""

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ddpm.api.model import Model
from ddpm.api.runs import RUNS, expand_path
from ddpm.api.settings import absolute_paths
from ddpm.config import codec
from ddpm.config.presets import PRESETS
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.host import cpu_threads
from ddpm.runs import extending, jobs, lost_checkpoints, runs
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker

if TYPE_CHECKING:
    from ddpm.data.datasets import Dataset
    from ddpm.training.trainer import Report, Trainer

# A run that is resumed may have these changed.
RESUME_SETTINGS = {"data_dir", "enlarge", "skip_broken", "threads", "total_steps", "train_for"}


def train(
    config: str | Config | Run = "quick-start",
    *,
    run: str | os.PathLike[str] | None = None,
    runs_dir: str | os.PathLike[str] = RUNS,
    **settings: Any,
) -> "Training":
    """Trains a model; yields a report after every training step.

    Arguments:
        config: a preset's name (see `PRESETS`), a `Config`, or a `Run` to resume; `total_steps` trains one further that
            has done all its steps.
        run: write a run folder: the name of a new run in `runs_dir`, or the path of a new folder.  Everything that
            `ddpm train` writes is there, and the dashboard shows it.  None: nothing is written.
        settings: settings to change, by the names that `ddpm train --help` lists.

    Returns an iterator of `Report` records: `step`, `losses` (name -> float64 [N], a value an image), `t` (int64 [N]),
    `grad_norm`, `lr`, `seconds`, `held_out` (the loss on held-out images by column of progress.csv, at the steps after
    which it is measured) and others.  Leaving the loop and calling `close()` stops the training; one that writes
    a run saves a checkpoint first, and `train(open_run(NAME))` resumes it.  Ctrl-C does the same after the step.

    torch's global random generator is seeded, as the first weights and dropout come from it.

    Raises UserError at once for settings that do not go together and for data that cannot be read.

        for report in ddpm.train("quick-start", total_steps=500, run="mine"):
            print(report.step, report.losses["loss"].mean())
    """
    if isinstance(config, Run):
        return _resume(config, run, settings)
    if isinstance(config, str):
        if config not in PRESETS:
            raise UserError(
                f"There is no preset {config!r}: choose among {', '.join(PRESETS)}, or give a Config.",
                code="unknown-setting",
            )
        config = PRESETS[config].config
    from ddpm.training import start

    config, dataset = start.prepare(
        codec.checked(codec.replace(config, extending.one_length(absolute_paths(settings))))
    )
    if run is not None:
        path = expand_path(run)
        named = isinstance(run, str) and path.name == run
        created = runs.create_run(Path(runs_dir) if named else path.parent, path.name, config)
        return Training(_train_run(created))
    return Training(_train_in_memory(config, dataset))


def _train_in_memory(config: Config, dataset: "Dataset") -> Iterator[Any]:
    from ddpm.compute import distributed
    from ddpm.training import held_out, warm_start
    from ddpm.training.budget import Budget
    from ddpm.training.trainer import Trainer

    distributed.set_num_threads(config.train.threads)
    try:
        trainer = Trainer(config, dataset, distributed.device())
        if config.train.resume_checkpoint:
            warm_start.begin(trainer, warm_start.start_from(Path(config.train.resume_checkpoint), config))
        loss = held_out.begin(trainer, held_out.open_part(config))
        yield None, trainer
        budget, began = Budget.of(trainer) if trainer.is_open() else None, time.monotonic()
        for report in trainer.steps():
            if budget and trainer.is_open():
                train = trainer.config.train
                total, decided = budget.after_step(train, report.step, time.monotonic() - began)
                trainer.set_length(dataclasses.replace(train, total_steps=total), decided)
            if loss and loss.is_due(report.step):
                report = report._replace(held_out=loss.measure())
            yield report
            if report.diverged:
                raise UserError(
                    f"The gradient of step {report.step} was not a number, so training ended: train with a lower lr, or"
                    " with grad_clip 1.",
                    code="diverged",
                )
    finally:
        cpu_threads.release()


def _train_run(run: Run, resumed: dict[str, Any] | None = None) -> Iterator[Any]:
    """Trains in a run's folder.  resumed: what is changed of a run that is resumed; None for a new one."""
    from ddpm.training import resume, start
    from ddpm.training.loop import TrainingLoop

    with Worker(run.folder, run.config.train.total_steps) as worker, start.log_to_file(run.log_path):
        start.log_versions()
        if resumed is not None:
            lost_checkpoints.check(run)
            lost_checkpoints.report_saved(run, worker)
            run = resume.ready(run, resumed, worker)
        loop = TrainingLoop(run, worker)
        try:
            yield run, loop.trainer
            yield from loop.train()
        except GeneratorExit:
            if worker.status.state not in jobs.FINAL:  # closed before the first step
                worker.beat(state="stopped", now=True)


def _resume(run: Run, to: object, settings: dict[str, Any]) -> "Training":
    """Resumes a run.  to: must be None, as the run is its own folder."""
    if fixed := [*sorted(set(settings) - RESUME_SETTINGS), *(["run"] if to is not None else [])]:
        raise UserError(
            f"{run.name} is resumed with its own settings, but {fixed[0]} was given too: leave it out, or train a new"
            " run.",
            code="settings-are-fixed",
        )
    from ddpm.training import resume

    resume.restore_settings(run)
    run = Run(run.folder).with_config()
    runs.check_known(run)
    changed = absolute_paths(settings)
    extending.extend_by(run, changed)
    resume.check_unfinished(run)
    return Training(_train_run(run, changed))


class Training(Iterator["Report"]):
    """A training in progress: an iterator of reports, one a training step."""

    run: Run | None
    """The run that it writes; None if it writes none."""

    def __init__(self, steps: Iterator[Any]):
        self._steps: Any = steps
        self._trainer: Trainer
        self.run, self._trainer = next(self._steps)  # starts it, up to the first step

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> "Report":
        return next(self._steps)

    def close(self) -> None:
        """Stops the training.  One that writes a run saves a checkpoint first."""
        self._steps.close()

    @property
    def config(self) -> Config:
        """All settings, with what follows from the data."""
        return self._trainer.config

    @property
    def step(self) -> int:
        """Training steps done."""
        return self._trainer.step

    def model(self, weights: str = "") -> "Model":
        """Copies the model as it is now.  weights: "model", an "ema_RATE", or by default the first average.

        training = ddpm.train("quick-start", total_steps=100)
        losses = [report.losses["loss"].mean() for report in training]
        images = training.model().sample(4, steps=10)
        """
        return Model(self._trainer.network(weights), self.config)
