"""Every setting, said once: from these fields follow the JSON, the command line and the forms.

A setting is a field of a frozen dataclass with its default, its help and its limits.  Names and defaults
are improved-diffusion's wherever it has the flag.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ddpm import schedules
from ddpm.errors import UserError
from ddpm.fields import ints, setting, settings
from ddpm.solvers import SOLVERS

FORMAT = 1  # of config.json; raise it when an old file needs translating
LOG_FORMATS = ("csv", "json", "tensorboard")
DATA_SETS = ("shapes", "cifar10-mini", "cifar10")  # known by name; a folder that is called like one is ./shapes
OWN_DATA = "data"  # as base_samples: what the model learnt from; a folder of that name is ./data
TASKS = ("draw", "interpolate", "vary", "inpaint", "invert")
SPACINGS = ("uniform", "quadratic", "logsnr", "karras")
FEW_STEPS = "unipc-2"  # the sampler for few steps, by the table that `ddpm bench samplers` prints


@dataclass(frozen=True)
class ModelConfig:
    """The U-Net.  It is improved-diffusion's: same flags, same tensors."""

    image_size: int = setting(64, "Width and height of the pictures. Each level but the last halves it, so it must divide that often.", label="Image size", low=4, high=1024, unit="pixels", basic=True)  # fmt: skip
    small_size: int = setting(0, "Super-resolution: width and height of the small pictures that the network enlarges to the image size. 0: it draws from noise alone.", label="Small size", low=0, high=1024, unit="pixels", group="Super-resolution")  # fmt: skip
    image_channels: int = setting(3, "Channels of a picture: 3 is colour, 1 is grey, 4 is colour with transparency.", label="Image channels", low=1, high=4, group="Layers")  # fmt: skip
    num_channels: int = setting(128, "Width of the network at full resolution. Twice as many make a step about four times as slow, and pictures better.", label="Channels", low=32, high=1024, basic=True)  # fmt: skip
    num_res_blocks: int = setting(2, "Residual blocks per level. More of them make a deeper, slower network.", label="Residual blocks", low=1, high=8, basic=True)  # fmt: skip
    channel_mult: str = setting("", "Width of each level as a multiple of Channels, such as 1,2,2,2. Empty: chosen by image size.", label="Channel multipliers", group="Layers")  # fmt: skip
    num_heads: int = setting(4, "Attention heads. They must divide the channels wherever there is attention.", label="Attention heads", low=1, high=64, group="Layers")  # fmt: skip
    num_heads_upsample: int = setting(-1, "Attention heads in the second half of the network; -1 is as many as in the first.", label="Heads, upsampling", low=-1, high=64, group="Layers")  # fmt: skip
    num_head_channels: int = setting(-1, "Channels of an attention head, as in guided-diffusion: wider levels have more heads, and Attention heads is not used. -1: as many heads at every level.", label="Channels per head", low=-1, high=1024, group="Layers")  # fmt: skip
    use_new_attention_order: bool = setting(False, "Whether attention keeps all heads' queries together, then keys, then values, as some networks of guided-diffusion do, rather than head by head.", label="New attention order", group="Layers")  # fmt: skip
    attention_resolutions: str = setting("16,8", "Sizes of the feature map at which attention is used, such as 16,8. Empty: only in the middle.", label="Attention at", group="Layers")  # fmt: skip
    dropout: float = setting(0.0, "Share of activations dropped while training. 0.1 to 0.3 keeps small data sets from being learnt by heart.", label="Dropout", low=0.0, high=0.95, group="Layers")  # fmt: skip
    class_cond: bool = setting(False, "Learn the classes of the data too, so that one can be asked for when sampling.", label="Class-conditional", basic=True)  # fmt: skip
    num_classes: int = setting(0, "Number of classes when class-conditional; 0 is as many as the data has.", label="Classes", low=0, high=100000, group="Layers")  # fmt: skip
    cond_drop_prob: float = setting(0.0, "Class-conditional: share of the pictures whose class is hidden while training, so that drawing can be guided towards a class (classifier-free guidance). 0.1 is usual.", label="Hide classes", low=0.0, high=1.0, group="Layers")  # fmt: skip
    learn_sigma: bool = setting(False, "The network also predicts the variance of each step; its output has twice the channels.", label="Learned variance", basic=True)  # fmt: skip
    use_checkpoint: bool = setting(False, "Recompute activations in the backward pass: less memory, about a third slower.", label="Save memory", group="Layers")  # fmt: skip
    use_scale_shift_norm: bool = setting(True, "The timestep scales and shifts each normalisation, rather than being added before it.", label="Scale-shift norm", group="Layers")  # fmt: skip

    @property
    def multipliers(self) -> tuple[int, ...]:
        """Width of each level as a multiple of num_channels."""
        return ints("channel_mult", self.channel_mult) or default_multipliers(self.image_size)

    @property
    def attention_sizes(self) -> tuple[int, ...]:
        return ints("attention_resolutions", self.attention_resolutions)

    @property
    def heads_up(self) -> int:
        return self.num_heads if self.num_heads_upsample == -1 else self.num_heads_upsample

    def heads(self, channels: int, up: bool = False) -> int:
        """Attention heads where there are so many channels; up: in the second half of the network."""
        if self.num_head_channels != -1:
            return channels // self.num_head_channels
        return self.heads_up if up else self.num_heads

    @property
    def label_slots(self) -> int:
        """Rows of the label embedding: one for each class, and where classes are hidden one more, the last, for none."""
        return self.num_classes + (self.cond_drop_prob > 0) if self.class_cond else 0

    @property
    def super_res(self) -> bool:
        """Whether the network also sees a small picture, which it enlarges."""
        return self.small_size > 0

    @property
    def in_channels(self) -> int:
        return self.image_channels * (2 if self.super_res else 1)

    @property
    def out_channels(self) -> int:
        return self.image_channels * (2 if self.learn_sigma else 1)


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion process, and what the network predicts about it."""

    diffusion_steps: int = setting(1000, "Timesteps T of the diffusion process.", label="Diffusion steps", low=1, high=100000, basic=True)  # fmt: skip
    noise_schedule: str = setting("linear", "How noise grows over the timesteps. Cosine keeps more of the picture for longer, which helps at 64 pixels and below.", label="Noise schedule", choices=tuple(schedules.BETAS), basic=True)  # fmt: skip
    timestep_respacing: str = setting("", "Train on a shortened process: 250, 10,15,20 or ddim50. Empty: all timesteps.", label="Respacing", group="Process")  # fmt: skip
    sigma_small: bool = setting(False, "Sample with the smaller of the two fixed variances (the posterior's) rather than the larger (beta).", label="Small variance", group="Process")  # fmt: skip
    predict_xstart: bool = setting(False, "The network predicts the clean picture rather than the noise.", label="Predict x_start", group="Objective")  # fmt: skip
    predict_xprev: bool = setting(False, "The network predicts the slightly less noisy picture, rather than the noise.", label="Predict previous x", group="Objective")  # fmt: skip
    learned_range: bool = setting(True, "A learned variance is a place between the two fixed ones. Off: the network says the variance itself, which is harder to learn.", label="Variance as a range", group="Objective")  # fmt: skip
    use_kl: bool = setting(False, "Minimise the variational bound (L_vlb) instead of the squared error: better likelihood, noisier training. Goes well with the loss-second-moment sampler.", label="Minimise the bound", group="Objective")  # fmt: skip
    rescale_learned_sigmas: bool = setting(True, "With a learned variance, weigh the bound down to a thousandth per timestep (L_hybrid), so that it leaves the squared error alone.", label="Rescale the bound", group="Objective")  # fmt: skip
    rescale_timesteps: bool = setting(True, "Show the network timesteps on a scale of 0 to 1000, whatever T is.", label="Rescale timesteps", group="Process")  # fmt: skip


def enlarge_setting() -> Any:
    """What becomes of small pictures, when they are learnt from and when they are measured."""
    return setting(False, "Enlarge images that are smaller than the image size instead of refusing them.", label="Enlarge small images")  # fmt: skip


def skip_broken_setting() -> Any:
    """What becomes of broken images, when they are learnt from and when they are measured."""
    return setting(False, "Leave out images that cannot be read, and name them, instead of refusing all.", label="Leave out broken images")  # fmt: skip


def kernels_setting() -> Any:
    """Who multiplies and adds on a CPU."""
    return setting("auto", "What computes on a CPU: native are this program's own kernels in C++, compiled on first use; torch is torch alone, slower and everywhere at hand; compile is torch.compile, which takes a minute to begin and pays on a GPU. auto: native where there is a compiler.", label="Kernels", choices=("auto", "native", "torch", "compile"), group="Precision")  # fmt: skip


@dataclass(frozen=True)
class DataConfig:
    """What is learnt from."""

    data_dir: str = setting("", "A folder of images (searched recursively), an .npz file, or one of shapes, cifar10-mini, cifar10.", label="Data", basic=True, path=True, names=DATA_SETS)  # fmt: skip
    random_flip: bool = setting(False, "Mirror half of the pictures left to right: more variety from little data, wrong for text.", label="Random flips", basic=True)  # fmt: skip
    enlarge: bool = enlarge_setting()
    skip_broken: bool = skip_broken_setting()
    hold_out: float = setting(0.0, "Share of the images that training never sees, to be evaluated on. The same images for the same seed, whatever others come or go.", label="Hold out", low=0.0, high=0.9)  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """How it is learnt, and what is written down on the way."""

    total_steps: int = setting(0, "Training steps in all. 0: as many as lr_anneal_steps, or 30,000.", label="Training steps", low=0, high=10**9, basic=True)  # fmt: skip
    batch_size: int = setting(1, "Pictures per training step, in each process.", label="Batch size", low=1, high=65536, basic=True)  # fmt: skip
    microbatch: int = setting(-1, "Pictures in memory at once; -1 is the whole batch. Smaller saves memory and changes nothing else.", label="Microbatch", low=-1, high=65536, group="Optimiser")  # fmt: skip
    schedule_sampler: str = setting("uniform", "Which timesteps are trained on: all alike, or more often those whose loss varies (loss-second-moment), which steadies Minimise the bound.", label="Timestep sampler", choices=("uniform", "loss-second-moment"), group="Optimiser")  # fmt: skip
    lr: float = setting(1e-4, "Learning rate of AdamW.", label="Learning rate", low=0.0, high=1.0, basic=True)  # fmt: skip
    lr_warmup_steps: int = setting(0, "Let the learning rate rise from 0 over so many steps.", label="Warm-up", low=0, high=10**9, unit="steps", group="Optimiser")  # fmt: skip
    lr_anneal_steps: int = setting(0, "Let the learning rate fall to 0 at this step; 0 keeps it constant.", label="Anneal over", low=0, high=10**9, unit="steps", group="Optimiser")  # fmt: skip
    weight_decay: float = setting(0.0, "AdamW's weight decay.", label="Weight decay", low=0.0, high=1.0, group="Optimiser")  # fmt: skip
    precision: str = setting("auto", "Numbers the network computes with while training: fp32 is exact; bf16 and fp16 are faster where the device has them. auto: bf16 where it has that, else fp32; with use_fp16 what that says.", label="Precision", choices=("auto", "fp32", "bf16", "fp16"), group="Precision")  # fmt: skip
    kernels: str = kernels_setting()
    use_fp16: bool = setting(False, "Mixed precision: fp16 with a loss scale on a GPU, bf16 on a CPU.", label="Mixed precision", group="Precision")  # fmt: skip
    fp16_scale_growth: float = setting(1e-3, "With fp16: how much the logarithm (base 2) of the loss scale grows with each step that does not overflow.", label="Loss scale growth", low=0.0, high=10.0, group="Precision")  # fmt: skip
    grad_clip: float = setting(0.0, "Scale gradients down to this norm when they exceed it; 0 never does.", label="Gradient clipping", low=0.0, high=10**6, group="Optimiser")  # fmt: skip
    ema_rate: str = setting("0.9999", "Moving averages of the weights to keep, as rates with commas between. Samples are best from an average.", label="EMA rates", group="Optimiser")  # fmt: skip
    ema_warmup: bool = setting(True, "Let each average begin fast and slow down to its rate, so that it is worth looking at after a hundred steps.", label="EMA warm-up", group="Optimiser")  # fmt: skip
    seed: int = setting(0, "Everything random follows from it: the same seed and settings give the same run.", label="Seed", low=0, high=2**32 - 1, group="Beginning")  # fmt: skip
    log_interval: int = setting(10, "Steps between two lines of progress.csv; each holds the means since the last.", label="Log every", low=1, high=10**9, unit="steps", group="Log, checkpoints, previews")  # fmt: skip
    log_format: str = setting("csv", "Formats of the log, with commas between: csv (always written), json (progress.json), tensorboard (event files in tb).", label="Log formats", group="Log, checkpoints, previews")  # fmt: skip
    save_interval: int = setting(10000, "Steps between two checkpoints.", label="Save every", low=1, high=10**9, unit="steps", basic=True)  # fmt: skip
    resume_checkpoint: str = setting("", "Begin from this model file, improved-diffusion's or one of ours, with the averages and the optimiser of the same step beside it.", label="Begin from", group="Beginning", path=True)  # fmt: skip
    keep_checkpoints: int = setting(0, "Checkpoints to keep, newest first; 0 keeps all.", label="Checkpoints kept", low=0, high=10**6, group="Log, checkpoints, previews")  # fmt: skip
    sample_interval: int = setting(1000, "Steps between two preview grids; 0 draws none.", label="Preview every", low=0, high=10**9, unit="steps", basic=True)  # fmt: skip
    preview_samples: int = setting(16, "Pictures in a preview grid, always from the same noise.", label="Preview pictures", low=1, high=256, group="Log, checkpoints, previews")  # fmt: skip
    preview_steps: int = setting(25, "DDIM steps per preview picture: more are better and slower.", label="Preview steps", low=1, high=1000, group="Log, checkpoints, previews")  # fmt: skip
    threads: int = setting(0, "CPU threads to train with; 0 is one per physical core, shared with whatever else trains or draws.", label="Threads", low=0, high=1024, group="Precision")  # fmt: skip

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

    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
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


@dataclass(frozen=True)
class FromCheckpoint:
    """Which weights to use, and over which timesteps."""

    weights: str = setting("", "Which weights: model for the raw ones, ema_0.9999 for an average. Empty: the first average there is.", label="Weights")  # fmt: skip
    step: int = setting(0, "Checkpoint to use, by its training step; 0 is the newest.", label="Checkpoint", low=0, high=10**9)  # fmt: skip
    timestep_respacing: str = setting("", "How many steps: 250, 10,15,20 or ddim50. Empty: as in training.", label="Steps", basic=True)  # fmt: skip
    clip_denoised: bool = setting(True, "Keep the predicted clean picture within the range of pixels at every step.", label="Clip", group="Prediction")  # fmt: skip
    variance: str = setting("auto", "Variance of an ancestral step. fixed_small is the posterior's, fixed_large is beta; analytic is the best there is for a model without a learned one: estimated once for each checkpoint on its data, and kept beside it (Bao et al. 2022). auto: as in training.", label="Variance", choices=("auto", "fixed_small", "fixed_large", "analytic"))  # fmt: skip
    seed: int = setting(0, "Everything random follows from it: picture k from seed + k, whatever the batch.", label="Seed", low=0, high=2**32 - 1, basic=True)  # fmt: skip
    threads: int = setting(0, "CPU threads to work with; 0 is one per physical core, shared with whatever else trains or draws.", label="Threads", low=0, high=1024)  # fmt: skip
    kernels: str = kernels_setting()


@dataclass(frozen=True)
class SampleConfig(FromCheckpoint):
    """What to draw, and how."""

    num_samples: int = setting(10000, "How many pictures to draw.", label="Pictures", low=1, high=10**7, basic=True)  # fmt: skip
    batch_size: int = setting(16, "Pictures drawn at once, at most: never more than fit in the free memory. 0: as many as are fast. It never changes a picture.", label="Batch size", low=0, high=4096)  # fmt: skip
    task: str = setting("draw", "draw: new pictures. interpolate: from one seed to another. vary: a given picture, noised part of the way and drawn again. inpaint: a given picture, new where the mask is white. invert: a given picture to its noise and back.", label="Task", choices=TASKS)  # fmt: skip
    sampler: str = setting("auto", "Which sampler. auto: with steps given, the best for few of them (" + FEW_STEPS + "); without, DDIM with use_ddim, else ancestral DDPM.", label="Sampler", choices=("auto", *SOLVERS), basic=True)  # fmt: skip
    steps: int = setting(0, "Network calls a picture takes. 0: as timestep_respacing says. An inversion takes as many there and back, and inpainting as many each time that it goes through them (resample).", label="Steps", low=0, high=100000, basic=True)  # fmt: skip
    spacing: str = setting("auto", "How the steps are spread over the noise: evenly over the timesteps, densest near the clean picture (quadratic, karras), or evenly over the logarithm of the signal-to-noise ratio (logsnr). auto: what suits the sampler.", label="Spacing", choices=("auto", *SPACINGS), group="Steps")  # fmt: skip
    use_ddim: bool = setting(False, "DDIM, improved-diffusion's way to say so: good pictures in few steps, and with eta 0 fully set by the starting noise.", label="DDIM")  # fmt: skip
    eta: float = setting(0.0, "Fresh noise in each DDIM step: 0 none, 1 as much as DDPM.", label="eta", low=0.0, high=1.0, basic=True)  # fmt: skip
    churn: float = setting(0.0, "Heun: how much noise is added and taken away again over all steps; 0 none, 40 is much.", label="Churn", low=0.0, high=1000.0, basic=True)  # fmt: skip
    denoise_to_zero: bool = setting(True, "End at the clean picture that the model expects. Off: one call goes into the steps instead, and the least noise stays.", label="Denoise to zero", group="Steps")  # fmt: skip
    analytic_first_step: bool = setting(False, "Take the first step without the network, which sees nothing but noise there: a step more for the same calls.", label="Analytic first step", group="Steps")  # fmt: skip
    dynamic_threshold: float = setting(0.0, "Scale the predicted clean picture down where more than this share of its values would lie within the range of pixels, instead of cutting it off: 0.995 suits strong guidance, 0 cuts off.", label="Dynamic threshold", low=0.0, high=1.0, group="Prediction")  # fmt: skip
    guidance_scale: float = setting(1.0, "How far to go towards the class: 1 is the model as it is, 2 to 4 are clearer and less varied, 0 ignores the class. Needs a model trained with cond_drop_prob.", label="Guidance", low=0.0, high=50.0, basic=True)  # fmt: skip
    guidance_interval: str = setting("", "Timesteps with guidance, such as 100-800; outside, the model is asked as it is, in half the time. Empty: all.", label="Guidance interval", group="Prediction")  # fmt: skip
    sigma_small: bool | None = setting(None, "improved-diffusion's way to name a fixed variance: True is fixed_small, False fixed_large.", label="Small variance")  # fmt: skip
    classes: str = setting("", "Classes to draw, by name, number or range (0-9) with commas between. Empty: all in turn.", label="Classes", basic=True)  # fmt: skip
    base_samples: str = setting("", "Super-resolution: the small pictures to enlarge, in turn: an .npz of samples or a folder of images of the small size; or, made small, those of a data set by name, or of the model's own (data).", label="Small pictures", path=True, names=(OWN_DATA, *DATA_SETS))  # fmt: skip
    to_seed: int = setting(1, "interpolate: the seed of the last picture.", label="To seed", low=0, high=2**32 - 1, group="Task")  # fmt: skip
    picture: str = setting("", "vary, inpaint, invert: the picture to begin with: a file, or a folder or an .npz of several, taken in turn. Of the model's image size.", label="Picture", group="Task", path=True)  # fmt: skip
    mask: str = setting("", "inpaint: a picture of the same size, white where something new is to be drawn, black where the picture stays.", label="Mask", group="Task", path=True)  # fmt: skip
    strength: float = setting(0.5, "vary: how much noise to begin with, as a share of the process. Little keeps the picture, 1 keeps nothing.", label="Strength", low=0.0, high=1.0, group="Task")  # fmt: skip
    resample: int = setting(5, "inpaint: how often each stretch of steps is gone through, so that the new part comes to fit the old (RePaint).", label="Resampling", low=1, high=100, group="Task")  # fmt: skip
    jump: int = setting(1, "inpaint: denoising steps of such a stretch.", label="Stretch", low=1, high=1000, unit="steps", group="Task")  # fmt: skip
    precision: str = setting("auto", "Numbers the network computes with: fp32 is exact; bf16 is faster where the processor has it, and differs by a shade. auto: bf16 there, else fp32.", label="Precision", choices=("auto", "fp32", "bf16"))  # fmt: skip


@dataclass(frozen=True)
class EvalConfig(FromCheckpoint):
    """What to measure in bits per dimension, and how."""

    data_dir: str = setting("", "Pictures to measure on: a folder, an .npz file or a data set by name. Empty: the run's own data.", label="Data", basic=True, path=True, names=DATA_SETS)  # fmt: skip
    split: str = setting("auto", "Which part of the data: what training saw, or what was held out. auto: held out where there is such a part.", label="Part", choices=("auto", "train", "test"), basic=True)  # fmt: skip
    enlarge: bool = enlarge_setting()
    skip_broken: bool = skip_broken_setting()
    num_samples: int = setting(1000, "How many pictures to measure.", label="Pictures", low=1, high=10**7, basic=True)  # fmt: skip
    batch_size: int = setting(1, "Pictures after which the mean is looked at again.", label="Batch size", low=1, high=4096)  # fmt: skip
    rows: int = setting(64, "Pictures times timesteps that go through the network at once: more are faster, up to a point, and take more memory.", label="Rows at once", low=1, high=65536)  # fmt: skip
    until_ci: float = setting(0.0, "Stop early, when the 95 % confidence interval of the mean is at most this wide to either side, in bits per dimension; 0 measures all.", label="Until within", low=0.0, high=100.0, unit="bits/dim", basic=True)  # fmt: skip


@dataclass(frozen=True)
class AnalyticConfig(FromCheckpoint):
    """What the analytic variance is estimated on."""

    data_dir: str = setting("", "Pictures to estimate it on: a folder, an .npz file or a data set by name. Empty: what the model was trained on.", label="Data", basic=True, path=True, names=DATA_SETS)  # fmt: skip
    enlarge: bool = enlarge_setting()
    skip_broken: bool = skip_broken_setting()
    num_samples: int = setting(32, "Pictures for each of 100 timesteps.", label="Pictures", low=1, high=10**6, basic=True)  # fmt: skip


@dataclass(frozen=True)
class LsunConfig:
    """How the pictures of LSUN become files."""

    image_size: int = setting(256, "Width and height of the pictures that are written: box-scaled on the shorter side, then the centre.", label="Image size", low=4, high=1024, unit="pixels")  # fmt: skip
    prefix: str = setting("bedroom", "What file names begin with: the class, as in bedroom_0000042.png.", label="Class")


@dataclass(frozen=True)
class FrontierConfig(FromCheckpoint):
    """Which samplers to compare, with how many network calls."""

    solvers: str = setting("", "Samplers to compare, by name with commas between. Empty: all.", label="Samplers", basic=True)  # fmt: skip
    calls: str = setting("5,8,10,15,20,50", "Network calls a picture, with commas between.", label="Network calls", basic=True)  # fmt: skip
    num_samples: int = setting(16, "Pictures to draw with each sampler, from the same noise.", label="Pictures", low=1, high=10000, basic=True)  # fmt: skip
    spacing: str = setting("auto", "How the steps are spread over the noise: some of uniform, quadratic, logsnr, karras with commas between, or all of them (all). auto: what suits each sampler.", label="Spacings")  # fmt: skip
    flips: str = setting("", "Settings to try the other way round too, with commas between: clip_denoised, analytic_first_step, denoise_to_zero, or all.", label="Also the other way")  # fmt: skip
    classes: str = setting("", "Classes to draw, by name, number or range (0-9) with commas between. Empty: all in turn.", label="Classes", basic=True)  # fmt: skip
    eta: float = setting(0.0, "Fresh noise in each DDIM step: 0 none, 1 as much as DDPM.", label="eta", low=0.0, high=1.0)  # fmt: skip
    churn: float = setting(0.0, "Heun: how much noise is added and taken away again over all steps; 0 none, 40 is much.", label="Churn", low=0.0, high=1000.0)  # fmt: skip
    batch_size: int = setting(16, "Pictures drawn at once, at most.", label="Batch size", low=1, high=4096)  # fmt: skip
    repeats: int = setting(1, "How often each is timed; the median counts. A busy machine wants 3 or more.", label="Repeats", low=1, high=100)  # fmt: skip


def bench_threads_setting() -> Any:
    """Threads of whatever is measured."""
    return setting(0, "CPU threads to compute with; 0 is one per physical core.", label="Threads", low=0, high=1024)


@dataclass(frozen=True)
class SpeedConfig:
    """How thoroughly the training's speed is measured."""

    rounds: int = setting(12, "Pairs of steps that are timed, one of this program's and a plain one in turn; their medians count.", label="Rounds", low=1, high=1000)  # fmt: skip
    threads: int = bench_threads_setting()


@dataclass(frozen=True)
class ScaleConfig:
    """How thoroughly it is measured what a training costs by its settings."""

    steps: int = setting(5, "Training steps that are timed of each point, after one that is not; their median counts.", label="Steps", low=1, high=1000)  # fmt: skip
    quick: bool = setting(
        False, "Measure the smallest and one more value of each setting only, each but briefly.", label="Quick"
    )
    threads: int = bench_threads_setting()


SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "diffusion": DiffusionConfig,
    "data": DataConfig,
    "train": TrainConfig,
}

T = TypeVar("T")


def default_multipliers(image_size: int) -> tuple[int, ...]:
    """improved-diffusion's at 32, 64 and 256; elsewhere the nearest smaller size's, cut to levels that divide."""
    known = {1: (1, 2, 2, 2), 64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
    mult = known[max(size for size in known if size <= image_size)]
    while len(mult) > 1 and (image_size % 2 ** (len(mult) - 1) or image_size // 2 ** (len(mult) - 1) < 4):
        mult = mult[:-1]
    return mult


def to_flags(config: Any, base: Any = None, always: Collection[str] = ()) -> list[str]:
    """The flags that turn `base` (default: the defaults) into `config`, for a Config or one section.

    Those of the settings named in `always` are there even where the two agree.
    """
    if isinstance(config, Config):
        base = base or Config()
        return [flag for name in SECTIONS for flag in to_flags(getattr(config, name), getattr(base, name), always)]
    base = base or type(config)()
    flags = []
    for s in settings(type(config)):
        value = getattr(config, s.name)
        if s.name in always or value != getattr(base, s.name):
            text = str(value)  # one that begins with a dash would be taken for a flag
            flags += [f"--{s.name}={text}"] if s.type is str and text.startswith("-") else [f"--{s.name}", text]
    return flags


def replace(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with settings changed by their flat names, whatever section they are in."""
    sections = {
        name: dataclasses.replace(
            getattr(config, name), **{k: v for k, v in values.items() if k in {s.name for s in settings(cls)}}
        )
        for name, cls in SECTIONS.items()
    }
    unknown = set(values) - {s.name for cls in SECTIONS.values() for s in settings(cls)} - {"class_names"}
    if unknown:
        raise UserError(f"Unknown settings {', '.join(sorted(unknown))}: see `ddpm train --help` for the known ones.")
    return Config(**sections, class_names=tuple(values.get("class_names", config.class_names)))


def resolved(config: Config) -> Config:
    """`config` with its open end settled: how many steps there will be."""
    return replace(config, {"total_steps": config.train.total_steps or config.train.lr_anneal_steps or 30_000})


def with_absolute_paths(section: T) -> T:
    """One dataclass of settings, such as a SampleConfig, with paths that hold from every folder."""
    return dataclasses.replace(section, **{s.name: s.settled(getattr(section, s.name)) for s in settings(type(section)) if s.path})  # type: ignore[type-var]  # fmt: skip


def to_json(config: Config) -> dict[str, Any]:
    """What config.json holds."""
    return {"format": FORMAT, **dataclasses.asdict(config), "class_names": list(config.class_names)}


def from_json(data: Mapping[str, Any]) -> Config:
    """Settings that are missing take their defaults.  Raises UserError for what this version does not know."""
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        found = data.get("format", "none") if isinstance(data, Mapping) else type(data).__name__
        raise UserError(f"The configuration has format {found}, this version reads {FORMAT}: update DDPM Workbench.")
    names = data.get("class_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"class_names in the configuration is {names!r}, which is no list of names: correct it.")
    values: dict[str, Any] = {"class_names": names}
    for name, cls in SECTIONS.items():
        section = data.get(name, {})
        if not isinstance(section, Mapping):
            raise UserError(f"{name} in the configuration is {section!r}, which is no group of settings: correct it.")
        values |= {key: _typed(cls, key, value) for key, value in section.items()}
    return replace(Config(), values)


def section_from_json(cls: type[T], data: Mapping[str, Any]) -> T:
    """One dataclass of settings, such as a SampleConfig, from its JSON."""
    return cls(**{key: _typed(cls, key, value) for key, value in data.items()})


def _typed(cls: type, key: str, value: Any) -> Any:
    known = {s.name: s for s in settings(cls)}
    if key not in known:
        raise UserError(f"Unknown setting {key!r} in the configuration: it was written by a newer version; update.")
    s = known[key]
    if value is None and s.default is None:
        return None
    if s.type is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not s.type:
        raise UserError(f"{key} in the configuration is {value!r}, which is not {s.type.__name__}: correct it.")
    return value


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
