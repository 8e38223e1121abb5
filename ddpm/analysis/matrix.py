"""A matrix of samples: the same noise in every row, and another value of one setting; as one labelled sheet.

for progress in make(folder, worker, run, MatrixConfig(across="guidance"), {}):
    print(progress.done, progress.total)
"""

import dataclasses
import io
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm import formatting
from ddpm.checkpoints import loading
from ddpm.checkpoints.loading import OpenedModel
from ddpm.compute import distributed
from ddpm.config import codec
from ddpm.config.matrix import MatrixConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.models import backend
from ddpm.planning import classes, matrix_rows, resolve
from ddpm.planning.matrix_rows import Row
from ddpm.planning.resolve import ResolvedSampling
from ddpm.reports import matrix_sheet
from ddpm.runs.results import MatrixJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.sampling import analytic_variance, engine
from ddpm.sampling.request import resolve_request
from ddpm.storage import arrays, files
from ddpm.storage.arrays import Stream


class Progress(NamedTuple):
    """Model evaluations of a batch that are done, over all rows."""

    done: int
    total: int


def make(
    folder: Path,
    worker: Worker,
    source: Run | Path,
    settings: MatrixConfig,
    flags: Mapping[str, Any],
    run_probe: bool = True,
) -> Iterator[Progress]:
    """Samples a matrix into a job's folder: settings.json, sheet.png after each row, matrix.npz and result.json.

    flags, run_probe: see `loading.resolve_config`.  Where it is stopped, the rows that are whole stay.  Raises
    UserError.
    """
    job = MatrixJob(folder)
    if job.result:
        raise UserError(f"{folder} already holds a matrix: choose another --out.", code="already-exists")
    worker.beat(warning=distributed.set_num_threads(settings.threads))
    first = loading.open_model(
        source, settings if settings.across != "weights" else _any_weights(settings), flags, run_probe=run_probe
    )
    config = first.config
    if config.model.super_res:
        raise UserError(
            "This model enlarges small images, and a matrix begins with noise alone: use `ddpm sample`.",
            code="not-applicable",
        )
    checkpoints = source.checkpoints() if isinstance(source, Run) else []
    rows = matrix_rows.rows(config, checkpoints, settings)
    more = first.flags(MatrixConfig)
    where = ["--run", source.name] if isinstance(source, Run) else ["--model_path", str(first.path)]
    files.write_json(
        folder / "settings.json",
        {
            "matrix": dataclasses.asdict(settings),
            "checkpoint": first.origin,
            "command": shlex.join(["ddpm", "matrix", *where, *codec.to_flags(settings), *more]),
        },
    )
    device = distributed.device()
    compute = backend.resolve_and_report(settings.kernels, settings.precision, device, worker)
    worker.beat(state="running", message=f"Sampling {formatting.plural(len(rows), 'row')}")
    done, began, found, seconds = 0, time.monotonic(), [], list[float]()
    opened, total = first, _total(config, rows)
    for row in rows:
        if not _holds(opened, row):
            opened = loading.open_model(source, row.request, flags, run_probe=run_probe)
        network = opened.network(device)
        resolved = resolve_request(opened.config, row.request, compute, opened.origin)
        mse = analytic_variance.mse_for(resolved, opened, network, compute, worker)
        resolved = dataclasses.replace(resolved, analytic_mse=mse)
        row_began, batches = time.monotonic(), []
        for step in engine.sample(compute.prepared(network), resolved, device):
            if step.finished:
                batches.append(engine.to_pixels(step.step.x))
            now = done + round(step.done / step.total * resolved.nfe)
            elapsed = time.monotonic() - began
            worker.beat(steps_per_second=max(now, 1) / elapsed, seconds_left=elapsed / max(now, 1) * (total - now))
            stopped = "stop" in worker.poll_requests()
            if stopped and not (row is rows[-1] and step.done == step.total):
                return
            if now < total:
                yield Progress(now, total)
        done += resolved.nfe
        found.append(np.concatenate(batches))
        seconds.append(time.monotonic() - row_began)
        _save(job, rows, found, resolved, settings)
    _finish(job, rows, found, seconds, resolved)
    worker.beat(message=f"{formatting.plural(len(rows), 'row')} of {formatting.plural(settings.num_samples, 'seed')}")
    yield Progress(total, total)


def _any_weights(settings: MatrixConfig) -> MatrixConfig:
    return dataclasses.replace(settings, weights="")


def _total(config: Config, rows: list[Row]) -> int:
    """Model evaluations per image of all rows."""
    return sum(resolve.resolve_process(config, row.request).nfe for row in rows)


def _holds(opened: OpenedModel, row: Row) -> bool:
    """True if these are the weights of the row."""
    request = row.request
    return request.step in (0, opened.weights.step) and request.weights in ("", opened.weights.kind)


def column_labels(resolved: ResolvedSampling) -> list[str]:
    """Labels of the columns: the seed, and the class where there are some."""
    known = classes.names(resolved.config)
    seeds = [f"seed {resolved.request.seed + k}" for k in range(resolved.request.num_samples)]
    if resolved.labels is None:
        return seeds
    names = [known[k] if k < len(known) else str(k) for k in resolved.labels]
    return [f"{seed.removeprefix('seed ')} {name}" for seed, name in zip(seeds, names, strict=True)]


def _save(
    job: MatrixJob, rows: list[Row], found: list[np.ndarray], resolved: ResolvedSampling, settings: MatrixConfig
) -> None:
    title = f"{settings.across}, from the same noise in each row"
    picture = matrix_sheet.sheet([row.label for row in rows], column_labels(resolved), np.stack(found), title)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    files.write_bytes(job.sheet, buffer.getvalue())


def _finish(
    job: MatrixJob, rows: list[Row], found: list[np.ndarray], seconds: list[float], resolved: ResolvedSampling
) -> None:
    """Writes the images, uint8 [R, N, H, W, C], and then result.json."""
    arrays.write_npz(job.arrays, Stream((len(found), *found[0].shape), np.uint8, (one[None] for one in found)))
    result = {
        "rows": [row.label for row in rows],
        "columns": column_labels(resolved),
        "seconds": seconds,
        "requests": [dataclasses.asdict(row.request) for row in rows],
    }
    files.write_json(job.folder / "result.json", result)
