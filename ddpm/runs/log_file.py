"""log.txt: what the process of a job logs."""

import contextlib
import io
import logging
from pathlib import Path

from ddpm.runs import run_folder


class LogFile(logging.StreamHandler[io.TextIOWrapper]):
    """Log handler that appends to the log.txt of a job.

    Raises UserError if that is a link or anything else than a regular file, OSError if it cannot be written.
    """

    def __init__(self, path: Path):
        file = run_folder.folder_at(path.parent).append(path.name)
        super().__init__(io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", write_through=True))
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))

    def close(self) -> None:
        """Closes the file."""
        with self.lock or contextlib.nullcontext():
            if not self.stream.closed:
                self.stream.close()
        super().close()
