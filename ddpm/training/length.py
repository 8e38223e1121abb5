"""How many steps a training takes: as many as the settings say, as a time allows, or until it is asked to finish."""

import dataclasses
import logging

from ddpm.compute import distributed
from ddpm.config import learning_rate
from ddpm.config.training import COOLED, Config
from ddpm.errors import UserError, as_user_error
from ddpm.formatting import plural
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import files
from ddpm.training.budget import Budget
from ddpm.training.pace import Pace
from ddpm.training.trainer import Trainer

log = logging.getLogger("ddpm")


class Length:
    """The number of steps of a training in a run's folder.

    What is decided is in the settings of trainer and run, in config.json before any step that follows from it: a run
    that is resumed goes on as it would have.  Until then config.json has what is expected, and is renewed with every
    checkpoint.  Of several processes each has a Length, and the main one decides for all.
    """

    def __init__(self, run: Run, worker: Worker, trainer: Trainer):
        self._run, self._worker, self._trainer = run, worker, trainer
        self._budget = Budget.of(trainer) if trainer.is_open() else None
        self._decided_at = -1  # the step after which the time decided how many there are

    def begins_cooldown(self) -> bool:
        """Whether the next step is the first of a cooldown: what is saved now can go on to any other length."""
        step, train = self._trainer.step, self._trainer.config.train
        begins = step in (learning_rate.cooldown_start(train.total_steps, train.lr_cooldown), self._decided_at)
        return train.lr_schedule == COOLED and begins and not self._trainer.is_open()

    def cool_down(self) -> None:
        """Begins the cooldown now, with whose end the training ends; nothing where the learning rate falls already."""
        step, before, decided = self._trainer.step, self._trainer.config.train, not self._trainer.is_open()
        try:
            train = learning_rate.cooled_from(before, step)
        except UserError as error:
            log.warning("%s", error)
            return
        self._trainer.set_length(train)
        if not self.record():
            self._trainer.set_length(before, decided)
            return
        log.info("The cooldown begins after step %d, and training ends with it at step %d", step, train.total_steps)

    def follow_time(self, seconds: float) -> None:
        """Corrects the number of steps by the time that is left of train_for, of which `seconds` are used."""
        budget = self._budget
        if budget is None or not self._trainer.is_open():
            return
        step, train = self._trainer.step, self._trainer.config.train
        total, decided = distributed.run_on_main(lambda: budget.after_step(train, step, seconds))
        self._trainer.set_length(dataclasses.replace(train, total_steps=total), decided)
        self._worker.beat(total_steps=total)
        if decided:
            self._decided_at = step
            self.record()
            log.info("%s comes to %s", train.train_for, plural(total, "step"))
        elif step == 1:
            log.info("Training for %s: the number of steps follows from the speed", train.train_for)

    def seconds_left(self, seconds: float, pace: Pace) -> float:
        """Seconds until the end: of the time that is given, as long as that decides, and else at this pace."""
        if self._budget is not None and self._trainer.is_open():
            return max(0.0, self._budget.seconds - seconds)
        return pace.seconds_for(self._trainer.config.train.total_steps - self._trainer.step)

    def record(self) -> bool:
        """Writes the number of steps into config.json, if it changed; False where the disk refuses."""
        config = self._trainer.config
        if refused := distributed.run_on_main(lambda: self._write(config)):
            log.warning("%s", refused)
            self._worker.beat(warning=refused, now=True)
            return False
        self._run.with_config(config)
        self._worker.beat(total_steps=config.train.total_steps)
        return True

    def _write(self, config: Config) -> str:
        """Writes config.json; returns in a sentence why the disk refuses."""
        try:
            if config != self._run.config:
                self._run.save_config(config)
        except (files.DiskFull, OSError) as error:
            known = as_user_error(error) if isinstance(error, OSError) else error
            return f"{known} config.json does not say the number of steps."
        return ""
