"""Settings of a training run: data, optimiser, log and checkpoints; and `Config`, all settings of a run."""

from dataclasses import dataclass, field
from typing import Any

from ddpm import weightings
from ddpm.config import ema_rates
from ddpm.config.fields import setting
from ddpm.config.model import DiffusionConfig, ModelConfig
from ddpm.data_sets import DATA_SETS

LOG_FORMATS = ("csv", "json", "tensorboard")
COOLED = "warmup-stable-decay"  # the learning rate's schedule that ends with a cooldown
LR_SCHEDULES = ("constant", "cosine", COOLED)


def enlarge_setting() -> Any:
    """The setting `enlarge`, shared by training and evaluation."""
    return setting(
        False,
        "Enlarge images that are smaller than the image size instead of refusing them.",
        label="Enlarge small images",
    )


def skip_broken_setting() -> Any:
    """The setting `skip_broken`, shared by training and evaluation."""
    return setting(
        False,
        "Skip images that cannot be read, and list them, instead of refusing the whole data set.",
        label="Skip broken images",
    )


def kernels_setting() -> Any:
    """The setting `kernels`, the compute backend on a CPU."""
    return setting(
        "auto",
        "Backend on a CPU: native is this program's own kernels in C++, compiled on first use; amx is the same with"
        " bf16 convolutions by the matrix unit of Intel's newer processors; torch is plain PyTorch, slower and always"
        " available; compile is torch.compile, which takes a minute to start and pays off on a GPU. auto: native where"
        " a compiler is found, or amx where the processor has it and the precision is bf16.",
        label="Kernels",
        choices=("auto", "native", "amx", "torch", "compile"),
        group="Precision",
    )


@dataclass(frozen=True)
class DataConfig:
    """The training data."""

    data_dir: str = setting(
        "",
        f"A folder of images (searched recursively), an .npz file, tar shards, or one of {', '.join(DATA_SETS)}.",
        label="Data",
        basic=True,
        path=True,
        names=lambda: tuple(DATA_SETS),
    )
    random_flip: bool = setting(
        False,
        "Mirror half of the images horizontally: more variety from little data, unsuitable for text.",
        label="Random flips",
        basic=True,
    )
    crop: str = setting(
        "center",
        "Which square of an image that is larger or not square is trained on: center, the largest one in its middle, or"
        " random, another one each time, anywhere and with at least four fifths of the shorter side. Random is for"
        " small sets of larger images; it reads them twice at the start and takes about 1.6 times the disk, up to 3"
        " times for wide ones. Previews, held-out images and evaluation are cropped in the middle.",
        label="Crop",
        choices=("center", "random"),
    )
    enlarge: bool = enlarge_setting()
    skip_broken: bool = skip_broken_setting()
    hold_out: float = setting(
        0.0,
        "Share of the images kept out of training for evaluation. The same seed holds out the same images, even after"
        " others are added or removed.",
        label="Held-out share",
        low=0.0,
        high=0.9,
    )


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation, the log, the checkpoints and the previews."""

    total_steps: int = setting(
        0,
        "Training steps in all. 0: as many as lr_anneal_steps, or 30,000.",
        label="Training steps",
        low=0,
        high=10**9,
        basic=True,
    )
    train_for: str = setting(
        "",
        "Time to train for instead of a number of steps, such as 90s, 20m, 3h or 1h30m. How many steps that comes to is"
        " measured and corrected as it goes, and a cooldown is fitted to it; time before a resume counts.",
        label="Training time",
        empty=("", "as long as the training steps take"),
        basic=True,
    )
    batch_size: int = setting(
        1, "Images per training step, in each process.", label="Batch size", low=1, high=65536, basic=True
    )
    microbatch: int = setting(
        -1,
        "Images per forward and backward pass. Smaller uses less memory and changes nothing else.",
        label="Microbatch",
        empty=(-1, "the whole batch"),
        low=-1,
        high=65536,
        group="Optimiser",
    )
    schedule_sampler: str = setting(
        "uniform",
        "Distribution of the training timesteps: uniform; stratified, which is uniform too, but spreads those of each"
        " batch over the whole range, for a steadier loss; or weighted by the second moment of the loss"
        " (loss-second-moment), which reduces the gradient noise of Train on L_vlb.",
        label="Timestep sampler",
        choices=("uniform", "stratified", "loss-second-moment"),
        group="Optimiser",
    )
    noise_offset: float = setting(
        0.0,
        "Add a constant of this standard deviation, 0.1 say, to the noise of each image and channel, so that the model"
        " learns to change the mean colour of an image: samples become darker and brighter.",
        label="Offset noise",
        empty=(0.0, "off"),
        low=0.0,
        high=1.0,
        group="Optimiser",
    )
    lr: float = setting(1e-4, "Learning rate of AdamW.", label="Learning rate", low=0.0, high=1.0, basic=True)
    lr_warmup_steps: int = setting(
        0,
        "Increase the learning rate linearly from 0 over this many training steps.",
        label="Learning rate warm-up",
        empty=(0, "off"),
        low=0,
        high=10**9,
        unit="steps",
        group="Optimiser",
    )
    lr_schedule: str = setting(
        "constant",
        "How the learning rate goes after its warm-up: constant; cosine, which falls slowly to 0 at the last training"
        " step; or warmup-stable-decay, which is constant and falls to 0 in a cooldown at the end. That sharpens the"
        " samples, and until it begins the training can be made longer or shorter.",
        label="Learning rate schedule",
        choices=LR_SCHEDULES,
        group="Optimiser",
    )
    lr_cooldown: float = setting(
        0.2,
        "Share of all training steps that the cooldown of warmup-stable-decay takes, at the end.",
        label="Cooldown",
        low=1e-7,
        high=0.9,
        group="Optimiser",
    )
    lr_cooldown_shape: str = setting(
        "1-sqrt",
        "How the learning rate falls in the cooldown: 1-sqrt, fast and then ever more slowly, or linear.",
        label="Shape of the cooldown",
        choices=("1-sqrt", "linear"),
        group="Optimiser",
    )
    lr_anneal_steps: int = setting(
        0,
        "Decrease the learning rate linearly to 0 at this training step, from the first on, as improved-diffusion"
        " does.",
        label="Learning rate annealing",
        empty=(0, "off"),
        low=0,
        high=10**9,
        unit="steps",
        group="Optimiser",
    )
    weight_decay: float = setting(
        0.0, "Weight decay of AdamW.", label="Weight decay", low=0.0, high=1.0, group="Optimiser"
    )
    precision: str = setting(
        "auto",
        "Numeric precision of the network during training: fp32 is exact; bf16 and fp16 are faster where the device"
        " supports them. auto: bf16 where supported, else fp32; with use_fp16 what that selects.",
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
        "With fp16: increase of the base-2 logarithm of the loss scale after each training step without overflow.",
        label="Loss scale growth",
        low=0.0,
        high=10.0,
        group="Precision",
    )
    grad_compression: str = setting(
        "none",
        "With several processes: none sends gradients in fp32; bf16 sends half as many bytes, rounded, which is faster"
        " over a slow network.",
        label="Gradient compression",
        choices=("none", "bf16"),
        group="Precision",
    )
    grad_clip: float = setting(
        0.0,
        "Largest norm of the gradient; larger gradients are scaled down to it.",
        label="Gradient clipping",
        empty=(0.0, "off"),
        low=0.0,
        high=10**6,
        group="Optimiser",
    )
    ema_rate: str = setting(
        "0.9999",
        "Decay rates of the moving averages of the weights, separated by commas. An average usually gives the best"
        " samples. power0.05 averages over a share of the training up to now; from power0.05,power0.1 an average over"
        " any other share can be made afterwards.",
        label="EMA rates",
        group="Optimiser",
    )
    ema_warmup: bool = setting(
        True,
        "Start each average with a faster decay that slows down to its rate, so that it gives useful samples after a"
        " hundred training steps.",
        label="EMA warm-up",
        group="Optimiser",
    )
    seed: int = setting(
        0,
        "Random seed: the same seed and settings give the same run.",
        label="Seed",
        low=0,
        high=2**32 - 1,
        group="Beginning",
    )
    log_interval: int = setting(
        10,
        "Training steps between two rows of progress.csv; each row holds the means since the last one.",
        label="Log every",
        low=1,
        high=10**9,
        unit="steps",
        group="Log, checkpoints, previews",
    )
    log_format: str = setting(
        "csv",
        "Formats of the log, separated by commas: csv (always written), json (progress.json), tensorboard (event files"
        " in tb).",
        label="Log formats",
        group="Log, checkpoints, previews",
    )
    save_interval: int = setting(
        10000,
        "Training steps between two checkpoints.",
        label="Save every",
        low=1,
        high=10**9,
        unit="steps",
        basic=True,
    )
    resume_checkpoint: str = setting(
        "",
        "Start from the weights in this model file, improved-diffusion's or this program's, with the averages and the"
        " optimiser state of the same training step in its folder.",
        label="Start from",
        empty=("", "random weights"),
        group="Beginning",
        path=True,
    )
    keep_checkpoints: int = setting(
        0,
        "Number of checkpoints to keep, newest first.",
        label="Checkpoints kept",
        empty=(0, "all"),
        low=0,
        high=10**6,
        group="Log, checkpoints, previews",
    )
    sample_interval: int = setting(
        1000,
        "Training steps between two previews (grids of samples).",
        label="Preview every",
        empty=(0, "off"),
        low=0,
        high=10**9,
        unit="steps",
        basic=True,
    )
    preview_samples: int = setting(
        16,
        "Images in a preview, always from the same noise.",
        label="Preview images",
        low=1,
        high=256,
        group="Log, checkpoints, previews",
    )
    preview_steps: int = setting(
        25,
        "DDIM steps per preview: more are better and slower.",
        label="Preview steps",
        low=1,
        high=1000,
        group="Log, checkpoints, previews",
    )
    eval_interval: int = setting(
        0,
        "Training steps between two measurements of the loss on held-out images, which shows when a model begins to"
        " memorise the others.",
        label="Held-out loss every",
        empty=(0, "so often that it takes 3 % of the time at most, if images are held out"),
        low=0,
        high=10**9,
        unit="steps",
        group="Log, checkpoints, previews",
    )
    eval_images: int = setting(
        256,
        "Held-out images, and as many training images, on which it is measured: always the same, with the same noise.",
        label="Held-out loss images",
        empty=(0, "off"),
        low=0,
        high=10**6,
        group="Log, checkpoints, previews",
    )
    threads: int = setting(
        0,
        "CPU threads to train with.",
        label="Threads",
        empty=(0, "one per physical core, shared with other jobs that train or sample"),
        low=0,
        high=1024,
        group="Precision",
    )

    @property
    def ema_rates(self) -> tuple[str, ...]:
        """The EMA rates as they are spelled in file names."""
        return ema_rates.split(self.ema_rate)

    @property
    def log_formats(self) -> tuple[str, ...]:
        """The log formats, without duplicates."""
        return tuple(dict.fromkeys(name.strip() for name in self.log_format.split(",") if name.strip()))

    @property
    def micro(self) -> int:
        """Images per forward and backward pass."""
        return min(self.microbatch if self.microbatch > 0 else self.batch_size, self.batch_size)


@dataclass(frozen=True)
class Config:
    """All settings of a run, enough to reproduce it."""

    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    class_names: tuple[str, ...] = ()  # of the data, in the order of the labels


def unused(config: Config) -> set[str]:
    """Names of the settings that have no effect given the others."""
    model, diffusion, train = config.model, config.diffusion, config.train
    idle = {
        "patch_skip_channels": model.patch_size == 1,
        "num_classes": not model.class_cond,
        "cond_drop_prob": not model.class_cond,
        "learned_range": not model.learn_sigma,
        "rescale_learned_sigmas": not model.learn_sigma or diffusion.use_kl,
        "sigma_small": model.learn_sigma,
        "loss_weighting": diffusion.use_kl,
        "weighting_gamma": not weightings.has_gamma(diffusion.loss_weighting),
        "total_steps": bool(train.train_for.strip()),
        "lr_cooldown": train.lr_schedule != COOLED,
        "lr_cooldown_shape": train.lr_schedule != COOLED,
        "lr_anneal_steps": train.lr_schedule != "constant",
        "fp16_scale_growth": train.precision != "fp16" and not train.use_fp16,
        "preview_samples": not train.sample_interval,
        "preview_steps": not train.sample_interval,
        "eval_interval": not train.eval_images,
        "num_heads": model.num_head_channels != -1,
        "num_heads_upsample": not model.attention_resolutions.strip() or model.num_head_channels != -1,
    }
    return {name for name, true in idle.items() if true}
