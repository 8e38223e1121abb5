"""Checks that data is still what a network was trained on, and that no training image is held out now."""

import os
from typing import Any, NamedTuple

import numpy as np

from ddpm.config import records
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.data.datasets import Dataset, Digest
from ddpm.data.encoded import Encoded
from ddpm.data_sets import DATA_SETS
from ddpm.errors import UserError
from ddpm.formatting import plural


def to_json(digest: Digest) -> dict[str, Any]:
    """Converts a digest to JSON, as stored with a checkpoint."""
    return dict(vars(digest))


def from_json(kept: Any) -> Digest | None:
    """Inverse of `to_json`; None if an earlier version or another program stored nothing.

    Raises UserError if it is damaged.
    """
    return records.read(Digest, kept, "What a checkpoint holds about its data") if isinstance(kept, dict) else None


class Remedy(NamedTuple):
    """Sentences on what the user can do."""

    elsewhere: str  # if the original data may exist at another path, or in a copy
    anew: str  # if only other data or a new run helps


def check(
    config: Config,
    seen: Digest | None,
    dataset: Dataset,
    remedy: Remedy,
    part: str = "test",
    train_ids: np.ndarray | None = None,
) -> str:
    """Describes in a sentence how the data differs from the training data of the network; empty if it does not.

    seen: the digest stored at training.  part: "train" if held-out images are not evaluated.  train_ids: ids of all
    images ever trained on, uint64 [n], from `merge_train_ids`; None if not known.  Raises UserError if training images
    are, or may be, held out now, or if a relative path may lead to another folder than at training.
    """
    now, data_dir, classes = dataset.digest, config.data.data_dir, config.model.class_cond
    same = seen is not None and now.same(seen, classes)
    unchanged = seen is not None and same and now.held_out == seen.held_out
    if not unchanged and data_dir not in DATA_SETS and not os.path.isabs(os.path.expanduser(data_dir)):
        raise UserError(
            f"{data_dir} is relative to the folder in which training began, and may not be the same folder here."
            f" {remedy.elsewhere}",
            code="changed-data",
        )
    mixed = count_mixed(train_ids, dataset)
    if part == "test" and mixed:
        raise UserError(
            f"Of the images of {data_dir} that are held out or used for testing now, {plural(mixed, 'was', 'were')}"
            f" trained on. {remedy.elsewhere}",
            code="mixed-test-part",
        )
    if unchanged:
        return ""
    if seen is None:
        why = (
            f"Which images of {data_dir} were held out is not known: an earlier version selected them differently, or"
            " another program trained on all."
        )
        if config.data.hold_out and part == "test":
            raise UserError(f"{why} {remedy.anew}", code="changed-data")
        return why if config.data.hold_out else ""
    if part == "test" and mixed is None and _may_mix(config, seen, dataset):
        raise UserError(
            f"Other images of {data_dir} are held out or used for testing than when training began, and some that"
            f" were trained on may be among them. {remedy.elsewhere}",
            code="mixed-test-part",
        )
    if now.count != seen.count:
        return f"There are {now.count:,} images in {data_dir} now, and were {seen.count:,} in training."
    if not same:
        other = "in another order or other classes" if classes else "in another order"
        return f"The {now.count:,} images in {data_dir} are not those of training, or are {other}."
    return f"Other images of {data_dir} are held out or used for testing than when training began."


def count_mixed(train_ids: np.ndarray | None, dataset: Dataset) -> int | None:
    """Number of images ever trained on (train_ids, uint64 [n]) that are held out now; None if not known."""
    if train_ids is None or dataset.held_out_ids is None:
        return None
    return len(np.intersect1d(train_ids, dataset.held_out_ids))


def merge_train_ids(train_ids: np.ndarray | None, dataset: Dataset) -> np.ndarray | None:
    """Adds the training images of `dataset` to the ids of images ever trained on.

    train_ids: uint64 [n], increasing; None if not known.  Returns the same for the union, or None.  Ids held out in
    `dataset` are omitted: those are images of which copies are in both splits.
    """
    if train_ids is None or dataset.train_ids is None or dataset.held_out_ids is None:
        return None
    return np.setdiff1d(np.union1d(train_ids, dataset.train_ids), dataset.held_out_ids)


def _may_mix(config: Config, seen: Digest, dataset: Dataset) -> bool:
    """True if images that were trained on may be held out now."""
    now = dataset.digest
    if now.held_out in ("", seen.held_out) or now.same(seen, classes=False):
        return False
    if not config.data.hold_out or datasets.describe(config.data.data_dir).test_count:
        return True  # the data defines its own test split, which may have changed
    # Content decides, except for a single image that was moved so that neither split is empty.
    if dataset.indices is None:
        return False
    others = np.setdiff1d(np.arange(len(dataset.images)), dataset.indices)
    return any(_all_alike(dataset.images, side) for side in (dataset.indices, others))


def _all_alike(images: np.ndarray | Encoded, indices: np.ndarray) -> bool:
    """True if the images uint8 [N, H, W, C] at `indices`, int64 [n], are all the same."""
    return all(np.array_equal(images[k], images[indices[0]]) for k in indices)
