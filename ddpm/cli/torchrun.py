"""A subcommand in several processes at once, as torchrun starts them: it is the main one that writes and speaks.

Without torchrun nothing here imports torch, so that a run shows its state before that is loaded.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ddpm.errors import UserError
from ddpm.runs.jobs import Helper, State, Worker

T = TypeVar("T")

LINGER = 5.0  # seconds in which the main process may say what is wrong: torchrun ends all once the first has left


def several() -> bool:
    """Whether torchrun started more than one process."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main() -> bool:
    """Whether this process is the one that writes and speaks."""
    return not several() or int(os.environ["RANK"]) == 0


def run(command: Callable[[argparse.Namespace], int | None], options: argparse.Namespace) -> int | None:
    """Run a subcommand, together with the other processes if there are any.  Only the main one lets a UserError out."""
    if not several():
        return command(options)
    from ddpm.compute import distributed

    try:
        with distributed.process_group():
            return command(options)
    except UserError:
        if is_main():
            raise
        time.sleep(LINGER)
        sys.exit(2)


def run_on_main(make: Callable[[], T]) -> T:
    """What `make` gives in the main process, in all of them."""
    if not several():
        return make()
    from ddpm.compute import distributed

    return distributed.run_on_main(make)


def worker(folder: Path, total_steps: int = 0, state: State = "starting") -> Worker:
    """The Worker of a job's folder; in all but the main process one that leaves the folder alone."""
    return (Worker if is_main() else Helper)(folder, total_steps, state)
