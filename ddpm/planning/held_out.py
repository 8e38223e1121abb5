"""How often the loss on held-out images is measured while a model trains, and on how many.  No torch."""

from ddpm.config.training import TrainConfig
from ddpm.errors import UserError
from ddpm.formatting import plural

SHARE = 0.03  # of the time of a training, where the settings leave the interval open
FORWARD = 1 / 3  # of the time of a training image, which takes a backward pass twice as long as well
EXACT = 2.0  # times as long as in 16 bits does it take in fp32, in which it is measured


def is_wanted(train: TrainConfig) -> bool:
    """Whether the settings ask for it, be it only where there are held-out images."""
    return train.eval_images > 0


def images(train: TrainConfig, there: int) -> int:
    """How many of `there` held-out images are measured.

    Raises UserError where there are fewer than the settings ask for together with an interval.
    """
    if train.eval_interval and train.eval_images > there:
        raise UserError(
            f"eval_images is {train.eval_images:,}, and {plural(there, 'image')} {'is' if there == 1 else 'are'} held"
            f" out: set eval_images to {there} or less, or hold out more.",
            code="too-few-images",
        )
    return min(train.eval_images, there)


def passes(train: TrainConfig) -> int:
    """Forward passes of an image: held-out by the raw weights and by each average, and one of a training image."""
    return 2 + len(train.ema_rates)


def cost_in_steps(train: TrainConfig, count: int, processes: int = 1, exact: float = 1.0) -> float:
    """The time that one measurement on `count` images takes, in training steps.

    exact: EXACT where the training computes in 16 bits.
    """
    return count * passes(train) * FORWARD * exact / (train.batch_size * processes)


def interval(train: TrainConfig, count: int, processes: int = 1, exact: float = 1.0) -> int:
    """Training steps between two measurements, the last of which is at the end of the training; 0: none.

    Where the settings leave it open, the steps are such that all measurements take SHARE of the training at most, and
    a multiple of log_interval; a training that is too short even for one has none.
    """
    if train.eval_interval or not count:
        return train.eval_interval if count else 0
    total, cost = train.total_steps, cost_in_steps(train, count, processes, exact)
    affordable = int(SHARE * total / cost)
    return -(-total // (affordable * train.log_interval)) * train.log_interval if affordable else 0


def occasions(train: TrainConfig, every: int, before: int = 0) -> int:
    """How often something is done that is due every so many steps, 0 for never, and at the last one.

    before: steps that were done when the training began.
    """
    total = train.total_steps
    return -(-total // every) - before // every if every and total > before else 0
