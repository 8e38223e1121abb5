"""Convolutions in bf16 by the matrix unit of a processor (Intel's AMX), through oneDNN; all else by our own kernels.

Products of bf16 are summed in float32.  Weights are rounded to bf16 for each call.  Our own kernels compute their
gradients, in float32: oneDNN would round them.
"""

from typing import Any

import torch
from torch import Tensor

from ddpm.models.native.functions import KINDS, POINTWISE, Kernels, Kind
from ddpm.models.native.memory import empty
from ddpm.models.native.ops import NativeOps
from ddpm.models.torch_ops import Joined

BF16 = torch.bfloat16
LEAST = 8 * 8  # pixels of a map of one image; our own kernels are faster on smaller ones


class MatrixOps(NativeOps):
    """`Ops` on bf16 feature maps [N, C, H, W], channels last, with oneDNN's convolutions and matrix products."""

    def conv_kind(self, x: Tensor, stride: tuple[int, ...]) -> Kind | None:
        return (MATRIX_KINDS if _pays(x) else KINDS).get(stride)

    def pointwise_kind(self, x: Tensor) -> Kind:
        return MATRIX_POINTWISE if _pays(x) else POINTWISE


def _pays(x: Tensor) -> bool:
    """Whether oneDNN is faster on a map [N, C, H, W]; N does not count, so that a batch of any size computes alike."""
    return x.shape[2] * x.shape[3] >= LEAST


def _convolution(stride: tuple[int, ...]) -> Kind:
    """A 3x3 convolution with padding 1."""
    sizes: Any = (stride, (1, 1), (1, 1), False, (0, 0), 1)

    def forward(ops: Kernels, x: Tensor, weight: Tensor, bias: Tensor | None, add: Tensor | None) -> Tensor:
        bias = None if bias is None else bias.to(BF16)
        y: Tensor = torch.ops.aten.convolution(x, weight.to(BF16), bias, *sizes)
        return y if add is None else y.add_(add)

    def back(ops: Kernels, dy: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        wanted = (True, False, False)
        dx: Tensor = torch.ops.aten.convolution_backward(dy, x, weight.to(BF16), None, *sizes, wanted)[0]
        return dx

    return Kind(forward, back, KINDS[stride].gradient)


def _pointwise(ops: Kernels, x: Tensor | Joined, weight: Tensor, bias: Tensor | None, add: Tensor | None) -> Tensor:
    one, two = x if isinstance(x, Joined) else (x, None)
    rounded = weight.flatten(1).to(BF16)
    y = _product(_rows(one), rounded[:, : one.shape[1]].T)
    if two is not None:
        y.addmm_(_rows(two), rounded[:, one.shape[1] :].T)
    if bias is not None:
        y += bias.to(BF16)
    if add is not None:
        y += _rows(add)
    return _map(y, one)


def _pointwise_back(ops: Kernels, dy: Tensor, weight: Tensor, x: Tensor | Joined) -> Tensor | Joined:
    rows, rounded = _rows(dy), weight.flatten(1).to(BF16)
    if not isinstance(x, Joined):
        return _map(_product(rows, rounded), x)
    split = x.one.shape[1]
    first, second = (_product(rows, part) for part in (rounded[:, :split], rounded[:, split:]))
    return Joined(_map(first, x.one), _map(second, x.two))


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b, out=empty((len(a), b.shape[1]), BF16))


def _rows(x: Tensor) -> Tensor:
    """A map [N, C, H, W], channels last, as a matrix [N H W, C] in the same memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _map(rows: Tensor, like: Tensor) -> Tensor:
    """A matrix [N H W, C] as a map [N, C, H, W], with the N, H and W of `like`."""
    n, _, h, w = like.shape
    return rows.view(n, h, w, -1).permute(0, 3, 1, 2)


MATRIX_KINDS = {stride: _convolution(stride) for stride in KINDS}
MATRIX_POINTWISE = Kind(_pointwise, _pointwise_back, POINTWISE.gradient)
