"""How a network is computed: in which precision, and by whom.  Chosen by what the machine has; settings overrule.

On a CPU our own kernels do most of it (`ddpm.models.native.ops`), where they could be compiled; torch does the rest,
and all of it on a GPU.
"""

import ctypes
import logging
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddpm.compute import precision
from ddpm.diffusion.process import Network
from ddpm.models.native import build
from ddpm.models.native.ops import NativeOps
from ddpm.models.torch_ops import TORCH
from ddpm.models.unet import UNet
from ddpm.runs.worker import Worker

log = logging.getLogger("ddpm")


class ComputeMode(NamedTuple):
    """What was chosen, and what there is to say about it."""

    device: torch.device
    precision: str  # fp32, bf16 or fp16
    kernels: str  # native, torch or compile
    library: ctypes.CDLL | None  # with native
    notices: tuple[str, ...]  # sentences, where it is not what was asked for or could be faster

    @property
    def words(self) -> str:
        """Such as "on cpu, in fp32 by native kernels"; with how many threads changes as cores are shared."""
        who = {"native": "native kernels", "torch": "torch alone", "compile": "torch.compile"}[self.kernels]
        return f"on {self.device}, in {self.precision} by {who}"

    def prepared(self, network: Network) -> Network:
        """The network, to be called; its output is float32 whatever it computes in."""
        if isinstance(network, UNet):
            dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
            network.use(TORCH if self.library is None else NativeOps(self.library, dtype))
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
        warning = " ".join(filter(None, (worker.status.warning, *found.notices)))
        worker.beat(computed=found.words, warning=warning)
    return found


def resolve_backend(kernels: str, name: str, device: torch.device) -> ComputeMode:
    """Resolves the settings `kernels` and precision (`name`) on this device;
    compiles the kernels where they are used.
    """
    name = precision.resolve_precision(name, device)
    notices = list(precision.notices(name, device))
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
        return ComputeMode(device, name, "native", library, ())
    notices.append(f"Torch alone computes, which takes about twice as long, since {why}.")
    return ComputeMode(device, name, "torch", None, tuple(notices))


def _mixed(network: Network, dtype: torch.dtype) -> Network:
    def compute(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=dtype):
            output = network(x, t, **condition)
        return output.float()

    return compute
