"""The operations of a U-Net by our own kernels on a CPU, in float32 or bf16; see README.md next to this file.

Feature maps are [N, C, H, W] in memory format channels_last.  In bf16 only the maps are bf16: weights, statistics and
sums are float32.
"""

import ctypes
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.models.native.blocks import ProjectedAttention, Residual
from ddpm.models.native.functions import KINDS, POINTWISE, Attention, Conv, Kernels, Kind, Linear, channels_last
from ddpm.models.native.norms import Dropout, Norm, NormConv, NormSettings
from ddpm.models.torch_ops import Joined, NormAndConv, Ops


class NativeOps(Kernels, Ops):
    """`Ops` on feature maps [N, C, H, W] of one dtype by a kernel library; torch computes what that does not cover.

    Shapes are those of `Ops`.  Results agree with torch's to about 1e-6 of their norm in float32, to rounding in bf16.
    """

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype = torch.float32):
        super().__init__(library)
        self.dtype = dtype

    def enter(self, x: Tensor) -> Tensor:
        return x.to(self.dtype, memory_format=torch.channels_last)

    def leave(self, x: Tensor) -> Tensor:
        return x.to(torch.float32, memory_format=torch.contiguous_format)

    def norm(self, x: Tensor, norm: nn.GroupNorm) -> Tensor:
        return self._norm(x, norm, None, silu=False, dropout=0.0)

    def norm_silu(self, x: Tensor, norm: nn.GroupNorm, embedding: Tensor | None = None, dropout: float = 0.0) -> Tensor:
        return self._norm(x, norm, embedding, silu=True, dropout=dropout)

    def _norm(self, x: Tensor, norm: nn.GroupNorm, embedding: Tensor | None, silu: bool, dropout: float) -> Tensor:
        if self.library.norm_fits(norm.num_channels, norm.num_groups):
            settings = NormSettings(norm.num_groups, norm.eps, silu, Dropout.drawn(dropout))
            embedding = None if embedding is None else embedding.float()
            normed: Tensor = Norm.of(self, settings, channels_last(x), norm.weight, norm.bias, embedding)
            return normed
        wide = x.float()
        if silu:
            return self.enter(super().norm_silu(wide, norm, embedding, dropout))
        return self.enter(super().norm(wide, norm))

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
        if isinstance(x, Joined) and any(part.shape[1] % self.block for part in x):
            x = x.whole()
        one, two = x if isinstance(x, Joined) else (x, None)
        kind = self._branch_kind(one, norm, layer)
        if kind is None:
            return super().branch(x, norm, layer, silu=silu, embedding=embedding, dropout=dropout, add=add)
        settings = NormSettings(norm.num_groups, norm.eps, silu, Dropout.drawn(dropout))
        inputs = (channels_last(one), None if two is None else channels_last(two), norm.weight, norm.bias)
        embedding = None if embedding is None else embedding.float()
        out, one, two = NormConv.of(self, settings, kind, layer.weight, layer.bias, add, *inputs, embedding)
        return out, one if two is None else Joined(one, two)

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
        if isinstance(x, Joined) and (skip is None or any(part.shape[1] % self.block for part in x)):
            x = x.whole()
        one, two = x if isinstance(x, Joined) else (x, None)
        kind, kind2 = self._branch_kind(one, *first), self._branch_kind(one, *second)
        if kind is None or kind2 is None or not scale_shift:
            return super().residual(x, embedding, first, second, skip, scale_shift=scale_shift, dropout=dropout)
        norm, norm2 = first[0], second[0]
        layers = (*first, *second) if skip is None else (*first, *second, skip)
        made: Tensor = Residual.of(
            self,
            (NormSettings(norm.num_groups, norm.eps, silu=True), kind),
            (NormSettings(norm2.num_groups, norm2.eps, silu=True, dropout=Dropout.drawn(dropout)), kind2),
            None if skip is None else self.pointwise_kind(one),
            channels_last(one),
            None if two is None else channels_last(two),
            embedding.float(),
            *(weights for layer in layers for weights in (layer.weight, layer.bias)),
        )
        return made

    def attention_block(
        self, x: Tensor, norm: nn.GroupNorm, qkv: nn.Conv1d, out: nn.Conv1d, heads: int, new_order: bool
    ) -> Tensor:
        kind = self._branch_kind(x, norm, qkv)
        if kind is None or new_order or not self._attention_fits(qkv.out_channels, heads):
            return super().attention_block(x, norm, qkv, out, heads, new_order)
        made: Tensor = ProjectedAttention.of(
            self,
            NormSettings(norm.num_groups, norm.eps, silu=False),
            (kind, self.pointwise_kind(x)),
            heads,
            channels_last(x),
            *(weights for layer in (norm, qkv, out) for weights in (layer.weight, layer.bias)),
        )
        return made

    def _attention_fits(self, channels: int, heads: int) -> bool:
        """Whether the kernel computes attention from that many channels of q, k and v together."""
        return not channels // 3 // heads % (self.block // 2)

    def _branch_kind(self, x: Tensor, norm: nn.GroupNorm, layer: nn.Conv1d | nn.Conv2d) -> Kind | None:
        """What computes a layer behind a norm of maps of the size of x [N, C, H, W]; None where torch has to."""
        if layer.in_channels % self.block or layer.out_channels % self.block:
            return None
        if not self.library.norm_fits(norm.num_channels, norm.num_groups):
            return None
        return self.pointwise_kind(x) if layer.kernel_size[0] == 1 else self.conv_kind(x, layer.stride)

    def conv(self, x: Tensor, conv: nn.Conv2d, add: Tensor | None = None) -> Tensor:
        kind = self.conv_kind(x, conv.stride)
        if kind is None:
            return self.enter(super().conv(x.float(), conv, None if add is None else add.float()))
        more_in, more_out = -conv.in_channels % self.block, -conv.out_channels % self.block
        if not more_in and not more_out:
            return Conv.of(self, kind, x, None, conv.weight, conv.bias, add)
        # Padded with channels of zeros where there are few, which is still faster than torch.
        weight = F.pad(conv.weight, (0, 0, 0, 0, 0, more_in, 0, more_out))
        bias = None if conv.bias is None else F.pad(conv.bias, (0, more_out))
        x = F.pad(x, (0, 0, 0, 0, 0, more_in)) if more_in else x
        out = Conv.of(self, kind, x, None, weight, bias, None)
        out = channels_last(out[:, : conv.out_channels])  # a view would hold all of it in memory
        return out if add is None else out + add

    def pointwise(self, x: Tensor | Joined, conv: nn.Conv1d | nn.Conv2d, add: Tensor | None = None) -> Tensor:
        parts = x if isinstance(x, Joined) else (x, None)
        return Conv.of(self, self.pointwise_kind(parts[0]), *parts, conv.weight, conv.bias, add)

    def conv_kind(self, x: Tensor, stride: tuple[int, ...]) -> Kind | None:
        """What computes a 3x3 convolution of a map [N, C, H, W]; None where only torch does."""
        return KINDS.get(stride)

    def pointwise_kind(self, x: Tensor) -> Kind:
        """What computes a 1x1 convolution of a map [N, C, H, W]."""
        return POINTWISE

    def linear(self, x: Tensor, layers: Sequence[nn.Linear]) -> Sequence[Tensor]:
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        if x.shape[1] % self.block or any(t is None or t.dtype != torch.float32 for t in (x, *weights, *biases)):
            return super().linear(x, layers)
        made: Sequence[Tensor] = Linear.of(self, x.contiguous(), *weights, *biases)
        return made

    def attention(self, qkv: Tensor, heads: int) -> Tensor:
        if not self._attention_fits(qkv.shape[1], heads):
            return super().attention(qkv, heads).contiguous(memory_format=torch.channels_last)
        return Attention.of(self, qkv, heads)
