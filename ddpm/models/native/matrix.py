"""Convolutions in bf16 by the matrix unit of a processor (Intel's AMX), through oneDNN; all else by our own kernels.

Products of bf16 are summed in float32.  Weights are rounded to bf16 for each call, and so are their gradients, which
then are float32 again; so the gradients are those of mixed precision, where our own kernels in bf16 round maps alone.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ddpm.models.native.functions import Autograd, channels_last
from ddpm.models.native.ops import NativeOps
from ddpm.models.torch_ops import Joined

BF16 = torch.bfloat16
LEAST = 8 * 8  # pixels of a map of one image; our own kernels are faster on smaller ones


class MatrixOps(NativeOps):
    """`Ops` on bf16 feature maps [N, C, H, W], channels last, with oneDNN's convolutions and matrix products."""

    def conv(self, x: Tensor, conv: nn.Conv2d, add: Tensor | None = None) -> Tensor:
        if not _pays(x):
            return super().conv(x, conv, add)
        made: Tensor = _Convolution.of(channels_last(x), conv.weight, conv.bias, add, conv.stride, conv.padding)
        return made

    def pointwise(self, x: Tensor | Joined, conv: nn.Conv1d | nn.Conv2d, add: Tensor | None = None) -> Tensor:
        if not _pays(x):
            return super().pointwise(x, conv, add)
        one, two = map(channels_last, x) if isinstance(x, Joined) else (channels_last(x), None)
        made: Tensor = _Pointwise.of(one, two, conv.weight, conv.bias, add)
        return made


class _Convolution(Autograd):
    """A convolution of a map [N, C, H, W], plus `add`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        add: Tensor | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
    ) -> Tensor:
        rounded = weight.to(BF16)
        ctx.save_for_backward(x, rounded)
        ctx.sizes = None if bias is None else [len(bias)], stride, padding, [1, 1], False, [0, 0], 1
        _, *sizes = ctx.sizes
        y: Tensor = torch.ops.aten.convolution(x, rounded, None if bias is None else bias.to(BF16), *sizes)
        return y if add is None else y.add_(add)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        dx, d_weight, d_bias = torch.ops.aten.convolution_backward(
            channels_last(dy), x, weight, *ctx.sizes, [wanted[0], wanted[1], wanted[2]]
        )
        return dx, _wide(d_weight), _wide(d_bias), dy if wanted[3] else None, None, None


class _Pointwise(Autograd):
    """A 1x1 convolution of one map [N, C, H, W], or of two that are joined in their channels, plus `add`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, second: Tensor | None, weight: Tensor, bias: Tensor | None, add: Tensor | None
    ) -> Tensor:
        n, _, h, w = x.shape
        rounded = weight.flatten(1).to(BF16)
        parts = _rows(x), None if second is None else _rows(second)
        ctx.save_for_backward(*parts, rounded)
        ctx.shape, ctx.size = weight.shape, (n, h, w)
        y = parts[0] @ rounded[:, : x.shape[1]].T
        if parts[1] is not None:
            y.addmm_(parts[1], rounded[:, x.shape[1] :].T)
        if bias is not None:
            y += bias.to(BF16)
        if add is not None:
            y += _rows(channels_last(add))
        return _map(y, n, h, w)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, second, weight = ctx.saved_tensors
        rows, split = _rows(channels_last(dy)), x.shape[1]
        of_x, of_second, of_weight, of_bias, of_add = ctx.needs_input_grad
        dx = _map(rows @ weight[:, :split], *ctx.size) if of_x else None
        d_second = _map(rows @ weight[:, split:], *ctx.size) if of_second else None
        d_weight = None
        if of_weight:
            d_weight = torch.empty(ctx.shape)
            d_weight.view(len(weight), -1)[:, :split] = rows.T @ x
            if second is not None:
                d_weight.view(len(weight), -1)[:, split:] = rows.T @ second
        d_bias = rows.sum(dim=0, dtype=torch.float32) if of_bias else None
        return dx, d_second, d_weight, d_bias, dy if of_add else None


def _pays(x: Tensor | Joined) -> bool:
    """Whether oneDNN is faster on a map [N, C, H, W]; N does not count, so that a batch of any size computes alike."""
    *_, h, w = (x.one if isinstance(x, Joined) else x).shape
    return h * w >= LEAST


def _rows(x: Tensor) -> Tensor:
    """A map [N, C, H, W], channels last, as a matrix [N H W, C] in the same memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _map(rows: Tensor, n: int, h: int, w: int) -> Tensor:
    """The inverse of `_rows`."""
    return rows.view(n, h, w, -1).permute(0, 3, 1, 2)


def _wide(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()
