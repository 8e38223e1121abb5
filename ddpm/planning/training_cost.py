"""What a training takes: parameters, memory, and, where a step was measured, time."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ddpm import formatting
from ddpm.config import codec, learning_rate
from ddpm.config.training import Config, TrainConfig
from ddpm.host import memory as host_memory
from ddpm.planning import architecture, durations, held_out, memory
from ddpm.runs import launch, openai_folder

MOST_STEPS = 10**9
FREE_SHARE = 0.9  # of the available memory; a training that needs more may be slowed down or ended by the system


@dataclass(frozen=True)
class TrainingCost:
    """Cost of a training with given settings on this computer.  Times are None until a step was measured."""

    parameters: int
    memory_bytes: float  # peak of the training process
    memory_measured: bool  # False: estimated from the settings
    available_bytes: int  # memory this computer can spare now
    previews: int  # preview grids sampled during training
    measurements: int  # of the loss on held-out images
    epochs: float | None  # times each training image is seen; None where the number of images is unknown
    seconds_per_step: float | None
    total_seconds: float | None  # all training steps, previews and measurements

    @property
    def fits(self) -> bool:
        """Whether the training fits comfortably into the available memory."""
        return self.memory_bytes <= FREE_SHARE * self.available_bytes

    @property
    def finish_time(self) -> float | None:
        """End of the training as a Unix time, if it started now."""
        return None if self.total_seconds is None else time.time() + self.total_seconds


def with_steps(config: Config) -> Config:
    """The settings with total_steps filled in: where a time is given, as many as are expected to fit into it.

    They come after those of the file that the training begins from, where its name says how many these are.
    """
    train = config.train
    if not train.train_for:
        return codec.resolved(config)
    found = _measured(config)
    each = found.get("seconds_per_step") or durations.guess_step(config)
    each += (found.get("seconds_per_preview") or 0.0) / train.sample_interval if train.sample_interval else 0.0
    steps = formatting.seconds_of(train.train_for) / max(each, 1e-6)
    return codec.replace(config, {"total_steps": int(min(steps_before(train) + max(1, steps), MOST_STEPS))})


def steps_before(train: TrainConfig) -> int:
    """Steps that were done when the file that a training begins from was saved, as its name says."""
    return openai_folder.step_of(Path(train.resume_checkpoint)) if train.resume_checkpoint else 0


def too_short(config: Config) -> str:
    """Says in a sentence that the time is too short for the warm-up, as far as the speed was measured; else empty."""
    train = config.train
    if not train.train_for or not _measured(config):
        return ""
    return learning_rate.too_short(train, train.total_steps)


def _measured(config: Config) -> Mapping[str, float | None]:
    """What a training with such settings was measured to take; empty where it was not."""
    job = launch.cost_job(config)
    status = job.status()
    return status.metrics if status and job.state() == "finished" else {}


def estimate_training_cost(config: Config, num_images: int | None = None, held_out_images: int = 0) -> TrainingCost:
    """Estimates what a training costs; uses the measurement of its speed where there is one (`launch.start_measuring`).

    num_images: training images in the data, for the number of epochs.  held_out_images: held-out ones in it.
    """
    train = config.train
    measured = _measured(config)
    seconds_per_step = measured.get("seconds_per_step")
    before = min(steps_before(train), train.total_steps)
    left = train.total_steps - before
    previews = held_out.occasions(train, train.sample_interval, before)
    count = min(held_out_images, train.eval_images)
    exact = held_out.EXACT if memory.training_mode(train).bytes == 2 else 1.0
    measurements = held_out.occasions(train, held_out.interval(train, count, exact=exact), before)
    peak = measured.get("peak_bytes") if seconds_per_step else None
    total = None
    if seconds_per_step:
        steps = left + measurements * held_out.cost_in_steps(train, count, exact=exact)
        total = seconds_per_step * steps + (measured.get("seconds_per_preview") or 0.0) * previews
    if train.train_for:
        total = formatting.seconds_of(train.train_for)
    return TrainingCost(
        parameters=architecture.parameters(config.model),
        memory_bytes=peak or memory.training_bytes(config.model, train),
        memory_measured=bool(peak),
        available_bytes=host_memory.available(),
        previews=previews,
        measurements=measurements,
        epochs=left * train.batch_size / num_images if num_images else None,
        seconds_per_step=seconds_per_step,
        total_seconds=total,
    )
