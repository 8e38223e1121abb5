"""Images that a request begins with: read from a folder, an .npz or a data set, with their labels.  No torch."""

import itertools
import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from ddpm.config.tasks import OWN_DATA, SampleConfig
from ddpm.config.training import Config
from ddpm.data.sources import Npz, Source
from ddpm.errors import UserError
from ddpm.planning import classes

log = logging.getLogger("ddpm")
Progress = Callable[[int, int], None]  # (images read, images in all)


class SourceImages(NamedTuple):
    """Images that are used in turn, as often as samples are asked for."""

    pixels: np.ndarray  # uint8 [n, H, W, C]
    labels: np.ndarray | None = None  # int64 [n], labels of the model, where the images came with classes

    def cycle(self, start: int, stop: int) -> np.ndarray:
        """Returns the image for each of the samples start ... stop - 1: uint8 [stop - start, H, W, C]."""
        return self.pixels[np.arange(start, stop) % len(self.pixels)]


def read(
    config: Config,
    sample: SampleConfig,
    source: Source,
    path: str,
    size: int,
    decode: Callable[[Image.Image, str], np.ndarray],
    progress: Progress | None = None,
) -> SourceImages:
    """Reads the first `num_samples` images of a source, and their labels where the request names no classes.

    path: how the request names the source.  decode: (image, its name) -> uint8 [size, size, C].  Raises UserError for a
    broken image, for what `decode` refuses, and for labels that the model does not have.
    """
    for notice in source.notices:
        log.warning("%s", notice)
    model = config.model
    labelled = model.class_cond and source.labels is not None and not sample.classes
    source = source.labelled() if labelled else source
    count = min(source.count, sample.num_samples)
    pixels = np.empty((count, size, size, model.image_channels), np.uint8)
    for k, item in enumerate(itertools.islice(source.items(model.image_size, model.image_channels), count)):
        with item.open() as opened:
            pixels[k] = decode(opened.image, item.name)
        if progress:
            progress(k + 1, count)
    is_own = sample.base_samples == OWN_DATA
    return SourceImages(pixels, model_labels(config, source, path, is_own)[:count] if labelled else None)


def model_labels(config: Config, source: Source, path: str, is_own: bool = False) -> np.ndarray:
    """Translates the labels of a source to those of the model, int64 [n]: by class name, or by the number in an .npz.

    is_own: it is the data that the model was trained on, whose numbers are names of classes.  Raises UserError for a
    class or a number that the model does not have.
    """
    assert source.labels is not None
    count = config.model.num_classes
    if isinstance(source, Npz) and source.numbered and not is_own:
        own = np.array([int(name) for name in source.class_names])
        wrong = own[(own < 0) | (own >= count)]
        if len(wrong):
            raise UserError(
                f"{path} has the label {wrong[0]}, and the model's go from 0 to {count - 1}: name the classes to"
                " sample, with --classes.",
                code="unknown-class",
            )
        return own[source.labels]
    known = classes.names(config)
    if strange := [name for name in source.class_names if name not in known]:
        raise UserError(
            f"{path} has the class {strange[0]!r}, which is none of the model's: name the classes to sample, with"
            " --classes.",
            code="unknown-class",
        )
    return np.array([known.index(name) for name in source.class_names])[source.labels]
