"""The operations of a U-Net by torch alone; `ddpm.models.native.ops` computes them faster on a CPU.

A network calls the `ops` that it holds, so that it is written once.  Feature maps are [N, C, H, W].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Joined(NamedTuple):
    """Two feature maps [N, C1, H, W] and [N, C2, H, W] concatenated in their channels, without a copy."""

    one: Tensor
    two: Tensor

    def whole(self) -> Tensor:
        """One map [N, C1 + C2, H, W]."""
        return torch.cat(self, dim=1)


def whole(x: Tensor | Joined) -> Tensor:
    """One map [N, C, H, W]."""
    return x.whole() if isinstance(x, Joined) else x


NormAndConv = tuple[nn.GroupNorm, nn.Conv2d]  # the convolution is of what was normalised


class Ops:
    """Every operation as torch has it, on feature maps [N, C, H, W], in the precision of its input or of autocast."""

    def enter(self, x: Tensor) -> Tensor:
        """Converts a network's input: on a GPU to channels last, which is faster there."""
        return x.contiguous(memory_format=torch.channels_last) if x.is_cuda else x

    def leave(self, x: Tensor) -> Tensor:
        """Converts a network's output to contiguous memory."""
        return x.contiguous()

    def norm(self, x: Tensor, norm: nn.GroupNorm) -> Tensor:
        """Group normalisation."""
        return norm(x)

    def norm_silu(self, x: Tensor, norm: nn.GroupNorm, embedding: Tensor | None = None, dropout: float = 0.0) -> Tensor:
        """Group normalisation, scaled and shifted by an embedding [N, 2C], then SiLU, then dropout of that share."""
        x = norm(x)
        if embedding is not None:
            scale, shift = embedding[:, :, None, None].chunk(2, dim=1)
            x = x * (1 + scale) + shift
        return F.dropout(F.silu(x), dropout)

    def branch(
        self,
        x: Tensor | Joined,
        norm: nn.GroupNorm,
        layer: nn.Conv1d | nn.Conv2d,
        *,
        silu: bool = True,
        embedding: Tensor | None = None,
        dropout: float = 0.0,
        add: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | Joined]:
        """(x normalised, as by `norm_silu` or `norm`, convolved by the layer, plus `add`; x for a skip connection).

        The gradients of both are summed where that of the first is computed.  An embedding and dropout go with SiLU.
        """
        assert silu or (embedding is None and not dropout), "a norm without SiLU has neither"
        x = whole(x)
        h = self.norm_silu(x, norm, embedding, dropout) if silu else self.norm(x, norm)
        if isinstance(layer, nn.Conv1d) or layer.kernel_size == (1, 1):
            return self.pointwise(h, layer, add), x
        return self.conv(h, layer, add), x

    def residual(
        self,
        x: Tensor | Joined,
        embedding: Tensor,
        first: NormAndConv,
        second: NormAndConv,
        skip: nn.Conv2d | None,
        *,
        scale_shift: bool,
        dropout: float,
    ) -> Tensor:
        """Two branches, one behind the other, plus x, or what `skip` makes of it: [N, C_in, H, W] -> [N, C, H, W].

        The embedding [N, 2C] scales and shifts the second normalisation, or [N, C] is added before it; dropout follows.
        """
        h, past = self.branch(x, *first)
        past = whole(past) if skip is None else self.pointwise(past, skip)
        if not scale_shift:
            h = h + embedding[:, :, None, None].to(h.dtype)
        return self.branch(h, *second, embedding=embedding if scale_shift else None, dropout=dropout, add=past)[0]

    def attention_block(
        self, x: Tensor, norm: nn.GroupNorm, qkv: nn.Conv1d, out: nn.Conv1d, heads: int, new_order: bool
    ) -> Tensor:
        """Attention between two projections, behind a normalisation, plus x: [N, C, H, W] -> [N, C, H, W].

        new_order: q, k, v are outermost among the channels of qkv, then heads.
        """
        mixed, past = self.branch(x, norm, qkv, silu=False)
        if new_order:
            mixed = mixed.unflatten(1, (3, heads, -1)).transpose(1, 2).flatten(1, 3)
        return self.pointwise(self.attention(mixed, heads), out, add=whole(past))

    def conv(self, x: Tensor, conv: nn.Conv2d, add: Tensor | None = None) -> Tensor:
        """A 3x3 convolution of any stride, plus `add`."""
        out = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)
        return out if add is None else out + add

    def pointwise(self, x: Tensor | Joined, conv: nn.Conv1d | nn.Conv2d, add: Tensor | None = None) -> Tensor:
        """A 1x1 convolution, plus `add`."""
        out = F.conv2d(whole(x), conv.weight.flatten(1)[:, :, None, None], conv.bias)
        return out if add is None else out + add

    def linear(self, x: Tensor, layers: Sequence[nn.Linear]) -> Sequence[Tensor]:
        """The output [N, outputs] of each layer for the same x [N, inputs]."""
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
