"""Processes that work in a job folder, to be stopped, killed, and deprived of their folder."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

WORK = """
import os, sys, time
from pathlib import Path
from ddpm.errors import UserError
from ddpm.runs.worker import Worker
try:
    with Worker(Path(sys.argv[1]), 100_000) as worker:
        worker.beat(state="running")
        print("working", flush=True)
        for step in range(1, 100_000):
            time.sleep(0.01)
            worker.beat(step=step)
            if "stop" in worker.poll_requests():
                worker.confirm_place()
                (worker.job.folder / f"saved-{os.getpid()}").touch()
                worker.beat(state="stopped", message="")
                break
except UserError as error:
    print(f"{error.code} {error}", flush=True)
    sys.exit(2)
"""

# What a process may have before its work: another machine's name, and a disk without locks.
ELSEWHERE = """
import platform
from ddpm.storage import processes
processes.boot = lambda: "boot of {0}"
platform.node = lambda: "{0}"
"""
WITHOUT_LOCKS = """
import errno, portalocker
def none(file, flags):
    cause = OSError(errno.{0}, os_error(errno.{0}))
    raise portalocker.LockException(cause) from cause
from os import strerror as os_error
portalocker.lock = none
"""


class Working:
    """A process that has begun to work, or has refused to."""

    def __init__(self, folder: Path, prelude: str = ""):
        command = [sys.executable, "-c", prelude + WORK, str(folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def said(self) -> str:
        """The next line that it printed; empty once it has ended."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


@contextmanager
def working(folder: Path, count: int = 1, prelude: str = "") -> Iterator[list[Working]]:
    """Starts processes that work in the folder, as many at once."""
    started = [Working(folder, prelude) for _ in range(count)]
    try:
        yield started
    finally:
        for one in started:
            one.end()


def remove(path: Path) -> None:
    """Removes a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        os.unlink(path)
