"""Settings of the benchmarks of training: its speed, and its cost as a function of the settings."""

from dataclasses import dataclass
from typing import Any

from ddpm.config.fields import setting
from ddpm.data_sets import DATA_SETS


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


@dataclass(frozen=True)
class OptionsConfig:
    """Settings of the benchmark of what options of training cost."""

    rounds: int = setting(
        24,
        "Pairs of training steps to time for each option, one with it and one without it in turn; the medians are"
        " reported.",
        label="Rounds",
        low=1,
        high=1000,
    )
    threads: int = _threads()


@dataclass(frozen=True)
class KernelsConfig:
    """Settings of the benchmark of the kernels of a training step."""

    precision: str = setting("fp32", "Precision of the feature maps.", label="Precision", choices=("fp32", "bf16"))
    steps: int = setting(
        6, "Training steps whose kernels are timed; the medians are reported.", label="Training steps", low=1, high=1000
    )
    threads: int = _threads()


@dataclass(frozen=True)
class QualityBenchmarkConfig:
    """Settings of the benchmark of what presets have learned after a budget of CPU time."""

    budget: str = setting(
        "20m",
        "CPU time to train each preset for, such as 20m, 1h or 1h30m: seconds of all threads together, as of a quiet"
        " machine.",
        label="Budget",
    )
    presets: str = setting(
        "cifar10-cpu,cifar10-fast",
        "Presets to train, separated by commas, in this order.",
        label="Presets",
    )
    data_dir: str = setting(
        "cifar10",
        f"The images: a folder, an .npz file, or one of {', '.join(DATA_SETS)}.",
        label="Data",
        path=True,
        names=lambda: tuple(DATA_SETS),
    )
    num_samples: int = setting(
        2000,
        "Samples of each preset whose distance from held-out images is measured.",
        label="Samples",
        low=256,
        high=100000,
    )
    steps: int = setting(25, "Model evaluations per sample.", label="Denoising steps", low=1, high=1000)
    guidance_scale: float = setting(
        3.0,
        "Scale of classifier-free guidance, of presets that support it; 1 is without.",
        label="Guidance",
        low=0.0,
        high=50.0,
    )
    seed: int = setting(0, "Seed of training and samples.", label="Seed", low=0, high=2**32 - 1)
    threads: int = _threads()
