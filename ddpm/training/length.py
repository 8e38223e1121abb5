"""How many steps a training takes: as many as the settings say, until it is asked to cool down and finish."""

import dataclasses
import logging

from ddpm.compute import distributed
from ddpm.config import learning_rate
from ddpm.config.training import COOLED, Config, TrainConfig
from ddpm.errors import UserError, as_user_error
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import files
from ddpm.training.trainer import Trainer

log = logging.getLogger("ddpm")


class Length:
    """The number of steps of a training in a run's folder.

    What is decided is in the settings of trainer and run, in config.json before any step that follows from it: a run
    that is resumed goes on as it would have.  Of several processes each has a Length, and all decide alike.
    """

    def __init__(self, run: Run, worker: Worker, trainer: Trainer):
        self._run, self._worker, self._trainer = run, worker, trainer

    def begins_cooldown(self) -> bool:
        """Whether the next step is the first of a cooldown: what is saved now can go on to any other length."""
        train = self._trainer.config.train
        start = learning_rate.cooldown_start(train.total_steps, train.lr_cooldown)
        return train.lr_schedule == COOLED and self._trainer.step == start

    def cool_down(self) -> None:
        """Begins the cooldown now, with whose end the training ends; nothing where the learning rate falls already."""
        step = self._trainer.step
        try:
            train = learning_rate.cooled_from(self._trainer.config.train, step)
        except UserError as error:
            log.warning("%s", error)
            return
        if self._set(train):
            log.info("The cooldown begins after step %d, and training ends with it at step %d", step, train.total_steps)

    def _set(self, train: TrainConfig) -> bool:
        """Changes the settings, here and in config.json; False where the disk refuses, and all stays as it was."""
        config = dataclasses.replace(self._trainer.config, train=train)
        if refused := distributed.run_on_main(lambda: self._write(config)):
            log.warning("%s", refused)
            self._worker.beat(warning=refused, now=True)
            return False
        self._trainer.config = self._run.config = config
        self._worker.beat(total_steps=train.total_steps, now=True)
        return True

    def _write(self, config: Config) -> str:
        """Writes config.json; returns in a sentence why the disk refuses."""
        try:
            self._run.save_config(config)
        except (files.DiskFull, OSError) as error:
            known = as_user_error(error) if isinstance(error, OSError) else error
            return f"{known} The number of steps stays as it was."
        return ""
