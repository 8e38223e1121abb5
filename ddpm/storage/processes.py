"""Which process a file names, and whether that one still runs.

The number of a process alone proves nothing: numbers are used again, a restart of the machine begins anew, and on
another machine or in another container the same number is another process.
"""

import contextlib
import os
import platform
import signal
import sys
import time
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, Self

import psutil

LINUX = sys.platform == "linux"
NAMESPACES = ("pid", "time")  # of Linux: process numbers, and the clocks that start with the machine

Condition = Literal["running", "stopped", "gone"]


class Owner(NamedTuple):
    """A process, named so that no other is taken for it."""

    host: str = ""
    boot: str = ""  # start of the machine, with the namespaces of process numbers and clocks; empty where unknown
    pid: int = 0
    start: float = 0.0  # on Linux in clock ticks since the machine started, elsewhere in seconds since the epoch

    @classmethod
    def this(cls) -> Self:
        """This process."""
        pid = os.getpid()
        return cls(platform.node(), boot(), pid, _look(pid)[1])

    @property
    def here(self) -> bool:
        """True if its number and its clock mean the same to this process."""
        return self.boot == boot() if self.boot else self.host == platform.node() and not boot()

    def condition(self) -> Condition:
        """Whether it runs, was stopped by a signal or a debugger, or is gone.  Call this only if it is `here`."""
        found, start = _look(self.pid)
        return found if start == UNKNOWN or abs(start - self.start) < TOLERANCE else "gone"

    def cpu_seconds(self) -> float:
        """Processor time that it has used; 0 where the system does not tell.  Call this only if it is `here`."""
        try:
            return sum(psutil.Process(self.pid).cpu_times()[:2])
        except (psutil.Error, ValueError):
            return 0.0


TOLERANCE = 0.5 if LINUX else 1.0  # of `start`: ticks are whole numbers, other systems round
UNKNOWN = -1.0  # start of a process that exists and that this user may not look at


@cache
def boot() -> str:
    """Name of this start of the machine and of this process's namespaces; empty on systems that do not tell."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        spaces = [str(os.stat(f"/proc/self/ns/{name}").st_ino) for name in NAMESPACES]
    except OSError:
        return ""
    return "-".join([text, *spaces])


def _look(pid: int) -> tuple[Condition, float]:
    """Condition and start of the process that has this number now; a zombie is gone."""
    if LINUX:
        with contextlib.suppress(OSError, ValueError, IndexError):
            words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            return _condition(words[0].decode()), float(words[19])
        return ("running", UNKNOWN) if pid > 0 and _exists(pid) else ("gone", 0.0)
    try:
        process = psutil.Process(pid)
        status = process.status()
    except psutil.AccessDenied:
        return "running", UNKNOWN
    except (psutil.Error, ValueError):
        return "gone", 0.0
    return _condition({psutil.STATUS_ZOMBIE: "Z", psutil.STATUS_STOPPED: "T"}.get(status, "")), process.create_time()


def _condition(letter: str) -> Condition:
    return "gone" if letter in "ZXx" and letter else "stopped" if letter in "Tt" and letter else "running"


def _exists(pid: int) -> bool:
    """True for a process of another user that is hidden from this one."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def age() -> float:
    """Seconds since this process started."""
    if LINUX:
        ticks = _look(os.getpid())[1]
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - psutil.Process().create_time()


def has_open(pid: int, path: Path) -> bool:
    """True if that process has the file open, also one that was removed since; True where the system does not tell."""
    if not LINUX:
        return True
    folder, removed = f"/proc/{pid}/fd", f"{os.path.realpath(path.parent)}/{path.name} (deleted)"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):  # just closed
                target = os.readlink(f"{folder}/{name}")
                if os.path.basename(target.removesuffix(" (deleted)")) != path.name:
                    continue
                if target == removed or os.path.samestat(os.stat(f"{folder}/{name}"), os.stat(path)):
                    return True
    return False


def kill(process: psutil.Process) -> None:
    """Kills exactly this process, never another that has got its number meanwhile.  Raises psutil.Error."""
    try:
        handle = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else None
    except ProcessLookupError:
        return
    except OSError:  # an older kernel
        handle = None
    if handle is None:
        process.kill()
        return
    try:
        if process.is_running():  # the same start: the handle is this process's
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
