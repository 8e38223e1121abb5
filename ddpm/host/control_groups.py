"""What this process's control groups allow it: containers, systemd, batch systems.  Linux alone has them."""

from collections.abc import Iterator
from pathlib import Path

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def folders(controller: str, groups: Path = GROUPS, own: Path = OWN) -> Iterator[Path]:
    """Yields the folders of a controller, such as cpu: its own group and all above, each of which limits too."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        top = groups / controller if controllers else groups
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):  # in a container the path may be the host's, and the top is its own
            yield top.joinpath(*parts[:depth])


def quota(groups: Path = GROUPS, own: Path = OWN) -> float | None:
    """Seconds of CPU a second.  None: no limit.

    Version 2 has it in cpu.max ("150000 100000"), version 1 in two files of the cpu controller.
    """
    limits = []
    for folder in folders("cpu", groups, own):
        found = _numbers(folder / "cpu.max", 2)
        found = found or _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
        if len(found) == 2 and min(found) > 0:
            limits.append(found[0] / found[1])
    return min(limits, default=None)


def memory(groups: Path = GROUPS, own: Path = OWN) -> tuple[int, int] | None:
    """Bytes of memory: the limit, and what is free of it.  None: no limit.

    Files that the system keeps in memory until it needs the room are free.
    """
    total, free = [], []
    for folder in folders("memory", groups, own):
        for limit, used, prefix in (
            ("memory.max", "memory.current", ""),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        ):
            found = _numbers(folder / limit), _numbers(folder / used)
            if found[0] and found[1]:
                kept = (_statistic(folder / "memory.stat", f"{prefix}{name}_file") for name in ("inactive", "active"))
                total.append(found[0][0])
                free.append(max(0, found[0][0] - found[1][0] + sum(kept)))
    return (min(total), min(free)) if total else None


def _numbers(path: Path, count: int = 1) -> list[int]:
    """So many numbers of a file; empty where there is no limit ("max") or no such file."""
    try:
        found = [int(word) for word in path.read_text().split()]
    except (OSError, ValueError):
        return []
    return found if len(found) == count else []


def _statistic(path: Path, name: str) -> int:
    """A number of memory.stat; 0 where it is not there."""
    try:
        return next((int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(f"{name} ")), 0)
    except (OSError, ValueError, IndexError):
        return 0
