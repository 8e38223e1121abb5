"""The rows of a progress.csv for charts: read once, kept while there is room, and a long log in the background."""

import secrets
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ddpm.runs import metrics
from ddpm.runs.metrics import MetricReader

MAIN = ("grad_norm", "loss", "mse", "vb", "eval_mse", "lg_loss_scale")  # shown where the log has them
AXES = ("step", "seconds", "samples")  # columns that a horizontal axis needs
SHORT = 2**24  # bytes that are read while somebody waits; of a log that is longer, only the columns asked for

_readers = ThreadPoolExecutor(2, thread_name_prefix="ddpm-metrics")


class Rows(NamedTuple):
    """Rows in order of step."""

    frame: pd.DataFrame
    epoch: str  # another one if rows that were there have changed
    revision: int
    whole: bool  # else it is a sketch of a log that is still being read

    @property
    def name(self) -> str:
        """Tells these rows from those before and after."""
        return f"{self.epoch}.{self.revision}"


class RowReader:
    """Reader of one progress.csv."""

    def __init__(self, path: Path):
        self.path = path
        self._reader: MetricReader | None = None
        self._token = secrets.token_hex(4)  # a new run of that name has another reader
        self._generation = 0
        self._loading: Future[pd.DataFrame] | None = None
        self._sketch: tuple[frozenset[str], pd.DataFrame] | None = None

    def has(self, columns: Collection[str]) -> bool:
        """Whether these columns are among those that are read."""
        return self._reader is not None and (self._reader.only is None or {*columns} <= self._reader.only)

    def read(self, columns: Collection[str]) -> Rows:
        """The newest rows, with these columns at least.  Raises what reading a damaged log raises."""
        if self._loading and self._loading.done():
            loading, self._loading, self._sketch = self._loading, None, None
            try:
                loading.result()
            except BaseException:
                self._reader = None  # the next question begins anew
                raise
        if not self._loading and not self.has(columns):
            self._begin(columns)
        reader = self._reader
        if reader is None:
            raise RuntimeError("no reader although one was begun")
        if not self._loading and reader.unread > SHORT:
            self._loading = _readers.submit(reader.read)
        if self._loading:
            return Rows(self._sketched(columns), f"{self._token}.sketch", 0, whole=False)
        frame = reader.read()
        return Rows(frame, f"{self._token}.{self._generation}.{reader.epoch}", reader.revision, whole=True)

    def _begin(self, columns: Collection[str]) -> None:
        before = (self._reader.only if self._reader else None) or ()
        self._generation += 1
        self._reader = MetricReader(self.path)
        if self._reader.unread > SHORT:
            self._reader = MetricReader(self.path, (*MAIN, *AXES, *before, *columns))

    def _sketched(self, columns: Collection[str]) -> pd.DataFrame:
        wanted = frozenset((*MAIN, *AXES, *columns))
        if not self._sketch or not wanted <= self._sketch[0]:
            self._sketch = (wanted, metrics.sketch(self.path, [*wanted]))
        return self._sketch[1]

    @property
    def size(self) -> int:
        """Bytes in memory; 0 while they are being read."""
        return 0 if self._loading or self._reader is None else self._reader.nbytes

    def forget(self) -> None:
        """Frees the memory."""
        if not self._loading:
            self._reader = self._sketch = None
