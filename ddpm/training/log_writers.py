"""Formats of a training's log: progress.csv always, progress.json and TensorBoard's events where asked for."""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ddpm.errors import UserError, as_user_error
from ddpm.runs.progress_log import MetricWriter
from ddpm.storage.files import Written
from ddpm.storage.line_log import LineLog

log = logging.getLogger("ddpm")


class Writer(Protocol):
    """One format."""

    def write(self, row: Mapping[str, float]) -> object:
        """Take a row, which has a `step`."""

    def close(self) -> None:
        """Everything is on its way to the disk afterwards."""


class JsonWriter:
    """progress.json: an object a line, as improved-diffusion has it.  What is not a number is null, as JSON knows none.

    step: how many steps are done; what an earlier process wrote of later ones, which come again, is taken back.
    """

    def __init__(self, folder: Path, step: int):
        self._log = LineLog(folder / "progress.json")
        self._log.cut(lambda line: _step_of(line) > step)

    def write(self, row: Mapping[str, float]) -> None:
        """Append it; where there is no room it waits for the next one."""
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._log.append(json.dumps(finite, allow_nan=False))

    def close(self) -> None:
        """Let go of the file."""
        self._log.close()


def _step_of(line: str) -> float:
    """The step of a row in progress.json; -1 for a line that is none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return -1


class TensorBoardWriter:
    """Event files in tb/, a scalar a column.  first: the next step, from which TensorBoard hides older files."""

    def __init__(self, folder: Path, first: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tb"), purge_step=first, flush_secs=10)

    def write(self, row: Mapping[str, float]) -> None:
        """Hand its columns to the thread that writes them; raises what that ran into before."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        """Wait until they are written."""
        self._writer.close()


class RunLog:
    """Writes each row of a run in all its formats.  Whatever becomes of them, it ends no training.

    step: how many the run has done.  progress.csv is the one that counts: it is what everything else reads.
    """

    def __init__(self, folder: Path, columns: Sequence[str], formats: Sequence[str], step: int):
        self.csv = MetricWriter(folder / "progress.csv", columns)
        self._synced = Written(0, "")
        self.waits = False  # whether rows of progress.csv wait in memory
        self._others: dict[str, Writer] = {}
        makers: dict[str, tuple[str, Callable[[], Writer]]] = {
            "progress.json": ("json", lambda: JsonWriter(folder, step)),
            "tb": ("tensorboard", lambda: TensorBoardWriter(folder, step + 1)),
        }
        for name, (format, make) in makers.items():
            if format in formats:
                try:
                    self._others[name] = make()
                except Exception as error:
                    self._lose(name, error)

    def write(self, row: Mapping[str, float]) -> str:
        """Writes a row; returns a sentence for the status where something went wrong."""
        try:
            wrong = "" if self.csv.write(row) else "The disk is full: log lines wait in memory. Free some space."
        except OSError as error:
            wrong = f"{as_user_error(error)} Its lines wait in memory, and training goes on."
        if wrong and not self.waits:
            log.warning(wrong)
        self.waits = bool(wrong)
        for name, writer in list(self._others.items()):
            try:
                writer.write(row)
            except Exception as error:  # a library's thread may hand on anything
                wrong = wrong or self._lose(name, error)
        return wrong

    def _lose(self, name: str, error: Exception) -> str:
        """Go on without a format, and say so once."""
        self._others.pop(name, None)
        sentence = (
            f"{name} could not be written ({error}) and ends here; training goes on, and progress.csv has everything."
        )
        log.warning(sentence)
        return sentence

    def sync(self) -> Written:
        """Flushes progress.csv; returns the length and checksum of what is on disk.

        Where that fails it is said, and what was flushed before is returned: a checkpoint is saved all the same.
        """
        try:
            self._synced = self.csv.written()
        except (UserError, OSError) as error:
            log.warning(
                "%s Its newest lines wait in memory.", as_user_error(error) if isinstance(error, OSError) else error
            )
        return self._synced

    def close(self) -> None:
        """Let go of all files."""
        self.csv.close()
        for name, writer in list(self._others.items()):
            try:
                writer.close()
            except Exception as error:
                self._lose(name, error)
