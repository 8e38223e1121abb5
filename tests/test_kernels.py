"""The kernels in C++ against torch in double precision: values, gradients, NaN, any number of threads."""

import functools
import itertools
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddpm.host.compiler import find_compiler
from ddpm.models.native import build, matrix
from ddpm.models.native.matrix import MatrixOps
from ddpm.models.native.norms import Dropout, Norm, NormSettings
from ddpm.models.native.ops import NativeOps
from ddpm.models.torch_ops import TORCH, Joined, Ops, whole

pytestmark = pytest.mark.usefixtures("threads_afterwards")

PROCESSORS = ["-march=x86-64-v3", "-march=x86-64"]  # with AVX2, and with what every x86 has


class Case(NamedTuple):
    """An operation, the layer that holds its weights, and the shapes of what goes in, feature maps first."""

    run: Callable[..., Tensor]  # (ops, layer, *inputs)
    layer: Callable[[], nn.Module] | None
    shapes: Sequence[tuple[int, ...]]


def conv(
    n: int, size: int, channels: int, out: int, stride: int = 1, add: bool = False, bias: bool = True, wide: int = 0
) -> Case:
    tall, wide = size, wide or size
    return Case(
        lambda ops, layer, x, *added: ops.conv(x, layer, *added),
        lambda: nn.Conv2d(channels, out, 3, stride, padding=1, bias=bias),
        [(n, channels, tall, wide)] + [(n, out, -(-tall // stride), -(-wide // stride))] * add,
    )


def pointwise(n: int, size: int, channels: int, out: int, add: bool = False, flat: bool = False) -> Case:
    return Case(
        lambda ops, layer, x, *added: ops.pointwise(x, layer, *added),
        lambda: nn.Conv1d(channels, out, 1) if flat else nn.Conv2d(channels, out, 1),
        [(n, channels, size, size)] + [(n, out, size, size)] * add,
    )


def norm(n: int, size: int, channels: int, silu: bool = True, embedding: bool = False) -> Case:
    return Case(
        lambda ops, layer, x, *e: ops.norm_silu(x, layer, *e) if silu else ops.norm(x, layer),
        lambda: nn.GroupNorm(32, channels),
        [(n, channels, size, size)] + [(n, 2 * channels)] * embedding,
    )


def kept(shape: Sequence[int], keys: Sequence[int], share: float) -> Tensor:
    """Whether dropout keeps each value of a map [N, C, H, W]: by lowbias32 of its index with the channels last."""
    n, channels, h, w = shape
    with np.errstate(over="ignore"):
        x = np.arange(n * channels * h * w, dtype=np.uint32) ^ np.uint32(keys[0])
        x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
        x ^= np.uint32(keys[1])
        x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
        x ^= x >> 16
    mask = torch.from_numpy(x.astype(np.int64) >= round(share * 2**32))
    return mask.view(n, h, w, channels).permute(0, 3, 1, 2)


def dropped(n: int, size: int, channels: int, share: float, embedding: bool = False) -> Case:
    """Dropout behind a norm, by the mask that our kernels hash."""

    def run(ops: Ops, layer: Any, x: Tensor, *e: Tensor) -> Tensor:
        torch.manual_seed(3)
        if ops is not TORCH:
            return ops.norm_silu(x, layer, *e, dropout=share)
        keys = torch.randint(2**31, (2,)).tolist()
        return ops.norm_silu(x, layer, *e) * kept(x.shape, keys, share) / (1 - share)

    return norm(n, size, channels, embedding=embedding)._replace(run=run)


def joined(n: int, size: int, one: int, two: int, out: int) -> Case:
    """The way through a block and the way past it, of two maps that are joined."""

    def run(ops: Ops, layers: Any, *maps: Tensor) -> Tensor:
        h, past = ops.branch(Joined(*maps), layers["norm"], layers["through"])
        return ops.pointwise(past, layers["past"], add=h)

    def layers() -> nn.Module:
        through, past = (nn.Conv2d(one + two, out, 1) for _ in range(2))
        return nn.ModuleDict({"norm": nn.GroupNorm(32, one + two), "through": through, "past": past})

    return Case(run, layers, [(n, one, size, size), (n, two, size, size)])


def branch(
    n: int, size: int, channels: int, out: int, kernel: int = 3, embedding: bool = False, share: float = 0.0
) -> Case:
    """A norm and the convolution behind it, with a map that is added, and the map that goes past both."""

    def run(ops: Ops, layers: Any, x: Tensor, add: Tensor, *e: Tensor) -> Tensor:
        torch.manual_seed(3)
        settings = dict(silu=kernel == 3, embedding=e[0] if e else None, add=add)
        if ops is not TORCH or not share:
            h, past = ops.branch(x, layers["norm"], layers["conv"], dropout=share, **settings)
        else:
            mask = kept(x.shape, torch.randint(2**31, (2,)).tolist(), share) / (1 - share)
            h, past = ops.conv(ops.norm_silu(x, layers["norm"], *e) * mask, layers["conv"], add), x
        return torch.cat([h, 0.5 * whole(past)], dim=1)

    def layers() -> nn.Module:
        conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2)
        return nn.ModuleDict({"norm": nn.GroupNorm(32, channels), "conv": conv})

    shapes = [(n, channels, size, size), (n, out, size, size)] + [(n, 2 * channels)] * embedding
    return Case(run, layers, shapes)


def linear(n: int, channels: int, *outputs: int) -> Case:
    return Case(
        lambda ops, layers, x: torch.cat([*ops.linear(x, [*layers])], dim=1),
        lambda: nn.ModuleList(nn.Linear(channels, out) for out in outputs),
        [(n, channels)],
    )


def attention(n: int, size: int, heads: int, each: int) -> Case:
    return Case(lambda ops, _, qkv: ops.attention(qkv, heads), None, [(n, 3 * heads * each, size, size)])


TORCHS = "attention of 12"  # is left to torch: 12 channels of a head are no whole vectors
CASES = {
    "conv 1x1": conv(3, 1, 32, 32),
    "conv 2x2": conv(3, 2, 64, 32),
    "conv 4x4": conv(3, 4, 64, 96, add=True),
    "conv 5x5": conv(1, 5, 96, 32),
    "conv 7x7": conv(3, 7, 32, 64, add=True),
    "conv 8x8": conv(3, 8, 64, 64, add=True),
    "conv 16x16": conv(1, 16, 32, 96),
    "conv 32x32": conv(1, 32, 32, 32, add=True),
    "conv of colours": conv(3, 16, 3, 32),
    "conv to colours": conv(1, 16, 64, 3),
    "conv of 48 channels": conv(3, 8, 48, 48, add=True),
    "conv with stride": conv(3, 8, 32, 64, stride=2),
    "conv with stride, odd": conv(1, 7, 64, 64, stride=2, add=True),
    "conv with stride, of one pixel": conv(3, 1, 32, 32, stride=2),
    "conv with stride 3": conv(1, 7, 32, 32, stride=3),  # is torch's
    "conv 2x3": conv(1, 2, 32, 64, wide=3),
    "conv 9x6": conv(3, 9, 32, 32, wide=6, add=True),
    "conv 6x9 with stride": conv(1, 6, 32, 32, stride=2, wide=9),
    "conv without bias": conv(1, 8, 32, 32, bias=False),
    "conv of few tiles": conv(1, 8, 256, 128),
    "conv of uneven shares": conv(1, 24, 32, 96),  # of two threads one has all its tiles at once, the other has not
    "pointwise": pointwise(3, 7, 64, 32),
    "pointwise, plus": pointwise(1, 16, 32, 96, add=True),
    "pointwise, one dimension": pointwise(3, 5, 96, 288, add=True, flat=True),
    "norm": norm(3, 7, 64, silu=False),
    "norm of few": norm(3, 2, 32, silu=False),
    "norm silu 32": norm(1, 16, 32),
    "norm silu 96": norm(3, 5, 96, embedding=True),
    "norm silu 320": norm(3, 4, 320, embedding=True),
    "norm silu 64": norm(1, 8, 64, embedding=True),
    "dropout": dropped(3, 7, 64, 0.3),
    "dropout 96": dropped(3, 5, 96, 0.1, embedding=True),
    "branch 16x16": branch(1, 16, 32, 64),
    "branch 7x7": branch(3, 7, 64, 32, embedding=True),
    "branch of 48 channels": branch(1, 8, 96, 48, embedding=True),
    "branch with dropout": branch(2, 8, 32, 64, embedding=True, share=0.2),
    "branch, pointwise": branch(3, 5, 64, 192, kernel=1),
    "joined 64 and 32": joined(3, 5, 64, 32, 32),
    "joined 32 and 96": joined(1, 8, 32, 96, 64),
    "joined 48 and 16": joined(3, 3, 48, 16, 32),
    "linear": linear(3, 96, 192, 40, 1),
    "linear of many": linear(40, 64, 64, 128),
    "attention 16": attention(3, 4, 1, 32),
    "attention 25": attention(3, 5, 2, 16),
    "attention 49": attention(1, 7, 4, 48),
    "attention 64": attention(1, 8, 4, 16),
    "attention 256": attention(1, 16, 2, 48),
    TORCHS: attention(3, 4, 2, 12),
    "attention of 24": attention(1, 5, 2, 24),
}
MAIN = [
    "linear",
    "linear of many",
    "joined 64 and 32",
    "joined 48 and 16",
    "conv 6x9 with stride",
    "conv 5x5",
    "conv 8x8",
    "conv of colours",
    "conv with stride",
    "conv of few tiles",
    "conv of uneven shares",
    "pointwise, one dimension",
    "norm",
    "norm silu 320",
    "dropout",
    "branch 7x7",
    "branch with dropout",
    "attention 25",
    "attention 64",
    "attention of 24",
]


@functools.cache
def installed() -> NativeOps:
    library, why = build.found()
    if library is None:
        pytest.skip(why)
    return NativeOps(library)


@pytest.fixture
def ops() -> NativeOps:
    """In float32, as compiled for this processor."""
    return installed()


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that are called from here on."""
    names = []
    whole = NativeOps.call

    def call(self: NativeOps, name: str, *arguments: Any, **settings: Any) -> None:
        names.append(name)
        whole(self, name, *arguments, **settings)

    monkeypatch.setattr(NativeOps, "call", call)
    return names


def in_bf16(ops: NativeOps) -> NativeOps:
    return NativeOps(ops.library, torch.bfloat16)


def sampled(case: Case, seed: int = 0) -> tuple[nn.Module | None, list[Tensor], Tensor]:
    """(layer, inputs, the gradient of what comes out), float32: maps hold numbers that are bf16's, too."""
    torch.manual_seed(seed + zlib.crc32(repr(case.shapes).encode()))
    layer = None if case.layer is None else case.layer()
    for norm in [] if layer is None else layer.modules():
        if isinstance(norm, nn.GroupNorm):
            nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    inputs = [torch.randn(shape) for shape in case.shapes]
    inputs = [x.bfloat16().float() if x.ndim == 4 else x for x in inputs]
    with torch.no_grad():
        out = case.run(TORCH, layer, *inputs)
    return layer, inputs, torch.randn(out.shape).bfloat16().float()


def answers(
    ops: Ops, case: Case, layer: nn.Module | None, inputs: list[Tensor], d_out: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Everything that comes out: the result, and the gradient of whatever went in."""
    leaves = [x.detach().to(dtype if x.ndim == 4 or dtype == torch.float64 else torch.float32) for x in inputs]
    leaves = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in leaves]
    for leaf in leaves:
        leaf.requires_grad_()
    if layer is not None:
        layer.to(torch.float64 if dtype == torch.float64 else torch.float32).zero_grad()
    out = case.run(ops, layer, *leaves)
    assert out.dtype == (dtype if inputs[0].ndim == 4 or dtype == torch.float64 else torch.float32)
    out.backward(d_out.to(out.dtype))
    named = {} if layer is None else {f"d_{name}": p.grad for name, p in layer.named_parameters()}
    every = {"out": out.detach(), **{f"d_input{i}": leaf.grad for i, leaf in enumerate(leaves)}, **named}
    return {name: tensor.clone() for name, tensor in every.items() if tensor is not None}


def apart(a: Tensor, b: Tensor) -> float:
    """The length of the difference, relative to that of `b`."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def check(ops: NativeOps, name: str, most: float | None = None) -> None:
    """Raises AssertionError if a tensor differs from torch's in double precision by more than `most` of its norm."""
    case = CASES[name]
    if most is None:  # twice what is seen
        most = 4e-3 if ops.dtype == torch.bfloat16 else 3e-6 if name.startswith(("conv", "branch")) else 8e-7
    layer, inputs, d_out = sampled(case)
    exact = answers(TORCH, case, layer, inputs, d_out, torch.float64)
    ours = answers(ops, case, layer, inputs, d_out, ops.dtype)
    assert ours.keys() == exact.keys()
    for tensor in exact:
        assert ours[tensor].shape == exact[tensor].shape
        assert apart(ours[tensor], exact[tensor]) < most, tensor


@pytest.mark.parametrize("name", CASES)
def test_float32_is_double_precision_but_for_rounding(ops: NativeOps, name: str) -> None:
    check(ops, name)


@pytest.mark.parametrize("name", CASES)
def test_bf16_rounds_only_the_maps(ops: NativeOps, name: str) -> None:
    check(in_bf16(ops), name)


NOT_BY_MATRICES = ("conv with stride 3", "conv with stride, of one pixel")
BY_MATRICES = [name for name in CASES if name.startswith(("conv", "pointwise")) and name not in NOT_BY_MATRICES]


@pytest.fixture
def matrices(ops: NativeOps, monkeypatch: pytest.MonkeyPatch) -> MatrixOps:
    """By oneDNN in bf16, maps of any size; whatever the processor has for it."""
    monkeypatch.setattr(matrix, "LEAST", 1)
    return MatrixOps(ops.library, torch.bfloat16)


@pytest.mark.parametrize("name", BY_MATRICES)
def test_the_matrix_unit_rounds_weights_too(matrices: MatrixOps, name: str, called: list[str]) -> None:
    check(matrices, name, 8e-3)
    assert all(kernel.endswith("_gradient") for kernel in called), "only gradients of weights are our own kernels'"
    assert called


@pytest.mark.parametrize("name", ["conv 8x8", "conv with stride", "pointwise, plus"])
def test_gradients_of_weights_are_not_rounded(matrices: MatrixOps, name: str) -> None:
    """What they are computed from is bf16's already."""
    layer, inputs, d_out = sampled(CASES[name])
    exact = answers(TORCH, CASES[name], layer, inputs, d_out, torch.float64)
    ours = answers(matrices, CASES[name], layer, inputs, d_out, torch.bfloat16)
    for tensor in ("d_weight", "d_bias"):
        assert apart(ours[tensor], exact[tensor]) < 3e-6, tensor


@pytest.mark.parametrize("name", BY_MATRICES)
def test_the_matrix_unit_computes_alike_again_and_without_gradients(matrices: MatrixOps, name: str) -> None:
    case = CASES[name]
    layer, inputs, d_out = sampled(case)
    first, again = (answers(matrices, case, layer, inputs, d_out, torch.bfloat16) for _ in range(2))
    assert all(torch.equal(first[tensor], again[tensor]) for tensor in first)
    maps = [x.bfloat16().contiguous(memory_format=torch.channels_last) for x in inputs]
    with torch.no_grad():
        assert torch.equal(case.run(matrices, layer, *maps), first["out"])


def test_small_maps_are_left_to_our_own_kernels(ops: NativeOps) -> None:
    case = CASES["conv of few tiles"]
    layer, inputs, d_out = sampled(case)
    small = [x[:, :, :4, :4].contiguous(memory_format=torch.channels_last) for x in inputs]
    made = (
        answers(how, case, layer, small, d_out[:, :, :4, :4], torch.bfloat16)
        for how in (MatrixOps(ops.library, torch.bfloat16), in_bf16(ops))
    )
    for by_matrices, ours in zip(*(answer.values() for answer in made), strict=True):
        assert torch.equal(by_matrices, ours)


@pytest.mark.parametrize("name", MAIN)
def test_it_is_the_same_without_gradients(ops: NativeOps, name: str) -> None:
    case = CASES[name]
    layer, inputs, _ = sampled(case)
    asked = case.run(ops, layer, *(x.requires_grad_() for x in inputs))
    with torch.no_grad():
        assert torch.equal(case.run(ops, layer, *inputs), asked)


def test_one_of_two_joined_maps_may_go_past_a_block(ops: NativeOps) -> None:
    norm, gradients = nn.GroupNorm(32, 64), []
    for each in (ops, TORCH):
        torch.manual_seed(0)
        layer, maps = nn.Conv2d(64, 32, 1), [torch.randn(2, 32, 3, 3, requires_grad=True) for _ in range(2)]
        h, past = each.branch(Joined(*maps), norm, layer)
        second = past.two if isinstance(past, Joined) else past[:, 32:]
        (h.sum() + (second**2).sum()).backward()
        gradients.append([x.grad for x in maps])
    for ours, torchs in zip(*gradients, strict=True):
        assert apart(ours, torchs) < 1e-5


class Block(NamedTuple):
    """A residual block of one map or of two that are joined; with heads, of attention behind it."""

    channels: tuple[int, ...]
    out: int
    scale_shift: bool = True
    dropout: float = 0.0
    heads: int = 0
    new_order: bool = False

    def run(self, kind: type[Ops], ops: Ops, layers: Any, embedding: Tensor, *maps: Tensor) -> Tensor:
        """The block as this kind of operations composes it, of those that `ops` has."""
        torch.manual_seed(3)
        x = maps[0] if len(maps) == 1 else Joined(*maps)
        skip = None if sum(self.channels) == self.out else layers["skip"]
        first, second = (layers["norm"], layers["conv"]), (layers["norm2"], layers["conv2"])
        settings = dict(scale_shift=self.scale_shift, dropout=self.dropout)
        h = kind.residual(ops, x, embedding, first, second, skip, **settings)
        if not self.heads:
            return h
        return kind.attention_block(ops, h, *(layers[n] for n in ("norm3", "qkv", "last")), self.heads, self.new_order)

    def layers(self) -> nn.Module:
        whole_in, out = sum(self.channels), self.out
        made = {"norm": nn.GroupNorm(32, whole_in), "conv": nn.Conv2d(whole_in, out, 3, padding=1)}
        made |= {"norm2": nn.GroupNorm(32, out), "conv2": nn.Conv2d(out, out, 3, padding=1)}
        if whole_in != out:
            made["skip"] = nn.Conv2d(whole_in, out, 1)
        if self.heads:
            made |= {"norm3": nn.GroupNorm(32, out), "qkv": nn.Conv1d(out, 3 * out, 1), "last": nn.Conv1d(out, out, 1)}
        return nn.ModuleDict(made)


BLOCKS = [
    Block((64,), 64),
    Block((64, 32), 64),
    Block((48, 16), 32),
    Block((32, 32), 64),  # joined, without a layer past it
    Block((32,), 64, dropout=0.2),
    Block((64,), 64, scale_shift=False),
    Block((32,), 64, heads=4),
    Block((64,), 64, heads=2, new_order=True),
    Block((64,), 96, heads=8),  # 12 channels of a head, which torch computes
]


@pytest.mark.parametrize(
    ("made", "dtype"), [(NativeOps, torch.float32), (NativeOps, torch.bfloat16), (MatrixOps, torch.bfloat16)]
)
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_what_its_parts_are(ops: NativeOps, block: Block, made: type[NativeOps], dtype: torch.dtype) -> None:
    ops = made(ops.library, dtype)
    torch.manual_seed(0)
    layers = block.layers()
    embedding = torch.randn(3, 2 * block.out if block.scale_shift else block.out)
    maps = [ops.enter(torch.randn(3, channels, 8, 8)) for channels in block.channels]
    d_out, found = ops.enter(torch.randn(3, block.out, 8, 8)), []
    for kind in (NativeOps, Ops):
        inputs = [tensor.clone().requires_grad_() for tensor in (embedding, *maps)]
        out = block.run(kind, ops, layers, *inputs)
        found.append([out, *torch.autograd.grad(out, [*inputs, *layers.parameters()], d_out)])
    recomputed = checkpoint(block.run, NativeOps, ops, layers, *inputs, use_reentrant=False)
    found.append([recomputed, *torch.autograd.grad(recomputed, [*inputs, *layers.parameters()], d_out)])
    parts, *others = reversed(found)
    for other in others:
        assert all(torch.equal(one, part) for one, part in zip(other, parts, strict=True))
    with torch.no_grad():
        assert torch.equal(block.run(NativeOps, ops, layers, embedding, *maps), parts[0])


def test_a_block_keeps_its_maps_with_autograd_alone(ops: NativeOps) -> None:
    """Else neither use_checkpoint nor the end of a block's gradient would free them."""
    block = Block((64, 32), 64)
    layers, embedding = block.layers(), torch.randn(3, 2 * block.out)
    maps = [ops.enter(torch.randn(3, channels, 8, 8)) for channels in block.channels]
    kept_shapes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept_shapes.append(t.shape) or t, lambda t: t):
        out = block.run(NativeOps, ops, layers, embedding, *maps)
    h = (3, block.out, 8, 8)
    assert {tuple(shape) for shape in kept_shapes if shape[2:] == h[2:]} == {*(tuple(x.shape) for x in maps), h}
    assert [part.held for part in out.grad_fn.parts] == 3 * [()]
    out.sum().backward()
    assert [part.held for part in out.grad_fn.parts] == 3 * [()]


@pytest.mark.parametrize("name", ["branch 7x7", "branch with dropout", "branch, pointwise"])
def test_what_is_normalised_is_not_kept(ops: NativeOps, name: str) -> None:
    layer, (x, *rest), _ = sampled(CASES[name])
    x, kept_sizes = x.contiguous(memory_format=torch.channels_last).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept_sizes.append(t.shape) or t, lambda t: t):
        CASES[name].run(ops, layer, x, *rest)
    assert [shape for shape in kept_sizes if shape[2:] == x.shape[2:]] == [x.shape]


def test_kernels_are_used_and_not_torch(ops: NativeOps, called: list[str]) -> None:
    """Else every comparison here would be of torch with itself."""
    for name in ("conv 8x8", "conv with stride", "pointwise", "norm silu 96", "linear", "attention 25"):
        check(ops, name)
    assert set(called) == {*build.OF_EACH_TYPE, "linear", "linear_gradient"}
    called.clear()
    check(ops, TORCHS)
    assert called == []


IN_BATCHES = [name for name, case in CASES.items() if case.shapes[0][0] == 3 and not name.startswith("dropout")]


@pytest.mark.parametrize("name", [name for name in IN_BATCHES if name != TORCHS])
def test_an_image_is_the_same_in_any_batch(ops: NativeOps, name: str) -> None:
    case = CASES[name]
    layer, inputs, d_out = sampled(case)
    together = answers(ops, case, layer, inputs, d_out, torch.float32)
    for k in range(3):
        alone = answers(ops, case, layer, [x[k : k + 1] for x in inputs], d_out[k : k + 1], torch.float32)
        for tensor in ("out", *(f"d_input{i}" for i in range(len(inputs)))):
            assert torch.equal(alone[tensor], together[tensor][k : k + 1]), tensor


@pytest.mark.parametrize("name", MAIN)
def test_the_same_again_and_with_other_threads(ops: NativeOps, name: str) -> None:
    case, of_threads = CASES[name], []
    layer, inputs, d_out = sampled(case)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert ops.library.most_threads() == threads, "there are two OpenMPs"
        first, again = (answers(ops, case, layer, inputs, d_out, torch.float32) for _ in range(2))
        assert all(torch.equal(first[tensor], again[tensor]) for tensor in first)
        of_threads.append(first)
    one, *others = of_threads
    for other in others:
        for tensor in one:
            assert apart(other[tensor], one[tensor]) < 1e-6, tensor


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "name",
    [
        "conv 4x4",
        "conv 8x8",
        "conv with stride",
        "pointwise",
        "joined 64 and 32",
        "norm",
        "norm silu 96",
        "attention 16",
        "attention 25",
    ],
)
def test_what_is_no_number_is_not_lost(ops: NativeOps, name: str, dtype: torch.dtype, value: float) -> None:
    """A training that diverges is to be noticed, and in the image whose fault it is."""
    case = CASES[name]
    layer, inputs, d_out = sampled(case)
    sound = answers(NativeOps(ops.library, dtype), case, layer, inputs, d_out, dtype)
    inputs[0][1, 7, 2, 2] = value
    damaged = answers(NativeOps(ops.library, dtype), case, layer, inputs, d_out, dtype)
    kept = [0, 2]
    for tensor in ("out", "d_input0"):
        assert torch.equal(damaged[tensor][kept], sound[tensor][kept]), tensor
    seen = [
        "out",
        *(tensor for tensor in damaged if tensor.endswith("weight")),
    ]  # of a product, the gradient of an input does not know it
    seen += [] if name.startswith(("conv", "pointwise")) else ["d_input0"]
    for tensor in seen:
        assert not damaged[tensor].isfinite().all(), tensor
    d_out[1, 5, 1, 1] = value
    inputs[0][1, 7, 2, 2] = 0
    for tensor, gradient in answers(NativeOps(ops.library, dtype), case, layer, inputs, d_out, dtype).items():
        assert tensor == "out" or not gradient.isfinite().all(), tensor


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_dropout_depends_on_nothing_but_its_keys(ops: NativeOps, share: float) -> None:
    """The share that is dropped, and how often two are dropped together, are those of independent draws.

    Neighbours in each direction are compared, and the same place under other keys; within five standard deviations,
    which chance passes once in two million times.
    """
    norm, x = nn.GroupNorm(32, 64), torch.randn(8, 64, 32, 32).contiguous(memory_format=torch.channels_last)

    def mask(*keys: int) -> Tensor:
        settings = NormSettings(norm.num_groups, norm.eps, silu=False, dropout=Dropout(keys, share))
        zeros = Norm.of(ops, settings, x, norm.weight, norm.bias, None) == 0
        assert torch.equal(zeros, ~kept(x.shape, keys, share))
        return zeros.double()

    one = mask(12345, 678)
    pairs = [
        (one[:, 1:], one[:, :-1]),
        (one[:, :, 1:], one[:, :, :-1]),
        (one[..., 1:], one[..., :-1]),
        (one[1:], one[:-1]),
    ]
    keys = np.random.default_rng(0).integers(2**31, size=(20, 2)).tolist()
    pairs += [(one, mask(*keys[0])), *itertools.pairwise(mask(*each) for each in keys)]
    for a, b in pairs:
        assert float(a.mean()) == pytest.approx(share, abs=5 * (share * (1 - share) / a.numel()) ** 0.5)
        both = share**2
        assert float((a * b).mean()) == pytest.approx(both, abs=5 * (both * (1 - both) / a.numel()) ** 0.5)


def test_dropout_draws_anew_at_every_call_and_alike_from_the_same_seed(ops: NativeOps) -> None:
    norm, x = nn.GroupNorm(32, 32), torch.randn(2, 32, 8, 8)
    torch.manual_seed(1)
    first, second = (ops.norm_silu(x, norm, dropout=0.5) for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(ops.norm_silu(x, norm, dropout=0.5), first)
    before = torch.get_rng_state()
    ops.norm_silu(x, norm)
    assert torch.equal(torch.get_rng_state(), before), "without dropout nothing is drawn"


@pytest.mark.parametrize("name", ["norm", "norm silu 96", "norm silu 320"])
def test_a_mean_that_is_large_beside_the_deviation_costs_no_more_than_in_torch(ops: NativeOps, name: str) -> None:
    case = CASES[name]
    layer, inputs, d_out = sampled(case)
    inputs[0] = inputs[0] + 1000
    exact = answers(TORCH, case, layer, inputs, d_out, torch.float64)
    torchs = answers(TORCH, case, layer, inputs, d_out, torch.float32)
    ours = answers(ops, case, layer, inputs, d_out, torch.float32)
    for tensor in exact:
        assert apart(ours[tensor], exact[tensor]) < 2 * apart(torchs[tensor], exact[tensor]) + 1e-5, tensor


def test_attention_is_as_sharp_as_it_gets(ops: NativeOps) -> None:
    """Scores of thousands: each pixel looks at one other, and nothing overflows."""
    case = attention(1, 5, 2, 16)
    _, inputs, d_out = sampled(case)
    inputs[0][:, :] *= 50
    exact = answers(TORCH, case, None, inputs, d_out, torch.float64)
    ours = answers(ops, case, None, inputs, d_out, torch.float32)
    assert apart(ours["out"], exact["out"]) < 1e-5
    assert ours["d_input0"].isfinite().all()


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize("name", ["conv 4x4", "pointwise"])
def test_what_is_frozen_has_no_gradient(ops: NativeOps, name: str, frozen: str) -> None:
    case = CASES[name]
    layer, inputs, d_out = sampled(case)
    assert layer is not None
    whole = answers(ops, case, layer, inputs, d_out, torch.float32)
    layer.zero_grad()
    layer.get_parameter(frozen).requires_grad_(False)
    rest = answers(ops, case, layer, inputs, d_out, torch.float32)
    assert whole.keys() - rest.keys() == {f"d_{frozen}"}
    assert all(torch.equal(rest[tensor], whole[tensor]) for tensor in rest)


@pytest.fixture(scope="module", params=PROCESSORS)
def older(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NativeOps:
    """Kernels for processors with shorter vectors, which this one can be as well."""
    installed()
    compiler = find_compiler()
    capabilities = torch.backends.cpu.get_cpu_capability()
    if not compiler or not capabilities.startswith("AVX"):
        pytest.skip(f"{capabilities} runs none of these")
    library = tmp_path_factory.mktemp("kernels") / "older.so"
    build.compile_all(compiler, library, request.param)
    return NativeOps(build.opened(library))


@pytest.mark.slow
@pytest.mark.parametrize("name", MAIN)
def test_other_processors_compute_the_same(older: NativeOps, name: str) -> None:
    assert older.block == 16
    check(older, name)
    check(in_bf16(older), name)
    torch.set_num_threads(3)
    check(older, name)


def test_another_compiler_makes_the_same(tmp_path: Path) -> None:
    clang = shutil.which("clang++")
    if clang is None:
        pytest.skip("there is no clang++")
    build.compile_all((clang,), tmp_path / "clang.so")
    for name in MAIN:
        check(NativeOps(build.opened(tmp_path / "clang.so")), name)
