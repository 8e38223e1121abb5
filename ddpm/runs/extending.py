"""Training further: more steps for a run that has done all of its own."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ddpm import formatting
from ddpm.config import codec, learning_rate, validation
from ddpm.config.training import COOLED, Config, TrainConfig
from ddpm.errors import UserError
from ddpm.runs import in_use
from ddpm.runs.exclusive import guard
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run

# Settings that training longer, shorter, or on another machine changes.
CHANGED = {"total_steps", "train_for", "lr_anneal_steps", "lr_schedule", "threads"}


def why_not(run: Run) -> str:
    """Says in a sentence why a run cannot be trained further as it is; empty if it can.  Raises UserError, OSError.

    An example, or a set of another program, may lack what training goes on from.
    """
    newest = run.checkpoints()[-1:]
    missing = [kind for kind in ("model", "state") if newest and newest[0].path(kind).name not in newest[0].files]
    if not missing:
        return ""
    return (
        f"{run.name} has only weights to sample from, without what training goes on from: start a new run from them:"
        f" `{run.restart_command(newest[0].path(newest[0].weights[-1]))}`."
    )


def extended(config: Config, total_steps: int) -> Config:
    """The settings of a training that goes on to `total_steps`; a learning rate that falls to 0 then falls to there."""
    anneal = config.train.lr_anneal_steps
    return codec.replace(
        config,
        {"total_steps": total_steps, "train_for": "", "lr_anneal_steps": max(anneal, total_steps) if anneal else 0},
    )


def note(config: Config, step: int, total_steps: int) -> str:
    """Says in a sentence what training on from `step` to `total_steps` changes; empty if that is nothing but the end.

    That is the learning rate, where it falls towards the end.
    """
    before, after = config.train, extended(config, total_steps).train
    was, now = (train.lr * learning_rate.decay(train, step) for train in (before, after))
    if before.lr_anneal_steps and total_steps > before.lr_anneal_steps:
        return (
            f"The learning rate falls linearly: at step {step:,} it was {formatting.number(was, 3)}; it goes on at"
            f" {formatting.number(now, 3)} and falls to 0 at step {total_steps:,}."
        )
    cooled = before.lr_schedule == COOLED
    falls = f"its cooldown begins at step {_cooldown(after):,}" if cooled else f"it reaches 0 at step {total_steps:,}"
    if was < now:
        warmed = f" over the {formatting.plural(after.lr_warmup_steps, 'step')} of its warm-up"
        first = f", best from the checkpoint of step {_cooldown(before):,}, before its cooldown" if cooled else ""
        return (
            f"The learning rate had fallen to {formatting.number(was, 3)} at step {step:,}: it rises again to"
            f" {formatting.number(now, 3)}{warmed if after.lr_warmup_steps else ' at once'}, and {falls}. A run that"
            f" goes on from an earlier checkpoint{first} needs no such rise."
        )
    if now < was:
        return (
            f"The learning rate falls at once from {formatting.number(was, 3)} to {formatting.number(now, 3)}, and to 0"
            f" at step {total_steps:,}."
        )
    if cooled and _cooldown(before) != _cooldown(after):
        return f"The learning rate stays as it is for now, and {falls}."
    return ""


def _cooldown(train: TrainConfig) -> int:
    return learning_rate.cooldown_start(train.total_steps, train.lr_cooldown)


def one_length(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are given, of which a number of steps takes the place of a time.

    Raises UserError where both are given.
    """
    if given.get("total_steps") and given.get("train_for"):
        raise UserError(
            f"total_steps {given['total_steps']} and train_for {given['train_for']} both say how long to train: leave"
            " one of them out.",
            code="conflicting-settings",
        )
    return {"train_for": "", **given} if given.get("total_steps") else dict(given)


def extend_by(run: Run, given: dict[str, Any]) -> None:
    """Takes total_steps or train_for out of what is given to a run that is resumed, and extends it by that."""
    one_length(given)
    total, time = given.pop("total_steps", 0), given.pop("train_for", "")
    if total:
        extend(run, total)
    elif time:
        extend_time(run, time)


def extend(run: Run, total_steps: int) -> None:
    """Sets the number of steps of a run that is not active, which Resume then trains up to.

    The training goes on from the newest checkpoint with its whole state.  Raises UserError for a number that is not
    more than the steps that are saved, for a run that cannot be trained further, and while it is active.
    """
    codec.section_from_json(TrainConfig, {"total_steps": total_steps}, "the request")  # a number within its limits
    with _changing(run) as newest:
        step = newest.step if newest else 0
        if total_steps <= step:
            raise UserError(
                f"{run.name} has {formatting.plural(step, 'step')} saved, and training would end at step"
                f" {total_steps:,}: raise total_steps.",
                code="nothing-left",
            )
        config = extended(Run(run.folder).config, total_steps)
        _check(config)
        run.save_config(config)


def train_now(run: Run) -> TrainConfig:
    """The settings of a run's training with the number of steps that it now comes to, where it was given a time."""
    status, train = run.status(), run.config.train
    return dataclasses.replace(train, total_steps=(status and status.total_steps) or train.total_steps)


def extend_time(run: Run, train_for: str) -> None:
    """Sets the time of training of a run that is not active, all in all, which Resume then trains for.

    The time that it has changes nothing: what was decided of it stands.  Raises UserError for what is no time,
    for one that is used already, and as `extend` does.
    """
    seconds = formatting.seconds_of(train_for)
    with _changing(run) as newest:
        config = Run(run.folder).config
        if config.train.train_for and formatting.seconds_of(config.train.train_for) == seconds:
            return
        if newest and newest.seconds >= seconds:
            raise UserError(
                f"{run.name} has trained for {formatting.duration(newest.seconds)}, and train_for {train_for} is the"
                " time in all: give more.",
                code="nothing-left",
            )
        least = learning_rate.least_total(config.train, newest.step if newest else 0)
        steps = max(config.train.total_steps, least)  # what it comes to follows from the speed
        config = codec.replace(config, {"train_for": train_for, "total_steps": steps})
        _check(config)
        run.save_config(config)


def _check(config: Config) -> None:
    """Raises UserError for settings that do not go together; the data may be named later."""
    for problem in validation.problems(config):
        if problem.name != "data_dir":
            raise UserError(problem.sentence, code=problem.code)


@contextlib.contextmanager
def _changing(run: Run) -> Iterator[Checkpoint | None]:
    """Keeps others from a run that is not active, and yields its newest checkpoint.  Raises UserError as `extend`."""
    with guard(run.folder.parent):
        in_use.check_idle(run, "changing its steps")
        if sentence := why_not(run):
            raise UserError(sentence, code="not-applicable")
        yield max(run.checkpoints(), key=lambda checkpoint: checkpoint.step, default=None)
