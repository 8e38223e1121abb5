"""Features of images: numbers in which sets of images are compared.

net = load()
found = net.features(pixels)  # uint8 [N, H, W, C] -> float32 [N, 128]

The network comes with the program (`ddpm.quality.feature_net`), and is frozen, so that figures stay comparable: its
checksum is part of its name, and of what every figure carries.  Features are scaled so that their variances over
CIFAR-10's test images have the mean 1.  `scripts/train_feature_net.py` says what it was trained on.
"""

import functools
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddpm.errors import UserError
from ddpm.quality import feature_net
from ddpm.quality.distances import Gaussian, frechet, gaussian
from ddpm.storage import arrays

FILE = Path(__file__).parents[1] / "assets" / "feature_net.npz"
VERSION = "c10v1"
SHA256 = "3bded2342b956ea42f9db4f6a78111f90628f56ba9e2eced90d18a09b79d4d37"

BATCH = 100  # images a pass, always: other shapes may be computed in another order, and so to other last bits
RESIZING = "bicubic, antialiased (Pillow), to 32 x 32"

CIFAR10 = ("mean", "covariance")  # in the file: of the features of its test images

Progress = Callable[[int, int], None]  # (images done, total)


class FeatureNet:
    """A network with frozen weights that gives 128 features of an image."""

    width = feature_net.WIDTH

    def __init__(self, content: bytes):
        """content: the file of its weights, an .npz as `feature_net.folded` names them."""
        self.sha256 = hashlib.sha256(content).hexdigest()
        held = arrays.read_npz(_named(content))
        self._weights = {
            name: torch.from_numpy(values.astype(np.float32)) for name, values in held.items() if "." in name
        }
        # Without these, the weights are those of a network that is being made.
        self._scale = float(held.get("scale", 1.0))
        self._cifar10 = Gaussian(*(held[name].astype(np.float64) for name in CIFAR10)) if CIFAR10[0] in held else None
        self.farthest_class = float(held.get("farthest_class", 0.0))

    @property
    def name(self) -> str:
        """Name of the features, with the beginning of the checksum of the weights."""
        return f"{VERSION}-{self.sha256[:12]}"

    def nearness(self, found: np.ndarray) -> float:
        """Returns the Fréchet distance of images, by their features [N, 128], from CIFAR-10's test images.

        `farthest_class` is that of the farthest of its ten classes: images that are nearer are like those that the
        features were learned from.
        """
        return frechet(gaussian(found), self._cifar10) if self._cifar10 else 0.0

    @torch.no_grad()
    def features(self, pixels: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Returns the features float32 [N, 128] of images uint8 [N, H, W, C] with 1, 3 or 4 channels.

        See `prepared` for images that are not 32 x 32 pixels in colour.  The same images give the same bits, whatever
        else is in the array.
        """
        found = np.empty((len(pixels), self.width), np.float32)
        for start in range(0, len(pixels), BATCH):
            part = prepared(pixels[start : start + BATCH])
            count = len(part)
            x = torch.zeros(BATCH, 3, feature_net.SIZE, feature_net.SIZE)
            x[:count] = torch.from_numpy(part.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
            found[start : start + count] = self._scale * self._pass(x)[:count].numpy()
            if progress:
                progress(start + count, len(pixels))
        return found

    def _pass(self, x: Tensor) -> Tensor:
        return feature_net.features(self._weights, x)


def _named(content: bytes) -> io.BytesIO:
    file = io.BytesIO(content)
    file.name = FILE.name
    return file


def prepared(pixels: np.ndarray) -> np.ndarray:
    """Returns images uint8 [N, H, W, C] as the network takes them: uint8 [N, 32, 32, 3].

    In colour; another size is scaled to 32 x 32 as `RESIZING` says.
    """
    pixels = in_colour(pixels)
    size = feature_net.SIZE
    if pixels.shape[1:3] != (size, size):
        pixels = np.stack(
            [np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC)) for one in pixels]
        )
    return pixels


def in_colour(pixels: np.ndarray) -> np.ndarray:
    """Returns images uint8 [N, H, W, C] as uint8 [N, H, W, 3].

    A grey one has its channel three times; a transparent one is laid on white.
    """
    if pixels.shape[3] == 1:
        return np.repeat(pixels, 3, axis=3)
    if pixels.shape[3] == 4:
        colour, alpha = pixels[..., :3].astype(np.uint32), pixels[..., 3:].astype(np.uint32)
        return np.asarray((colour * alpha + 255 * (255 - alpha) + 127) // 255, np.uint8)
    return pixels


@functools.cache
def load() -> FeatureNet:
    """Returns the network that comes with the program.  Raises UserError if its file is missing or changed."""
    try:
        content = FILE.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{FILE} is missing: install the program again.", code="not-found") from None
    net = FeatureNet(content)
    if net.sha256 != SHA256:
        raise UserError(
            f"{FILE} is not the file that came with the program (its sha256 begins with {net.sha256[:12]} instead of"
            f" {SHA256[:12]}): install the program again.",
            code="wrong-checksum",
        )
    return net
