"""Settings of the benchmarks of training: its speed, and its cost as a function of the settings."""

from dataclasses import dataclass
from typing import Any

from ddpm.config.fields import setting


def _threads() -> Any:
    """CPU threads of a benchmark."""
    words = (0, "one per physical core")
    return setting(0, "CPU threads to compute with.", label="Threads", low=0, high=1024, empty=words)


@dataclass(frozen=True)
class SpeedConfig:
    """Settings of the benchmark of the training speed."""

    rounds: int = setting(
        12,
        "Pairs of training steps to time, one of this program and one of plain PyTorch in turn; the medians are"
        " reported.",
        label="Rounds",
        low=1,
        high=1000,
    )
    threads: int = _threads()


@dataclass(frozen=True)
class ScaleConfig:
    """Settings of the benchmark of the training cost as a function of the settings."""

    steps: int = setting(
        5,
        "Training steps to time at each point, after one untimed; the median is reported.",
        label="Training steps",
        low=1,
        high=1000,
    )
    quick: bool = setting(
        False, "Measure only the smallest and one more value of each setting, briefly.", label="Quick"
    )
    threads: int = _threads()
