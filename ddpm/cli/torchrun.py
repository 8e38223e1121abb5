"""Subcommands in several processes, as torchrun starts them: only the main process writes files and prints.

Without torchrun nothing here imports torch, so that a run shows its state before torch is loaded.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from ddpm.errors import UserError
from ddpm.runs.jobs import State
from ddpm.runs.worker import Helper, Worker

T = TypeVar("T")

LINGER = 5.0  # seconds for the main process to print its error: torchrun ends all once the first has left


def is_distributed() -> bool:
    """True if torchrun started more than one process."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main() -> bool:
    """True for the process that writes files and prints."""
    return not is_distributed() or int(os.environ["RANK"]) == 0


def has_started(created: float) -> bool:
    """True if what was created then, in seconds since the epoch, came after the start of this process's torchrun.

    A run that bears the name of a new one is then the same training, which torchrun starts again.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ and created >= psutil.Process(os.getppid()).create_time()


def may_restart() -> bool:
    """True if torchrun starts all processes again when one is lost."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def run(command: Callable[[argparse.Namespace], T], options: argparse.Namespace) -> T:
    """Runs a subcommand, together with the other processes if there are any.  Only the main one raises a UserError."""
    if not is_distributed():
        return command(options)
    from ddpm.compute import distributed

    try:
        with distributed.process_group():
            return command(options)
    except UserError as error:
        if is_main():
            raise
        time.sleep(LINGER)
        sys.exit(0 if error.code == "nothing-left" else 2)


def run_on_main(make: Callable[[], T]) -> T:
    """Calls `make` in the main process alone; returns its result in all of them."""
    if not is_distributed():
        return make()
    from ddpm.compute import distributed

    return distributed.run_on_main(make)


def worker_for(folder: Path, total_steps: int = 0, state: State = "starting") -> Worker:
    """Worker of a job's folder; in all but the main process one that does not touch the folder."""
    return (Worker if is_main() else Helper)(folder, total_steps, state)
