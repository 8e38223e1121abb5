"""The learning rate of a training step: a function of the settings and of the steps that are done."""

import dataclasses
import math

from ddpm.config.training import COOLED, TrainConfig
from ddpm.errors import UserError
from ddpm.formatting import plural


def learning_rate(train: TrainConfig, done: int, warmed_from: int = 0) -> float:
    """Learning rate of the step after `done` steps: lr, times the warm-up from 0, times the decay.

    warmed_from: steps done when the warm-up began; 0 but for a training that goes on after its learning rate fell.
    """
    lr = train.lr
    if train.lr_warmup_steps:
        lr *= min(1.0, (done - warmed_from + 1) / train.lr_warmup_steps)
    return lr * decay(train, done)


def decay(train: TrainConfig, done: int) -> float:
    """What remains, in [0, 1], of the learning rate after `done` steps, the warm-up apart; total_steps must be known.

    lr_anneal_steps: falls linearly (improved-diffusion).  cosine: half a cosine from the end of the warm-up to the
    last step (Loshchilov & Hutter 2017, Eq. 5).  warmup-stable-decay: 1 up to the cooldown, and then linear or 1-sqrt
    (Hägele et al. 2024, Section 3.1).
    """
    if train.lr_anneal_steps:
        return max(0.0, 1 - done / train.lr_anneal_steps)
    if train.lr_schedule == "cosine":
        share = (done - train.lr_warmup_steps) / max(1, train.total_steps - train.lr_warmup_steps)
        return (1 + math.cos(math.pi * min(1.0, max(0.0, share)))) / 2
    if train.lr_schedule == COOLED:
        start = cooldown_start(train.total_steps, train.lr_cooldown)
        share = min(1.0, max(0, done - start) / (train.total_steps - start))
        return 1 - (math.sqrt(share) if train.lr_cooldown_shape == "1-sqrt" else share)
    return 1.0


def cooldown_start(total_steps: int, share: float) -> int:
    """Steps done when a cooldown begins that takes that share of `total_steps`, rounded, and at least one step."""
    return total_steps - max(1, math.floor(share * total_steps + 0.5))


def total_for(start: int, share: float) -> int:
    """The smallest number of steps of a training whose cooldown begins after `start` steps."""
    total = max(start + 1, math.floor((start - 1) / (1 - share)))
    while cooldown_start(total, share) < start:
        total += 1
    return total


def least_total(train: TrainConfig, done: int) -> int:
    """The smallest number of steps with which, after `done` of them, neither the end nor a cooldown has come."""
    return total_for(done + 1, train.lr_cooldown) if train.lr_schedule == COOLED else done + 1


def cooled_before(train: TrainConfig, total_steps: int, done: int) -> str:
    """Says in a sentence that the cooldown of a training which begins with a file of `done` steps lies before them.

    Empty where it does not.
    """
    start = cooldown_start(total_steps, train.lr_cooldown)
    if train.lr_schedule != COOLED or start >= done:
        return ""
    share = train.lr_cooldown * (total_steps - done) / total_steps
    return (
        f"The cooldown, a share of {train.lr_cooldown:g} of all {total_steps:,} steps, begins after step {start:,}, and"
        f" the file that training begins with has {done:,} behind it: set lr_cooldown to {share:.2g}, the same share of"
        " the steps that are left."
    )


def too_short(train: TrainConfig, total_steps: int, warmed_from: int = 0) -> str:
    """Says in a sentence that train_for, which comes to `total_steps`, is too short for the warm-up; empty if not.

    warmed_from: steps done when the warm-up began.
    """
    falls = cooldown_start(total_steps, train.lr_cooldown) if train.lr_schedule == COOLED else total_steps
    falls, total_steps = falls - warmed_from, total_steps - warmed_from
    if train.lr_warmup_steps <= falls:
        return ""
    return (
        f"train_for {train.train_for} comes to about {plural(total_steps, 'step')} on this computer, and the warm-up of"
        f" the learning rate, lr_warmup_steps {train.lr_warmup_steps}, takes more than the first {falls:,}: give more"
        f" time, or set lr_warmup_steps to {falls // 4} or less."
    )


def has_begun_to_fall(train: TrainConfig, done: int) -> bool:
    """Whether the learning rate of the step after `done` steps is below what it was at its highest."""
    return decay(train, done) < 1


def cooled_from(train: TrainConfig, done: int) -> TrainConfig:
    """The settings of a training whose cooldown begins now, after `done` steps, and which ends with it.

    Raises UserError where the learning rate falls already.
    """
    if train.lr_anneal_steps or train.lr_schedule == "cosine" or has_begun_to_fall(train, done):
        raise UserError(
            f"The learning rate falls already, and reaches its end at step {train.total_steps:,}: let it train to"
            " there, or stop it as it is.",
            code="not-applicable",
        )
    return dataclasses.replace(train, lr_schedule=COOLED, total_steps=total_for(done, train.lr_cooldown))
