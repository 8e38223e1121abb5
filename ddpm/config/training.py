"""Settings of a training: its data, its optimiser, what it writes; and `Config`, all settings of a run."""

import math
from dataclasses import dataclass, field
from typing import Any

from ddpm.config.fields import setting
from ddpm.config.model import DiffusionConfig, ModelConfig
from ddpm.data_sets import DATA_SETS

LOG_FORMATS = ("csv", "json", "tensorboard")


def enlarge_setting() -> Any:
    """What becomes of small pictures, when they are learnt from and when they are measured."""
    return setting(
        False,
        "Enlarge images that are smaller than the image size instead of refusing them.",
        label="Enlarge small images",
    )


def skip_broken_setting() -> Any:
    """What becomes of broken images, when they are learnt from and when they are measured."""
    return setting(
        False,
        "Leave out images that cannot be read, and name them, instead of refusing all.",
        label="Leave out broken images",
    )


def kernels_setting() -> Any:
    """Who multiplies and adds on a CPU."""
    return setting(
        "auto",
        "What computes on a CPU: native are this program's own kernels in C++, compiled on first use; torch is torch"
        " alone, slower and everywhere at hand; compile is torch.compile, which takes a minute to begin and pays on a"
        " GPU. auto: native where there is a compiler.",
        label="Kernels",
        choices=("auto", "native", "torch", "compile"),
        group="Precision",
    )


@dataclass(frozen=True)
class DataConfig:
    """What is learnt from."""

    data_dir: str = setting(
        "",
        f"A folder of images (searched recursively), an .npz file, or one of {', '.join(DATA_SETS)}.",
        label="Data",
        basic=True,
        path=True,
        names=lambda: tuple(DATA_SETS),
    )
    random_flip: bool = setting(
        False,
        "Mirror half of the pictures left to right: more variety from little data, wrong for text.",
        label="Random flips",
        basic=True,
    )
    enlarge: bool = enlarge_setting()
    skip_broken: bool = skip_broken_setting()
    hold_out: float = setting(
        0.0,
        "Share of the images that training never sees, to be evaluated on. The same images for the same seed, whatever"
        " others come or go.",
        label="Hold out",
        low=0.0,
        high=0.9,
    )


@dataclass(frozen=True)
class TrainConfig:
    """How it is learnt, and what is written down on the way."""

    total_steps: int = setting(
        0,
        "Training steps in all. 0: as many as lr_anneal_steps, or 30,000.",
        label="Training steps",
        low=0,
        high=10**9,
        basic=True,
    )
    batch_size: int = setting(
        1, "Pictures per training step, in each process.", label="Batch size", low=1, high=65536, basic=True
    )
    microbatch: int = setting(
        -1,
        "Pictures in memory at once; -1 is the whole batch. Smaller saves memory and changes nothing else.",
        label="Microbatch",
        low=-1,
        high=65536,
        group="Optimiser",
    )
    schedule_sampler: str = setting(
        "uniform",
        "Which timesteps are trained on: all alike, or more often those whose loss varies (loss-second-moment), which"
        " steadies Minimise the bound.",
        label="Timestep sampler",
        choices=("uniform", "loss-second-moment"),
        group="Optimiser",
    )
    lr: float = setting(1e-4, "Learning rate of AdamW.", label="Learning rate", low=0.0, high=1.0, basic=True)
    lr_warmup_steps: int = setting(
        0,
        "Let the learning rate rise from 0 over so many steps.",
        label="Warm-up",
        low=0,
        high=10**9,
        unit="steps",
        group="Optimiser",
    )
    lr_anneal_steps: int = setting(
        0,
        "Let the learning rate fall to 0 at this step; 0 keeps it constant.",
        label="Anneal over",
        low=0,
        high=10**9,
        unit="steps",
        group="Optimiser",
    )
    weight_decay: float = setting(
        0.0, "AdamW's weight decay.", label="Weight decay", low=0.0, high=1.0, group="Optimiser"
    )
    precision: str = setting(
        "auto",
        "Numbers the network computes with while training: fp32 is exact; bf16 and fp16 are faster where the device has"
        " them. auto: bf16 where it has that, else fp32; with use_fp16 what that says.",
        label="Precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        group="Precision",
    )
    kernels: str = kernels_setting()
    use_fp16: bool = setting(
        False,
        "Mixed precision: fp16 with a loss scale on a GPU, bf16 on a CPU.",
        label="Mixed precision",
        group="Precision",
    )
    fp16_scale_growth: float = setting(
        1e-3,
        "With fp16: how much the logarithm (base 2) of the loss scale grows with each step that does not overflow.",
        label="Loss scale growth",
        low=0.0,
        high=10.0,
        group="Precision",
    )
    grad_clip: float = setting(
        0.0,
        "Scale gradients down to this norm when they exceed it; 0 never does.",
        label="Gradient clipping",
        low=0.0,
        high=10**6,
        group="Optimiser",
    )
    ema_rate: str = setting(
        "0.9999",
        "Moving averages of the weights to keep, as rates with commas between. Samples are best from an average.",
        label="EMA rates",
        group="Optimiser",
    )
    ema_warmup: bool = setting(
        True,
        "Let each average begin fast and slow down to its rate, so that it is worth looking at after a hundred steps.",
        label="EMA warm-up",
        group="Optimiser",
    )
    seed: int = setting(
        0,
        "Everything random follows from it: the same seed and settings give the same run.",
        label="Seed",
        low=0,
        high=2**32 - 1,
        group="Beginning",
    )
    log_interval: int = setting(
        10,
        "Steps between two lines of progress.csv; each holds the means since the last.",
        label="Log every",
        low=1,
        high=10**9,
        unit="steps",
        group="Log, checkpoints, previews",
    )
    log_format: str = setting(
        "csv",
        "Formats of the log, with commas between: csv (always written), json (progress.json), tensorboard (event files"
        " in tb).",
        label="Log formats",
        group="Log, checkpoints, previews",
    )
    save_interval: int = setting(
        10000, "Steps between two checkpoints.", label="Save every", low=1, high=10**9, unit="steps", basic=True
    )
    resume_checkpoint: str = setting(
        "",
        "Begin from this model file, improved-diffusion's or one of ours, with the averages and the optimiser of the"
        " same step beside it.",
        label="Begin from",
        group="Beginning",
        path=True,
    )
    keep_checkpoints: int = setting(
        0,
        "Checkpoints to keep, newest first; 0 keeps all.",
        label="Checkpoints kept",
        low=0,
        high=10**6,
        group="Log, checkpoints, previews",
    )
    sample_interval: int = setting(
        1000,
        "Steps between two preview grids; 0 draws none.",
        label="Preview every",
        low=0,
        high=10**9,
        unit="steps",
        basic=True,
    )
    preview_samples: int = setting(
        16,
        "Pictures in a preview grid, always from the same noise.",
        label="Preview pictures",
        low=1,
        high=256,
        group="Log, checkpoints, previews",
    )
    preview_steps: int = setting(
        25,
        "DDIM steps per preview picture: more are better and slower.",
        label="Preview steps",
        low=1,
        high=1000,
        group="Log, checkpoints, previews",
    )
    threads: int = setting(
        0,
        "CPU threads to train with; 0 is one per physical core, shared with whatever else trains or draws.",
        label="Threads",
        low=0,
        high=1024,
        group="Precision",
    )

    @property
    def ema_rates(self) -> tuple[str, ...]:
        """The rates in the spelling in which they name files."""
        rates = (rate.strip() for rate in self.ema_rate.split(",") if rate.strip())
        return tuple(str(float(rate)) if _is_number(rate) else rate for rate in rates)

    @property
    def log_formats(self) -> tuple[str, ...]:
        """The formats by name, each once."""
        return tuple(dict.fromkeys(name.strip() for name in self.log_format.split(",") if name.strip()))

    @property
    def micro(self) -> int:
        return min(self.microbatch if self.microbatch > 0 else self.batch_size, self.batch_size)


@dataclass(frozen=True)
class Config:
    """Enough to build a run again."""

    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    class_names: tuple[str, ...] = ()  # of the data, in label order


def unused(config: Config) -> set[str]:
    """Names of settings that mean nothing beside the others."""
    model, diffusion, train = config.model, config.diffusion, config.train
    idle = {
        "num_classes": not model.class_cond,
        "cond_drop_prob": not model.class_cond,
        "learned_range": not model.learn_sigma,
        "rescale_learned_sigmas": not model.learn_sigma or diffusion.use_kl,
        "sigma_small": model.learn_sigma,
        "predict_xprev": diffusion.predict_xstart,
        "predict_xstart": diffusion.predict_xprev,
        "fp16_scale_growth": train.precision != "fp16" and not train.use_fp16,
        "preview_samples": not train.sample_interval,
        "preview_steps": not train.sample_interval,
        "num_heads": model.num_head_channels != -1,
        "num_heads_upsample": not model.attention_resolutions.strip() or model.num_head_channels != -1,
    }
    return {name for name, true in idle.items() if true}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
