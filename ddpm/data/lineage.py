"""Whether data is still what a network was trained on, and what is held out of it still what training never saw.

No torch.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.data.datasets import Dataset, Digest
from ddpm.data_sets import DATA_SETS
from ddpm.errors import UserError
from ddpm.formatting import plural


def to_json(digest: Digest) -> dict[str, Any]:
    """As it is kept with a checkpoint."""
    return dict(vars(digest))


def from_json(kept: Any) -> Digest | None:
    """What `to_json` gave; None where an earlier version, or another program, kept nothing."""
    return Digest(**kept) if isinstance(kept, Mapping) else None


class Remedy(NamedTuple):
    """What can be done, in sentences."""

    elsewhere: str  # where the data may be somewhere else, or as it was in a copy
    anew: str  # where only other data, or a new run, is left


def check(
    config: Config,
    seen: Digest | None,
    dataset: Dataset,
    remedy: Remedy,
    part: str = "test",
    learnt: np.ndarray | None = None,
) -> str:
    """What is otherwise with the data than when the network was trained on it, in a sentence; empty where it is the
    same.

    seen: the digest that was kept then.  part: "train" where nothing is to be measured as held out.  learnt: who was
    ever trained on, as `joined` gives it; None where that is not known.  Raises UserError where images that were
    trained on are among those that are held out now, or may be, and where a path may mean another folder than it did.
    """
    now, place, classes = dataset.digest, config.data.data_dir, config.model.class_cond
    same = seen is not None and now.same(seen, classes)
    unchanged = seen is not None and same and now.held_out == seen.held_out
    if not unchanged and place not in DATA_SETS and not os.path.isabs(os.path.expanduser(place)):
        raise UserError(
            f"{place} was named from the folder in which training began, and may be another one from here."
            f" {remedy.elsewhere}",
            code="changed-data",
        )
    mixed = mixing(learnt, dataset)
    if part == "test" and mixed:
        raise UserError(
            f"Of the images of {place} that are held out or set apart for testing now, {plural(mixed, 'was', 'were')}"
            f" trained on. {remedy.elsewhere}",
            code="mixed-test-part",
        )
    if unchanged:
        return ""
    if seen is None:
        why = (
            f"Which images of {place} were held out is not known: an earlier version chose them in another way, or"
            " another program trained on all."
        )
        if config.data.hold_out and part == "test":
            raise UserError(f"{why} {remedy.anew}", code="changed-data")
        return why if config.data.hold_out else ""
    if part == "test" and mixed is None and _may_mix(config, seen, dataset):
        raise UserError(
            f"Other images of {place} are held out or set apart for testing than when training began, and some that"
            f" were trained on may be among them. {remedy.elsewhere}",
            code="mixed-test-part",
        )
    if now.count != seen.count:
        return f"There are {now.count:,} images in {place} now, and were {seen.count:,} in training."
    if not same:
        other = "in another order or other classes" if classes else "in another order"
        return f"The {now.count:,} images in {place} are not those of training, or are {other}."
    return f"Other images of {place} are set apart for testing than when training began."


def mixing(learnt: np.ndarray | None, dataset: Dataset) -> int | None:
    """How many of the images that were ever trained on are held out or set apart now; None where that is not known."""
    if learnt is None or dataset.apart is None:
        return None
    return len(np.intersect1d(learnt, dataset.apart))


def joined(learnt: np.ndarray | None, dataset: Dataset) -> np.ndarray | None:
    """Who was ever trained on, once `dataset` was as well: uint64, increasing; None where that is not known.

    Left out are images that are set apart in the same data: copies of them are among those that are learnt from.
    """
    if learnt is None or dataset.learnt is None or dataset.apart is None:
        return None
    return np.setdiff1d(np.union1d(learnt, dataset.learnt), dataset.apart)


def _may_mix(config: Config, seen: Digest, dataset: Dataset) -> bool:
    """Whether images that were trained on may be held out or set apart now."""
    now = dataset.digest
    if now.held_out in ("", seen.held_out) or now.same(seen, classes=False):
        return False
    if not config.data.hold_out or datasets.describe(config.data.data_dir).test_count:
        return True  # the data says itself what is for testing, and may say otherwise now
    # The content of each decides, but for the one that is alone on its side, because the share would leave none there.
    if dataset.places is None:
        return False
    others = np.setdiff1d(np.arange(len(dataset.images)), dataset.places)
    return any(_all_alike(dataset.images, side) for side in (dataset.places, others))


def _all_alike(images: np.ndarray, places: np.ndarray) -> bool:
    return all(np.array_equal(images[k], images[places[0]]) for k in places)
