"""Settings of an evaluation of sample quality: which samples, against which images."""

from dataclasses import dataclass

from ddpm.config.fields import setting
from ddpm.config.tasks import FEW_STEPS, FromCheckpoint, guidance_setting
from ddpm.config.training import enlarge_setting, skip_broken_setting
from ddpm.data_sets import DATA_SETS
from ddpm.solvers import SOLVERS

HALVES = ("", "first", "second")


@dataclass(frozen=True)
class QualityConfig(FromCheckpoint):
    """Settings of an evaluation of sample quality."""

    num_samples: int = setting(
        2000,
        "Number of samples. Distances between sets of images shrink as there are more of them: only figures of as many"
        " can be compared.",
        label="Samples",
        low=1,
        high=100000,
        basic=True,
    )
    samples: str = setting(
        "",
        "Images to evaluate, in place of samples of the model: an .npz file or a folder. Of more than num_samples a"
        " random choice is evaluated, always the same.",
        label="Existing images",
        path=True,
        empty=("", "sample them from the checkpoint"),
    )
    reference: str = setting(
        "",
        "Images to compare with: a folder, an .npz file, tar shards or a data set by name.",
        label="Reference",
        basic=True,
        path=True,
        names=lambda: tuple(DATA_SETS),
        empty=("", "the run's own data"),
    )
    split: str = setting(
        "auto",
        "Which part of the reference: the training images or the held-out ones. auto: the held-out ones where there are"
        " at least 256.",
        label="Split",
        choices=("auto", "train", "test"),
        basic=True,
    )
    half: str = setting(
        "",
        "Use only one half of the reference, so that settings can be chosen with the first and reported with the"
        " second.",
        label="Half",
        choices=HALVES,
        empty=("", "both"),
    )
    enlarge: bool = enlarge_setting()
    skip_broken: bool = skip_broken_setting()
    classes: str = setting(
        "",
        "Classes to sample, by name, number or range (0-9), separated by commas.",
        label="Classes",
        basic=True,
        empty=("", "each as often as in the reference"),
    )
    sampler: str = setting(FEW_STEPS, "Sampling method.", label="Sampler", choices=lambda: tuple(SOLVERS), basic=True)
    steps: int = setting(
        25, "Model evaluations per image (NFE).", label="Denoising steps", low=1, high=100000, basic=True
    )
    guidance_scale: float | None = guidance_setting(
        "Scale of classifier-free guidance. It needs a model trained with cond_drop_prob."
    )
    batch_size: int = setting(
        0,
        "Images per batch, at most. It changes an image by rounding only.",
        label="Batch size",
        low=0,
        high=4096,
        empty=(0, "the fastest size"),
    )
    copies: bool = setting(
        True,
        "Look for near-copies of training images among the samples.",
        label="Near-copies of training images",
    )
    inception: str = setting(
        "",
        "Your own copy of pt_inception-2015-12-05-6726825d.pth, the weights that FID is measured with in papers: FID is"
        " measured too. It takes at least 2,049 samples. Nothing is downloaded.",
        label="Inception weights, for FID",
        path=True,
        empty=("", "no FID"),
    )
    precision: str = setting(
        "auto",
        "Numeric precision of the network: fp32 is exact; bf16 is faster where the processor supports it. auto: bf16"
        " where supported, else fp32.",
        label="Precision",
        choices=("auto", "fp32", "bf16"),
    )
