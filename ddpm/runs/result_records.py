"""What settings.json and result.json of a result hold, as far as something reads it: names, types and ranges."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from ddpm.config.records import Count, Keys, Range, Seconds, Text
from ddpm.solvers import SOLVERS

Numbers = Annotated[list[float], Keys(10**6)]
NumbersOrNone = Annotated[list[float | None], Keys(10**6)]
Bits = Annotated[float, Range(-1e6, 1e6)]


class CheckpointRecord(NamedTuple):
    """The checkpoint that a result was made from."""

    path: Annotated[str, Text(2**15)] = ""
    sha256: Annotated[str, Text(64)] = ""
    step: Count = 0
    weights: Annotated[str, Text(100)] = ""


class DataRecord(NamedTuple):
    """The images that were evaluated."""

    data_dir: Annotated[str, Text(2**15)] = ""
    part: Literal["train", "test", "all"] = "all"


class Settings(NamedTuple):
    """settings.json; the settings themselves are checked where they are read."""

    checkpoint: CheckpointRecord = CheckpointRecord()
    data: DataRecord = DataRecord()
    command: Annotated[str, Text(2**20)] = ""
    drawn_at_once: Count = 0  # images in a batch


class Anything(NamedTuple):
    """A result.json of a kind that only its own command reads: any group of named values."""


@dataclass(frozen=True)
class Inversion:
    """result.json of samples: those of an inversion have an error of each image."""

    rmse: Numbers = field(default_factory=list)
    mean: float = 0.0
    unit: Annotated[str, Text(100)] = ""


@dataclass(frozen=True)
class Evaluation:
    """result.json of an evaluation."""

    bits_per_dim: Bits
    ci95: Bits | None
    prior: float
    vb_quarters: Annotated[list[float], Keys(4, least=4)]
    pictures: Count
    timesteps: Count
    data: DataRecord
    seconds: Seconds
    ended: Annotated[str, Text(100)]
    evaluation: Annotated[dict[str, Any], Keys(1000)] = field(default_factory=dict)


class Cell(NamedTuple):
    """A row of the comparison of samplers."""

    solver: Literal[tuple(SOLVERS)]  # type: ignore[valid-type]
    spacing: Annotated[str, Text(100)]
    flip: Annotated[str, Text(100)]
    asked: Count
    calls: Annotated[int, Range(1, 10**9)]
    seconds: Seconds
    distance: Annotated[float, Range(0, 1e9)] | None
    mean: Annotated[float, Range(0, 1e9)] | None = None


class Converged(NamedTuple):
    """Images with which the samplers were compared."""

    apart: Annotated[float, Range(0, 1e9)]
    calls: Count
    check_calls: Count
    solver: Annotated[list[str], Keys(3)]
    check: Annotated[list[str], Keys(3)]


class Pace(NamedTuple):
    """Seconds of a model evaluation, an image."""

    median: Seconds
    low: Seconds = 0.0
    high: Seconds = 0.0


class Machine(NamedTuple):
    """What computed."""

    device: Annotated[str, Text(1000)]
    threads: Count
    processor: Annotated[str, Text(1000)]
    precision: Annotated[str, Text(1000)]


@dataclass(frozen=True)
class Benchmark:
    """result.json of a comparison of samplers."""

    rows: Annotated[list[Cell], Keys(10**5)] = field(default_factory=list)
    converged: Annotated[list[Converged], Keys(100)] = field(default_factory=list)
    pace: Pace | None = None
    machine: Machine | None = None


class Trajectory(NamedTuple):
    """result.json of a trajectory: a number of each model evaluation."""

    t: Numbers
    lam: Numbers
    change: NumbersOrNone
    x_start_change: NumbersOrNone
    total: Count = 0
