"""How long a task takes, before it is started.  No torch.

The unit is one evaluation of the network for one image.  Its seconds come, in this order, from earlier jobs of the same
kind, from other jobs of the run, from the speed of the run's training, and else from the operations that the network
takes and a short test of this processor: all of this machine.
"""

import contextlib
import platform
import time
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ddpm import formatting
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import architecture
from ddpm.runs.jobs import Job
from ddpm.runs.results import EvaluationJob, Result, SampleJob, SolverBenchmarkJob, TrajectoryJob
from ddpm.runs.runs import Run

RECENT = 10  # newest jobs of each kind that are looked at
KINDS = ("samples", "evaluations", "frontiers", "microscopes")
IN_FP32 = ("evaluations", "frontiers")
SLOWER = 1.2  # times that fp32 takes as long as bf16, where the processor has that: 1.1 to 1.3 by native kernels
CALL = 0.02  # seconds that a call takes besides, whatever the images in it: the sampler, and what is written
START = 5.0  # seconds until a process computes: torch is loaded, and the network
PASSES = 3  # as many operations as a forward pass takes, a training step does for each image
SHARE = 0.25  # of the speed of a large product of matrices that a network reaches
TEST = 512  # rows and columns of that product


class Pace(NamedTuple):
    """Speed of a job: seconds that the network takes for an image, and images that it took at once."""

    seconds: float
    batch: int
    kind: str  # of KINDS, or "training", "network"
    start: float = START  # seconds before the work began
    exact: bool = True  # False: in bf16, which is faster than the fp32 that evaluations and comparisons take


class Estimate(NamedTuple):
    """Seconds that a task takes, and what they were estimated from: a kind of job, "training" or "network"."""

    seconds: float
    source: str

    @property
    def words(self) -> str:
        """As a sentence's part: about 12 s, by the speed of its training."""
        basis = {
            "training": ", by the speed of its training",
            "network": ", a first guess from the size of the network",
        }.get(self.source, "")
        return f"about {formatting.duration(self.seconds)}{basis}"


def estimate(run: Run, config: Config, kind: str, evaluations: float, batch: int) -> Estimate:
    """Estimates the seconds of a task of a kind of KINDS.

    evaluations: of the network for one image, over all images.  batch: images that are computed at once.
    """
    found = pace(run, config, kind, batch)
    return Estimate(found.start + evaluations * found.seconds, found.kind)


def pace(run: Run, config: Config, kind: str, batch: int) -> Pace:
    """The speed that is to be expected, from what is most like the task."""
    for name in (kind, *(other for other in KINDS if other != kind)):
        found = list(_paces(run, name))
        if found:  # the nearest batch size, and of those the newest
            return _for(kind, min(found, key=lambda one: abs(np.log(one.batch / max(batch, 1)))), batch)
    return _for(kind, _of_training(run, config) or _of_network(config), batch)


def _for(kind: str, found: Pace, batch: int) -> Pace:
    """What a speed comes to for a task of another kind, which computes so many images at once."""
    if found.kind == kind:
        return found
    slower = SLOWER if kind in IN_FP32 and not found.exact else 1.0
    more = max(0.0, CALL / max(1, batch) - CALL / max(1, found.batch)) if found.kind in KINDS else 0.0
    return found._replace(seconds=found.seconds * slower + more)


def _paces(run: Run, kind: str) -> Iterator[Pace]:
    for job in run.results(kind)[:RECENT]:
        found = None
        with contextlib.suppress(UserError, OSError):  # a result that is damaged, or of another version, is no measure
            found = pace_of(job)
        if found is not None:
            yield found


def pace_of(job: Result) -> Pace | None:
    """The speed of a job that has ended well on this machine; None for any other."""
    status = job.status()
    if status is None or status.state != "finished" or status.host not in ("", platform.node()):
        return None
    result: dict[str, Any] = {} if isinstance(job, SampleJob) else job.result
    working: float
    match job:
        case SampleJob():
            sample = job.sample_config
            if sample is None or not status.steps_per_second:
                return None
            count = sample.num_samples
            batch = min(job.settings.get("drawn_at_once") or sample.batch_size or count, count)
            passes = 1 if sample.guidance_scale in (None, 0, 1) else 2
            seconds, working = 1 / (status.steps_per_second * batch * passes), status.step / status.steps_per_second
        case EvaluationJob():
            if not result or result["seconds"] <= 0:
                return None
            working, batch = result["seconds"], job.config.rows
            seconds = working / max(1, result["pictures"] * result["timesteps"])
        case SolverBenchmarkJob():
            if not result.get("pace") or not status.step:
                return None
            batch, working = min(job.config.batch_size, job.config.num_samples), result.get("seconds", 0.0)
            # with what is computed and written between two calls
            seconds = working / (status.step * batch) if working else result["pace"]["median"]
        case TrajectoryJob():
            lasted = _lasted(job)
            if lasted is None or not result.get("total"):
                return None
            start = min(START, 0.8 * lasted)  # what is left has what is written at the end, too
            return Pace((lasted - start) / result["total"], 1, "microscopes", start)
        case _:
            return None
    lasted = _lasted(job)
    start = START if lasted is None or not working else min(60.0, max(0.5, lasted - working))
    return Pace(seconds, max(1, batch), job.folder.parent.name, start, "bf16" not in status.computed)


def _lasted(job: Job) -> float | None:
    """Seconds from the start of a job that has ended; None where they are not known."""
    status = job.status()
    try:
        began = time.mktime(time.strptime(job.name[:15], "%Y%m%d-%H%M%S"))
    except ValueError:
        return None
    lasted = status.updated_at - began if status else 0.0
    return lasted if 0 < lasted < 1e6 else None


def _of_training(run: Run, config: Config) -> Pace | None:
    """The speed of the run's training, if it was on this machine."""
    status = run.status()
    if status is None or not status.steps_per_second or status.host != platform.node():
        return None
    batch = config.train.batch_size
    seconds = 1 / (status.steps_per_second * batch * PASSES)
    return Pace(seconds, batch, "training", exact="bf16" not in status.computed)


def _of_network(config: Config) -> Pace:
    return Pace(architecture.flops(config.model) / (SHARE * operations_per_second()), 1, "network")


def guess_step(config: Config) -> float:
    """Seconds of a training step, guessed from the operations of the network."""
    return PASSES * config.train.batch_size * _of_network(config).seconds


@cache
def operations_per_second() -> float:
    """Floating-point operations that this processor does in a second, in a product of matrices: a test of some ms."""
    matrix = np.ones((TEST, TEST), np.float32)
    taken = []
    for _ in range(4):
        began = time.perf_counter()
        matrix @ matrix
        taken.append(time.perf_counter() - began)
    return 2 * TEST**3 / min(taken)


def first_that_fits(choices: Sequence[tuple[Any, float]], seconds: float) -> Any:
    """The first of some choices, each with its seconds, that takes at most so long; the quickest if none does."""
    fitting = [choice for choice, takes in choices if takes <= seconds]
    return fitting[0] if fitting else min(choices, key=lambda one: one[1])[0]
