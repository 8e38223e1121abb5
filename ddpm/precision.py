"""The numbers that a network computes with while it learns: fp32, or bf16 and fp16 where they are precise enough.

Mixed precision (Micikevicius et al. 2018): weights, averages, losses and the optimiser stay float32; the network
alone computes in 16 bits, as torch.autocast chooses.  fp16 ends at 65504 and at 6e-8, so the loss is scaled until
its gradients lie within, by a power of 2 that follows what overflows.
"""

from functools import cache

import torch
from torch import Tensor

from ddpm.config import SampleConfig, TrainConfig
from ddpm.diffusion import Network

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_LG_SCALE = 20.0  # improved-diffusion's
LEAST_LG_SCALE = -20.0  # where every step overflows down to here, scaling is not what is wrong


def chosen(train: TrainConfig, device: torch.device) -> str:
    """fp32, bf16 or fp16: what the settings name, and else what suits the device."""
    if train.precision != "auto":
        return train.precision
    if not train.use_fp16:
        return "fp32"
    return "fp16" if device.type == "cuda" else "bf16"


def for_sampling(sample: SampleConfig, device: torch.device) -> str:
    """fp32 or bf16, to draw with: what the settings name, and else bf16 where the processor computes in it."""
    if sample.precision != "auto":
        return sample.precision
    return "bf16" if device.type == "cpu" and has_bf16() else "fp32"


@cache
def has_bf16() -> bool:
    """Whether this processor multiplies matrices of bf16 faster than those of float32."""
    can = torch.cpu.get_capabilities()
    return any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def mixed(network: Network, precision: str) -> Network:
    """The network, computing in `precision`; its output is float32 whatever that is."""
    if precision == "fp32":
        return network

    def compute(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=DTYPES[precision]):
            output = network(x, t, **condition)
        return output.float()

    return compute


class LossScale:
    """2 to the power of `lg`: the factor that keeps fp16 gradients from vanishing, as improved-diffusion moves it."""

    def __init__(self, growth: float):
        self.growth = growth
        self.lg = FIRST_LG_SCALE

    @property
    def factor(self) -> float:
        return 2.0**self.lg

    def update(self, overflowed: bool) -> None:
        """Half as much after a step that overflowed, a little more after any other."""
        self.lg += -1 if overflowed else self.growth
