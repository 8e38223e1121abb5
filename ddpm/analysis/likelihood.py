"""How well a model knows pictures it is shown: the variational bound in bits per dimension.

for measured in measure(network, resolve_evaluation(config, EvalConfig(num_samples=100)), dataset):
    print(measured.so_far.count, "pictures measured")
"""

import dataclasses
import io
import logging
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.checkpoints import checkpoint_files, loading
from ddpm.compute import distributed
from ddpm.config import codec
from ddpm.config.model import DiffusionConfig
from ddpm.config.tasks import EvalConfig
from ddpm.config.training import Config, DataConfig
from ddpm.data import datasets, lineage
from ddpm.data.datasets import Dataset, Digest, Split, Stream
from ddpm.data.lineage import Remedy
from ddpm.diffusion import losses, process
from ddpm.diffusion.process import Condition, Network
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.host import cpu_threads
from ddpm.models import backend
from ddpm.planning import resolve
from ddpm.planning.resolve import ResolvedEvaluation
from ddpm.runs.jobs import Stopped, Worker, keep_on_failure
from ddpm.runs.results import EvaluationJob
from ddpm.runs.runs import Run
from ddpm.sampling import analytic_variance, engine
from ddpm.schedules import Schedule
from ddpm.storage import files, images

log = logging.getLogger("ddpm")

LEAST = 16  # pictures, before which the confidence interval is not trusted to end anything
TERMS = EvaluationJob.TERMS
REMEDY = Remedy(
    "Name the data it was trained on with --data_dir, wherever it is now, or other pictures.",
    "Measure on other pictures with --data_dir, or on these with --split train.",
)

Noise = Callable[[int, int], Tensor]  # (place k of a picture, timestep index t) -> [C, H, W] ~ N(0, I)


class Bits(NamedTuple):
    """Bits per dimension of N pictures, and the terms they are made of, t = 0 first."""

    total: Tensor  # [N] prior and all terms of the bound
    prior: Tensor  # [N] L_T, of which nothing can be learnt
    vb: Tensor  # [N, T] the terms of the bound
    xstart_mse: Tensor  # [N, T] mean squared error of the predicted clean picture
    mse: Tensor  # [N, T] mean squared error of the predicted noise


class Call(NamedTuple):
    """One network call of those that measure some pictures."""

    done: int  # calls so far, 1 .. total
    total: int
    bits: Bits | None = None  # of all the pictures, after the last call


def bits_per_dim(
    network: Network,
    full: Schedule,
    schedule: Schedule,
    settings: DiffusionConfig,
    x_start: Tensor,
    noise: Noise,
    condition: Condition | None = None,
    clip: bool = True,
    rows: int = 64,
    variance: process.Variance | None = None,
) -> Bits:
    """The bound of each of the pictures x_start [N, C, H, W] over `schedule` (Ho et al. 2020, Eq. 5)."""
    *_, last = calls(network, full, schedule, settings, x_start, noise, condition, clip, rows, variance)
    assert last.bits is not None
    return last.bits


@torch.no_grad()
def calls(
    network: Network,
    full: Schedule,
    schedule: Schedule,
    settings: DiffusionConfig,
    x_start: Tensor,
    noise: Noise,
    condition: Condition | None = None,
    clip: bool = True,
    rows: int = 64,
    variance: process.Variance | None = None,
) -> Iterator[Call]:
    """What `bits_per_dim` does, a network call at a time.

    Pictures times timesteps go through the network `rows` at a time, which bounds the memory: one picture's
    timesteps from the last to the first, then the next picture's.
    """
    count, T = len(x_start), len(schedule)
    terms = {name: torch.zeros(count, T, dtype=torch.float64) for name in TERMS}
    total = -(-count * T // rows)
    for call in range(total):
        pairs = [(i // T, T - 1 - i % T) for i in range(call * rows, min((call + 1) * rows, count * T))]
        places, index = (torch.tensor(column, device=x_start.device) for column in zip(*pairs, strict=True))
        drawn = torch.stack([noise(k, t) for k, t in pairs]).to(x_start.device)
        told = {name: value[places] for name, value in (condition or {}).items()}
        denoise = process.denoiser(network, full, settings, told, clip)
        clean = x_start[places]
        x_t = process.q_sample(schedule, clean, index, drawn)
        predicted = denoise(x_t, index.new_tensor(schedule.timesteps)[index])
        eps = process.eps_from_x_start(schedule, x_t, index, predicted.x_start)
        found = {
            "vb": losses.vlb_terms(schedule, settings, clean, x_t, index, predicted, variance),
            "xstart_mse": losses.mean_flat((predicted.x_start - clean).square()),
            "mse": losses.mean_flat((eps - drawn).square()),
        }
        for name, values in found.items():
            terms[name][places.cpu(), index.cpu()] = values.double().cpu()
        if call + 1 < total:
            yield Call(call + 1, total)
    prior = losses.prior_bpd(schedule, x_start).double().cpu()
    yield Call(total, total, Bits(terms["vb"].sum(dim=1) + prior, prior, **terms))


class Tally:
    """Means over the pictures measured so far, over T timesteps."""

    def __init__(self, T: int):
        self.totals: list[float] = []  # bits per dimension of each picture
        self._mean = self._squares = 0.0  # of them, and of their distances from it: asked for at every network call
        self._prior = 0.0
        self._sums = {name: np.zeros(T) for name in TERMS}

    def add(self, bits: Bits, k: int) -> None:
        """Count picture k of these in.  Raises UserError where it came out as no number."""
        total = float(bits.total[k])
        if not math.isfinite(total):
            raise UserError(
                f"Picture {self.count + 1} came out as {total} bits/dim, so the weights are broken or the settings are "
                "not theirs: use another checkpoint, or the flags that it was trained with.",
                code="not-finite",
            )
        self.totals.append(total)
        before = total - self._mean
        self._mean += before / self.count
        self._squares += before * (total - self._mean)  # Welford 1962
        self._prior += float(bits.prior[k])
        for name, sums in self._sums.items():
            sums += getattr(bits, name)[k].numpy()

    @property
    def count(self) -> int:
        return len(self.totals)

    @property
    def mean(self) -> float:
        """Bits per dimension."""
        return self._mean

    @property
    def ci95(self) -> float | None:
        """How far the 95 % confidence interval of the mean reaches to either side; None for a single picture."""
        if self.count < 2:
            return None
        return student_t(self.count - 1) * math.sqrt(self._squares / (self.count - 1) / self.count)

    @property
    def prior(self) -> float:
        return self._prior / self.count

    def terms(self) -> dict[str, np.ndarray]:
        """Means over the pictures, float64 [T], t = 0 first."""
        return {name: sums / self.count for name, sums in self._sums.items()}


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: two digits beyond the point at least, for any degrees of freedom."""
    few = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
    if freedom <= len(few):
        return few[freedom - 1]
    z = NormalDist().inv_cdf(0.975)  # and its expansion in 1 / freedom (Abramowitz & Stegun, 26.7.5)
    second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / freedom**power for power, term in enumerate(second, start=1))


class Measured(NamedTuple):
    """Progress of measuring many pictures: a network call of this process, or what all processes have found."""

    done: int  # network calls
    total: int
    together: bool  # whether every process is at this point, with the same so_far
    so_far: Tally  # grows from record to record


def measure(
    network: Network,
    resolved: ResolvedEvaluation,
    dataset: Dataset,
    device: torch.device | str = "cpu",
) -> Iterator[Measured]:
    """Measure `num_samples` pictures of the data, in an order that the seed decides.

    Several processes take turns of pictures and share what they find.  The noise of picture k at timestep t depends
    on (seed + k, t) alone, so the result depends neither on how many they are, nor on `rows` or `batch_size`.
    Every `batch_size` pictures the confidence interval of the mean may end it: see `until_ci`.

    Raises UserError when the data has not the classes that the network was told.
    """
    config, settings = resolved.config, resolved.request
    full, schedule = engine.full_schedule(config.diffusion), engine.schedule_of(resolved)
    variance = engine.variance_for(resolved, resolved.analytic_mse)
    numbers = datasets.class_numbers(config, dataset.class_names)
    count, T = min(settings.num_samples, len(dataset)), len(schedule)
    turn = max(1, settings.rows // T)  # pictures of one process until it shares
    size, per_turn = distributed.world_size(), -(-turn * T // settings.rows)
    rounds = -(-count // (turn * size))
    stream = Stream(dataset, settings.seed)
    so_far = Tally(T)
    for number in range(rounds):
        start = (number * size + distributed.rank()) * turn
        bits = None
        if start < count:
            stream.position = start
            pixels, labels = stream.next(min(turn, count - start))
            x_start = torch.from_numpy(images.to_float(pixels)).to(device)
            noise = noise_of(settings.seed + start, x_start.shape[1:])
            told = _condition(config, x_start, None if numbers is None or labels is None else numbers[labels])
            for call in calls(
                network,
                full,
                schedule,
                config.diffusion,
                x_start,
                noise,
                told,
                settings.clip_denoised,
                settings.rows,
                variance,
            ):
                yield Measured(number * per_turn + call.done, rounds * per_turn, False, so_far)
                bits = call.bits
        narrow = False
        found = [(part, k) for part in distributed.all_gather_object(bits) if part for k in range(len(part.total))]
        for part, k in found:
            so_far.add(part, k)
            if narrow := is_narrow(so_far, settings):
                break
        yield Measured((number + 1) * per_turn, rounds * per_turn, True, so_far)
        if narrow:
            return


def is_narrow(so_far: Tally, settings: EvalConfig) -> bool:
    """Whether the mean is known as well as `until_ci` asks for."""
    if not settings.until_ci or so_far.count < LEAST or so_far.count % settings.batch_size:
        return False
    return so_far.ci95 is not None and so_far.ci95 <= settings.until_ci


def noise_of(seed: int, shape: torch.Size) -> Noise:
    """Noise for picture k and timestep t that depends on (seed + k, t) alone."""

    def noise(k: int, t: int) -> Tensor:
        (state,) = np.random.SeedSequence((seed + k, t)).generate_state(1, np.uint64)
        return torch.randn(shape, generator=torch.Generator().manual_seed(int(state >> np.uint64(1))))

    return noise


def _condition(config: Config, x_start: Tensor, labels: np.ndarray | None) -> Condition:
    told = {} if labels is None else {"y": torch.from_numpy(labels).to(x_start.device)}
    small = config.model.small_size
    return {**told, "low_res": F.interpolate(x_start, (small, small), mode="area")} if small else told


def evaluate_source(
    folder: Path,
    worker: Worker | None,
    source: Run | Path,
    request: EvalConfig,
    flags: Mapping[str, Any],
    run_probe: bool = True,
) -> Iterator[Measured]:
    """Measures a run, or a checkpoint file, into a job's folder.

    flags, run_probe: see `loading.resolve_config`.  worker: the main process's; other processes have none, and write
    nothing.  Raises UserError.
    """
    too_many = distributed.set_num_threads(request.threads, "evaluation")
    if worker:
        worker.beat(warning=too_many)
    opened = loading.open_model(source, request, flags, run_probe=run_probe)
    device = distributed.device()
    compute = backend.resolve_and_report(request.kernels, "fp32", device, worker)
    request = dataclasses.replace(request, kernels=compute.kernels)  # as machines differ
    resolved = resolve.resolve_evaluation(opened.config, request)
    network = opened.network(device)
    command = ["ddpm", "nll", "--model_path", str(opened.path), *codec.to_flags(request), *opened.flags(EvalConfig)]
    about = {"checkpoint": opened.origin, "command": shlex.join(command)}
    mse = analytic_variance.mse_for(resolved, opened, network, compute, worker)
    resolved = dataclasses.replace(resolved, analytic_mse=mse)
    seen = lineage.from_json(opened.weights.data)
    learnt = distributed.run_on_main(
        lambda: checkpoint_files.learnt_beside(opened.path, opened.weights.step) if seen else None
    )
    yield from evaluate_into(folder, worker, compute.prepared(network), resolved, about, device, seen, learnt)


def evaluate_into(
    folder: Path,
    worker: Worker | None,
    network: Network,
    resolved: ResolvedEvaluation,
    about: Mapping[str, Any],
    device: torch.device | str = "cpu",
    seen: Digest | None = None,
    learnt: np.ndarray | None = None,
) -> Iterator[Measured]:
    """Measure into a job's folder: settings.json at once, then the terms as improved-diffusion writes them,
    result.json.

    `about` is told in both.  seen: the digest of what the network was trained on.  learnt: who was ever
    trained on, where that is known.  Asked to stop, or where something goes wrong, it keeps the pictures that are
    measured.
    """
    job, config, settings = EvaluationJob(folder), resolved.config, resolved.request
    if job.result:
        raise UserError(f"{folder} already holds an evaluation: choose another --out.", code="already-exists")
    dataset, where = open_pictures(config, settings, worker, seen, learnt)
    count = min(settings.num_samples, len(dataset))
    said = {"evaluation": dataclasses.asdict(settings), "data": where, **about}
    if worker:
        files.write_json(folder / "settings.json", said)
        worker.beat(state="running", message=f"Measuring {plural(count, 'picture')}")
    began, stop = time.monotonic(), False
    so_far = Tally(0)

    def keep(ended: str) -> None:
        if worker and so_far.count:
            seconds = time.monotonic() - began
            _keep(job, so_far, {**said, "asked": settings.num_samples, "ended": ended, "seconds": seconds})

    with keep_on_failure(lambda: keep("failed")):
        for measured in measure(network, resolved, dataset, device):
            so_far = measured.so_far
            if worker:
                _beat(worker, measured, time.monotonic() - began)
                stop = stop or "stop" in worker.poll_requests()
            else:
                cpu_threads.look()
            yield measured
            if distributed.broadcast_object(stop) if measured.together else stop and not distributed.is_initialized():
                break
    if not worker:
        return
    ended = "all" if so_far.count == count else "until_ci" if is_narrow(so_far, settings) else "stopped"
    keep(ended)
    worker.beat(
        state="stopped" if ended == "stopped" else "finished",
        seconds_left=0.0,
        message=f"Stopped with {so_far.count:,} of {plural(count, 'picture')} measured" if ended == "stopped" else "",
    )


def open_pictures(
    config: Config,
    settings: EvalConfig,
    worker: Worker | None,
    seen: Digest | None = None,
    learnt: np.ndarray | None = None,
) -> tuple[Dataset, dict[str, Any]]:
    """The pictures to measure, and what they are, for the record: data_dir, part and count.

    The network's own data is known by its digest, `seen`, wherever it is named.  Several processes each read them, and
    wait for one another; where one cannot, or is asked to stop, all end.
    """
    mine = dataclasses.replace(config.data, data_dir=settings.data_dir or config.data.data_dir)
    mine = datasets.adjusted(mine, settings)
    if not mine.data_dir:
        raise UserError(
            "No pictures are named, and the file does not say what it was trained on: name them with --data_dir.",
            code="no-data-named",
        )

    def progress(done: int, total: int) -> None:
        distributed.raise_peer_error()
        if worker:
            worker.beat(message=f"Reading the data: {done} of {total} images")
            if "stop" in worker.poll_requests():
                raise Stopped

    def opened() -> tuple[Split, Dataset, bool, str]:
        own, place = mine.data_dir == config.data.data_dir, mine
        if not own and seen is not None:  # it may have been moved
            moved = dataclasses.replace(mine, hold_out=0.0)
            there = datasets.open_dataset(moved, config.model, progress, split=datasets.part_of(moved, "auto"))
            own = there.digest.same(seen, config.model.class_cond)
        if not own:
            place = datasets.adjusted(DataConfig(mine.data_dir), settings)
        split = datasets.part_of(place, settings.split)
        dataset = datasets.open_dataset(place, config.model, progress, split=split, seed=config.train.seed)
        its = dataclasses.replace(config, data=place)
        changed = lineage.check(its, seen, dataset, REMEDY, split, learnt) if own else ""
        return split, dataset, own, changed

    split, dataset, own, changed = distributed.run_on_all_ranks(opened)
    if changed and worker:
        log.warning("%s", changed)
        worker.beat(warning=" ".join(filter(None, (worker.status.warning, changed))))
    part = split if own or split == "test" else "all"
    return dataset, {"data_dir": mine.data_dir, "part": part, "count": len(dataset)}


def _beat(worker: Worker, measured: Measured, elapsed: float) -> None:
    so_far = measured.so_far
    found = {"bits_per_dim": so_far.mean, "ci95": so_far.ci95} if so_far.count else {}
    worker.beat(
        step=measured.done,
        total_steps=measured.total,
        steps_per_second=measured.done / elapsed,
        seconds_left=elapsed / measured.done * (measured.total - measured.done),
        metrics={"pictures": so_far.count, **found},
    )


def _keep(job: EvaluationJob, so_far: Tally, about: Mapping[str, Any]) -> None:
    """Write improved-diffusion's three files (arr_0: [T], t = T-1 first), then result.json."""
    terms = so_far.terms()
    for name, values in terms.items():
        packed = io.BytesIO()  # numpy writes only into what can be read as well
        np.savez(packed, values[::-1])
        files.write_bytes(job.terms_path(name), packed.getvalue())
    T = len(terms["vb"])
    quarters = np.bincount(4 * np.arange(T) // T, weights=terms["vb"], minlength=4)
    found = {
        "bits_per_dim": so_far.mean,
        "ci95": so_far.ci95,
        "prior": so_far.prior,
        "vb_quarters": quarters.tolist(),  # bits per dimension, the least noisy timesteps first
        "pictures": so_far.count,
        "timesteps": T,
    }
    files.write_json(job.folder / "result.json", {**found, **about})
