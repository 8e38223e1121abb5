"""Images of tar shards that are decoded when they are asked for, so that no decoded copy has to be made first."""

from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

from ddpm.config.model import ModelConfig
from ddpm.config.training import DataConfig
from ddpm.data import crops
from ddpm.data.tar_shards import Shards
from ddpm.errors import UserError
from ddpm.formatting import some
from ddpm.storage import images

NAMED = 5  # samples that a sentence lists


class Encoded:
    """The images of a source as an array uint8 [N, H, W, C], of which nothing is in memory.

    Indexing it by a number or by numbers int64 [n] reads and decodes those; it raises UserError for one that is broken,
    or smaller than image_size without `data.enlarge`.
    """

    def __init__(self, source: Shards, data: DataConfig, model: ModelConfig):
        self.source, self.data = source, data
        self.size, self.channels = model.image_size, model.image_channels
        self.shape = (source.count, self.size, self.size, self.channels)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: int | np.ndarray) -> np.ndarray:
        if isinstance(which, np.ndarray):
            return (
                np.stack([self._pixels(int(k)) for k in which]) if len(which) else np.empty((0, *self.shape[1:]), "u1")
            )
        return self._pixels(int(which))

    def _pixels(self, index: int) -> np.ndarray:
        return self._read(index, self.size, lambda image: images.prepare(image, self.size, self.channels))

    def crops(self, indices: np.ndarray, random: np.ndarray, size: int) -> np.ndarray:
        """Random crops, as `crops.Scaled.crops` has them: uint8 [n, size, size, C]."""
        most = crops.kept_side(size)

        def scaled(image: Image.Image) -> np.ndarray:
            return images.scaled(image, size, most, crops.WIDEST, self.channels)

        whole: Iterable[np.ndarray] = (self._read(int(k), most, scaled) for k in indices)
        return np.stack([crops.cut(one, draws, size) for one, draws in zip(whole, random, strict=True)])

    def _read(self, index: int, least: int, prepare: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
        item = self.source.item(index, least)
        with item.open() as (image, _):
            if min(image.size) < self.size and not self.data.enlarge:
                raise _too_small(item.name, min(image.size), self.size)
            return prepare(image)


def open_encoded(source: Shards, data: DataConfig, model: ModelConfig, where: str) -> Encoded:
    """Opens the images of tar shards.  where: their name in messages.

    Raises UserError if samples had to be left out and `data.skip_broken` is False, or if one of those that were looked
    at is smaller than image_size and `data.enlarge` is False.
    """
    index = source.index
    if index.wrong and not data.skip_broken:
        raise UserError(
            f"{index.wrong:,} samples of {where} cannot be used: correct them, or set skip_broken to True to leave them"
            f" out; the first: {index.sentences[0]}",
            code="broken-image",
        )
    if 0 < index.smallest < model.image_size and not data.enlarge:
        raise _too_small(f"an image of {where}", index.smallest, model.image_size)
    return Encoded(source, data, model)


def notices(source: Shards) -> tuple[str, ...]:
    """Sentences to show to the user: samples that are left out."""
    if not source.index.wrong:
        return ()
    sentences = source.index.sentences
    return (f"{source.index.wrong:,} samples cannot be used and were left out: {some(list(sentences), NAMED)}",)


def _too_small(name: str, side: int, size: int) -> UserError:
    return UserError(
        f"The shorter side of {name} has {side:,} pixels, fewer than image_size {size}: use larger images, set enlarge"
        f" to True, or set image_size to {side} or less.",
        code="small-images",
    )
