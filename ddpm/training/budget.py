"""A training that takes a time instead of a number of steps: how many steps that comes to, corrected as it goes."""

from ddpm import formatting
from ddpm.config import learning_rate
from ddpm.config.training import COOLED, TrainConfig
from ddpm.errors import UserError
from ddpm.planning.training_cost import MOST_STEPS
from ddpm.training.pace import MEMORY, Pace
from ddpm.training.trainer import Trainer

LEAST_STEPS = 3  # that are timed, after the first, before their speed counts
LEAST_SHARE = 0.02  # of the time, and
LEAST_SECONDS = 10.0  # that is enough
MOST_BEYOND = 0.05  # of the steps that fit into the time may be added to a cooldown, so that it is a whole one


class Budget:
    """The number of steps of a training for `train_for`, from the speed of its last minutes.

    With a cooldown the number is decided when that begins, which is then its share of all steps, or less where the time
    that is left is shorter than that; without one the last step is the one with which the time is used up.
    """

    def __init__(self, train: TrainConfig, began_with: int = 0, warmed_from: int = 0):
        """began_with: steps of the file that the training begins with now.  warmed_from: steps before the warm-up."""
        self.began_with, self.warmed_from = began_with, warmed_from
        self.seconds = formatting.seconds_of(train.train_for)
        self._memory = max(MEMORY, self.seconds / 10)
        self._pace: Pace | None = None
        self._timed, self._began, self._checked = 0, 0.0, False

    @classmethod
    def of(cls, trainer: Trainer) -> "Budget":
        """The budget of a training that begins, or goes on."""
        return cls(trainer.config.train, trainer.began_with, trainer.warmed_from)

    def after_step(self, train: TrainConfig, step: int, used: float) -> tuple[int, bool]:
        """The total number of steps as expected after `step` of them, and whether that is decided now.

        used: seconds of training so far.  Raises UserError where the warm-up of the learning rate does not fit.
        """
        left = self.seconds - used
        if self._pace is None:  # the first step prepares what later ones use
            self._pace, self._began = Pace(self._memory), used
        else:
            self._pace.step()
            self._timed += 1
        cooled = train.lr_schedule == COOLED
        if left <= 0 or (self._timed and left * self._pace.per_second < 0.5):
            self._check(train, step, step)
            return (learning_rate.total_for(step, train.lr_cooldown) if cooled else step), True
        enough = min(LEAST_SECONDS, LEAST_SHARE * self.seconds)
        if self._timed < LEAST_STEPS or used - self._began < enough:
            return max(train.total_steps, learning_rate.least_total(train, step)), False
        expected = min(step + max(1, round(left * self._pace.per_second)), MOST_STEPS)
        self._check(train, step, expected)
        if cooled and step >= learning_rate.cooldown_start(expected, train.lr_cooldown):
            whole = learning_rate.total_for(step, train.lr_cooldown)
            return (whole if whole <= min((1 + MOST_BEYOND) * expected, MOST_STEPS) else expected), True
        return expected, False

    def _check(self, train: TrainConfig, step: int, expected: int) -> None:
        """Raises UserError where warm-up or cooldown do not fit into the time, as the first estimate has it."""
        if self._checked:
            return
        self._checked = True
        # Of a training that goes on after its learning rate fell, a second warm-up may be cut short.
        begins = self.warmed_from if self.warmed_from == self.began_with else 0
        sentence = learning_rate.cooled_before(train, expected, self.began_with)
        if not sentence and step - begins < train.lr_warmup_steps:
            sentence = learning_rate.too_short(train, expected, begins)
        if sentence:
            raise UserError(sentence, code="conflicting-settings")
