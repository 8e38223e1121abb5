"""What the process of a job takes of this machine: memory and cores, and what is left on the disk."""

import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from ddpm.runs.jobs import Job

LEAST = 1.0  # seconds between two looks at the processor time, from which the cores in use follow


class Usage(NamedTuple):
    """What the process of a job takes.  None where it has none on this machine, or the system does not tell."""

    memory: int | None  # bytes that are in memory
    cores: float | None  # cores in use since the last look, with fractions
    disk_left: int | None  # bytes


class _Look(NamedTuple):
    pid: int
    at: float
    seconds: float
    cores: float | None


class Meter:
    """Looks at the processes of jobs, and remembers the last look at each."""

    def __init__(self) -> None:
        self._looks: dict[Path, _Look] = {}
        self._lock = threading.Lock()

    def usage(self, job: Job) -> Usage:
        """What the process of a job takes now."""
        memory, cores = None, None
        for process in job.processes():
            try:
                with process.oneshot():
                    memory, times = process.memory_info().rss, process.cpu_times()
            except psutil.Error:  # it has just ended
                continue
            cores = self._cores(job.folder, process.pid, times.user + times.system)
        return Usage(memory, cores, disk_left(job.folder))

    def _cores(self, folder: Path, pid: int, seconds: float) -> float | None:
        now = time.monotonic()
        with self._lock:
            before = self._looks.get(folder)
            if before is None or before.pid != pid:
                self._looks[folder] = _Look(pid, now, seconds, None)
                return None
            if now - before.at < LEAST:
                return before.cores
            cores = max(0.0, seconds - before.seconds) / (now - before.at)
            self._looks[folder] = _Look(pid, now, seconds, cores)
            return cores


def disk_left(folder: Path) -> int | None:
    """Bytes that are left on the disk of a folder."""
    try:
        return psutil.disk_usage(str(folder)).free
    except OSError:
        return None


def own_memory() -> int:
    """Bytes that this process has in memory."""
    return psutil.Process().memory_info().rss
