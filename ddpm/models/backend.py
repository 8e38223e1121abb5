"""How a network is computed: precision and kernels, by what the machine has unless the settings say otherwise.

On a CPU our own kernels do most of it (`ddpm.models.native.ops`), where they can be compiled, and in bf16 the matrix
unit of processors that have one (`ddpm.models.native.matrix`); torch does the rest, and all of it on a GPU.
"""

import ctypes
import logging
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ddpm.compute import precision
from ddpm.diffusion.denoiser import Network
from ddpm.models.native import build
from ddpm.models.native.matrix import MatrixOps
from ddpm.models.native.ops import NativeOps
from ddpm.models.torch_ops import TORCH, Ops
from ddpm.models.unet import UNet
from ddpm.runs.worker import Worker

log = logging.getLogger("ddpm")

NAMES = {  # of kernels
    "native": "native kernels",
    "amx": "native kernels and the matrix unit",
    "torch": "torch alone",
    "compile": "torch.compile",
}
NO_MATRIX_UNIT = "amx was asked for and torch finds no matrix unit here: the native kernels are faster."


class ComputeMode(NamedTuple):
    """How a network is computed on this machine."""

    device: torch.device
    precision: str  # fp32, bf16 or fp16
    kernels: str  # native, amx, torch or compile
    library: ctypes.CDLL | None  # with native and amx
    notices: tuple[str, ...]  # sentences, where it is not what was asked for or could be faster

    @property
    def words(self) -> str:
        """Such as "on cpu, in fp32 by native kernels"; threads are said elsewhere."""
        return f"on {self.device}, in {self.precision} by {NAMES[self.kernels]}"

    def prepared(self, network: Network) -> Network:
        """Prepares a network: x [N, C, H, W] -> float32 [N, C or 2C, H, W], whatever precision it computes in.

        The same network can be prepared for several at once, each of which computes in its own.  One that averages
        gradients over processes is compiled as a whole: torch then cuts it where its buckets end.
        """
        inner = network.module if isinstance(network, DistributedDataParallel) else network
        if isinstance(inner, UNet):
            dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
            native = MatrixOps if self.kernels == "amx" and dtype == torch.bfloat16 else NativeOps
            ops = TORCH if self.library is None else native(self.library, dtype)
            inner.use(ops)
            if self.kernels != "compile":
                network = _computed_by(ops, inner, network)
            if self.library is not None:
                return network
        if self.kernels == "compile" and isinstance(network, nn.Module):
            network = torch.compile(network)
        if self.precision == "fp32":
            return network
        return _mixed(network, precision.DTYPES[self.precision])


def resolve_and_report(kernels: str, name: str, device: torch.device | str, worker: Worker | None) -> ComputeMode:
    """Resolves as `resolve_backend` does, and reports the result in the log and in the status of a job."""
    found = resolve_backend(kernels, name, torch.device(device))
    for sentence in found.notices:
        log.warning("%s", sentence)
    log.info("Computed %s", found.words)
    if worker:
        worker.beat(computed=found.words)
        worker.warn(*found.notices)
    return found


def resolve_backend(kernels: str, name: str, device: torch.device) -> ComputeMode:
    """Resolves the settings `kernels` and precision (`name`) on this device; compiles the kernels if needed."""
    name = precision.resolve_precision(name, device)
    notices = list(precision.notices(name, device))
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # or convolutions in fp32 have 10 bits, on a GPU that can
    if device.type != "cpu" or kernels in ("torch", "compile"):
        return ComputeMode(device, name, "compile" if kernels == "compile" else "torch", None, tuple(notices))
    if name == "fp16":
        return ComputeMode(
            device,
            name,
            "torch",
            None,
            (*notices, "The native kernels compute in fp32 or bf16: fp16 is left to torch alone."),
        )
    build.keep_large_allocations()
    library, why = build.found()
    if library is not None:
        matrices = name == "bf16" and (kernels == "amx" or (kernels == "auto" and precision.has_matrix_unit()))
        slow = matrices and not precision.has_matrix_unit()
        return ComputeMode(device, name, "amx" if matrices else "native", library, (NO_MATRIX_UNIT,) if slow else ())
    notices.append(f"Torch alone computes, which takes about twice as long, since {why}.")
    return ComputeMode(device, name, "torch", None, tuple(notices))


def _computed_by(ops: Ops, inner: UNet, network: Network) -> Network:
    """`network` by those operations, also where `inner`, the U-Net in it, was prepared for others since."""

    def compute(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        if inner.ops is not ops:
            inner.use(ops)
        return network(x, t, **condition)

    return compute


def _mixed(network: Network, dtype: torch.dtype) -> Network:
    def compute(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=dtype):
            output = network(x, t, **condition)
        return output.float()

    return compute
