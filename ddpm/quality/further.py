"""What an evaluation of samples measures beside its panel: near-copies of training images, and FID where its weights
are named.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm.checkpoints import checkpoint_files, evaluated_images
from ddpm.checkpoints.loading import OpenedModel
from ddpm.config.quality import QualityConfig
from ddpm.config.tasks import EvalConfig
from ddpm.config.training import Config
from ddpm.data import datasets, lineage
from ddpm.data.datasets import Dataset
from ddpm.errors import UserError
from ddpm.planning import quality_figures
from ddpm.quality import distances, features, inception, memorisation
from ddpm.runs import near_copies
from ddpm.runs.results import QualityJob
from ddpm.runs.worker import Worker

UNKNOWN = "Without a model its training images are not known: near-copies of them were not looked for."


class Progress(NamedTuple):
    """Images that are done."""

    done: int
    total: int
    result: dict[str, Any] | None = None  # at the end, for result.json


class Known(NamedTuple):
    """Training images, and others that the model never saw."""

    training: Dataset
    held_out: Dataset | None


def read_inception(settings: QualityConfig, reference: int) -> inception.InceptionNet | None:
    """Reads the weights of the Inception network, if they are named.

    reference: number of reference images.  Raises UserError for another file, and for too few images.
    """
    if not settings.inception:
        return None
    quality_figures.check_inception(reference, "reference images")
    return inception.InceptionNet(Path(settings.inception))


def training_images(opened: OpenedModel, config: Config, settings: QualityConfig, worker: Worker) -> Known:
    """Opens the training images of a model, and those held out.  Raises UserError where they are not there."""
    seen = lineage.from_json(opened.weights.data)
    train_ids = checkpoint_files.train_ids_at_step(opened.path, opened.weights.step) if seen else None
    wanted = EvalConfig(split="train", enlarge=settings.enlarge, skip_broken=settings.skip_broken)
    found = evaluated_images.open_images(config, wanted, worker, seen, train_ids)
    try:
        held_out = datasets.open_dataset(found.place, config.model, split="test", seed=config.train.seed)
    except UserError as error:
        if error.code != "no-test-part":
            raise
        return Known(found.dataset, None)
    return Known(found.dataset, held_out)


def measure(
    job: QualityJob,
    worker: Worker,
    opened: OpenedModel | None,
    config: Config,
    settings: QualityConfig,
    samples: np.ndarray,
    reference: np.ndarray,
    net: inception.InceptionNet | None,
) -> Iterator[Progress]:
    """Measures samples uint8 [N, H, W, C]; writes the closest pairs into the folder of the job.

    reference: real images, uint8 [M, H, W, C].  net: what `read_inception` returns.
    """
    result: dict[str, Any] = {}
    for_fid = (len(inception.RESIZINGS) * (len(samples) + len(reference))) if net else 0
    done = total = 0
    if settings.copies:
        worker.beat(message="Comparing with the training images")
        try:
            if opened is None:
                result["copies_note"] = UNKNOWN
            else:
                known = training_images(opened, config, settings, worker)
                for step in memorisation.measure(samples, *known, features.load(), settings.seed):
                    done, total = step.done, step.total + for_fid
                    if step.found:
                        found, pairs = step.found
                        found = dataclasses.replace(found, crops=config.data.crop == "random")
                        near_copies.save_pairs(job.folder / near_copies.PAIRS, pairs.samples, pairs.training)
                        result["copies"] = dataclasses.asdict(found)
                    if done < total:
                        yield Progress(done, total)
        except UserError as error:
            if error.code == "disk-full":
                raise
            result["copies_note"] = f"Near-copies of training images were not looked for. {error}"
    if net:
        worker.beat(message="Computing FID")
        total = done + for_fid
        measured = {}
        for resizing in inception.RESIZINGS:
            both = []
            for images in (samples, reference):
                parts = []
                for start in range(0, len(images), inception.BATCH):
                    parts.append(net.features(images[start : start + inception.BATCH], resizing))
                    done += len(parts[-1])
                    if done < total:
                        yield Progress(done, total)
                both.append(np.concatenate(parts))
            measured[resizing] = distances.frechet(distances.gaussian(both[0]), distances.gaussian(both[1]))
        result["inception"] = {"sha256": net.sha256, "fid": measured}
    yield Progress(max(total, 1), max(total, 1), result)
