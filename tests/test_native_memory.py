"""Tensors of the kernels: laid out as torch's, aligned, and in memory that malloc uses again."""

import platform

import pytest
import torch

from ddpm import errors
from ddpm.models.native import build, memory

ALIGNED = 64  # bytes: a line of the cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 32, 5, 7), (1, 16, 1, 1), (3, 1, 4, 4), (2, 64, 33, 31)])
def test_maps_are_channels_last(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    n, channels, h, w = shape
    for size in (None, (2 * h, w)):
        made = memory.empty_map(torch.empty(n, 5, h, w, dtype=dtype), channels, size)
        torchs = torch.empty((n, channels, *(size or (h, w))), dtype=dtype, memory_format=torch.channels_last)
        assert (made.shape, made.dtype, made.stride()) == (torchs.shape, dtype, torchs.stride())
        assert made.data_ptr() % ALIGNED == 0
        assert not made._is_view()
        made.fill_(1.5)
        assert float(made.float().sum()) == 1.5 * made.numel()


@pytest.mark.parametrize(
    "shape", [(), (0,), (3,), (2, 3, 4), (20_000,), (300, 90), (2, 3, 4, 5_000), (2, 3, 4, 5, 600)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_others_are_contiguous(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for made in (memory.empty(shape, dtype), memory.empty_like(torch.empty(shape, dtype=dtype))):
        assert made.is_contiguous()
        assert (made.shape, made.dtype, made.stride()) == (shape, dtype, torch.empty(shape).stride())
        assert made.data_ptr() % ALIGNED == 0
        made.fill_(2)
        assert float(made.float().sum()) == 2 * made.numel()
    turned = torch.ones(3, 4).T
    assert memory.empty_like(turned).shape == (4, 3)
    assert memory.empty_like(turned).is_contiguous()


def test_no_two_have_the_same_memory_while_they_live() -> None:
    tensors = [memory.empty((20_000,)).fill_(k) for k in range(100)]
    views = [tensor[5:] for tensor in tensors]
    del tensors
    assert all(bool((view == k).all()) for k, view in enumerate(views))


def test_no_memory_is_an_error_that_says_how_much() -> None:
    if build.found().library is None:
        pytest.skip(build.found().why)
    with pytest.raises(MemoryError) as caught:
        memory.empty((1 << 46,))
    assert str(errors.translated(caught.value)) != str(errors.translated(MemoryError()))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="how malloc uses memory again was measured with glibc")
def test_what_is_gone_makes_room_for_as_much() -> None:
    kept, addresses = [], set()
    for _ in range(10):
        gone = memory.empty((25_000,))  # below what malloc maps on its own
        kept.append(memory.empty((300,)))  # or all would be one hole
        addresses.add(gone.data_ptr())
        del gone
    assert len(addresses) == 1
