"""Precision of training: fp32, or mixed precision in bf16 or fp16.

Mixed precision (Micikevicius et al. 2018): weights, averages, losses and the optimiser stay float32; the network
alone computes in 16 bits, as torch.autocast chooses.  fp16 spans 6e-8 to 65504, so the loss is scaled by a power of 2
that keeps its gradients within, and is halved after an overflow.
"""

from collections.abc import Iterator
from functools import cache

import torch

from ddpm.config.training import TrainConfig
from ddpm.host import hardware

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_LG_SCALE = 20.0  # improved-diffusion's
LEAST_LG_SCALE = -20.0  # where steps overflow down to here, training has diverged


def resolve_precision(name: str, device: torch.device) -> str:
    """Resolves auto to bf16 where the device computes in it, else to fp32; every other name stays as it is."""
    if name != "auto":
        return name
    return "bf16" if _is_fast(device) else "fp32"


def for_training(train: TrainConfig, device: torch.device) -> str:
    """The precision that the settings ask for; use_fp16 means what it does in improved-diffusion."""
    if train.precision != "auto" or not train.use_fp16:
        return train.precision
    return "fp16" if device.type == "cuda" else "bf16"


def notices(name: str, device: torch.device) -> Iterator[str]:
    """Yields a sentence where torch is slow in a precision on this device."""
    if name == "bf16" and not _is_fast(device):
        yield (
            "bf16 was asked for and this device has no instructions for it, so that torch is slower in it than in fp32."
        )
    if name == "fp16" and device.type == "cpu":
        yield "fp16 was asked for and is slow on a CPU: bf16 or fp32 suit it better."


def _is_fast(device: torch.device) -> bool:
    """True if the device has instructions for bf16."""
    return has_bf16() if device.type == "cpu" else torch.cuda.is_bf16_supported(including_emulation=False)


@cache
def has_bf16() -> bool:
    """True if this processor multiplies matrices of bf16 faster than those of float32."""
    can = torch.cpu.get_capabilities()
    return any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) and not hardware.bf16_is_barred()


@cache
def has_matrix_unit() -> bool:
    """True if torch multiplies matrices of bf16 by a matrix unit of this processor, Intel's AMX."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16")) and not hardware.matrix_unit_is_barred()


class LossScale:
    """Loss scale 2 ** lg that keeps fp16 gradients from vanishing, updated as in improved-diffusion."""

    def __init__(self, growth: float):
        self.growth = growth
        self.lg = FIRST_LG_SCALE

    @property
    def factor(self) -> float:
        return 2.0**self.lg

    def update(self, overflowed: bool) -> None:
        """Halves the scale after a step that overflowed, else increases lg by `growth`."""
        self.lg += -1 if overflowed else self.growth
