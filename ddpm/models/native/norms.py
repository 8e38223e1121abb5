"""Autograd functions of group normalisation, alone and with the convolution behind it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm.models.native.functions import Autograd, Kernels, Kind, channels_last
from ddpm.models.native.memory import empty, empty_like, empty_map


class Dropout(NamedTuple):
    """Dropout of one map: what is dropped is a hash of its index and of two keys (norm.cpp)."""

    keys: tuple[int, int] = (0, 0)  # from 0 to 2^31 - 1
    share: float = 0.0  # of activations that are dropped, at least 0 and below 1

    @classmethod
    def drawn(cls, share: float) -> "Dropout":
        """With keys from torch's global generator, whose state a checkpoint holds; none where nothing is dropped."""
        if not share:
            return cls()
        first, second = torch.randint(2**31, (2,)).tolist()
        return cls((first, second), share)


class NormSettings(NamedTuple):
    """What a normalisation does beside its weights."""

    groups: int
    eps: float
    silu: bool
    dropout: Dropout = Dropout()

    @property
    def behind(self) -> tuple[int, int, int, float]:
        """What follows the normalisation, as kernels are given it."""
        return (self.silu, *self.dropout.keys, self.dropout.share)


class Saved(NamedTuple):
    """What the gradient needs: one map [N, C, H, W] or two that are joined, weights, and statistics."""

    x: Tensor
    second: Tensor | None
    weight: Tensor
    bias: Tensor
    embedding: Tensor | None  # [N, 2C]
    statistics: Tensor  # [2, N, groups]: means, and the reciprocals of standard deviations

    @property
    def sizes(self) -> tuple[int, int, int]:
        """N, pixels, C."""
        n, _, h, w = self.x.shape
        return n, h * w, self.weight.shape[0]


def _normalised(
    ops: Kernels,
    settings: NormSettings,
    y: Tensor,
    x: Tensor,
    second: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    embedding: Tensor | None,
) -> Saved:
    """Writes the normalised map [N, C, H, W] into `y`; returns what the gradient needs."""
    (n, split, *_), groups = x.shape, settings.groups
    embedding = None if embedding is None else embedding.contiguous()
    saved = Saved(x, second, weight, bias, embedding, empty((2, n, groups)))
    of_map = (x, second, y, weight, bias, embedding, settings.eps, saved.statistics)
    ops.call("norm", *saved.sizes, groups, split, *of_map, *settings.behind, dtype=x.dtype)
    return saved


def _gradient(
    ops: Kernels,
    settings: NormSettings,
    saved: Saved,
    dy: Tensor,
    past: Tensor | None,
    second_past: Tensor | None,
    again: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of `saved`'s first five, with those added that came `past` the normalisation.

    again: whether the normalised map then replaces `dy`, the gradient of it, which is channels last.
    """
    x, second, weight, bias, embedding, statistics = saved
    if second is not None and (past is None) != (second_past is None):  # the kernel adds both or none
        past = torch.zeros_like(x) if past is None else past
        second_past = torch.zeros_like(second) if second_past is None else second_past
    maps = [dy, x, second, *(None if part is None else channels_last(part) for part in (past, second_past))]
    dx, d_second = (None if part is None else empty_map(part, part.shape[1]) for part in (x, second))
    d_weight, d_bias, d_embedding = (None if part is None else empty_like(part) for part in (weight, bias, embedding))
    ops.call(
        "norm_gradient",
        *saved.sizes,
        settings.groups,
        x.shape[1],
        again,
        *maps,
        dx,
        d_second,
        weight,
        bias,
        embedding,
        statistics,
        d_weight,
        d_bias,
        d_embedding,
        *settings.behind,
        dtype=x.dtype,
    )
    return dx, d_second, d_weight, d_bias, d_embedding


class Norm(Autograd):
    """Group normalisation of a map [N, C, H, W], channels last."""

    @staticmethod
    def forward(
        ctx: Any,
        ops: Kernels,
        settings: NormSettings,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        embedding: Tensor | None,
    ) -> Tensor:
        y = empty_map(x, weight.shape[0])
        ctx.save_for_backward(*_normalised(ops, settings, y, x, None, weight, bias, embedding))
        ctx.ops, ctx.settings = ops, settings
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        saved, dy = Saved(*ctx.saved_tensors), channels_last(dy)
        dx, _, *of_weights = _gradient(ctx.ops, ctx.settings, saved, dy, None, None, again=False)
        return None, None, dx, *of_weights


class NormConv(Autograd):
    """Group normalisation of maps [N, C, H, W] and the convolution behind it; returns the result and those maps.

    The normalised map, which is as large as what goes in, is not kept: the gradient computes it again, in the memory of
    its own gradient.  What comes back `past` the two, along a skip connection, is added where dx is computed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        ops: Kernels,
        settings: NormSettings,
        kind: Kind,
        weight: Tensor,
        bias: Tensor | None,
        add: Tensor | None,
        x: Tensor,
        second: Tensor | None,
        *rest: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """weight, bias, add: of the convolution; x, second: channels last; rest: the norm's weight, bias, embedding."""
        y = ops.transient_map(x, weight.shape[1])
        ctx.save_for_backward(weight, *_normalised(ops, settings, y, x, second, *rest))
        ctx.ops, ctx.settings, ctx.kind = ops, settings, kind
        ctx.set_materialize_grads(False)
        add = None if add is None else channels_last(add)
        return kind.forward(ops, y, weight.contiguous(), bias, add), x, second

    @staticmethod
    def backward(
        ctx: Any, d_out: Tensor | None, past: Tensor | None, second_past: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if d_out is None:
            return *6 * [None], past, second_past, *3 * [None]
        weight, *rest = ctx.saved_tensors
        saved, d_out = Saved(*rest), channels_last(d_out)
        like = ctx.ops.transient_map(saved.x, saved.weight.shape[0])  # of its size alone
        dy = channels_last(ctx.kind.back(ctx.ops, d_out, weight.contiguous(), like))
        of_inputs = _gradient(ctx.ops, ctx.settings, saved, dy, past, second_past, again=True)
        d_weight, d_bias = empty_like(weight), empty((weight.shape[0],))
        ctx.kind.gradient(ctx.ops, dy, d_out, d_weight, d_bias)
        _, _, _, _, of_bias, of_add, *_ = ctx.needs_input_grad
        return None, None, None, d_weight, d_bias if of_bias else None, d_out if of_add else None, *of_inputs
