"""The Inception v3 network in whose features the Fréchet Inception Distance (FID) of papers is measured.

Its weights are those that TensorFlow's FID code of 2015-12-05 has, in the file that is passed around as
pt_inception-2015-12-05-6726825d.pth.  The user names his own copy; nothing is downloaded.

Architecture: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision".  The network of 2015
differs from that of torchvision in its pooling: averages leave the padding out, and the last block pools by maximum.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ddpm.checkpoints import weights
from ddpm.errors import UserError
from ddpm.quality.features import in_colour

FILE = "pt_inception-2015-12-05-6726825d.pth"
SHA256_START = "6726825d"  # of that file
WIDTH = 2048  # features of an image
SIZE = 299  # pixels, height and width
BATCH = 50  # images a pass
RESIZINGS = {
    "clean": "bicubic in floating point (Pillow), scaled by (x - 128) / 128",
    "legacy": "bilinear without antialiasing (torch), scaled by x / 127.5 - 1",
}

Progress = Callable[[int, int], None]  # (images done, total)
Kernel = int | tuple[int, int]


class _Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inside: int, out: int, kernel: Kernel, stride: int = 1, padding: Kernel = 0):
        super().__init__()
        self.conv = nn.Conv2d(inside, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


def _mean_pool(x: Tensor) -> Tensor:
    """Means of 3 x 3 pixels; at the border, of those that are there."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _Block(nn.Module):
    """Branches side by side, each a chain of convolutions; their outputs are joined along the channels."""

    def chain(self, prefix: str, x: Tensor) -> Tensor:
        """Passes x through the convolutions `prefix`_1, `prefix`_2, ..."""
        number = 1
        while hasattr(self, f"{prefix}_{number}"):
            x = getattr(self, f"{prefix}_{number}")(x)
            number += 1
        return x

    def add_chain(self, prefix: str, inside: int, *layers: tuple[Any, ...]) -> None:
        """Adds such a chain; a layer is (channels, kernel, stride, padding), the last two where they are not 1, 0."""
        for number, (out, *rest) in enumerate(layers, start=1):
            self.add_module(f"{prefix}_{number}", _Conv(inside, out, *rest))
            inside = out


ROW, COLUMN = (1, (0, 3)), (1, (3, 0))  # stride and padding of kernels (1, 7) and (7, 1)


class _BlockA(_Block):
    """35 x 35 pixels."""

    def __init__(self, inside: int, pooled: int):
        super().__init__()
        self.branch1x1 = _Conv(inside, 64, 1)
        self.add_chain("branch5x5", inside, (48, 1), (64, 5, 1, 2))
        self.add_chain("branch3x3dbl", inside, (64, 1), (96, 3, 1, 1), (96, 3, 1, 1))
        self.branch_pool = _Conv(inside, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.branch_pool(_mean_pool(x))
        return torch.cat([self.branch1x1(x), self.chain("branch5x5", x), self.chain("branch3x3dbl", x), pooled], 1)


class _BlockB(_Block):
    """From 35 x 35 to 17 x 17 pixels."""

    def __init__(self, inside: int):
        super().__init__()
        self.branch3x3 = _Conv(inside, 384, 3, 2)
        self.add_chain("branch3x3dbl", inside, (64, 1), (96, 3, 1, 1), (96, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch3x3(x), self.chain("branch3x3dbl", x), F.max_pool2d(x, 3, 2)], 1)


class _BlockC(_Block):
    """17 x 17 pixels."""

    def __init__(self, inside: int, width: int):
        super().__init__()
        self.branch1x1 = _Conv(inside, 192, 1)
        self.add_chain("branch7x7", inside, (width, 1), (width, (1, 7), *ROW), (192, (7, 1), *COLUMN))
        twice = ((width, (7, 1), *COLUMN), (width, (1, 7), *ROW), (width, (7, 1), *COLUMN), (192, (1, 7), *ROW))
        self.add_chain("branch7x7dbl", inside, (width, 1), *twice)
        self.branch_pool = _Conv(inside, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.branch_pool(_mean_pool(x))
        return torch.cat([self.branch1x1(x), self.chain("branch7x7", x), self.chain("branch7x7dbl", x), pooled], 1)


class _BlockD(_Block):
    """From 17 x 17 to 8 x 8 pixels."""

    def __init__(self, inside: int):
        super().__init__()
        self.add_chain("branch3x3", inside, (192, 1), (320, 3, 2))
        self.add_chain("branch7x7x3", inside, (192, 1), (192, (1, 7), *ROW), (192, (7, 1), *COLUMN), (192, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.chain("branch3x3", x), self.chain("branch7x7x3", x), F.max_pool2d(x, 3, 2)], 1)


class _BlockE(_Block):
    """8 x 8 pixels."""

    def __init__(self, inside: int, pool: Callable[[Tensor], Tensor]):
        super().__init__()
        self._pool = pool
        self.branch1x1 = _Conv(inside, 320, 1)
        self.add_chain("branch3x3", inside, (384, 1))
        self.add_chain("branch3x3dbl", inside, (448, 1), (384, 3, 1, 1))
        for name in ("branch3x3_2", "branch3x3dbl_3"):  # two halves side by side
            self.add_module(f"{name}a", _Conv(384, 384, (1, 3), 1, (0, 1)))
            self.add_module(f"{name}b", _Conv(384, 384, (3, 1), 1, (1, 0)))
        self.branch_pool = _Conv(inside, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        halves = dict(self.named_children())
        single, double = self.chain("branch3x3", x), self.chain("branch3x3dbl", x)
        found = [self.branch1x1(x)]
        found += [halves[f"branch3x3_2{half}"](single) for half in "ab"]
        found += [halves[f"branch3x3dbl_3{half}"](double) for half in "ab"]
        return torch.cat([*found, self.branch_pool(self._pool(x))], 1)


class InceptionV3(nn.Module):
    """Images float32 [N, 3, 299, 299] about in [-1, 1] -> features [N, 2048]: the means of the last 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b = _BlockA(192, 32)
        self.Mixed_5c = _BlockA(256, 64)
        self.Mixed_5d = _BlockA(288, 64)
        self.Mixed_6a = _BlockB(288)
        self.Mixed_6b = _BlockC(768, 128)
        self.Mixed_6c = _BlockC(768, 160)
        self.Mixed_6d = _BlockC(768, 160)
        self.Mixed_6e = _BlockC(768, 192)
        self.Mixed_7a = _BlockD(768)
        self.Mixed_7b = _BlockE(1280, _mean_pool)
        self.Mixed_7c = _BlockE(2048, lambda x: F.max_pool2d(x, 3, stride=1, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        for name, block in self.named_children():
            x = block(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
        return x.mean(dim=(2, 3))


class InceptionNet:
    """The network with the weights of a file; `ddpm.quality.distances` compares its features."""

    width = WIDTH

    def __init__(self, path: Path):
        """Reads the file, running nothing in it.  Raises UserError for any other file."""

        def check(sha256: str, size: int) -> None:
            if not sha256.startswith(SHA256_START):
                raise UserError(
                    f"{path} is not {FILE}: its sha256 begins with {sha256[:8]} instead of {SHA256_START}; name a"
                    " copy of that file, which the releases of pytorch-fid have.",
                    code="wrong-checksum",
                )

        if not path.exists():
            raise UserError(
                f"There is no file {path}: name your own copy of {FILE}, which the releases of pytorch-fid have.",
                code="not-found",
            )
        content = weights.read_hashed(path, check)
        self.sha256 = content.sha256
        with torch.device("meta"):  # the weights are those of the file
            self._net = InceptionV3().eval()
        self._net.load_state_dict(_trunk(content.value, path, self._net.state_dict()), assign=True)

    @torch.no_grad()
    def features(self, pixels: np.ndarray, resizing: str = "clean", progress: Progress | None = None) -> np.ndarray:
        """Returns the features float32 [N, 2048] of images uint8 [N, H, W, C] with 1, 3 or 4 channels.

        resizing: one of RESIZINGS, to 299 x 299.
        """
        found = np.empty((len(pixels), WIDTH), np.float32)
        for start in range(0, len(pixels), BATCH):
            part = resized(pixels[start : start + BATCH], resizing)
            found[start : start + len(part)] = self._net(part).numpy()
            if progress:
                progress(start + len(part), len(pixels))
        return found


def resized(pixels: np.ndarray, resizing: str) -> Tensor:
    """Returns images uint8 [N, H, W, C] as the network takes them: float32 [N, 3, 299, 299].

    resizing: one of RESIZINGS.
    """
    colour = in_colour(pixels)
    if resizing == "legacy":
        x = torch.from_numpy(colour).permute(0, 3, 1, 2).float() / 255
        return 2 * F.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False) - 1
    bicubic, size = Image.Resampling.BICUBIC, (SIZE, SIZE)
    planes = colour.astype(np.float32).transpose(0, 3, 1, 2).reshape(-1, *colour.shape[1:3])
    found = np.stack([np.asarray(Image.fromarray(plane).resize(size, bicubic)) for plane in planes])
    return (torch.from_numpy(found.clip(0, 255)).reshape(-1, 3, SIZE, SIZE) - 128) / 128


def _trunk(content: Any, path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the network without its classifier, `fc`.  Raises UserError if the file holds others."""
    found = content if isinstance(content, Mapping) else {}
    own = {name: tensor for name, tensor in found.items() if not str(name).startswith("fc.")}
    counts = {name: torch.tensor(0) for name in wanted if name.endswith("num_batches_tracked")}
    own = {**counts, **own}  # which older files do not have
    shapes = {name: getattr(tensor, "shape", None) for name, tensor in own.items()}
    if shapes != {name: tensor.shape for name, tensor in wanted.items()}:
        raise UserError(
            f"{path} does not hold the weights of the Inception network of 2015: name a copy of {FILE}.",
            code="wrong-file",
        )
    return own
