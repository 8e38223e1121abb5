"""Uninitialised tensors of the kernels, in memory that malloc can use again once they are gone.

torch asks for aligned memory, and before version 2.38 glibc finds none where an equally large block was freed, so that
a training takes half as much memory again.  Here blocks are larger by the alignment, and tensors begin where they are
aligned.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SMALL = 64 << 10  # bytes below which a tensor is torch's own: that is quicker, and it leaves no hole that counts
ALIGNED = 64  # bytes of which addresses are a multiple, as torch's are: a line of the cache


def empty(shape: Sequence[int], dtype: torch.dtype = torch.float32, strides: Sequence[int] | None = None) -> Tensor:
    """A tensor [...] of that shape, contiguous, or with other strides over as many numbers."""
    width, count = dtype.itemsize, 1
    contiguous = [1] * len(shape)
    for k in reversed(range(len(shape))):
        contiguous[k], count = count, count * shape[k]
    if count * width < SMALL:
        return torch.empty_strided(shape, strides or contiguous, dtype=dtype)
    block = torch.from_numpy(np.empty(count * width + ALIGNED, np.uint8))
    first = -block.data_ptr() % ALIGNED // width
    # Not a view, which autograd would have to follow.
    return torch.empty(0, dtype=dtype).set_(block.untyped_storage(), first, shape, strides or contiguous)


def empty_like(tensor: Tensor) -> Tensor:
    """A contiguous tensor of the same shape [...] and dtype."""
    return empty(tensor.shape, tensor.dtype)


def empty_map(like: Tensor, channels: int, size: Sequence[int] | None = None) -> Tensor:
    """A map [N, channels, H, W], channels last, of the dtype and by default of the size of the map `like`."""
    n, _, *own = like.shape
    h, w = size or own
    return empty((n, channels, h, w), like.dtype, (h * w * channels, 1, w * channels, channels))
