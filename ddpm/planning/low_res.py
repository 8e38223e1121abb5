"""The small images that a super-resolution model enlarges when it samples.  No torch."""

import dataclasses

import numpy as np
from PIL import Image

from ddpm.config.tasks import OWN_DATA, SampleConfig
from ddpm.config.training import Config
from ddpm.data.datasets import Dataset
from ddpm.data.source import Source
from ddpm.data.sources import open_source
from ddpm.data_sets import DATA_SETS
from ddpm.errors import UserError
from ddpm.planning import source_images
from ddpm.planning.source_images import Progress, SourceImages
from ddpm.storage import images


def is_data_set(base_samples: str) -> bool:
    """Returns whether the setting names a data set, whose images are made small, and not a path."""
    return base_samples == OWN_DATA or base_samples in DATA_SETS


def of_dataset(dataset: Dataset, config: Config, count: int) -> SourceImages:
    """Takes `count` evenly spaced images of the data, made small as training does it: always the same ones."""
    numbers = np.linspace(0, len(dataset) - 1, count).astype(int)
    pixels, labels = dataset.take(numbers)
    return SourceImages(images.shrunk(pixels, config.model.small_size), labels if config.model.class_cond else None)


def open_base(config: Config, base_samples: str) -> tuple[Source, bool] | None:
    """Opens the source of the small images, and returns it with whether its images are still to be made small.

    None for a model that samples from noise alone.  Raises UserError where there are no images, where the model takes
    none, or where they have another size.
    """
    model = config.model
    if not model.super_res:
        if base_samples:
            raise UserError(
                f"base_samples {base_samples} was given to a model that samples from noise alone: leave it out, or"
                " choose a super-resolution model.",
                code="not-applicable",
            )
        return None
    if not base_samples:
        raise UserError(
            f"This model enlarges images of {model.small_size} x {model.small_size} pixels: name some in"
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
    large = is_data_set(base_samples)
    if not large and source.size:
        _check_size(config, base_samples, source.size)
    return source, large


def _check_size(config: Config, base_samples: str, size: tuple[int, int]) -> None:
    small = config.model.small_size
    if size != (small, small):
        raise UserError(
            f"An image of {base_samples} has {size[0]} x {size[1]} pixels, and this model enlarges {small} x {small}:"
            f" name images of that size, or a data set ({OWN_DATA}, {', '.join(DATA_SETS)}), which is made small.",
            code="wrong-size",
        )


def read(config: Config, sample: SampleConfig, progress: Progress | None = None) -> SourceImages | None:
    """Reads the images of `sample.base_samples`, at most `num_samples`; None for a model that samples from noise alone.

    Raises UserError as `open_base` does, for a broken image, and for labels that the model does not have while no
    classes are named.
    """
    opened = open_base(config, sample.base_samples)
    if opened is None:
        return None
    source, large = opened
    model = config.model

    def decode(image: Image.Image, name: str) -> np.ndarray:
        if large:
            whole = images.prepare(image, model.image_size, model.image_channels)
            return images.shrunk(whole[None], model.small_size)[0]
        _check_size(config, sample.base_samples, image.size)
        return images.prepare(image, model.small_size, model.image_channels)

    if sample.task == "interpolate":  # between two noises, for one small image
        sample = dataclasses.replace(sample, num_samples=1)
    return source_images.read(config, sample, source, sample.base_samples, model.small_size, decode, progress)
