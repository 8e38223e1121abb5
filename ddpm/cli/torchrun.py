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
from ddpm.storage import files

T = TypeVar("T")

JOB = "torchrun.json"  # in a run's folder
MOST_JOB = 10_000  # bytes of it
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


def mark(folder: Path) -> None:
    """Writes into a new run by which job of torchrun it was begun, where that has an id (--rdzv_id)."""
    if job := _job_id():
        files.write_json(folder / JOB, {"id": job})


def began(folder: Path) -> bool:
    """True if the run was begun by the job of torchrun that this process belongs to, on whichever machine.

    Machines that joined later do not know when it began, but its id.
    """
    try:
        found = files.read_json(folder / JOB, MOST_JOB) if _job_id() else None
    except (UserError, OSError):
        return False
    return isinstance(found, dict) and found.get("id") == _job_id()


def _job_id() -> str:
    """The id of the job of torchrun that this process belongs to; empty if it has none."""
    job = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return "" if job == "none" else job


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
