"""A small file that gives way when the disk is full, so that the last status of a job can still be written."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from ddpm.errors import UserError
from ddpm.storage import files

NAME = ".ballast"
BYTES = 2**16
WAITS = (0.0, 0.5, 2.0)  # seconds before each try to write the last status


def load(folder: Path) -> None:
    """Takes the room, as far as there is some."""
    with contextlib.suppress(UserError, OSError):
        if not (folder / NAME).exists():
            files.write_bytes(folder / NAME, os.urandom(BYTES))  # which no disk stores in less room


def drop(folder: Path) -> None:
    """Gives the room back."""
    with contextlib.suppress(OSError):
        (folder / NAME).unlink(missing_ok=True)


def write_last_json(path: Path, value: Any) -> None:
    """Writes JSON in the room of the ballast, and tries again for a moment where the disk refuses.

    Raises UserError or OSError as `files.write_json` does.
    """
    for number, seconds in enumerate(WAITS, 1):
        time.sleep(seconds)
        try:
            files.write_json(path, value)
            return
        except (UserError, OSError):
            if number == len(WAITS):
                raise
        drop(path.parent)
