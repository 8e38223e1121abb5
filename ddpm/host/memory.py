"""Memory of this machine, as far as this process may use it.  No torch."""

import psutil

from ddpm.host import control_groups


def available() -> int:
    """Bytes that can be used now."""
    free: int = psutil.virtual_memory().available
    limit = control_groups.memory()
    return free if limit is None else min(free, limit[1])


def total() -> int:
    """Bytes in all."""
    there: int = psutil.virtual_memory().total
    limit = control_groups.memory()
    return there if limit is None else min(there, limit[0])
