"""log.txt: what the process of a job logs."""

import contextlib
import io
import logging
from pathlib import Path

from ddpm import formatting
from ddpm.errors import as_user_error
from ddpm.runs import run_folder

log = logging.getLogger("ddpm")


class Lines(logging.Formatter):
    """Log lines with their time, and without the control characters that a name or a message may have."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return formatting.printable_lines(super().format(record))


class LogFile(logging.StreamHandler[io.TextIOWrapper]):
    """Log handler that appends to the log.txt of a job.

    Raises UserError if that is a link or anything else than a regular file, OSError if it cannot be written.
    """

    def __init__(self, path: Path):
        file = run_folder.folder_at(path.parent).append(path.name)
        super().__init__(io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", write_through=True))
        self.setFormatter(Lines())

    def close(self) -> None:
        """Closes the file."""
        with self.lock or contextlib.nullcontext():
            if not self.stream.closed:
                self.stream.close()
        super().close()


def opened(path: Path) -> LogFile | None:
    """The log.txt of a job; None, which is warned of, where the disk refuses it, as no work ends for want of a log.

    Raises UserError as LogFile does.
    """
    try:
        return LogFile(path)
    except OSError as error:
        log.warning("%s The work goes on without it.", as_user_error(error))
        return None
