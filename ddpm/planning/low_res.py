"""The small pictures that a super-resolution model enlarges: where they come from when drawing.  No torch."""

import itertools
import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ddpm.config.tasks import OWN_DATA, SampleConfig
from ddpm.config.training import Config
from ddpm.data.datasets import Dataset
from ddpm.data.npz_files import Npz
from ddpm.data.source import Source
from ddpm.data.sources import open_source
from ddpm.data_sets import DATA_SETS
from ddpm.errors import UserError
from ddpm.planning import classes
from ddpm.storage import images

log = logging.getLogger("ddpm")
Progress = Callable[[int, int], None]  # (pictures done, pictures in all)


def by_name(base_samples: str) -> bool:
    """Whether it is the name of pictures that are made small, and no path."""
    return base_samples == OWN_DATA or base_samples in DATA_SETS


class LowRes(NamedTuple):
    """Small pictures, to be taken in turn."""

    pixels: np.ndarray  # uint8 [n, h, h, C]
    labels: np.ndarray | None = None  # int64 [n] of the model, where the pictures came with some

    def turn(self, start: int, stop: int) -> np.ndarray:
        """The small picture of each of the pictures number start ... stop - 1: uint8 [stop - start, h, h, C]."""
        return self.pixels[np.arange(start, stop) % len(self.pixels)]


def of_dataset(dataset: Dataset, config: Config, count: int) -> LowRes:
    """`count` pictures from all over the data, made small as training does it: always the same."""
    places = np.linspace(0, len(dataset) - 1, count).astype(int)
    pixels, labels = dataset.take(places)
    return LowRes(images.shrunk(pixels, config.model.small_size), labels if config.model.class_cond else None)


def open_base(config: Config, base_samples: str) -> tuple[Source, bool] | None:
    """Where the small pictures come from, not yet decoded, and whether they are still to be made small.

    None for a model that draws from noise alone.  Raises UserError when there are none, when they are not wanted, or
    when they are seen to have another size.
    """
    model = config.model
    if not model.super_res:
        if base_samples:
            raise UserError(
                f"base_samples {base_samples} was given to a model that draws from noise alone: leave it out, or choose"
                " a super-resolution model.",
                code="not-applicable",
            )
        return None
    if not base_samples:
        raise UserError(
            f"This model enlarges pictures of {model.small_size} x {model.small_size} pixels: name some in"
            f" base_samples, an .npz of samples or a folder of that size, or {OWN_DATA} for the model's own data, made"
            " small.",
            code="missing-value",
        )
    if base_samples == OWN_DATA and not config.data.data_dir:
        raise UserError(
            f"base_samples is {OWN_DATA}, but the model does not know what it was trained on: name a file, a folder, or"
            f" one of {', '.join(DATA_SETS)}.",
            code="no-data-named",
        )
    source = open_source(config.data.data_dir if base_samples == OWN_DATA else base_samples)
    large = by_name(base_samples)
    if not large and source.size:
        _check_size(config, base_samples, source.size)
    return source, large


def _check_size(config: Config, base_samples: str, size: tuple[int, int]) -> None:
    small = config.model.small_size
    if size != (small, small):
        raise UserError(
            f"A picture of {base_samples} has {size[0]} x {size[1]} pixels, and this model enlarges {small} x {small}:"
            f" name pictures of that size, or a data set ({OWN_DATA}, {', '.join(DATA_SETS)}), which is made small.",
            code="wrong-size",
        )


def read(config: Config, sample: SampleConfig, progress: Progress | None = None) -> LowRes | None:
    """The pictures of `sample.base_samples`, `num_samples` of them at most; None for a plain model.

    Raises UserError as `open_base` does, for a broken picture, and for labels that are none of the model's while no
    classes are named.
    """
    opened = open_base(config, sample.base_samples)
    if opened is None:
        return None
    source, large = opened
    for notice in source.notices:
        log.warning("%s", notice)
    model = config.model
    labelled = model.class_cond and source.labels is not None and not sample.classes
    source = source.labelled() if labelled else source
    count = min(source.count, sample.num_samples)
    pixels = np.empty((count, model.small_size, model.small_size, model.image_channels), np.uint8)
    for k, item in enumerate(itertools.islice(source.items(model.image_size, model.image_channels), count)):
        with item.open() as read:
            if large:
                whole = images.prepare(read.image, model.image_size, model.image_channels)
                pixels[k] = images.shrunk(whole[None], model.small_size)[0]
            else:
                _check_size(config, sample.base_samples, read.image.size)
                pixels[k] = images.prepare(read.image, model.small_size, model.image_channels)
        if progress:
            progress(k + 1, count)
    return LowRes(pixels, labels_of(config, source, sample.base_samples)[:count] if labelled else None)


def labels_of(config: Config, source: Source, base_samples: str) -> np.ndarray:
    """The model's label of every picture: by the name of its class, or the plain number of an .npz without names."""
    assert source.labels is not None
    count = config.model.num_classes
    if isinstance(source, Npz) and source.numbered:
        own = np.array([int(name) for name in source.class_names])
        wrong = own[(own < 0) | (own >= count)]
        if len(wrong):
            raise UserError(
                f"{base_samples} has the label {wrong[0]}, and the model's go from 0 to {count - 1}: name the classes"
                " to draw, with --classes.",
                code="unknown-class",
            )
        return own[source.labels]
    known = classes.names(config)
    if strange := [name for name in source.class_names if name not in known]:
        raise UserError(
            f"{base_samples} has the class {strange[0]!r}, which is none of the model's: name the classes to draw, with"
            " --classes.",
            code="unknown-class",
        )
    return np.array([known.index(name) for name in source.class_names])[source.labels]
