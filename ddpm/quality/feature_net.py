"""The network whose features images are compared in: a small classifier of CIFAR-10, without its last layer.

Seven convolutions of 3 x 3 pixels with 464,000 weights: one with 32 channels at 32 x 32 pixels; one that halves the
size, to 64 channels, and a residual block of two; another that halves it, to 128 channels, and a residual block of two.
The features are the means of the last 128 channels.  `scripts/train_feature_net.py` trains it with batch normalisation,
which `folded` then makes part of the convolutions.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = 32  # pixels, height and width
WIDTH = 128  # features of an image
CLASSES = 10

# Input and output channels of each convolution, its stride, and whether what the one before took in is added.
LAYERS = (
    ("conv0", 3, 32, 1, False),
    ("conv1", 32, 64, 2, False),
    ("conv2", 64, 64, 1, False),
    ("conv3", 64, 64, 1, True),
    ("conv4", 64, 128, 2, False),
    ("conv5", 128, 128, 1, False),
    ("conv6", 128, 128, 1, True),
)
STRIDES = {name: stride for name, _, _, stride, _ in LAYERS}


class TrainedNet(nn.Module):
    """The classifier as it is trained: images float32 [N, 3, 32, 32] in [-1, 1] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleDict(
            {name: nn.Conv2d(inside, out, 3, stride, 1, bias=False) for name, inside, out, stride, _ in LAYERS}
        )
        self.norms = nn.ModuleDict({name: nn.BatchNorm2d(out) for name, _, out, _, _ in LAYERS})
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """The features [N, 128] of images [N, 3, 32, 32]."""
        return _through(lambda name, x: self.norms[name](self.convs[name](x)), x)

    def forward(self, x: Tensor) -> Tensor:
        """The logits [N, 10] of images [N, 3, 32, 32]."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def folded(net: TrainedNet) -> dict[str, np.ndarray]:
    """Returns its convolutions with the normalisation in them, in float16: NAME.weight [out, in, 3, 3], NAME.bias."""
    found = {}
    for name, *_ in LAYERS:
        conv, norm = net.convs[name], net.norms[name]
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(norm.running_mean, Tensor)
        assert isinstance(norm.running_var, Tensor)
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        found[f"{name}.weight"] = conv.weight.double() * scale[:, None, None, None]
        found[f"{name}.bias"] = norm.bias.double() - norm.running_mean.double() * scale
    found |= {f"classifier.{name}": tensor.double() for name, tensor in net.classifier.named_parameters()}
    return {name: tensor.detach().numpy().astype(np.float16) for name, tensor in found.items()}


def features(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The features [N, 128] of images x, float32 [N, 3, 32, 32] in [-1, 1].  weights: as `folded` names them."""
    return _through(
        lambda name, x: functional.conv2d(
            x, weights[f"{name}.weight"], weights[f"{name}.bias"], STRIDES[name], padding=1
        ),
        x,
    )


def _through(layer: Callable[[str, Tensor], Tensor], x: Tensor) -> Tensor:
    """Passes x through all layers.  layer: a convolution by its name, with its normalisation."""
    before = x  # what the convolution before took in
    for name, _, _, _, adds in LAYERS:
        inside, x = x, torch.relu(layer(name, x))
        x = x + before if adds else x
        before = inside
    return x.mean((2, 3))
