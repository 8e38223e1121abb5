"""Evaluates a model on images: bits per dimension of the variational bound, with a confidence interval.

for measured in measure(network, resolve_evaluation(config, EvalConfig(num_samples=100)), dataset):
    print(measured.so_far.count, measured.so_far.mean)
"""

import dataclasses
import io
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.analysis import bound
from ddpm.analysis.bound import Tally
from ddpm.checkpoints import checkpoint_files, evaluated_images, loading
from ddpm.compute import distributed
from ddpm.config import codec
from ddpm.config.tasks import EvalConfig
from ddpm.config.training import Config
from ddpm.data import datasets, lineage
from ddpm.data.datasets import Dataset, Digest
from ddpm.data.stream import Stream
from ddpm.diffusion.denoiser import Condition, Network
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.models import backend
from ddpm.planning import resolve
from ddpm.planning.resolve import ResolvedEvaluation
from ddpm.runs.results import EvaluationJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker, keep_on_failure
from ddpm.sampling import analytic_variance, engine
from ddpm.storage import files, images

MIN_IMAGES = 16  # before the confidence interval may end an evaluation


class Measured(NamedTuple):
    """Progress of an evaluation: one model evaluation of this process, or a result of all processes."""

    done: int  # model evaluations
    total: int
    together: bool  # True where every process is at this point, with the same so_far
    so_far: Tally  # grows from record to record


def measure(
    network: Network,
    resolved: ResolvedEvaluation,
    dataset: Dataset,
    device: torch.device | str = "cpu",
) -> Iterator[Measured]:
    """Evaluates `num_samples` images of the data, in an order that the seed decides.

    network: ready to be called.  Several processes take turns of images and share the results.  The noise of image k at
    timestep t depends on (seed + k, t) alone, so the result depends neither on the number of processes, nor on
    `rows` or `batch_size`.  Every `batch_size` images the confidence interval of the mean may end it: see `until_ci`.

    Raises UserError where the data lacks the classes of the network.
    """
    config, settings = resolved.config, resolved.request
    full, schedule = config.diffusion.full_schedule(), engine.schedule_of(resolved)
    variance = engine.variance_for(resolved, resolved.analytic_mse)
    numbers = datasets.class_numbers(config, dataset.class_names)
    count, T = min(settings.num_samples, len(dataset)), len(schedule)
    turn = max(1, settings.rows // T)  # images of one process until it shares
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
            noise = bound.noise_for(settings.seed + start, x_start.shape[1:])
            condition = _condition(config, x_start, None if numbers is None or labels is None else numbers[labels])
            for evaluation in bound.iter_bits_per_dim(
                network,
                full,
                schedule,
                config.diffusion,
                x_start,
                noise,
                condition,
                settings.clip_denoised,
                settings.rows,
                variance,
            ):
                yield Measured(number * per_turn + evaluation.done, rounds * per_turn, False, so_far)
                bits = evaluation.bits
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
    """Returns whether the confidence interval is as narrow as `until_ci` asks for."""
    if not settings.until_ci or so_far.count < MIN_IMAGES or so_far.count % settings.batch_size:
        return False
    return so_far.ci95 is not None and so_far.ci95 <= settings.until_ci


def _condition(config: Config, x_start: Tensor, labels: np.ndarray | None) -> Condition:
    condition = {} if labels is None else {"y": torch.from_numpy(labels).to(x_start.device)}
    small = config.model.small_size
    return {**condition, "low_res": F.interpolate(x_start, (small, small), mode="area")} if small else condition


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
    too_many = distributed.set_num_threads(request.threads)
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
    train_ids = distributed.run_on_main(
        lambda: checkpoint_files.train_ids_at_step(opened.path, opened.weights.step) if seen else None
    )
    yield from evaluate_into(folder, worker, compute.prepared(network), resolved, about, device, seen, train_ids)


def evaluate_into(
    folder: Path,
    worker: Worker | None,
    network: Network,
    resolved: ResolvedEvaluation,
    about: Mapping[str, Any],
    device: torch.device | str = "cpu",
    seen: Digest | None = None,
    train_ids: np.ndarray | None = None,
) -> Iterator[Measured]:
    """Evaluates into a job's folder: settings.json at once, then the terms as improved-diffusion writes them,
    result.json.

    about: recorded in both JSON files.  seen: digest of the data that the network was trained on.  train_ids:
    identities of all images it was ever trained on, uint64 [n], where they are known.  Where it is stopped or fails,
    the images evaluated so far count.
    """
    job, config, settings = EvaluationJob(folder), resolved.config, resolved.request
    if job.result:
        raise UserError(f"{folder} already holds an evaluation: choose another --out.", code="already-exists")
    dataset, where, _ = evaluated_images.open_images(config, settings, worker, seen, train_ids)
    count = min(settings.num_samples, len(dataset))
    recorded = {"evaluation": dataclasses.asdict(settings), "data": where, **about}
    if worker:
        files.write_json(folder / "settings.json", recorded)
        worker.beat(state="running", message=f"Evaluating {plural(count, 'image')}")
    began, stop = time.perf_counter(), False
    so_far = Tally(0)

    def keep(ended: str) -> None:
        if worker and so_far.count:
            seconds = time.perf_counter() - began
            _keep(job, so_far, {**recorded, "asked": settings.num_samples, "ended": ended, "seconds": seconds})

    with keep_on_failure(lambda: keep("failed")):
        for measured in measure(network, resolved, dataset, device):
            so_far = measured.so_far
            if worker:
                _beat(worker, measured, time.perf_counter() - began)
                stop = stop or "stop" in worker.poll_requests()
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
        message=f"Stopped with {so_far.count:,} of {plural(count, 'image')} evaluated" if ended == "stopped" else "",
    )


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
    """Writes improved-diffusion's three files (arr_0: float64 [T], t = T-1 first), then result.json."""
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
