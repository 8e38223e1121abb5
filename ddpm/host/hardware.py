"""Cores that this process may use, by affinity and quota, and the processor.  No torch."""

import contextlib
import math
import os
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import psutil

from ddpm.host import control_groups


def physical() -> int:
    """Physical cores that this process may use, by its affinity and its container's quota."""
    bound = allowed()
    count = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    if bound is not None:
        count = min(count, _distinct(bound) or len(bound))
    return _within_quota(count)


def logical() -> int:
    """Logical cores that this process may use: the most threads that run at once."""
    bound = allowed()
    return _within_quota(len(bound) if bound is not None else psutil.cpu_count() or 1)


def allowed() -> list[int] | None:
    """Numbers of the logical cores that this process is bound to; None where the system knows no such thing."""
    with contextlib.suppress(psutil.Error, OSError, AttributeError):  # macOS has no affinity
        return psutil.Process().cpu_affinity() or None
    return None


def _distinct(allowed: Sequence[int]) -> int:
    """Number of physical cores among these logical ones, as Linux reports it; 0 where it does not."""
    with contextlib.suppress(OSError):
        topology = Path("/sys/devices/system/cpu")
        return len({(topology / f"cpu{n}" / "topology" / "thread_siblings_list").read_text() for n in allowed})
    return 0


def _within_quota(count: int) -> int:
    limit = control_groups.quota()
    return count if limit is None else max(1, min(count, math.ceil(limit)))


def requested_by_environment() -> int:
    """Threads that OMP_NUM_THREADS asks for, or 0.  The 1 that torchrun sets by itself asks for nothing."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first == "1" and "LOCAL_WORLD_SIZE" in os.environ:
        return 0
    return int(first) if first.isdecimal() else 0


def processor() -> str:
    """Name of the processor, as far as the system reports it quickly."""
    with contextlib.suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def bf16_is_barred() -> bool:
    """True if the environment bars torch from bf16 instructions, which it then emulates, hundreds of times slower."""
    return _are_barred("BF16", "FP16", "AMX", "AVX10")


def matrix_unit_is_barred() -> bool:
    """True if the environment bars torch from the processor's matrix unit."""
    return _are_barred("AMX")


def _are_barred(*instructions: str) -> bool:
    named = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    return named not in ("", "ALL", "DEFAULT") and not any(name in named for name in instructions)


@cache
def has_bf16() -> bool:
    """True if the processor has bf16 instructions, as Linux reports; `ddpm.compute.precision` asks torch instead."""
    return not bf16_is_barred() and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(instructions())


@cache
def instructions() -> frozenset[str]:
    """What the processor can do beyond the usual, in Linux's names; empty on other systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    return frozenset()
