"""Autograd functions of whole blocks: each is one in place of three, which take as long as some of the kernels."""

from itertools import chain, islice
from typing import Any

from torch import Tensor

from ddpm.models.native.functions import Attention, Autograd, Conv, Kernels, Kind
from ddpm.models.native.norms import NormConv, NormSettings


class Part:
    """The context of one operation of a block; every gradient of it is wanted."""

    needs_input_grad = 11 * (True,)

    def __init__(self) -> None:
        self.held: tuple[Tensor | None, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Tensors [...] of any shapes."""
        self.held = tensors

    def set_materialize_grads(self, value: bool) -> None: ...

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """The saved tensors [...]; read once, as they would else be held until the whole backward pass is over."""
        tensors, self.held = self.held, ()
        return tensors


def keep(ctx: Any, *parts: Part) -> None:
    """Hands over to autograd what the parts have saved, until `parts_of` takes it back."""
    saved = [part.saved_tensors for part in parts]
    ctx.parts, ctx.counts = parts, [len(tensors) for tensors in saved]
    ctx.save_for_backward(*chain(*saved))


def parts_of(ctx: Any) -> tuple[Part, ...]:
    """The parts that `keep` was given, with what they had saved."""
    saved, parts = iter(ctx.saved_tensors), ctx.parts
    for part, count in zip(parts, ctx.counts, strict=True):
        part.held = tuple(islice(saved, count))
    return tuple(parts)


class Residual(Autograd):
    """A residual block [N, C_in, H, W] -> [N, C, H, W] with scale and shift: two `NormConv`, and `Conv` past them."""

    @staticmethod
    def forward(
        ctx: Any,
        ops: Kernels,
        first: tuple[NormSettings, Kind],
        second: tuple[NormSettings, Kind],
        skip: Kind | None,
        x: Tensor,
        joined: Tensor | None,
        embedding: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        """x, joined: channels last.  weights: of both norms and convolutions in turn, then of the skip connection's."""
        norm, norm_bias, conv, conv_bias, norm2, norm_bias2, conv2, conv_bias2, *of_skip = weights
        one, two, past_both = Part(), Part(), Part()
        h, past, _ = NormConv.forward(one, ops, *first, conv, conv_bias, None, x, joined, norm, norm_bias, None)
        if skip is not None:
            weight, bias = of_skip
            past = Conv.forward(past_both, ops, skip, x, joined, weight, bias, None)
        rest = (norm2, norm_bias2, embedding)
        out, *_ = NormConv.forward(two, ops, *second, conv2, conv_bias2, past, h, None, *rest)
        keep(ctx, one, two, past_both)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        one, two, past_both = parts_of(ctx)
        _, _, _, *of_conv2, past, dh, _, norm2, norm_bias2, d_embedding = NormConv.backward(two, d_out, None, None)
        joined_past, of_skip = None, []
        if past_both.held:
            assert past is not None, "what is added has the gradient of the sum"
            _, _, past, joined_past, *of_skip, _ = Conv.backward(past_both, past)
        _, _, _, *of_conv, _, dx, d_joined, norm, norm_bias, _ = NormConv.backward(one, dh, past, joined_past)
        weights = (norm, norm_bias, *of_conv, norm2, norm_bias2, *of_conv2, *of_skip)
        return *4 * (None,), dx, d_joined, d_embedding, *weights


class ProjectedAttention(Autograd):
    """Attention in a map [N, C, H, W], behind a norm and a projection and before another, plus the map."""

    @staticmethod
    def forward(
        ctx: Any,
        ops: Kernels,
        settings: NormSettings,
        kinds: tuple[Kind, Kind],
        heads: int,
        x: Tensor,
        norm: Tensor,
        norm_bias: Tensor,
        qkv: Tensor,
        qkv_bias: Tensor,
        out: Tensor,
        out_bias: Tensor,
    ) -> Tensor:
        """kinds: of both projections.  x: channels last."""
        one, two, three = Part(), Part(), Part()
        mixed, _, _ = NormConv.forward(
            one, ops, settings, kinds[0], qkv, qkv_bias, None, x, None, norm, norm_bias, None
        )
        h = Attention.forward(two, ops, mixed, heads)
        result = Conv.forward(three, ops, kinds[1], h, None, out, out_bias, x)
        keep(ctx, one, two, three)
        return result

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        one, two, three = parts_of(ctx)
        _, _, dh, _, *of_out, past = Conv.backward(three, d_out)
        assert dh is not None, "every gradient is wanted"
        _, d_qkv, _ = Attention.backward(two, dh)
        del dh  # so that its memory is there for what comes next
        _, _, _, *of_qkv, _, dx, _, norm, norm_bias, _ = NormConv.backward(one, d_qkv, past, None)
        return *4 * (None,), dx, norm, norm_bias, *of_qkv, *of_out
