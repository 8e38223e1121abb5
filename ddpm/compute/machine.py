"""Description of this machine, for which measured seconds hold."""

import platform
from typing import Any

import torch

from ddpm.compute import distributed, precision
from ddpm.host import hardware


def described() -> dict[str, Any]:
    """System, processor, cores and threads, device, torch's version, and whether there are bf16 instructions."""
    return {
        "system": platform.system(),
        "processor": hardware.processor(),
        "cores": hardware.physical(),
        "threads": torch.get_num_threads(),
        "device": str(distributed.device()),
        "torch": torch.__version__,
        "bf16": precision.has_bf16(),
    }
