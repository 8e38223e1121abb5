"""The operations of a U-Net by our own kernels, on a CPU, in float32 or bf16.

Feature maps are [N, C, H, W] in memory format channels_last.  In bf16 the maps alone are bf16: weights, statistics and
sums are float32.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.ops import Ops

LARGE = 16 * 16  # pixels of a feature map from which on tiles of 4 x 4 are faster than of 2 x 2


class NativeOps(Ops):
    """Kernels of a library for feature maps of one dtype; what they do not fit is torch's, in dtype `products`.

    Results agree with torch's to about 1e-6 of their length in float32, and to rounding in bf16.
    """

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype = torch.float32, products: torch.dtype | None = None):
        self.library, self.dtype = library, dtype
        self.products = products or dtype
        self.block: int = library.winograd_block()

    def enter(self, x: Tensor) -> Tensor:
        return x.to(self.dtype, memory_format=torch.channels_last)

    def leave(self, x: Tensor) -> Tensor:
        return x.to(torch.float32, memory_format=torch.contiguous_format)

    def norm(self, x: Tensor, norm: nn.GroupNorm) -> Tensor:
        return self._norm(x, norm, None, silu=False)

    def norm_silu(self, x: Tensor, norm: nn.GroupNorm, embedding: Tensor | None = None) -> Tensor:
        return self._norm(x, norm, embedding, silu=True)

    def _norm(self, x: Tensor, norm: nn.GroupNorm, embedding: Tensor | None, silu: bool) -> Tensor:
        if self.library.norm_fits(x.shape[1], norm.num_groups):
            embedding = None if embedding is None else embedding.float()
            return _Norm.apply(self, x, norm.weight, norm.bias, embedding, norm.num_groups, norm.eps, silu)
        wide = x.float()
        out = super().norm_silu(wide, norm, embedding) if silu else super().norm(wide, norm)
        return self.enter(out)

    def conv(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        blocks = conv.in_channels % self.block == 0 and conv.out_channels % self.block == 0
        if blocks and conv.stride == (1, 1):
            return _Winograd.apply(self, x, conv.weight, conv.bias)
        wide = x.to(self.products)
        return F.conv2d(wide, conv.weight.to(wide.dtype), _as(conv.bias, wide), conv.stride, conv.padding).to(x.dtype)

    def pointwise(self, x: Tensor, conv: nn.Conv1d | nn.Conv2d) -> Tensor:
        pixels = x.permute(0, 2, 3, 1).to(self.products)
        out = F.linear(pixels, conv.weight.flatten(1).to(pixels.dtype), _as(conv.bias, pixels))
        return out.permute(0, 3, 1, 2).to(x.dtype)

    def attention(self, qkv: Tensor, heads: int) -> Tensor:
        if (qkv.shape[2] * qkv.shape[3]) % 16:  # a softmax goes over whole vectors
            return super().attention(qkv, heads).contiguous(memory_format=torch.channels_last)
        return _Attention.apply(self, qkv.to(self.products), heads).to(qkv.dtype)

    def call(self, name: str, *arguments: Any, dtype: torch.dtype | None = None) -> None:
        """Call a kernel; tensors as their addresses, and the name's end from `dtype`."""
        ending = f"_{str(dtype).removeprefix('torch.')}" if dtype else ""
        plain = (a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)
        getattr(self.library, name + ending)(*plain)


def _as(bias: Tensor | None, x: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(x.dtype)


def _laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ops: NativeOps, x: Tensor, weight: Tensor, bias: Tensor, embedding: Tensor | None, groups: int, eps: float, silu: bool) -> Tensor:  # fmt: skip
        x = _laid_out(x)
        n, c, h, w = x.shape
        embedding = None if embedding is None else embedding.contiguous()
        y, statistics = torch.empty_like(x), torch.empty(2, n, groups)
        ops.call("norm", n, h * w, c, groups, x, y, weight, bias, embedding, eps, *statistics, silu, dtype=x.dtype)
        ctx.save_for_backward(x, weight, bias, embedding, statistics)
        ctx.ops, ctx.groups, ctx.silu = ops, groups, silu
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, embedding, statistics = ctx.saved_tensors
        n, c, h, w = x.shape
        dy, dx, of_weight = _laid_out(dy), torch.empty_like(x), torch.empty(n, 2, c)
        of_embedding = None if embedding is None else torch.empty_like(embedding)
        ctx.ops.call("norm_gradient", n, h * w, c, ctx.groups, dy, x, dx, weight, bias, embedding, *statistics, of_weight, of_embedding, ctx.silu, dtype=x.dtype)  # fmt: skip
        d_weight, d_bias = of_weight.sum(dim=0)
        return None, dx, d_weight, d_bias, of_embedding, None, None, None


class _Winograd(torch.autograd.Function):
    """A 3x3 convolution with stride 1 and padding 1, and its gradients, each by Winograd's way."""

    @staticmethod
    def forward(ctx: Any, ops: NativeOps, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = _laid_out(x)
        ctx.save_for_backward(x, weight)
        ctx.ops = ops
        return _convolved(ops, x, weight, bias, turned=False)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        out, channels, *_ = weight.shape
        n, _, h, w = x.shape
        dy, dx, d_weight, d_bias = _laid_out(dy), None, None, None
        if ctx.needs_input_grad[2]:
            tile = _tile(x)
            d_weight, d_bias = torch.empty_like(weight, memory_format=torch.contiguous_format), torch.empty(out)
            sums = torch.empty(torch.get_num_threads(), (tile + 2) ** 2 * channels * out + out)
            ctx.ops.call("winograd_gradient", tile, n, h, w, channels, out, x, dy, d_weight, d_bias, sums, dtype=x.dtype)  # fmt: skip
        if ctx.needs_input_grad[1]:
            dx = _convolved(ctx.ops, dy, weight, None, turned=True)
        return None, dx, d_weight, d_bias


def _tile(x: Tensor) -> int:
    """Pixels along an edge of a tile's result."""
    return 4 if x.shape[2] * x.shape[3] >= LARGE else 2


def _convolved(ops: NativeOps, x: Tensor, weight: Tensor, bias: Tensor | None, turned: bool) -> Tensor:
    """The convolution, or, `turned`, its adjoint: from the gradient of what came out to that of what went in."""
    out, channels = weight.shape[:2] if not turned else (weight.shape[1], weight.shape[0])
    n, _, h, w = x.shape
    tile = _tile(x)
    transformed = torch.empty((tile + 2) ** 2 * channels * out)
    ops.call("winograd_weights", tile, weight.contiguous(), transformed, channels, out, turned)
    y = torch.empty((n, out, h, w), dtype=x.dtype, memory_format=torch.channels_last)
    ops.call("winograd", tile, n, h, w, channels, out, x, transformed, bias, y, dtype=x.dtype)
    return y


class _Attention(torch.autograd.Function):
    """Two matrix products with a softmax between them that works in place (Vaswani et al. 2017, Equation 1)."""

    @staticmethod
    def forward(ctx: Any, ops: NativeOps, qkv: Tensor, heads: int) -> Tensor:
        n, triple, h, w = qkv.shape
        tokens, each = h * w, triple // 3 // heads
        split = _laid_out(qkv).permute(0, 2, 3, 1).view(n, tokens, heads, 3, each)
        q, k, v = split.permute(3, 0, 2, 1, 4).reshape(3, n * heads, tokens, each)
        scale = each**-0.5
        scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)
        ops.call("softmax", scores, n * heads * tokens, tokens, dtype=q.dtype)
        ctx.save_for_backward(q, k, v, scores)
        ctx.ops, ctx.shape, ctx.scale = ops, (n, heads, h, w, each), scale
        return _joined(torch.bmm(scores, v), n, heads, h, w)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        n, heads, h, w, each = ctx.shape
        tokens = h * w
        dy = dy.permute(0, 2, 3, 1).reshape(n, tokens, heads, each).transpose(1, 2).reshape(n * heads, tokens, each)
        d = torch.empty(3, n * heads, tokens, each, dtype=q.dtype)
        torch.bmm(weights.transpose(1, 2), dy, out=d[2])
        d_scores = torch.bmm(dy, v.transpose(1, 2))
        ctx.ops.call("softmax_gradient", weights, d_scores, n * heads * tokens, tokens, ctx.scale, dtype=q.dtype)
        torch.bmm(d_scores, k, out=d[0])
        torch.bmm(d_scores.transpose(1, 2), q, out=d[1])
        d = d.view(3, n, heads, tokens, each).permute(1, 3, 2, 0, 4).reshape(n, h, w, 3 * heads * each)
        return None, d.permute(0, 3, 1, 2), None


def _joined(heads_out: Tensor, n: int, heads: int, h: int, w: int) -> Tensor:
    """[N heads, pixels, C / heads] -> [N, C, H, W], channels last."""
    each = heads_out.shape[-1]
    pixels = heads_out.view(n, heads, h * w, each).transpose(1, 2).reshape(n, h, w, heads * each)
    return pixels.permute(0, 3, 1, 2)
