"""What a U-Net computes, by torch alone: the operations that `ddpm.models.native.ops` does faster.

A network asks the `ops` that it holds, so that it is written once.  Feature maps are [N, C, H, W].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Joined(NamedTuple):
    """Two feature maps side by side in their channels, not copied into one."""

    one: Tensor
    two: Tensor

    def whole(self) -> Tensor:
        return torch.cat(self, dim=1)


def whole(x: Tensor | Joined) -> Tensor:
    """One map of them."""
    return x.whole() if isinstance(x, Joined) else x


class Ops:
    """Every operation as torch has it, in the precision of what it is given; under autocast in that one's."""

    def enter(self, x: Tensor) -> Tensor:
        """The input of a network as it will compute with it: on a GPU with the channels last, which is faster there."""
        return x.contiguous(memory_format=torch.channels_last) if x.is_cuda else x

    def leave(self, x: Tensor) -> Tensor:
        """The output of a network as others expect it."""
        return x.contiguous()

    def norm(self, x: Tensor, norm: nn.GroupNorm) -> Tensor:
        """Group normalisation."""
        return norm(x)

    def branch(self, x: Tensor | Joined, norm: nn.GroupNorm, silu: bool) -> tuple[Tensor, Tensor | Joined]:
        """Normalised, with SiLU or without, for the way through a block; and x itself for the way past it.

        Gradients of both ways are added up where that of the first is computed.
        """
        x = whole(x)
        return self.norm_silu(x, norm) if silu else self.norm(x, norm), x

    def norm_silu(self, x: Tensor, norm: nn.GroupNorm, embedding: Tensor | None = None) -> Tensor:
        """Group normalisation, scaled and shifted by an embedding [N, 2C], then SiLU."""
        x = norm(x)
        if embedding is not None:
            scale, shift = embedding[:, :, None, None].chunk(2, dim=1)
            x = x * (1 + scale) + shift
        return F.silu(x)

    def conv(self, x: Tensor, conv: nn.Conv2d, add: Tensor | None = None) -> Tensor:
        """A 3x3 convolution, of whatever stride, and `add`."""
        out = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)
        return out if add is None else out + add

    def pointwise(self, x: Tensor | Joined, conv: nn.Conv1d | nn.Conv2d, add: Tensor | None = None) -> Tensor:
        """A convolution of single pixels, and `add`."""
        out = F.conv2d(whole(x), conv.weight.flatten(1)[:, :, None, None], conv.bias)
        return out if add is None else out + add

    def linear(self, x: Tensor, layers: Sequence[nn.Linear]) -> Sequence[Tensor]:
        """What each layer makes of [N, inputs]."""
        return [layer(x) for layer in layers]

    def attention(self, qkv: Tensor, heads: int) -> Tensor:
        """[N, 3C, H, W] -> [N, C, H, W].  Heads are outermost, then q, k, v, then the channels of a head."""
        n, triple, *size = qkv.shape
        split = qkv.reshape(n, heads, 3, triple // 3 // heads, -1)
        q, k, v = split.transpose(-1, -2).unbind(dim=2)  # [N, heads, pixels, C / heads] each
        h = F.scaled_dot_product_attention(q, k, v)
        return h.transpose(-1, -2).reshape(n, triple // 3, *size)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ops":
        return self


TORCH = Ops()
