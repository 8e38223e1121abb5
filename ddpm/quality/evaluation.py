"""Measures the quality of samples into a job's folder: samples them, unless they are given, and compares them with
real images.

for progress in measure_source(folder, worker, run, QualityConfig(num_samples=2000), {}):
    print(progress.done, progress.total)

A job that ended early resumes with the first image that is missing, and ends with the same figures.
"""

import dataclasses
import hashlib
import logging
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm import formatting
from ddpm.checkpoints import checkpoint_files, evaluated_images, loading
from ddpm.checkpoints.loading import OpenedModel
from ddpm.compute import distributed
from ddpm.config import codec
from ddpm.config.model import ModelConfig
from ddpm.config.quality import QualityConfig
from ddpm.config.tasks import EvalConfig, SampleConfig
from ddpm.config.training import Config, DataConfig
from ddpm.data import datasets, lineage
from ddpm.errors import UserError
from ddpm.models import backend
from ddpm.models.backend import ComputeMode
from ddpm.planning import classes, guidance, matrix_rows, metadata, quality_figures
from ddpm.quality import features, further, kept_samples, panel
from ddpm.runs.results import QualityJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Stopped, Worker
from ddpm.sampling import analytic_variance, engine
from ddpm.sampling.request import resolve_request
from ddpm.storage import arrays, files, images
from ddpm.storage.arrays import Stream

log = logging.getLogger("ddpm")

MOST_REFERENCE = 10_000  # images: more take longer, and change little
SHOWN = 64  # samples in the grid
MOST_SIDE = 256  # pixels of images that are compared without a model
PANEL_SHARE = 0.15  # of the progress, for what follows the sampling
PANEL = 0.5  # of that, for the panel


class Progress(NamedTuple):
    """Thousandths of the work that are done."""

    done: int
    total: int = 1000


class Reference(NamedTuple):
    """Real images: those that samples are compared with, and others for the row of real images."""

    pixels: np.ndarray  # uint8 [M, H, W, C]
    real: np.ndarray  # uint8 [n, H, W, C]
    about: dict[str, Any]  # for the record
    class_counts: list[int]  # images of each of the model's labels, in all of that part; empty where they are not known


def measure_source(
    folder: Path,
    worker: Worker,
    source: Run | Path | metadata.RecordedCheckpoint | None,
    settings: QualityConfig,
    flags: Mapping[str, Any],
    run_probe: bool = True,
) -> Iterator[Progress]:
    """Measures into a job's folder: settings.json, the samples as an .npz and a grid, result.json.

    source: None for images that are given, with a reference that is named.  flags, run_probe: see
    `loading.resolve_config`.  Images that the folder holds already, of the same settings, are not sampled again.
    Raises UserError.
    """
    job = QualityJob(folder)
    if job.result:
        raise UserError(f"{folder} already holds a result: choose another --out.", code="already-exists")
    quality_figures.check(settings, source is not None)
    settings = codec.with_absolute_paths(settings)
    worker.beat(warning=distributed.set_num_threads(settings.threads))
    opened = None if source is None else loading.open_model(source, settings, flags, run_probe=run_probe)
    config = opened.config if opened else _config_of(settings)
    if config.model.super_res and not settings.samples:
        raise UserError(
            "This model enlarges small images, and quality is measured of samples that begin with noise alone: name"
            " its images with --samples.",
            code="not-applicable",
        )
    given = _given(config, settings, worker) if settings.samples else None
    count = settings.num_samples if given is None else len(given)
    reference = read_reference(config, dataclasses.replace(settings, num_samples=count), opened, worker)
    sampled_with = compute = None
    if opened and given is None:
        compute = backend.resolve_and_report(settings.kernels, settings.precision, distributed.device(), worker)
        sampled_with = kept_samples.made_with(settings, opened, compute, reference.class_counts)
        kept_samples.check_same(job, sampled_with)
    net = further.read_inception(settings, len(reference.pixels))
    where = [] if opened is None else ["--model_path", str(opened.path)]
    more = [] if opened is None else opened.flags(QualityConfig)
    recorded = {
        "quality": dataclasses.asdict(settings),
        "data": {"data_dir": reference.about["data_dir"], "part": reference.about["part"]},
        "command": shlex.join(["ddpm", "evaluate", "quality", *where, *codec.to_flags(settings), *more]),
        **({"checkpoint": opened.origin} if opened else {}),
        **({"sampled_with": sampled_with} if sampled_with else {}),
        **({"config": codec.to_json(config)} if opened and opened.weights.config is None else {}),
    }
    files.write_json(folder / "settings.json", recorded)
    began = time.monotonic()
    about = {**reference.about, "n": settings.num_samples, **_measured_with()}
    if given is not None:
        samples = given
        about |= {"samples": settings.samples}
        share = 0.0
    else:
        assert opened is not None
        assert compute is not None
        share = 1 - PANEL_SHARE
        found: list[np.ndarray] = []
        for progress in _sampled(job, worker, opened, settings, compute, reference.class_counts, found, about):
            yield Progress(int(1000 * share * progress))
        samples = np.concatenate(found)[: settings.num_samples]
        if len(samples) < settings.num_samples:
            return
    sampled = time.monotonic()
    about |= {"n": len(samples), "shape": list(samples.shape[1:])}
    if net:
        quality_figures.check_inception(len(samples), "samples")
    worker.beat(state="running", message="Comparing with real images")
    result = None
    for step in panel.measure(samples, reference.pixels, reference.real, features.load(), settings.seed):
        result = step.panel
        elapsed = time.monotonic() - sampled
        worker.beat(seconds_left=elapsed / step.done * (step.total - step.done))
        if "stop" in worker.poll_requests() and result is None:
            return
        yield Progress(int(1000 * (share + (1 - share) * PANEL * step.done / step.total)))
    looked_for = None
    for done in further.measure(job, worker, opened, config, settings, samples, reference.pixels, net):
        looked_for = done.result
        if "stop" in worker.poll_requests() and looked_for is None:
            return
        yield Progress(min(999, int(1000 * (share + (1 - share) * (PANEL + (1 - PANEL) * done.done / done.total)))))
    assert result is not None
    assert looked_for is not None
    seconds = {"sampling": sampled - began, "comparing": time.monotonic() - sampled}
    _finish(job, samples, {"about": about, **panel.as_json(result), **looked_for, "seconds": seconds})
    worker.beat(message=job.summary)
    yield Progress(1000)


def _measured_with() -> dict[str, Any]:
    net = features.load()
    return {"features": net.name, "features_sha256": net.sha256, "version": panel.VERSION}


def _config_of(settings: QualityConfig) -> Config:
    """The size at which images without a model are compared: that of the first, within limits."""
    size = datasets.describe(settings.samples).size
    side = min(*size, MOST_SIDE) if size else features.feature_net.SIZE
    return Config(model=ModelConfig(image_size=side))


# --- real images


def read_reference(
    config: Config, settings: QualityConfig, opened: OpenedModel | None, worker: Worker | None
) -> Reference:
    """Reads the real images, in a fixed random order.

    By default that is the held-out images, and the training images where fewer are held out than can be compared.
    Where the part that is compared with has more than twice as many images as samples, the row of real images is the
    last of them, which are then not in the reference; else it is from the other part of the data, or, where there is
    none, one half of the part against the other.  Raises UserError for fewer images than can be compared.
    """
    wanted = EvalConfig(
        data_dir=settings.reference,
        split=settings.split,
        enlarge=settings.enlarge,
        skip_broken=settings.skip_broken,
    )
    seen = train_ids = None
    if opened:
        seen = lineage.from_json(opened.weights.data)
        train_ids = checkpoint_files.train_ids_at_step(opened.path, opened.weights.step) if seen else None
    found = evaluated_images.open_images(config, wanted, worker, seen, train_ids)
    auto = settings.split == "auto" and opened is not None and not settings.reference
    if auto and found.about["part"] == "test" and len(found.dataset) < quality_figures.LEAST:
        _warn_of_few(len(found.dataset), worker)
        found = evaluated_images.open_images(
            config, dataclasses.replace(wanted, split="train"), worker, seen, train_ids
        )
    order = _order(len(found.dataset), settings.half)
    n = min(settings.num_samples, MOST_REFERENCE)
    _check_count(len(order), "")
    kind = "held-out images that are not in the reference" if found.about["part"] == "test" else "other images of it"
    if len(order) >= 2 * n:
        real, order = _take(found.dataset, order[-n:]), order[:-n]
    else:
        other = _other_part(config, found, n)
        if other is None:
            half = len(order) // 2
            _check_count(half, f" in each half, as nothing else is there to compare its {len(order):,} with")
            real, order = _take(found.dataset, order[half:]), order[:half]
        else:
            kind = "training images" if found.about["part"] == "test" else "held-out images"
            real = other
    pixels = _take(found.dataset, order[:MOST_REFERENCE])
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.data)
    about = {
        "data_dir": found.about["data_dir"],
        "part": found.about["part"],
        "half": settings.half,
        "reference_count": len(pixels),
        "reference_digest": digest.hexdigest(),
        "real": kind,
    }
    return Reference(pixels, real, about, _class_counts(config, settings, found.dataset))


def _class_counts(config: Config, settings: QualityConfig, dataset: datasets.Dataset) -> list[int]:
    """Real images of each of the model's labels; empty where a request names the classes, or they are not the model's.

    Samples of all classes equally often would be far from real images of which some are rare, however good they are.
    """
    known, counts = classes.names(config), dataset.class_counts()
    if settings.classes.strip() or not sum(counts.values()) or not set(counts) <= set(known):
        return []
    return [counts.get(name, 0) for name in known]


def _warn_of_few(count: int, worker: Worker | None) -> None:
    """Says that the reference is not the held-out images, as there are only `count`."""
    sentence = (
        f"There are only {formatting.plural(count, 'held-out image')}, fewer than the {quality_figures.LEAST} that"
        " distances need: the samples are compared with training images, of which copies look good."
    )
    log.warning("%s", sentence)
    if worker:
        worker.warn(sentence)


def _check_count(count: int, where: str) -> None:
    """Raises UserError for fewer real images than are compared.  where: in words, after their number."""
    if count < quality_figures.LEAST:
        raise UserError(
            f"The reference has {formatting.plural(count, 'image')}{where}, and distances in"
            f" {quality_figures.FEATURES} features need at least {quality_figures.LEAST}: name more, with --reference"
            " or another --split.",
            code="too-few-images",
        )


def _order(count: int, half: str) -> np.ndarray:
    """Numbers of images in the same random order always; of one half, every second."""
    order = np.argsort(np.random.PCG64(count).random_raw(count), kind="stable")
    return order[{"first": 0, "second": 1}[half] :: 2] if half else order


def _take(dataset: datasets.Dataset, numbers: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(dataset.take(numbers)[0])


def _other_part(config: Config, found: evaluated_images.Opened, n: int) -> np.ndarray | None:
    """Up to n images of the part of the data that is not compared with; None if there is none with enough."""
    split: datasets.Split = "train" if found.about["part"] == "test" else "test"
    try:
        other = datasets.open_dataset(found.place, config.model, split=split, seed=config.train.seed)
    except UserError as error:
        if error.code != "no-test-part":
            raise
        return None
    if found.about["part"] == "all" or len(other) < quality_figures.LEAST:
        return None
    return _take(other, _order(len(other), "")[:n])


# --- samples


def _given(config: Config, settings: QualityConfig, worker: Worker) -> np.ndarray:
    """Reads `num_samples` of existing images, at the size of the model: of more, the same random ones always."""

    def progress(done: int, total: int) -> None:
        worker.beat(message=f"Reading {settings.samples}: {done:,} of {total:,} images")
        if "stop" in worker.poll_requests():
            raise Stopped

    data = DataConfig(data_dir=settings.samples, enlarge=settings.enlarge, skip_broken=settings.skip_broken)
    dataset = datasets.open_dataset(data, config.model, progress, split="all")
    if len(dataset) < quality_figures.LEAST:
        raise UserError(
            f"{settings.samples} has {formatting.plural(len(dataset), 'image')}, and distances in"
            f" {quality_figures.FEATURES} features need at least {quality_figures.LEAST}: name more.",
            code="too-few-images",
        )
    return _take(dataset, np.sort(_order(len(dataset), "")[: settings.num_samples]))


def request_of(settings: QualityConfig) -> SampleConfig:
    """Returns the request for the samples."""
    steps = 0 if settings.timestep_respacing else settings.steps
    return SampleConfig(**{name: getattr(settings, name) for name in matrix_rows.SHARED}, steps=steps)


def _sampled(
    job: QualityJob,
    worker: Worker,
    opened: OpenedModel,
    settings: QualityConfig,
    compute: ComputeMode,
    class_counts: list[int],
    found: list[np.ndarray],
    about: dict[str, Any],
) -> Iterator[float]:
    """Samples into `found`, uint8 [n, H, W, C] each, and yields the share that is done.

    class_counts: how often each label is wanted, in proportion; empty: those of the request.  about: receives how they
    were sampled.  Batches are kept in the folder until all are there.
    """
    device = distributed.device()
    network = opened.network(device)
    resolved = resolve_request(opened.config, request_of(settings), compute, opened.origin)
    if class_counts:
        labels = classes.in_proportion(class_counts, settings.num_samples)
        resolved = dataclasses.replace(resolved, labels=labels)
    mse = analytic_variance.mse_for(resolved, opened, network, compute, worker)
    resolved = dataclasses.replace(resolved, analytic_mse=mse)
    request = resolved.request
    about |= {
        **{name: opened.origin[name] for name in ("step", "weights", "sha256")},
        "sampler": resolved.solver,
        "nfe": resolved.nfe,
        "guidance_scale": guidance.scale_of(opened.config.model, request),
        "classes": request.classes,
        "class_counts": class_counts,
        "seed": request.seed,
        "precision": resolved.precision,
        "variance": resolved.variance,
        "clip_denoised": request.clip_denoised,
    }
    found += job.batches()
    have = first = sum(map(len, found))
    if have >= settings.num_samples:
        return
    worker.beat(state="running", message=f"Sampling {formatting.plural(settings.num_samples, 'image')}")
    began = time.perf_counter()
    for step in engine.sample(compute.prepared(network), resolved, device, first):
        if step.finished:
            block = engine.to_pixels(step.step.x)[max(0, have - step.start) :]
            arrays.write_npy(job.batch_path(have), block, durable=False)
            found.append(block)
            have += len(block)
        elapsed = time.perf_counter() - began
        worker.beat(steps_per_second=step.done / elapsed, seconds_left=elapsed / step.done * (step.total - step.done))
        if "stop" in worker.poll_requests() and have < settings.num_samples:
            return
        yield (first + (settings.num_samples - first) * step.done / step.total) / settings.num_samples


def _finish(job: QualityJob, samples: np.ndarray, result: dict[str, Any]) -> None:
    """Writes samples, their grid, and at the end result.json; removes the batches."""
    shape = "x".join(map(str, samples.shape))
    arrays.write_npz(job.folder / f"samples_{shape}.npz", Stream(samples.shape, np.uint8, [samples]))
    images.save_png(job.grid, images.grid(samples[:SHOWN]))
    files.write_json(job.folder / "result.json", {**result, "farthest_class": features.load().farthest_class})
    for path in job.batch_paths():
        path.unlink(missing_ok=True)
