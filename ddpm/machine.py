"""The machine that this is: what seconds hold for."""

import platform
from pathlib import Path
from typing import Any

import psutil
import torch

from ddpm import parallel, precision


def described() -> dict[str, Any]:
    """System, processor, cores and threads, device, torch's version, and whether there are bf16 instructions."""
    return {
        "system": platform.system(),
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(parallel.device()),
        "torch": torch.__version__,
        "bf16": precision.has_bf16(),
    }


def _processor() -> str:
    """Its name, as far as the system tells it without being asked at length."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()
