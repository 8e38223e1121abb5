"""Settings of the tasks that use a checkpoint (sampling, evaluation, solver benchmark)."""

from dataclasses import dataclass
from typing import Any

from ddpm.config.fields import setting
from ddpm.config.training import enlarge_setting, kernels_setting, skip_broken_setting
from ddpm.data_sets import DATA_SETS
from ddpm.solvers import SOLVERS
from ddpm.spacings import SPACINGS, described

OWN_DATA = "data"  # as base_samples: the training data of the model; a folder of that name is ./data
TASKS = ("draw", "interpolate", "vary", "inpaint", "invert")  # as in files; "draw" is shown as "sample"
USUAL_GUIDANCE = 2.0  # scale, for clearer images than without
FEW_STEPS = "unipc-2"  # the best sampler for few steps, by the table that `ddpm bench samplers` prints


def guidance_setting(help: str) -> Any:
    """The scale of guidance of a request; None is resolved for its model by `ddpm.planning.guidance.scale_of`."""
    return setting(
        None,
        help,
        label="Guidance",
        low=0.0,
        high=50.0,
        basic=True,
        empty=(None, f"{USUAL_GUIDANCE:g}, or 1 where the model was not trained for it"),
    )


@dataclass(frozen=True)
class FromCheckpoint:
    """Base of the tasks that use a checkpoint: which weights, which timesteps, seed and threads."""

    weights: str = setting(
        "",
        "Which weights: model for the raw ones, ema_0.9999 for an average.",
        label="Weights",
        empty=("", "the first average, if there is one"),
    )
    step: int = setting(
        0,
        "Checkpoint to use, by its training step.",
        label="Checkpoint",
        low=0,
        high=10**9,
        empty=(0, "the newest"),
    )
    timestep_respacing: str = setting(
        "",
        "Timesteps to use: 250, 10,15,20 or ddim50.",
        label="Timestep respacing",
        basic=True,
        empty=("", "as in training"),
    )
    clip_denoised: bool = setting(
        True,
        "Clip the predicted clean image to the range of pixels at every denoising step.",
        label="Clip x_start",
        group="Prediction",
    )
    variance: str = setting(
        "auto",
        "Variance of an ancestral step. fixed_small is the posterior's, fixed_large is beta; analytic is the optimal"
        " one for a model without a learned variance, estimated once per checkpoint on its data and stored next to it"
        " (Bao et al. 2022). auto: as in training.",
        label="Variance",
        choices=("auto", "fixed_small", "fixed_large", "analytic"),
    )
    seed: int = setting(
        0, "Random seed: image k uses seed + k, whatever the batch.", label="Seed", low=0, high=2**32 - 1, basic=True
    )
    threads: int = setting(
        0,
        "CPU threads to compute with.",
        label="Threads",
        low=0,
        high=1024,
        empty=(0, "one per physical core, shared with other jobs that train or sample"),
    )
    kernels: str = kernels_setting()


@dataclass(frozen=True)
class SampleConfig(FromCheckpoint):
    """Settings of a sampling request: the task, the sampler, the classes and the number of images."""

    num_samples: int = setting(10000, "Number of images to sample.", label="Images", low=1, high=10**7, basic=True)
    batch_size: int = setting(
        16,
        "Images per batch, at most: never more than fit in the free memory. It changes an image by rounding only.",
        label="Batch size",
        low=0,
        high=4096,
        empty=(0, "the fastest size"),
    )
    task: str = setting(
        "draw",
        "sample: new images. interpolate: from one seed to another. vary: an input image, noised part of the way and"
        " denoised again. inpaint: an input image, new where the mask is white. invert: an input image to its noise and"
        " back.",
        label="Task",
        choices=TASKS,
        aliases={"sample": "draw"},
    )
    sampler: str = setting(
        "auto",
        f"Sampling method. auto: with a number of steps, the best for few of them ({FEW_STEPS}), and without, ancestral"
        " DDPM, as always to inpaint; DDIM to invert, or if use_ddim is set.",
        label="Sampler",
        choices=lambda: ("auto", *SOLVERS),
        basic=True,
    )
    steps: int = setting(
        0,
        "Model evaluations per image (NFE). 0: as timestep_respacing says. Inversion takes this number in each"
        " direction, and inpainting this number for each resampling.",
        label="Denoising steps",
        low=0,
        high=100000,
        basic=True,
    )
    spacing: str = setting(
        "auto",
        f"How the denoising steps are distributed over the noise levels. {described()}; auto: the best for the"
        " sampler.",
        label="Spacing",
        choices=lambda: ("auto", *SPACINGS),
        group="Steps",
    )
    use_ddim: bool = setting(
        False,
        "DDIM, improved-diffusion's flag for it: good samples in few steps, and with eta 0 determined by the initial"
        " noise alone.",
        label="DDIM",
    )
    eta: float = setting(
        0.0, "Noise added in each DDIM step: 0 none, 1 as much as DDPM.", label="eta", low=0.0, high=1.0, basic=True
    )
    churn: float = setting(
        0.0,
        "Heun: amount of noise added and removed again over all steps; 0 none, 40 is much.",
        label="Churn",
        low=0.0,
        high=1000.0,
        basic=True,
    )
    denoise_to_zero: bool = setting(
        True,
        "End at the predicted clean image. Off: that evaluation becomes one more denoising step, and the lowest noise"
        " level remains in the image.",
        label="Denoise to zero",
        group="Steps",
    )
    analytic_first_step: bool = setting(
        False,
        "Take the first step without the network, whose input there is pure noise: one more step for the same number"
        " of model evaluations.",
        label="Analytic first step",
        group="Steps",
    )
    dynamic_threshold: float = setting(
        0.0,
        "Dynamic thresholding (Saharia et al. 2022): clip the predicted clean image at this quantile of its absolute"
        " values and rescale it, instead of clipping at the range of pixels. 0.995 suits strong guidance, 0 clips.",
        label="Dynamic threshold",
        low=0.0,
        high=1.0,
        group="Prediction",
    )
    guidance_scale: float | None = guidance_setting(
        "Scale of classifier-free guidance: 1 is the model without guidance, 2 to 4 are clearer and less varied, 0"
        " ignores the class. Needs a model trained with cond_drop_prob."
    )
    guidance_interval: str = setting(
        "",
        "Timesteps with guidance, such as 100-800; the others are computed without it, in half the time. Empty: all.",
        label="Guidance interval",
        group="Prediction",
    )
    sigma_small: bool | None = setting(
        None,
        "improved-diffusion's flag for a fixed variance: True is fixed_small, False fixed_large.",
        label="Small variance",
    )
    classes: str = setting(
        "",
        "Classes to sample, by name, number or range (0-9), separated by commas. Empty: all in turn.",
        label="Classes",
        basic=True,
    )
    base_samples: str = setting(
        "",
        "Super-resolution: the low-resolution images to upsample, in turn: an .npz of samples or a folder of images of"
        " the low-resolution size; or the downsampled images of a data set by name, or of the model's own (data).",
        label="Low-resolution images",
        path=True,
        names=lambda: (OWN_DATA, *DATA_SETS),
    )
    to_seed: int = setting(
        1, "interpolate: the seed of the last image.", label="Last seed", low=0, high=2**32 - 1, group="Task"
    )
    picture: str = setting(
        "",
        "vary, inpaint, invert: the image to start from: a file, or a folder or an .npz of several, taken in turn. Of"
        " the model's image size.",
        label="Input image",
        group="Task",
        path=True,
        flag="image",
    )
    mask: str = setting(
        "",
        "inpaint: an image of the same size, white where new content is sampled, black where the input image is kept.",
        label="Mask",
        group="Task",
        path=True,
    )
    strength: float = setting(
        0.5,
        "vary: how much noise to add, as a share of the process. Little keeps the image, 1 keeps nothing.",
        label="Strength",
        low=0.0,
        high=1.0,
        group="Task",
    )
    resample: int = setting(
        5,
        "inpaint: how often each jump is repeated, so that the new part fits the kept one (RePaint).",
        label="Resampling",
        low=1,
        high=100,
        group="Task",
    )
    jump: int = setting(
        1,
        "inpaint: denoising steps of each jump (RePaint).",
        label="Jump length",
        low=1,
        high=1000,
        unit="steps",
        group="Task",
    )
    precision: str = setting(
        "auto",
        "Numeric precision of the network: fp32 is exact; bf16 is faster where the processor supports it, and differs"
        " slightly. auto: bf16 where supported, else fp32.",
        label="Precision",
        choices=("auto", "fp32", "bf16"),
    )


@dataclass(frozen=True)
class EvalConfig(FromCheckpoint):
    """Settings of an evaluation of the variational bound, in bits per dimension."""

    data_dir: str = setting(
        "",
        "Images to evaluate on: a folder, an .npz file, tar shards or a data set by name. Empty: the run's own data.",
        label="Data",
        basic=True,
        path=True,
        names=lambda: tuple(DATA_SETS),
    )
    split: str = setting(
        "auto",
        "Which part of the data: the training images or the held-out ones. auto: the held-out ones where there are"
        " any.",
        label="Split",
        choices=("auto", "train", "test"),
        basic=True,
    )
    enlarge: bool = enlarge_setting()
    skip_broken: bool = skip_broken_setting()
    num_samples: int = setting(1000, "Number of images to evaluate.", label="Images", low=1, high=10**7, basic=True)
    batch_size: int = setting(1, "Images between two updates of the mean.", label="Batch size", low=1, high=4096)
    rows: int = setting(
        64,
        "Images times timesteps per model evaluation: more are faster, up to a point, and take more memory.",
        label="Network batch size",
        low=1,
        high=65536,
    )
    until_ci: float = setting(
        0.0,
        "Stop early, once the 95 % confidence interval of the mean is at most this wide to either side, in bits per"
        " dimension.",
        label="Stop at interval",
        low=0.0,
        high=100.0,
        unit="bits/dim",
        basic=True,
        empty=(0.0, "never"),
    )


@dataclass(frozen=True)
class AnalyticConfig(FromCheckpoint):
    """Settings of the estimation of the analytic variance (Bao et al. 2022)."""

    data_dir: str = setting(
        "",
        "Images to estimate it on: a folder, an .npz file, tar shards or a data set by name. Empty: the training data"
        " of the model.",
        label="Data",
        basic=True,
        path=True,
        names=lambda: tuple(DATA_SETS),
    )
    enlarge: bool = enlarge_setting()
    skip_broken: bool = skip_broken_setting()
    num_samples: int = setting(32, "Images for each of 100 timesteps.", label="Images", low=1, high=10**6, basic=True)


@dataclass(frozen=True)
class LsunConfig:
    """Settings of the conversion of an LSUN database to image files."""

    image_size: int = setting(
        256,
        "Width and height of the images written: the shorter side is box-scaled, then the centre cropped.",
        label="Image size",
        low=4,
        high=1024,
        unit="pixels",
    )
    prefix: str = setting("bedroom", "Prefix of the file names: the class, as in bedroom_0000042.png.", label="Class")


@dataclass(frozen=True)
class SolverBenchmarkConfig(FromCheckpoint):
    """Settings of the solver benchmark: samplers and numbers of model evaluations to compare."""

    solvers: str = setting(
        "", "Samplers to compare, by name, separated by commas. Empty: all.", label="Samplers", basic=True
    )
    calls: str = setting(
        "5,8,10,15,20,50",
        "Model evaluations per image (NFE), separated by commas.",
        label="Model evaluations",
        basic=True,
    )
    num_samples: int = setting(
        16, "Images to sample with each sampler, from the same noise.", label="Images", low=1, high=10000, basic=True
    )
    spacing: str = setting(
        "auto",
        f"How the denoising steps are distributed over the noise levels: some of {', '.join(SPACINGS)}, separated by"
        " commas, or all of them (all). auto: the best for each sampler.",
        label="Spacings",
    )
    flips: str = setting(
        "",
        "Settings to try with the opposite value too, separated by commas: clip_denoised, analytic_first_step,"
        " denoise_to_zero, or all.",
        label="Toggled settings",
    )
    classes: str = setting(
        "",
        "Classes to sample, by name, number or range (0-9), separated by commas. Empty: all in turn.",
        label="Classes",
        basic=True,
    )
    eta: float = setting(
        0.0, "Noise added in each DDIM step: 0 none, 1 as much as DDPM.", label="eta", low=0.0, high=1.0
    )
    churn: float = setting(
        0.0,
        "Heun: amount of noise added and removed again over all steps; 0 none, 40 is much.",
        label="Churn",
        low=0.0,
        high=1000.0,
    )
    batch_size: int = setting(16, "Images per batch, at most.", label="Batch size", low=1, high=4096)
    repeats: int = setting(
        1,
        "How often each sampler is timed; the median is reported. Use 3 or more on a busy machine.",
        label="Repeats",
        low=1,
        high=100,
    )
