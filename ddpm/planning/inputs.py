"""The images, and the mask, that the tasks vary, inpaint and invert begin with.  No torch."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.data.sources import open_source
from ddpm.errors import UserError
from ddpm.planning import source_images
from ddpm.planning.source_images import Progress, SourceImages
from ddpm.storage import image_files, images, paths

IMAGE_TASKS = ("vary", "inpaint", "invert")


class InputImages(NamedTuple):
    """Images that a task begins with."""

    images: SourceImages  # of the model's image size
    mask: np.ndarray | None = None  # uint8 [H, W] of 0 and 1: 1 where something new is sampled


def read(config: Config, sample: SampleConfig, progress: Progress | None = None) -> InputImages | None:
    """Reads the images of `sample.picture`, at most `num_samples`, and the mask; None where the task needs none.

    Raises UserError for images that are missing, broken, of another size, or given to a task that takes none.
    """
    wanted = sample.task in IMAGE_TASKS
    if not wanted and (sample.picture or sample.mask):
        name = "picture" if sample.picture else "mask"
        raise UserError(
            f"{name} {getattr(sample, name)} was given, and the task is {sample.task}: leave it out, or name the task"
            " (vary, inpaint or invert).",
            code="not-applicable",
        )
    if not wanted:
        return None
    if config.model.super_res:
        raise UserError(
            f"task {sample.task} begins with an image, and this model enlarges small ones: use task sample with"
            " base_samples.",
            code="not-applicable",
        )
    if not sample.picture:
        raise UserError(
            f"picture is empty, and {sample.task} begins with one: name a file, a folder or an .npz of images of"
            f" {_size(config)}.",
            code="missing-value",
        )
    return InputImages(_images(config, sample, progress), _mask(config, sample))


def _size(config: Config) -> str:
    return f"{config.model.image_size} x {config.model.image_size} pixels"


def fit(config: Config, image: Image.Image, name: str) -> np.ndarray:
    """Converts an image of the model's size to uint8 [H, W, C].  Raises UserError for another size."""
    size = config.model.image_size
    if image.size != (size, size):
        raise UserError(
            f"picture {name} has {image.width} x {image.height} pixels, and this model samples"
            f" {_size(config)}: scale"
            " it to that size.",
            code="wrong-size",
        )
    return images.prepare(image, size, config.model.image_channels)


def _images(config: Config, sample: SampleConfig, progress: Progress | None) -> SourceImages:
    path = paths.full(sample.picture)
    if path.is_file() and path.suffix.lower() != ".npz":
        return SourceImages(fit(config, image_files.load(path), path.name)[None])

    def decode(image: Image.Image, name: str) -> np.ndarray:
        return fit(config, image, f"{name} of {sample.picture}")

    source = open_source(sample.picture)
    return source_images.read(config, sample, source, sample.picture, config.model.image_size, decode, progress)


def _mask(config: Config, sample: SampleConfig) -> np.ndarray | None:
    if sample.task != "inpaint":
        if sample.mask:
            raise UserError(
                f"mask {sample.mask} was given, and the task is {sample.task}: leave it out, or use task inpaint.",
                code="not-applicable",
            )
        return None
    if not sample.mask:
        raise UserError(
            f"mask is empty, and inpaint needs one: name an image of {_size(config)}, white where something new is to"
            " be sampled.",
            code="missing-value",
        )
    return read_mask(config, sample.mask)


def read_mask(config: Config, path: str) -> np.ndarray:
    """Reads a mask from a file: uint8 [H, W], 1 where it is white, else 0.

    Raises UserError for another size, and where it is black everywhere.
    """
    image = image_files.load(paths.full(path))
    size = config.model.image_size
    if image.size != (size, size):
        raise UserError(
            f"mask {path} has {image.width} x {image.height} pixels, and this model samples {_size(config)}:"
            " scale it to that size.",
            code="wrong-size",
        )
    white = np.asarray(images.convert(image, 1)) > 127
    if not white.any():
        raise UserError(
            f"mask {path} is black everywhere, so nothing new would be sampled: paint white what is to be new.",
            code="empty-mask",
        )
    return white.astype(np.uint8)
