"""Weights in a quarter of their bytes: int8 with a scale for each output channel, as the examples are kept.

weight[k] = scale[k] * q[k], with whole numbers q from -127 to 127.  The error is at most half a scale, a 254th of the
largest weight of its channel.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

SCALE = ".int8_scale"  # after the name of a tensor that is held as int8
LEAST = 256  # values from which a matrix is held as int8: smaller ones are of little weight in a file


def pack(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns what a file holds of `weights`, float32 [...] each: matrices as int8, with scales float32 [K]; the rest
    as float16."""
    packed = {}
    for name, tensor in weights.items():
        if tensor.ndim < 2 or tensor.numel() < LEAST:
            packed[name] = tensor.to(torch.float16)
            continue
        rows = tensor.float().flatten(1)
        scale = rows.abs().amax(dim=1) / 127
        whole = (rows / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round()
        packed[name] = whole.view(tensor.shape).to(torch.int8)
        packed[name + SCALE] = scale
    return packed


def unpack(content: Any) -> Any:
    """Returns the weights of what `pack` made, float32 [...] where they were int8; anything else as it is.

    What is not as `pack` makes it stays too, to be diagnosed as any other file is.
    """
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return content
    scales = {name.removesuffix(SCALE): scale for name, scale in content.items() if name.endswith(SCALE)}
    if not scales or not all(_fit(content.get(name), scale) for name, scale in scales.items()):
        return content
    whole: Any = type(content)()
    for name, tensor in content.items():
        if not name.endswith(SCALE):
            scale = scales.get(name)
            whole[name] = tensor if scale is None else tensor * scale.view(-1, *[1] * (tensor.ndim - 1))
    if hasattr(content, "_metadata"):
        whole._metadata = content._metadata
    return whole


def _fit(tensor: Any, scale: Any) -> bool:
    """Whether they are a tensor of int8 and the scales of its output channels."""
    return (
        isinstance(tensor, Tensor)
        and isinstance(scale, Tensor)
        and tensor.dtype == torch.int8
        and scale.dtype == torch.float32
        and scale.ndim == 1
        and tensor.ndim >= 2
        and len(scale) == len(tensor)
    )
