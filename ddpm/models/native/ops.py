"""The operations of a U-Net by our own kernels, on a CPU, in float32 or bf16.

Feature maps are [N, C, H, W] in memory format channels_last.  In bf16 the maps alone are bf16: weights, statistics and
sums are float32.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.models.native.build import addresses
from ddpm.models.torch_ops import Joined, Ops, whole

# Pixels of a feature map from which on tiles of 4 x 4 are faster than of 2 x 2, which are more exact.
LARGE = {torch.float32: 16 * 16, torch.bfloat16: 8 * 8}


class NativeOps(Ops):
    """Kernels of a library for feature maps of one dtype; what they do not fit is torch's.

    Results agree with torch's to about 1e-6 of their length in float32, and to rounding in bf16.
    """

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype = torch.float32):
        self.library, self.dtype = library, dtype
        self.block: int = library.winograd_block()
        self._functions: dict[tuple[str, torch.dtype | None], Any] = {}  # by name and dtype
        self._held = threading.local()  # of each thread: its room, how many threads its kernels use

    def enter(self, x: Tensor) -> Tensor:
        return x.to(self.dtype, memory_format=torch.channels_last)

    def leave(self, x: Tensor) -> Tensor:
        return x.to(torch.float32, memory_format=torch.contiguous_format)

    def norm(self, x: Tensor, norm: nn.GroupNorm) -> Tensor:
        return self._norm(x, norm, None, silu=False)[0]

    def branch(self, x: Tensor | Joined, norm: nn.GroupNorm, silu: bool) -> tuple[Tensor, Tensor | Joined]:
        return self._norm(x, norm, None, silu)

    def norm_silu(self, x: Tensor, norm: nn.GroupNorm, embedding: Tensor | None = None) -> Tensor:
        return self._norm(x, norm, embedding, silu=True)[0]

    def _norm(
        self, x: Tensor | Joined, norm: nn.GroupNorm, embedding: Tensor | None, silu: bool
    ) -> tuple[Tensor, Tensor | Joined]:
        if isinstance(x, Joined) and any(part.shape[1] % self.block for part in x):
            x = x.whole()
        if self.library.norm_fits(norm.num_channels, norm.num_groups):
            embedding = None if embedding is None else embedding.float()
            parts = map(_laid_out, x) if isinstance(x, Joined) else (_laid_out(x), None)
            y, one, two = _Norm.of(self, *parts, norm.weight, norm.bias, embedding, norm.num_groups, norm.eps, silu)
            return y, one if two is None else Joined(one, two)
        x = whole(x)
        wide = x.float()
        out = super().norm_silu(wide, norm, embedding) if silu else super().norm(wide, norm)
        return self.enter(out), x

    def conv(self, x: Tensor, conv: nn.Conv2d, add: Tensor | None = None) -> Tensor:
        kind = KINDS.get(conv.stride)
        if kind is None:
            return self.enter(super().conv(x.float(), conv, None if add is None else add.float()))
        more_in, more_out = -conv.in_channels % self.block, -conv.out_channels % self.block
        if not more_in and not more_out:
            return _Conv.of(self, kind, x, None, conv.weight, conv.bias, add)
        # Channels of zeros where there are few: still faster than other ways.
        weight = F.pad(conv.weight, (0, 0, 0, 0, 0, more_in, 0, more_out))
        bias = None if conv.bias is None else F.pad(conv.bias, (0, more_out))
        x = F.pad(x, (0, 0, 0, 0, 0, more_in)) if more_in else x
        out = _Conv.of(self, kind, x, None, weight, bias, None)
        out = _laid_out(out[:, : conv.out_channels])  # a view would hold all of it in memory
        return out if add is None else out + add

    def pointwise(self, x: Tensor | Joined, conv: nn.Conv1d | nn.Conv2d, add: Tensor | None = None) -> Tensor:
        parts = x if isinstance(x, Joined) else (x, None)
        return _Conv.of(self, POINTWISE, *parts, conv.weight, conv.bias, add)

    def linear(self, x: Tensor, layers: Sequence[nn.Linear]) -> Sequence[Tensor]:
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        if x.shape[1] % self.block or any(t is None or t.dtype != torch.float32 for t in (x, *weights, *biases)):
            return super().linear(x, layers)
        made: Sequence[Tensor] = _Linear.of(self, x.contiguous(), *weights, *biases)
        return made

    def attention(self, qkv: Tensor, heads: int) -> Tensor:
        if qkv.shape[1] // 3 // heads % (self.block // 2):
            return super().attention(qkv, heads).contiguous(memory_format=torch.channels_last)
        return _Attention.of(self, qkv, heads)

    def room(self, floats: int) -> Tensor:
        """Memory for a kernel to work in until the next one: the same each time, which is still in the cache."""
        held: Tensor | None = getattr(self._held, "room", None)
        if held is None or held.numel() < floats:
            held = self._held.room = torch.empty(floats)
        return held

    def threads(self) -> int:
        """How many threads the kernels use: as many as torch, whose OpenMP may be another one."""
        threads = torch.get_num_threads()
        if threads != getattr(self._held, "threads", None):
            self._held.threads = threads
            self.library.use_threads(threads)
        return int(self.library.most_threads())

    def call(self, name: str, *arguments: Any, dtype: torch.dtype | None = None) -> None:
        """Call a kernel; tensors as their addresses, and the name's end from `dtype`."""
        self.threads()
        function = self._functions.get((name, dtype))
        if function is None:
            ending = f"_{str(dtype).removeprefix('torch.')}" if dtype else ""
            function = self._functions[name, dtype] = getattr(self.library, name + ending)
        function(*[a.data_ptr() if isinstance(a, Tensor) else a for a in arguments])


def _laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class _Context:
    """In place of autograd's where no gradient is asked for."""

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...


class _Node(torch.autograd.Function):
    """An operation with a gradient of its own."""

    @classmethod
    def of(cls, *arguments: Any) -> Any:
        """The operation; where no gradient is asked for without autograd's own work, which takes as long as ours."""
        return cls.apply(*arguments) if torch.is_grad_enabled() else cls.forward(_Context(), *arguments)


class _Norm(_Node):
    """What is normalised, and the input as it was: one map, or two that are joined."""

    @staticmethod
    def forward(
        ctx: Any,
        ops: NativeOps,
        x: Tensor,
        second: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        embedding: Tensor | None,
        groups: int,
        eps: float,
        silu: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        n, split, h, w = x.shape
        embedding = None if embedding is None else embedding.contiguous()
        y, mean, rstd = _empty(x, len(weight)), torch.empty(n, groups), torch.empty(n, groups)
        ops.call(
            "norm",
            n,
            h * w,
            len(weight),
            groups,
            split,
            x,
            second,
            y,
            weight,
            bias,
            embedding,
            eps,
            mean,
            rstd,
            silu,
            dtype=x.dtype,
        )
        ctx.save_for_backward(x, second, weight, bias, embedding, mean, rstd)
        ctx.ops, ctx.groups, ctx.silu = ops, groups, silu
        ctx.set_materialize_grads(False)
        return y, x, second

    @staticmethod
    def backward(
        ctx: Any, dy: Tensor | None, past: Tensor | None, second_past: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if dy is None:
            return None, past, second_past, *6 * [None]
        x, second, weight, bias, embedding, mean, rstd = ctx.saved_tensors
        n, split, h, w = x.shape
        if second is not None and (past is None) != (second_past is None):  # the kernel adds both or none
            past = torch.zeros_like(x) if past is None else past
            second_past = torch.zeros_like(second) if second_past is None else second_past
        past, second_past = (None if part is None else _laid_out(part) for part in (past, second_past))
        dy, dx, d_weight, d_bias = _laid_out(dy), torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        d_second = None if second is None else torch.empty_like(second)
        d_embedding = None if embedding is None else torch.empty_like(embedding)
        ctx.ops.call(
            "norm_gradient",
            n,
            h * w,
            len(weight),
            ctx.groups,
            split,
            dy,
            x,
            second,
            past,
            second_past,
            dx,
            d_second,
            weight,
            bias,
            embedding,
            mean,
            rstd,
            d_weight,
            d_bias,
            d_embedding,
            ctx.silu,
            dtype=x.dtype,
        )
        return None, dx, d_second, d_weight, d_bias, d_embedding, None, None, None


class Kind(NamedTuple):
    """How a convolution and its two gradients are computed; each has its own kernels and room for them."""

    forward: Callable[..., Tensor]  # (ops, x, weight, bias, add)
    back: Callable[..., Tensor | Joined]  # (ops, dy, weight, x) -> dx
    gradient: Callable[..., None]  # (ops, x, dy, and what to fill: of weight, of bias)


class _Conv(_Node):
    """A convolution of one map, or of single pixels of two that are joined, and what is added to it."""

    @staticmethod
    def forward(
        ctx: Any,
        ops: NativeOps,
        kind: Kind,
        x: Tensor,
        second: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        add: Tensor | None,
    ) -> Tensor:
        x, second = _laid_out(x), None if second is None else _laid_out(second)
        ctx.save_for_backward(x, second, weight)
        ctx.ops, ctx.kind = ops, kind
        add = None if add is None else _laid_out(add)
        return kind.forward(ops, x if second is None else Joined(x, second), weight.contiguous(), bias, add)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, second, weight = ctx.saved_tensors
        maps = x if second is None else Joined(x, second)
        dy, dx, d_weight, d_bias = _laid_out(dy), None, None, None
        _, _, *of_x, of_weight, of_bias, of_add = ctx.needs_input_grad
        if of_weight or of_bias:
            d_weight, d_bias = torch.empty_like(weight, memory_format=torch.contiguous_format), torch.empty(len(weight))
            ctx.kind.gradient(ctx.ops, maps, dy, d_weight, d_bias)
        if any(of_x):
            dx = ctx.kind.back(ctx.ops, dy, weight.contiguous(), maps)
        dx, d_second = dx if isinstance(dx, Joined) else (dx, None)
        return None, None, dx, d_second, d_weight, d_bias if of_bias else None, dy if of_add else None


def _tile(x: Tensor) -> int:
    """Pixels along an edge of a tile's result; what the larger one loses is nothing beside bf16's own rounding."""
    return 4 if x.shape[2] * x.shape[3] >= LARGE[x.dtype] else 2


def _winograd(
    ops: NativeOps, x: Tensor, weight: Tensor, bias: Tensor | None, add: Tensor | None, turned: bool = False
) -> Tensor:
    """A 3x3 convolution with stride 1 and padding 1; or, `turned`, its adjoint: from the gradient of what came out."""
    out, channels = weight.shape[:2] if not turned else (weight.shape[1], weight.shape[0])
    n, _, h, w = x.shape
    tile = _tile(x)
    y, room = _empty(x, out), ops.room((tile + 2) ** 2 * (channels + 1) * out)
    ops.call("winograd", tile, n, h, w, channels, out, x, weight, turned, bias, add, y, room, dtype=x.dtype)
    return y


def _winograd_gradient(ops: NativeOps, x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor) -> None:
    out, channels, *_ = d_weight.shape
    n, _, h, w = x.shape
    tile = _tile(x)
    room = ops.room(ops.threads() * ((tile + 2) ** 2 * channels * out + out))
    ops.call("winograd_gradient", tile, n, h, w, channels, out, x, dy, d_weight, d_bias, room, dtype=x.dtype)


def _strided(ops: NativeOps, x: Tensor, weight: Tensor, bias: Tensor | None, add: Tensor | None) -> Tensor:
    """A 3x3 convolution with stride 2 and padding 1."""
    out, channels, *_ = weight.shape
    n, _, h, w = x.shape
    y = _empty(x, out, ((h + 1) // 2, (w + 1) // 2))
    ops.call("strided", n, h, w, channels, out, x, weight, bias, y, ops.room(weight.numel()), dtype=x.dtype)
    return y if add is None else y + add


def _strided_back(ops: NativeOps, dy: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    out, channels, *_ = weight.shape
    n, _, h, w = x.shape
    dx = torch.empty_like(x)
    ops.call("strided_back", n, h, w, channels, out, dy, weight, dx, ops.room(weight.numel()), dtype=x.dtype)
    return dx


def _strided_gradient(ops: NativeOps, x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor) -> None:
    out, channels, *_ = d_weight.shape
    n, _, h, w = x.shape
    room = ops.room(ops.threads() * (d_weight.numel() + out))
    ops.call("strided_gradient", n, h, w, channels, out, x, dy, d_weight, d_bias, room, dtype=x.dtype)


def _pointwise(ops: NativeOps, x: Tensor | Joined, weight: Tensor, bias: Tensor | None, add: Tensor | None) -> Tensor:
    """Every pixel times the weights [outputs, inputs, ...]."""
    one, two = x if isinstance(x, Joined) else (x, None)
    out, channels, *_ = weight.shape
    y, pixels = _empty(one, out), one.numel() // one.shape[1]
    room = ops.room(weight.numel())
    ops.call("pointwise", pixels, channels, out, one.shape[1], one, two, weight, bias, add, y, room, dtype=y.dtype)
    return y


def _pointwise_back(ops: NativeOps, dy: Tensor, weight: Tensor, x: Tensor | Joined) -> Tensor | Joined:
    """Every pixel times the weights' transpose."""
    dx = Joined(*map(torch.empty_like, x)) if isinstance(x, Joined) else torch.empty_like(x)
    one, two = dx if isinstance(dx, Joined) else (dx, None)
    out, channels, *_ = weight.shape
    pixels, room = dy.numel() // out, ops.room(weight.numel())
    ops.call("pointwise_back", pixels, channels, out, one.shape[1], dy, weight, one, two, room, dtype=dy.dtype)
    return dx


def _pointwise_gradient(ops: NativeOps, x: Tensor | Joined, dy: Tensor, d_weight: Tensor, d_bias: Tensor) -> None:
    one, two = x if isinstance(x, Joined) else (x, None)
    out, channels, *_ = d_weight.shape
    pixels, room = dy.numel() // out, ops.room(ops.threads() * (d_weight.numel() + out))
    ops.call(
        "pointwise_gradient", pixels, channels, out, one.shape[1], one, two, dy, d_weight, d_bias, room, dtype=dy.dtype
    )


WINOGRAD = Kind(
    _winograd, lambda ops, dy, weight, x: _winograd(ops, dy, weight, None, None, turned=True), _winograd_gradient
)
STRIDED = Kind(_strided, _strided_back, _strided_gradient)
KINDS: dict[tuple[int, ...], Kind] = {(1, 1): WINOGRAD, (2, 2): STRIDED}  # of 3x3 convolutions, by their stride
POINTWISE = Kind(_pointwise, _pointwise_back, _pointwise_gradient)


def _empty(like: Tensor, channels: int, size: tuple[int, int] | None = None) -> Tensor:
    h, w = size or (like.shape[2], like.shape[3])
    return torch.empty((len(like), channels, h, w), dtype=like.dtype, memory_format=torch.channels_last)


class _Linear(_Node):
    """What each of several linear layers makes of [N, inputs], in float32;
    `layers` are all weights, then all biases.
    """

    @staticmethod
    def forward(ctx: Any, ops: NativeOps, x: Tensor, *layers: Tensor) -> tuple[Tensor, ...]:
        layers = tuple(layer.contiguous() for layer in layers)
        weights, biases = layers[: len(layers) // 2], layers[len(layers) // 2 :]
        ctx.save_for_backward(x, *weights)
        ctx.ops, ctx.sizes = ops, (ctypes.c_int * len(weights))(*map(len, weights))
        y = [torch.empty(len(x), size) for size in ctx.sizes]
        ops.call("linear", len(y), *x.shape, ctx.sizes, x, *map(addresses, (weights, biases, y)))
        return tuple(y)

    @staticmethod
    def backward(ctx: Any, *dy: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        dx, d_weights = torch.empty_like(x), [torch.empty_like(weight) for weight in weights]
        dy, d_biases = tuple(d.contiguous() for d in dy), [torch.empty(len(weight)) for weight in weights]
        room = ctx.ops.room(ctx.ops.threads() * x.numel())
        lists = map(addresses, (dy, weights, d_weights, d_biases))
        ctx.ops.call("linear_gradient", len(weights), *x.shape, ctx.sizes, x, *lists, dx, room)
        return None, dx, *d_weights, *d_biases


class _Attention(_Node):
    """[N, 3C, H, W] -> [N, C, H, W]; keeps one number per pixel and head for the way back."""

    @staticmethod
    def forward(ctx: Any, ops: NativeOps, qkv: Tensor, heads: int) -> Tensor:
        qkv = _laid_out(qkv)
        n, triple, h, w = qkv.shape
        out, of_rows = _empty(qkv, triple // 3), torch.empty(n, heads, h * w)
        ops.call("attention", n, h * w, heads, triple // 3 // heads, qkv, out, of_rows, dtype=qkv.dtype)
        ctx.save_for_backward(qkv, out, of_rows)
        ctx.ops, ctx.heads = ops, heads
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        qkv, out, of_rows = ctx.saved_tensors
        n, triple, h, w = qkv.shape
        d = torch.empty_like(qkv)
        each = triple // 3 // ctx.heads
        ctx.ops.call(
            "attention_gradient", n, h * w, ctx.heads, each, qkv, out, _laid_out(dy), of_rows, d, dtype=qkv.dtype
        )
        return None, d, None
