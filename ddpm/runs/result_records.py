"""What settings.json and result.json of a result hold, as far as something reads it: names, types and ranges."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from ddpm.config.records import Count, Seconds
from ddpm.runs.near_copies import NearCopies
from ddpm.solvers import SOLVERS

Numbers = Annotated[list[float], Meta(max_length=10**6)]
FileName = Annotated[str, Meta(max_length=255)]
NumbersOrNone = Annotated[list[float | None], Meta(max_length=10**6)]
Bits = Annotated[float, Meta(ge=-1e6, le=1e6)]


@dataclass(frozen=True)
class CheckpointRecord:
    """The checkpoint that a result was made from."""

    step: Count
    weights: FileName
    path: Annotated[str, Meta(max_length=2**15)] = ""
    sha256: Annotated[str, Meta(max_length=64)] = ""


@dataclass(frozen=True)
class DataRecord:
    """The images that were evaluated."""

    data_dir: Annotated[str, Meta(max_length=2**15)]
    part: Literal["train", "test", "all"]


@dataclass(frozen=True)
class Settings:
    """settings.json; the settings themselves are checked where they are read."""

    checkpoint: CheckpointRecord | None = None
    data: DataRecord | None = None
    command: Annotated[str, Meta(max_length=2**20)] = ""
    drawn_at_once: Count = 0  # images in a batch
    sampled_with: Annotated[dict[str, str | int | float | bool | list[int] | None], Meta(max_length=100)] = field(
        default_factory=dict
    )


@dataclass(frozen=True)
class Anything:
    """A result.json of a kind that only its own command reads: any group of named values."""


@dataclass(frozen=True)
class Inversion:
    """result.json of samples: those of an inversion have an error of each image."""

    rmse: Numbers = field(default_factory=list)
    mean: float = 0.0
    unit: Annotated[str, Meta(max_length=100)] = ""


@dataclass(frozen=True)
class Evaluation:
    """result.json of an evaluation."""

    bits_per_dim: Bits
    ci95: Bits | None
    prior: float
    vb_quarters: Annotated[list[float], Meta(min_length=4, max_length=4)]
    pictures: Count
    timesteps: Count
    data: DataRecord
    seconds: Seconds
    ended: Annotated[str, Meta(max_length=100)]
    evaluation: Annotated[dict[str, Any], Meta(max_length=1000)] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A row of the comparison of samplers."""

    solver: Literal[tuple(SOLVERS)]  # type: ignore[valid-type]
    spacing: Annotated[str, Meta(max_length=100)]
    flip: Annotated[str, Meta(max_length=100)]
    asked: Count
    calls: Annotated[int, Meta(ge=1, le=10**9)]
    seconds: Seconds
    distance: Annotated[float, Meta(ge=0, le=1e9)] | None
    mean: Annotated[float, Meta(ge=0, le=1e9)] | None = None


@dataclass(frozen=True)
class Converged:
    """Images with which the samplers were compared."""

    apart: Annotated[float, Meta(ge=0, le=1e9)]
    calls: Count
    check_calls: Count
    solver: Annotated[list[str], Meta(max_length=3)]
    check: Annotated[list[str], Meta(max_length=3)]


@dataclass(frozen=True)
class Pace:
    """Seconds of a model evaluation, an image."""

    median: Seconds
    low: Seconds
    high: Seconds


@dataclass(frozen=True)
class Machine:
    """What computed."""

    device: Annotated[str, Meta(max_length=1000)]
    threads: Count
    processor: Annotated[str, Meta(max_length=1000)]
    precision: Annotated[str, Meta(max_length=1000)]


@dataclass(frozen=True)
class Benchmark:
    """result.json of a comparison of samplers."""

    rows: Annotated[list[Cell], Meta(max_length=10**5)] = field(default_factory=list)
    converged: Annotated[list[Converged], Meta(max_length=100)] = field(default_factory=list)
    pace: Pace | None = None
    machine: Machine | None = None
    seconds: Seconds = 0.0  # of all of it, once the network was loaded


@dataclass(frozen=True)
class Matrix:
    """result.json of a matrix of samples."""

    rows: Annotated[list[Annotated[str, Meta(max_length=1000)]], Meta(max_length=1000)]
    columns: Annotated[list[Annotated[str, Meta(max_length=1000)]], Meta(max_length=1000)]


@dataclass(frozen=True)
class Trajectory:
    """result.json of a trajectory: a number of each model evaluation."""

    t: Numbers
    lam: NumbersOrNone  # None where there is noise alone
    change: NumbersOrNone
    x_start_change: NumbersOrNone
    total: Count = 0


Interval = Annotated[list[float | None], Meta(min_length=3, max_length=3)]  # value, low, high
Name = Annotated[str, Meta(max_length=100)]
# What every result has had, and readers count on.
QUALITY_ROWS = ("samples", "real")
QUALITY_FIGURES = (
    "fd",
    "fd_infinity",
    "kd",
    "density",
    "coverage",
    "patches_fine",
    "patches_coarse",
    "spectrum",
    "colour",
    "spread",
    "blockiness",
)


@dataclass(frozen=True)
class QualityRow:
    """The figures of one set of images."""

    name: Name
    n: Count
    figures: Annotated[dict[Name, Interval], Meta(max_length=100)]

    def __post_init__(self) -> None:
        if missing := [name for name in QUALITY_FIGURES if name not in self.figures]:
            raise ValueError(f"the row {self.name!r} has no {missing[0]}")


@dataclass(frozen=True)
class QualityAbout:
    """What figures were measured with; of images that were given, without what says how they were sampled."""

    n: Count
    data_dir: Annotated[str, Meta(max_length=2**15)]
    part: Literal["train", "test", "all"]
    half: Name
    reference_count: Count
    reference_digest: Name
    real: Annotated[str, Meta(max_length=1000)]
    features: Name
    version: Count
    shape: Annotated[list[Count], Meta(min_length=3, max_length=3)]
    step: Count = 0
    weights: FileName = ""
    sampler: Name = ""
    nfe: Count = 0
    guidance_scale: float = 1.0
    classes: Annotated[str, Meta(max_length=2**16)] = ""
    class_counts: Annotated[list[Count], Meta(max_length=10**6)] = field(default_factory=list)
    seed: Count = 0
    precision: Name = ""
    samples: Annotated[str, Meta(max_length=2**15)] = ""


@dataclass(frozen=True)
class QualitySeconds:
    """How long the parts of an evaluation took."""

    sampling: Seconds = 0.0
    comparing: Seconds = 0.0


@dataclass(frozen=True)
class Inception:
    """Fréchet Inception Distances, by the kind of resizing."""

    sha256: Name  # of the weights
    fid: Annotated[dict[Name, float], Meta(max_length=10)]


@dataclass(frozen=True)
class Quality:
    """result.json of an evaluation of sample quality."""

    about: QualityAbout
    rows: Annotated[list[QualityRow], Meta(min_length=1, max_length=100)]
    nearness: float
    farthest_class: float
    reference: Annotated[dict[Name, float], Meta(max_length=100)] = field(default_factory=dict)
    spectra: Annotated[dict[Name, Annotated[list[float], Meta(max_length=100)]], Meta(max_length=100)] = field(
        default_factory=dict
    )
    seconds: QualitySeconds = QualitySeconds()
    copies: NearCopies | None = None
    copies_note: Annotated[str, Meta(max_length=2**16)] = ""  # why near-copies were not looked for
    inception: Inception | None = None

    def __post_init__(self) -> None:
        if missing := [name for name in QUALITY_ROWS if not any(row.name == name for row in self.rows)]:
            raise ValueError(f"there is no row {missing[0]!r}")
