"""The pictures, and the mask, that a drawing begins with.  No torch."""

import itertools
import logging
from typing import NamedTuple

import numpy as np
from PIL import Image

from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.data.sources import open_source
from ddpm.errors import UserError
from ddpm.planning.low_res import LowRes, Progress, labels_of
from ddpm.storage import images, paths

log = logging.getLogger("ddpm")
FROM_PICTURES = ("vary", "inpaint", "invert")


class Given(NamedTuple):
    """What a drawing begins with."""

    pictures: LowRes  # of the model's image size, to be taken in turn
    mask: np.ndarray | None = None  # uint8 [H, W] of 0 and 1: 1 where something new is drawn


def read(config: Config, sample: SampleConfig, progress: Progress | None = None) -> Given | None:
    """The pictures of `sample.picture`, `num_samples` of them at most, and the mask; None where the task has none.

    Raises UserError for what is missing, broken, not wanted, or of another size.
    """
    wanted = sample.task in FROM_PICTURES
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
            f"task {sample.task} begins with a picture, and this model enlarges small ones: use task draw with"
            " base_samples.",
            code="not-applicable",
        )
    if not sample.picture:
        raise UserError(
            f"picture is empty, and {sample.task} begins with one: name a file, a folder or an .npz of pictures of"
            f" {_size(config)}.",
            code="missing-value",
        )
    return Given(_pictures(config, sample, progress), _mask(config, sample))


def _size(config: Config) -> str:
    return f"{config.model.image_size} x {config.model.image_size} pixels"


def fit(config: Config, picture: Image.Image, name: str) -> np.ndarray:
    """uint8 [H, W, C] of a picture of the model's size.  Raises UserError for another size."""
    size = config.model.image_size
    if picture.size != (size, size):
        raise UserError(
            f"picture {name} has {picture.width} x {picture.height} pixels, and this model draws {_size(config)}: scale"
            " it to that size.",
            code="wrong-size",
        )
    return images.prepare(picture, size, config.model.image_channels)


def _pictures(config: Config, sample: SampleConfig, progress: Progress | None) -> LowRes:
    path = paths.full(sample.picture)
    if path.is_file() and path.suffix.lower() != ".npz":
        return LowRes(fit(config, images.load(path), path.name)[None])
    source = open_source(sample.picture)
    for notice in source.notices:
        log.warning("%s", notice)
    model = config.model
    labelled = model.class_cond and source.labels is not None and not sample.classes
    source = source.labelled() if labelled else source
    count = min(source.count, sample.num_samples)
    pixels = np.empty((count, model.image_size, model.image_size, model.image_channels), np.uint8)
    for k, item in enumerate(itertools.islice(source.items(model.image_size, model.image_channels), count)):
        with item.open() as read:
            pixels[k] = fit(config, read.image, f"{item.name} of {sample.picture}")
        if progress:
            progress(k + 1, count)
    return LowRes(pixels, labels_of(config, source, sample.picture)[:count] if labelled else None)


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
            f"mask is empty, and inpaint needs one: name a picture of {_size(config)}, white where something new is to"
            " be drawn.",
            code="missing-value",
        )
    return read_mask(config, sample.mask)


def read_mask(config: Config, path: str) -> np.ndarray:
    """The mask in a file: uint8 [H, W] of 0 and 1.  Raises UserError for another size, and where it is black everywhere."""
    picture = images.load(paths.full(path))
    size = config.model.image_size
    if picture.size != (size, size):
        raise UserError(
            f"mask {path} has {picture.width} x {picture.height} pixels, and this model draws {_size(config)}: scale it"
            " to that size.",
            code="wrong-size",
        )
    white = np.asarray(images.convert(picture, 1)) > 127
    if not white.any():
        raise UserError(
            f"mask {path} is black everywhere, so nothing new would be drawn: paint white what is to be drawn.",
            code="empty-mask",
        )
    return white.astype(np.uint8)
