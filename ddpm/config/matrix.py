"""Settings of a matrix of samples: seeds against the values of one other setting."""

from dataclasses import dataclass

from ddpm.config.fields import setting
from ddpm.config.tasks import FEW_STEPS, FromCheckpoint, guidance_setting
from ddpm.solvers import SOLVERS

ACROSS = ("weights", "checkpoint", "guidance", "steps")


@dataclass(frozen=True)
class MatrixConfig(FromCheckpoint):
    """Settings of a matrix: a row for each value of one setting, a column for each seed."""

    across: str = setting(
        "steps",
        "What differs from row to row: the weights (raw, and each EMA), the checkpoint, the guidance scale, or the"
        " number of denoising steps. All rows begin with the same noise.",
        label="Rows",
        choices=ACROSS,
        basic=True,
    )
    values: str = setting(
        "",
        "Values of the rows, separated by commas, such as 2,5,10,20. The usual ones are all weights, some checkpoints"
        " from the first to the newest, and some numbers.",
        label="Values",
        basic=True,
        empty=("", "the usual ones"),
    )
    num_samples: int = setting(8, "Number of seeds, one a column.", label="Seeds", low=1, high=64, basic=True)
    classes: str = setting(
        "",
        "Classes of the columns, by name, number or range (0-9), separated by commas.",
        label="Classes",
        basic=True,
        empty=("", "all in turn"),
    )
    sampler: str = setting(
        FEW_STEPS, "Sampling method of all rows.", label="Sampler", choices=lambda: tuple(SOLVERS), basic=True
    )
    steps: int = setting(
        10,
        "Model evaluations per image (NFE), where the rows do not differ in them.",
        label="Denoising steps",
        low=1,
        high=100000,
        basic=True,
    )
    guidance_scale: float | None = guidance_setting(
        "Scale of classifier-free guidance, where the rows do not differ in it. It needs a model trained with"
        " cond_drop_prob."
    )
    batch_size: int = setting(
        0,
        "Images per batch, at most. It changes an image by rounding only.",
        label="Batch size",
        low=0,
        high=4096,
        empty=(0, "the fastest size"),
    )
    precision: str = setting(
        "auto",
        "Numeric precision of the network: fp32 is exact; bf16 is faster where the processor supports it. auto: bf16"
        " where supported, else fp32.",
        label="Precision",
        choices=("auto", "fp32", "bf16"),
    )
