"""Autograd functions around the kernels: each has a forward and a backward pass of its own.

Feature maps are [N, C, H, W] in memory format channels_last, float32 or bf16; weights and their gradients are float32.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm.models.native.build import addresses
from ddpm.models.native.memory import empty, empty_like, empty_map
from ddpm.models.torch_ops import Joined

WINOGRAD_LARGE = 8 * 8  # pixels of a map from which on tiles of 4 x 4 are faster than of 2 x 2

TENSORS = frozenset({Tensor, torch.nn.Parameter})  # isinstance takes several times as long


class Kernels:
    """The compiled library, its threads, and the memory that its kernels work in."""

    def __init__(self, library: ctypes.CDLL):
        self.library = library
        self.block: int = library.winograd_block()  # channels that kernels compute at once
        self._functions: dict[tuple[str, torch.dtype | None], Any] = {}  # by name and dtype
        self._held = threading.local()  # of each thread: its working memory, how many threads its kernels use

    def room(self, floats: int) -> Tensor:
        """Working memory of a kernel until the next call, float32 [floats] or more; reused, as it is in the cache."""
        held: Tensor | None = getattr(self._held, "room", None)
        if held is None or held.numel() < floats:
            held = self._held.room = torch.empty(floats)
        return held

    def transient_map(self, like: Tensor, channels: int) -> Tensor:
        """An uninitialised map [N, channels, H, W] until the next call, channels last, of the dtype and size of `like`.

        Its memory is kept for the next, apart from that of maps that stay, among which it would leave a hole.
        """
        n, _, h, w = like.shape
        key = n, channels, h, w, like.dtype
        maps: dict[Any, Tensor] = self._held.__dict__.setdefault("transient", {})  # all in the memory of the largest
        held = maps.get(key)
        if held is None:
            count = n * h * w * channels
            memory = maps.get(like.dtype)
            if memory is None or memory.numel() < count:
                maps.clear()
                memory = maps[like.dtype] = torch.empty(count, dtype=like.dtype)
            held = maps[key] = memory[:count].view(n, h, w, channels).permute(0, 3, 1, 2)
        return held

    def threads(self) -> int:
        """Sets the kernels to torch's number of threads; returns the most that they may use."""
        self._use_threads()
        return int(self.library.most_threads())

    def _use_threads(self) -> None:
        threads = torch.get_num_threads()
        if threads != getattr(self._held, "threads", None):
            self._held.threads = threads
            self.library.use_threads(threads)

    def call(self, name: str, *arguments: Any, dtype: torch.dtype | None = None) -> None:
        """Calls a kernel with tensors as their addresses; `dtype` gives the ending of its name."""
        self._use_threads()
        function = self._functions.get((name, dtype))
        if function is None:
            ending = f"_{str(dtype).removeprefix('torch.')}" if dtype else ""
            function = self._functions[name, dtype] = getattr(self.library, name + ending)
        function(*[a.data_ptr() if a.__class__ in TENSORS else a for a in arguments])


def channels_last(x: Tensor) -> Tensor:
    """The same map [N, C, H, W] with its channels last in memory; a copy where they are not."""
    return x.contiguous(memory_format=torch.channels_last)


class _Context:
    """Replaces autograd's context where no gradient is needed."""

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...


class Autograd(torch.autograd.Function):
    """An operation with its own gradient."""

    @classmethod
    def of(cls, *arguments: Any) -> Any:
        """Applies the operation; without autograd where no gradient is needed, as it takes as long as the kernel."""
        if not torch.is_grad_enabled():
            return cls.forward(_Context(), *arguments)
        # Without Function's own search for functorch's wrappers, which takes as long as the rest.
        return super(torch.autograd.Function, cls).apply(*arguments)  # type: ignore[misc]


class Kind(NamedTuple):
    """Kernels of a convolution and of its two gradients."""

    forward: Callable[..., Tensor]  # (ops, x, weight, bias, add)
    back: Callable[..., Tensor | Joined]  # (ops, dy, weight, x) -> dx
    gradient: Callable[..., None]  # (ops, x, dy, d_weight, d_bias), of which it fills the last two


class Conv(Autograd):
    """A convolution of one map [N, C, H, W], or pointwise of two that are joined, plus `add`."""

    @staticmethod
    def forward(
        ctx: Any,
        ops: Kernels,
        kind: Kind,
        x: Tensor,
        second: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        add: Tensor | None,
    ) -> Tensor:
        x, second = channels_last(x), None if second is None else channels_last(second)
        ctx.save_for_backward(x, second, weight)
        ctx.ops, ctx.kind = ops, kind
        add = None if add is None else channels_last(add)
        return kind.forward(ops, x if second is None else Joined(x, second), weight.contiguous(), bias, add)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, second, weight = ctx.saved_tensors
        maps = x if second is None else Joined(x, second)
        dy, dx, d_weight, d_bias = channels_last(dy), None, None, None
        _, _, *of_x, of_weight, of_bias, of_add = ctx.needs_input_grad
        if of_weight or of_bias:
            d_weight, d_bias = empty_like(weight), empty((weight.shape[0],))
            ctx.kind.gradient(ctx.ops, maps, dy, d_weight, d_bias)
        if any(of_x):
            dx = ctx.kind.back(ctx.ops, dy, weight.contiguous(), maps)
        dx, d_second = dx if isinstance(dx, Joined) else (dx, None)
        return None, None, dx, d_second, d_weight, d_bias if of_bias else None, dy if of_add else None


def winograd_tile(x: Tensor) -> int:
    """The Winograd tile size m of F(m x m, 3 x 3): 4 from WINOGRAD_LARGE pixels of a map [N, C, H, W] on, else 2."""
    return 4 if x.shape[2] * x.shape[3] >= WINOGRAD_LARGE else 2


def _winograd(
    ops: Kernels, x: Tensor, weight: Tensor, bias: Tensor | None, add: Tensor | None, turned: bool = False
) -> Tensor:
    """A 3x3 convolution with stride 1 and padding 1; or, `turned`, its adjoint: from the gradient of its output."""
    out, channels = weight.shape[:2] if not turned else (weight.shape[1], weight.shape[0])
    n, _, h, w = x.shape
    tile = winograd_tile(x)
    y, room = empty_map(x, out), ops.room((tile + 2) ** 2 * (channels + 1) * out)
    ops.call("winograd", tile, n, h, w, channels, out, x, weight, turned, bias, add, y, room, dtype=x.dtype)
    return y


def _winograd_gradient(ops: Kernels, x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor) -> None:
    out, channels, *_ = d_weight.shape
    n, _, h, w = x.shape
    tile = winograd_tile(x)
    room = ops.room(ops.threads() * ((tile + 2) ** 2 * channels * out + out))
    ops.call("winograd_gradient", tile, n, h, w, channels, out, x, dy, d_weight, d_bias, room, dtype=x.dtype)


def _strided(ops: Kernels, x: Tensor, weight: Tensor, bias: Tensor | None, add: Tensor | None) -> Tensor:
    """A 3x3 convolution with stride 2 and padding 1."""
    out, channels, *_ = weight.shape
    n, _, h, w = x.shape
    y = empty_map(x, out, ((h + 1) // 2, (w + 1) // 2))
    ops.call("strided", n, h, w, channels, out, x, weight, bias, y, ops.room(weight.numel()), dtype=x.dtype)
    return y if add is None else y + add


def _strided_back(ops: Kernels, dy: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    out, channels, *_ = weight.shape
    n, _, h, w = x.shape
    dx = empty_map(x, channels)
    ops.call("strided_back", n, h, w, channels, out, dy, weight, dx, ops.room(weight.numel()), dtype=x.dtype)
    return dx


def _strided_gradient(ops: Kernels, x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor) -> None:
    out, channels, *_ = d_weight.shape
    n, _, h, w = x.shape
    room = ops.room(ops.threads() * (d_weight.numel() + out))
    ops.call("strided_gradient", n, h, w, channels, out, x, dy, d_weight, d_bias, room, dtype=x.dtype)


def _pointwise(ops: Kernels, x: Tensor | Joined, weight: Tensor, bias: Tensor | None, add: Tensor | None) -> Tensor:
    """Every pixel times the weights [outputs, inputs, ...]."""
    one, two = x if isinstance(x, Joined) else (x, None)
    out, channels, *_ = weight.shape
    y, pixels = empty_map(one, out), one.numel() // one.shape[1]
    room = ops.room(weight.numel())
    ops.call("pointwise", pixels, channels, out, one.shape[1], one, two, weight, bias, add, y, room, dtype=y.dtype)
    return y


def _pointwise_back(ops: Kernels, dy: Tensor, weight: Tensor, x: Tensor | Joined) -> Tensor | Joined:
    """Every pixel times the transposed weights."""
    dx = Joined(*(empty_map(part, part.shape[1]) for part in x)) if isinstance(x, Joined) else empty_map(x, x.shape[1])
    one, two = dx if isinstance(dx, Joined) else (dx, None)
    out, channels, *_ = weight.shape
    pixels, room = dy.numel() // out, ops.room(weight.numel())
    ops.call("pointwise_back", pixels, channels, out, one.shape[1], dy, weight, one, two, room, dtype=dy.dtype)
    return dx


def _pointwise_gradient(ops: Kernels, x: Tensor | Joined, dy: Tensor, d_weight: Tensor, d_bias: Tensor) -> None:
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


class Linear(Autograd):
    """Several linear layers of one input [N, inputs], in float32; `layers` are all weights, then all biases."""

    @staticmethod
    def forward(ctx: Any, ops: Kernels, x: Tensor, *layers: Tensor) -> tuple[Tensor, ...]:
        layers = tuple(layer.contiguous() for layer in layers)
        weights, biases = layers[: len(layers) // 2], layers[len(layers) // 2 :]
        ctx.save_for_backward(x, *weights)
        ctx.ops, ctx.sizes = ops, (ctypes.c_int * len(weights))(*map(len, weights))
        y = [empty((len(x), size)) for size in ctx.sizes]
        ops.call("linear", len(y), *x.shape, ctx.sizes, x, *map(addresses, (weights, biases, y)))
        return tuple(y)

    @staticmethod
    def backward(ctx: Any, *dy: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        dx, d_weights = empty_like(x), [empty_like(weight) for weight in weights]
        dy, d_biases = tuple(d.contiguous() for d in dy), [empty((weight.shape[0],)) for weight in weights]
        room = ctx.ops.room(ctx.ops.threads() * x.numel())
        lists = map(addresses, (dy, weights, d_weights, d_biases))
        ctx.ops.call("linear_gradient", len(weights), *x.shape, ctx.sizes, x, *lists, dx, room)
        return None, dx, *d_weights, *d_biases


class Attention(Autograd):
    """[N, 3C, H, W] -> [N, C, H, W]; saves one number per pixel and head for the backward pass."""

    @staticmethod
    def forward(ctx: Any, ops: Kernels, qkv: Tensor, heads: int) -> Tensor:
        qkv = channels_last(qkv)
        n, triple, h, w = qkv.shape
        out, of_rows = empty_map(qkv, triple // 3), empty((n, heads, h * w))
        ops.call("attention", n, h * w, heads, triple // 3 // heads, qkv, out, of_rows, dtype=qkv.dtype)
        ctx.save_for_backward(qkv, out, of_rows)
        ctx.ops, ctx.heads = ops, heads
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        qkv, out, of_rows = ctx.saved_tensors
        n, triple, h, w = qkv.shape
        d = empty_map(qkv, triple)
        each = triple // 3 // ctx.heads
        ctx.ops.call(
            "attention_gradient", n, h * w, ctx.heads, each, qkv, out, channels_last(dy), of_rows, d, dtype=qkv.dtype
        )
        return None, d, None
