"""Images that a model is evaluated on: its own data, wherever that is now, or others; never those that it has seen by
mistake.
"""

import dataclasses
import logging
from typing import Any, NamedTuple

import numpy as np

from ddpm.compute import distributed
from ddpm.config.tasks import EvalConfig
from ddpm.config.training import Config, DataConfig
from ddpm.data import datasets, lineage, sources
from ddpm.data.datasets import Dataset, Digest, Split
from ddpm.data.lineage import Remedy
from ddpm.errors import UserError
from ddpm.runs.worker import Stopped, Worker

log = logging.getLogger("ddpm")

REMEDY = Remedy(
    "Name the data it was trained on with --data_dir, wherever it is now, or other images.",
    "Evaluate on other images with --data_dir, or on these with --split train.",
)


class Opened(NamedTuple):
    """Images to evaluate a model on."""

    dataset: Dataset
    about: dict[str, Any]  # for the record: data_dir, part, count
    place: DataConfig  # where they are, with the share that is held out


def open_images(
    config: Config,
    settings: EvalConfig,
    worker: Worker | None,
    seen: Digest | None = None,
    train_ids: np.ndarray | None = None,
) -> Opened:
    """Opens the images to evaluate.

    The network's own data is recognised by its digest, `seen`, under any path.  Several processes each read the images,
    and wait for one another; where one cannot, or is asked to stop, all end.  train_ids: uint64 [M], hashes of the
    images that the network was trained on.
    """
    mine = dataclasses.replace(config.data, data_dir=settings.data_dir or config.data.data_dir)
    mine = datasets.adjusted(mine, settings)
    if not mine.data_dir:
        raise UserError(
            "No images are named, and the file does not say what it was trained on: name them with --data_dir.",
            code="no-data-named",
        )

    def progress(done: int, total: int) -> None:
        distributed.raise_peer_error()
        if worker:
            worker.beat(message=f"Reading the data: {done} of {total} images")
            if "stop" in worker.poll_requests():
                raise Stopped

    @sources.opened_once()
    def opened() -> tuple[Split, Dataset, bool, str, DataConfig]:
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
        changed = lineage.check(its, seen, dataset, REMEDY, split, train_ids) if own else ""
        return split, dataset, own, changed, place

    split, dataset, own, changed, place = distributed.run_on_all_ranks(opened)
    if changed and worker and changed not in worker.status.warning:
        log.warning("%s", changed)
        worker.warn(changed)
    part = split if own or split == "test" else "all"
    return Opened(dataset, {"data_dir": mine.data_dir, "part": part, "count": len(dataset)}, place)
