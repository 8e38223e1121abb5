"""Uninitialised tensors of the kernels, in memory that malloc can use again once they are gone.

torch asks for aligned memory, and before version 2.38 glibc finds none where an equally large block was freed, so that
a training takes half as much memory again.  Large tensors are therefore what `kernels/memory.cpp` makes of malloc's.
"""

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ddpm.models.native import build

SMALL = 64 << 10  # bytes below which a tensor is torch's own: that is quicker, and it leaves no hole that counts
DIMENSIONS = 4  # that kernels/memory.cpp has sizes for

_capsule = ctypes.pythonapi["PyCapsule_New"]  # of our own: as an attribute it is everyone's
_capsule.argtypes, _capsule.restype = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p), ctypes.py_object


def empty(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """A contiguous tensor [...] of that shape."""
    if math.prod(shape) * dtype.itemsize < SMALL:
        return torch.empty(shape, dtype=dtype)
    return _large(shape, dtype, torch.contiguous_format)


def empty_like(tensor: Tensor) -> Tensor:
    """A contiguous tensor of the same shape [...] and dtype."""
    if tensor.nbytes < SMALL:
        return torch.empty_like(tensor, memory_format=torch.contiguous_format)
    return _large(tensor.shape, tensor.dtype, torch.contiguous_format)


def empty_map(like: Tensor, channels: int, size: Sequence[int] | None = None) -> Tensor:
    """A map [N, channels, H, W], channels last, of the dtype and by default of the size of the map `like`."""
    n, _, h, w = like.shape
    if size:
        h, w = size
    shape, dtype = (n, channels, h, w), like.dtype
    if n * channels * h * w * dtype.itemsize < SMALL:
        return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
    return _large(shape, dtype, torch.channels_last)


def _large(shape: Sequence[int], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    """float32 or bf16 [...], with at most DIMENSIONS dimensions.  Raises MemoryError where there is no memory."""
    library = build.found().library
    if library is None or len(shape) > DIMENSIONS:  # kernels that run elsewhere, as an emulator's do
        return torch.empty(shape, dtype=dtype, memory_format=memory_format)
    ones = (DIMENSIONS - len(shape)) * (1,)
    last = memory_format is torch.channels_last
    described = library.tensor(8 * dtype.itemsize, len(shape), *shape, *ones, last)
    if described is None:
        raise MemoryError(f"Unable to allocate {math.prod(shape) * dtype.itemsize / 2**20:.0f} MiB.")
    made: Tensor = from_dlpack(_capsule(described, b"dltensor", None))
    return made
