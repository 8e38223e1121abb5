"""Random crops: images that are kept a little larger than the network takes them, each in its own shape.

An image is scaled once and kept; every time it is trained on, another part of it is cut out.  The file is
memory-mapped, so that memory holds no more of it than the system has to spare.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ddpm.config.model import ModelConfig
from ddpm.config.training import DataConfig
from ddpm.data import decoded
from ddpm.data.decoded import Progress
from ddpm.data.source import Source
from ddpm.errors import UserError
from ddpm.storage import arrays, files, images

MARGIN = 1.25  # times the image size: the shorter side of a kept image, if it has so many pixels
WIDEST = 2.0  # ratio of the sides of a kept image; the middle is kept of one that is wider
DRAWS = 3  # random numbers that a crop takes


class Scaled(NamedTuple):
    """Images of sizes of their own, one after the other."""

    pixels: np.ndarray  # uint8 [bytes], memory-mapped, read-only
    sizes: np.ndarray  # int64 [N, 2], height and width
    starts: np.ndarray  # int64 [N], where each begins
    channels: int

    def image(self, index: int) -> np.ndarray:
        """The whole image: uint8 [h, w, C]."""
        height, width = self.sizes[index].tolist()
        start = int(self.starts[index])
        return self.pixels[start : start + height * width * self.channels].reshape(height, width, self.channels)

    def crops(self, indices: np.ndarray, random: np.ndarray, size: int) -> np.ndarray:
        """Cuts a square out of each of the images, and scales it: uint8 [n, size, size, C].

        indices: int64 [n].  random: float64 [n, DRAWS] in [0, 1).  The square has between `size` and all pixels of the
        shorter side, and lies anywhere.
        """
        return np.stack([cut(self.image(k), draws, size) for k, draws in zip(indices, random, strict=True)])


def cut(image: np.ndarray, random: np.ndarray, size: int) -> np.ndarray:
    """Cuts a square out of an image uint8 [h, w, C], and scales it: uint8 [size, size, C].  random: float64 [DRAWS]."""
    height, width, channels = image.shape
    side = size + math.floor(random[0] * (min(height, width) - size + 1))
    top, left = (math.floor(u * (whole - side + 1)) for u, whole in zip(random[1:], (height, width), strict=True))
    square = image[top : top + side, left : left + side]
    if side == size:
        return square
    scaled = images.from_pixels(square).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(scaled).reshape(size, size, channels)


def kept_side(size: int) -> int:
    """Shorter side in pixels of an image that is kept for crops of `size` pixels."""
    return round(size * MARGIN)


def open_scaled(
    source: Source, data: DataConfig, model: ModelConfig, count: int, progress: Progress | None = None
) -> Scaled:
    """Opens the training images of `source` as they are kept for random crops; scales them if they are not cached.

    The same images, in the same order, as `decoded.open_decoded` has them, `count` in number; which raises what this
    may raise.
    """
    path = decoded.cache_path(source, data, model, kind="crops")

    def fill() -> Scaled:
        return _open(path, model) or _fill(path, source, data, model, progress)

    found = _open(path, model) or decoded.locked(path, fill)
    if len(found.sizes) != count:
        raise decoded.changed_by_another(path)
    return found


def _sizes_path(path: Path) -> Path:
    return path.with_suffix(".sizes.npy")


def _open(path: Path, model: ModelConfig) -> Scaled | None:
    """Opens cached images; None if they are missing or incomplete."""
    try:
        sizes = arrays.read_npy(_sizes_path(path))  # written last: it marks the pixels as complete
        if sizes.ndim != 2 or sizes.shape[1] != 2 or sizes.min(initial=1) < 1:
            return None
        lengths = sizes.prod(axis=1) * model.image_channels
        if path.stat().st_size != lengths.sum():
            return None
        pixels = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError, UserError):
        return None
    return Scaled(pixels.view(np.ndarray), sizes, np.cumsum(lengths) - lengths, model.image_channels)


def _fill(path: Path, source: Source, data: DataConfig, model: ModelConfig, progress: Progress | None) -> Scaled:
    size, channels = model.image_size, model.image_channels
    sizes: list[tuple[int, ...]] = []
    most = kept_side(size)
    decoding = decoded.Decoding(
        source,
        data,
        model,
        progress,
        data.data_dir,
        lambda image: images.scaled(image, size, most, WIDEST, channels),
        most,
    )

    def save(file: Any) -> None:
        for block in decoding.blocks():
            sizes.extend(one.shape[:2] for one in block)
            file.write(b"".join(one.tobytes() for one in block))

    _sizes_path(path).unlink(missing_ok=True)
    files.write(path, save)
    decoded.check_unchanged(source, data.data_dir)
    arrays.write_npy(_sizes_path(path), np.array(sizes, np.int64).reshape(-1, 2))
    decoded.remove_superseded(path)
    opened = _open(path, model)
    if opened is None:
        raise decoded.changed_by_another(path)
    return opened


def notices(scaled: Scaled, size: int) -> tuple[str, ...]:
    """Sentences to show to the user: where no image has more pixels than a crop, crops are all of it."""
    if len(scaled.sizes) and (scaled.sizes == size).all():
        return (f"No image is larger than {size} x {size} pixels, so random crops change nothing.",)
    return ()
