"""Settings of what is done with a checkpoint: sampling, evaluation, comparison of samplers; and of the benchmarks."""

from dataclasses import dataclass
from typing import Any

from ddpm.config.fields import setting
from ddpm.config.training import enlarge_setting, kernels_setting, skip_broken_setting
from ddpm.data_sets import DATA_SETS
from ddpm.solvers import SOLVERS
from ddpm.spacings import SPACINGS, described

OWN_DATA = "data"  # as base_samples: what the model learnt from; a folder of that name is ./data
TASKS = ("draw", "interpolate", "vary", "inpaint", "invert")
FEW_STEPS = "unipc-2"  # the sampler for few steps, by the table that `ddpm bench samplers` prints


@dataclass(frozen=True)
class FromCheckpoint:
    """Which weights to use, and over which timesteps."""

    weights: str = setting(
        "",
        "Which weights: model for the raw ones, ema_0.9999 for an average. Empty: the first average there is.",
        label="Weights",
    )
    step: int = setting(
        0, "Checkpoint to use, by its training step; 0 is the newest.", label="Checkpoint", low=0, high=10**9
    )
    timestep_respacing: str = setting(
        "", "How many steps: 250, 10,15,20 or ddim50. Empty: as in training.", label="Steps", basic=True
    )
    clip_denoised: bool = setting(
        True,
        "Keep the predicted clean picture within the range of pixels at every step.",
        label="Clip",
        group="Prediction",
    )
    variance: str = setting(
        "auto",
        "Variance of an ancestral step. fixed_small is the posterior's, fixed_large is beta; analytic is the best there"
        " is for a model without a learned one: estimated once for each checkpoint on its data, and kept beside it (Bao"
        " et al. 2022). auto: as in training.",
        label="Variance",
        choices=("auto", "fixed_small", "fixed_large", "analytic"),
    )
    seed: int = setting(
        0,
        "Everything random follows from it: picture k from seed + k, whatever the batch.",
        label="Seed",
        low=0,
        high=2**32 - 1,
        basic=True,
    )
    threads: int = setting(
        0,
        "CPU threads to work with; 0 is one per physical core, shared with whatever else trains or draws.",
        label="Threads",
        low=0,
        high=1024,
    )
    kernels: str = kernels_setting()


@dataclass(frozen=True)
class SampleConfig(FromCheckpoint):
    """What to draw, and how."""

    num_samples: int = setting(10000, "How many pictures to draw.", label="Pictures", low=1, high=10**7, basic=True)
    batch_size: int = setting(
        16,
        "Pictures drawn at once, at most: never more than fit in the free memory. 0: as many as are fast. It never"
        " changes a picture.",
        label="Batch size",
        low=0,
        high=4096,
    )
    task: str = setting(
        "draw",
        "draw: new pictures. interpolate: from one seed to another. vary: a given picture, noised part of the way and"
        " drawn again. inpaint: a given picture, new where the mask is white. invert: a given picture to its noise and"
        " back.",
        label="Task",
        choices=TASKS,
    )
    sampler: str = setting(
        "auto",
        "Which sampler. auto: with steps given, the best for few of them ("
        + FEW_STEPS
        + "); without, DDIM with use_ddim, else ancestral DDPM.",
        label="Sampler",
        choices=lambda: ("auto", *SOLVERS),
        basic=True,
    )
    steps: int = setting(
        0,
        "Network calls a picture takes. 0: as timestep_respacing says. An inversion takes as many there and back, and"
        " inpainting as many each time that it goes through them (resample).",
        label="Steps",
        low=0,
        high=100000,
        basic=True,
    )
    spacing: str = setting(
        "auto",
        f"How the steps are spread over the noise. {described()}; auto: what suits the sampler.",
        label="Spacing",
        choices=lambda: ("auto", *SPACINGS),
        group="Steps",
    )
    use_ddim: bool = setting(
        False,
        "DDIM, improved-diffusion's way to say so: good pictures in few steps, and with eta 0 fully set by the starting"
        " noise.",
        label="DDIM",
    )
    eta: float = setting(
        0.0, "Fresh noise in each DDIM step: 0 none, 1 as much as DDPM.", label="eta", low=0.0, high=1.0, basic=True
    )
    churn: float = setting(
        0.0,
        "Heun: how much noise is added and taken away again over all steps; 0 none, 40 is much.",
        label="Churn",
        low=0.0,
        high=1000.0,
        basic=True,
    )
    denoise_to_zero: bool = setting(
        True,
        "End at the clean picture that the model expects. Off: one call goes into the steps instead, and the least"
        " noise stays.",
        label="Denoise to zero",
        group="Steps",
    )
    analytic_first_step: bool = setting(
        False,
        "Take the first step without the network, which sees nothing but noise there: a step more for the same calls.",
        label="Analytic first step",
        group="Steps",
    )
    dynamic_threshold: float = setting(
        0.0,
        "Scale the predicted clean picture down where more than this share of its values would lie within the range of"
        " pixels, instead of cutting it off: 0.995 suits strong guidance, 0 cuts off.",
        label="Dynamic threshold",
        low=0.0,
        high=1.0,
        group="Prediction",
    )
    guidance_scale: float = setting(
        1.0,
        "How far to go towards the class: 1 is the model as it is, 2 to 4 are clearer and less varied, 0 ignores the"
        " class. Needs a model trained with cond_drop_prob.",
        label="Guidance",
        low=0.0,
        high=50.0,
        basic=True,
    )
    guidance_interval: str = setting(
        "",
        "Timesteps with guidance, such as 100-800; outside, the model is asked as it is, in half the time. Empty: all.",
        label="Guidance interval",
        group="Prediction",
    )
    sigma_small: bool | None = setting(
        None,
        "improved-diffusion's way to name a fixed variance: True is fixed_small, False fixed_large.",
        label="Small variance",
    )
    classes: str = setting(
        "",
        "Classes to draw, by name, number or range (0-9) with commas between. Empty: all in turn.",
        label="Classes",
        basic=True,
    )
    base_samples: str = setting(
        "",
        "Super-resolution: the small pictures to enlarge, in turn: an .npz of samples or a folder of images of the"
        " small size; or, made small, those of a data set by name, or of the model's own (data).",
        label="Small pictures",
        path=True,
        names=lambda: (OWN_DATA, *DATA_SETS),
    )
    to_seed: int = setting(
        1, "interpolate: the seed of the last picture.", label="To seed", low=0, high=2**32 - 1, group="Task"
    )
    picture: str = setting(
        "",
        "vary, inpaint, invert: the picture to begin with: a file, or a folder or an .npz of several, taken in turn. Of"
        " the model's image size.",
        label="Picture",
        group="Task",
        path=True,
    )
    mask: str = setting(
        "",
        "inpaint: a picture of the same size, white where something new is to be drawn, black where the picture stays.",
        label="Mask",
        group="Task",
        path=True,
    )
    strength: float = setting(
        0.5,
        "vary: how much noise to begin with, as a share of the process. Little keeps the picture, 1 keeps nothing.",
        label="Strength",
        low=0.0,
        high=1.0,
        group="Task",
    )
    resample: int = setting(
        5,
        "inpaint: how often each stretch of steps is gone through, so that the new part comes to fit the old"
        " (RePaint).",
        label="Resampling",
        low=1,
        high=100,
        group="Task",
    )
    jump: int = setting(
        1, "inpaint: denoising steps of such a stretch.", label="Stretch", low=1, high=1000, unit="steps", group="Task"
    )
    precision: str = setting(
        "auto",
        "Numbers the network computes with: fp32 is exact; bf16 is faster where the processor has it, and differs by a"
        " shade. auto: bf16 there, else fp32.",
        label="Precision",
        choices=("auto", "fp32", "bf16"),
    )


@dataclass(frozen=True)
class EvalConfig(FromCheckpoint):
    """What to measure in bits per dimension, and how."""

    data_dir: str = setting(
        "",
        "Pictures to measure on: a folder, an .npz file or a data set by name. Empty: the run's own data.",
        label="Data",
        basic=True,
        path=True,
        names=lambda: tuple(DATA_SETS),
    )
    split: str = setting(
        "auto",
        "Which part of the data: what training saw, or what was held out. auto: held out where there is such a part.",
        label="Part",
        choices=("auto", "train", "test"),
        basic=True,
    )
    enlarge: bool = enlarge_setting()
    skip_broken: bool = skip_broken_setting()
    num_samples: int = setting(1000, "How many pictures to measure.", label="Pictures", low=1, high=10**7, basic=True)
    batch_size: int = setting(
        1, "Pictures after which the mean is looked at again.", label="Batch size", low=1, high=4096
    )
    rows: int = setting(
        64,
        "Pictures times timesteps that go through the network at once: more are faster, up to a point, and take more"
        " memory.",
        label="Rows at once",
        low=1,
        high=65536,
    )
    until_ci: float = setting(
        0.0,
        "Stop early, when the 95 % confidence interval of the mean is at most this wide to either side, in bits per"
        " dimension; 0 measures all.",
        label="Until within",
        low=0.0,
        high=100.0,
        unit="bits/dim",
        basic=True,
    )


@dataclass(frozen=True)
class AnalyticConfig(FromCheckpoint):
    """What the analytic variance is estimated on."""

    data_dir: str = setting(
        "",
        "Pictures to estimate it on: a folder, an .npz file or a data set by name. Empty: what the model was"
        " trained on.",
        label="Data",
        basic=True,
        path=True,
        names=lambda: tuple(DATA_SETS),
    )
    enlarge: bool = enlarge_setting()
    skip_broken: bool = skip_broken_setting()
    num_samples: int = setting(
        32, "Pictures for each of 100 timesteps.", label="Pictures", low=1, high=10**6, basic=True
    )


@dataclass(frozen=True)
class LsunConfig:
    """How the pictures of LSUN become files."""

    image_size: int = setting(
        256,
        "Width and height of the pictures that are written: box-scaled on the shorter side, then the centre.",
        label="Image size",
        low=4,
        high=1024,
        unit="pixels",
    )
    prefix: str = setting("bedroom", "What file names begin with: the class, as in bedroom_0000042.png.", label="Class")


@dataclass(frozen=True)
class FrontierConfig(FromCheckpoint):
    """Which samplers to compare, with how many network calls."""

    solvers: str = setting(
        "", "Samplers to compare, by name with commas between. Empty: all.", label="Samplers", basic=True
    )
    calls: str = setting(
        "5,8,10,15,20,50", "Network calls a picture, with commas between.", label="Network calls", basic=True
    )
    num_samples: int = setting(
        16, "Pictures to draw with each sampler, from the same noise.", label="Pictures", low=1, high=10000, basic=True
    )
    spacing: str = setting(
        "auto",
        f"How the steps are spread over the noise: some of {', '.join(SPACINGS)} with commas between, or all of them"
        " (all). auto: what suits each sampler.",
        label="Spacings",
    )
    flips: str = setting(
        "",
        "Settings to try the other way round too, with commas between: clip_denoised, analytic_first_step,"
        " denoise_to_zero, or all.",
        label="Also the other way",
    )
    classes: str = setting(
        "",
        "Classes to draw, by name, number or range (0-9) with commas between. Empty: all in turn.",
        label="Classes",
        basic=True,
    )
    eta: float = setting(
        0.0, "Fresh noise in each DDIM step: 0 none, 1 as much as DDPM.", label="eta", low=0.0, high=1.0
    )
    churn: float = setting(
        0.0,
        "Heun: how much noise is added and taken away again over all steps; 0 none, 40 is much.",
        label="Churn",
        low=0.0,
        high=1000.0,
    )
    batch_size: int = setting(16, "Pictures drawn at once, at most.", label="Batch size", low=1, high=4096)
    repeats: int = setting(
        1,
        "How often each is timed; the median counts. A busy machine wants 3 or more.",
        label="Repeats",
        low=1,
        high=100,
    )


def bench_threads_setting() -> Any:
    """Threads of whatever is measured."""
    return setting(0, "CPU threads to compute with; 0 is one per physical core.", label="Threads", low=0, high=1024)


@dataclass(frozen=True)
class SpeedConfig:
    """How thoroughly the training's speed is measured."""

    rounds: int = setting(
        12,
        "Pairs of steps that are timed, one of this program's and a plain one in turn; their medians count.",
        label="Rounds",
        low=1,
        high=1000,
    )
    threads: int = bench_threads_setting()


@dataclass(frozen=True)
class ScaleConfig:
    """How thoroughly it is measured what a training costs by its settings."""

    steps: int = setting(
        5,
        "Training steps that are timed of each point, after one that is not; their median counts.",
        label="Steps",
        low=1,
        high=1000,
    )
    quick: bool = setting(
        False, "Measure the smallest and one more value of each setting only, each but briefly.", label="Quick"
    )
    threads: int = bench_threads_setting()
