"""Watches the runs folder: one watcher for the whole server, and a cache of what was read of each run.

The watcher only counts: each change raises the revision of a part of a run, such as ("shapes", "progress.csv").
Pages ask for a part on every tick, and it is read again only when its revision rose, or when nothing
was heard for a while (file events get lost, and some disks have none).
"""

import errno
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st
from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from ddpm.runs import jobs, metrics, progress_log, runs
from ddpm.runs.jobs import Pulse, State, Status
from ddpm.runs.log_lines import Lines, LogReader
from ddpm.runs.progress_log import columns_of
from ddpm.runs.runs import Run
from ddpm.storage.files import TEMPORARY
from pages.ui.frame.metric_rows import RowReader, Rows
from pages.ui.frame.run_index import RunIndex

T = TypeVar("T")

CHANGES: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]
# Not among them: opened and closed, which our own reading would make.

SAFETY = 3.0  # seconds after which a part is checked again although no event arrived
KEPT_RUNS = 64  # whose metrics stay in memory, as far as there is room
ROOM = 2**30  # bytes for metrics
KEPT_GLANCES = 500


class Revisions(FileSystemEventHandler):
    """Counts changes in a folder, for each entry and each entry's entries."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._counts: dict[tuple[str, ...], int] = {}
        self._total = 0
        self._newest: dict[str, int] = {}  # entry of the folder -> `_total` at its last change
        self._lock = threading.Lock()

    def of(self, *parts: str) -> int:
        return self._counts.get(parts, 0)

    def since(self, total: int) -> tuple[int, set[str]]:
        """How many changes there were in all, and the entries of the folder that changed after `total` of them."""
        with self._lock:
            if total == self._total:
                return total, set()
            return self._total, {name for name, newest in self._newest.items() if newest > total}

    def on_any_event(self, event: FileSystemEvent) -> None:
        for path in {str(event.src_path), str(event.dest_path)} - {""}:
            try:
                parts = Path(path).relative_to(self.folder).parts[:2]
            except ValueError:
                continue
            if parts and not Path(path).name.startswith(TEMPORARY) and not parts[0].startswith(TEMPORARY):
                self.bump(*parts)

    def bump(self, *parts: str) -> None:
        with self._lock:
            self._total += 1
            self._newest[parts[0]] = self._total
            for length in range(1, len(parts) + 1):
                self._counts[parts[:length]] = self._counts.get(parts[:length], 0) + 1


def observe(folder: Path, revisions: Revisions, native: Callable[[], BaseObserver] = Observer) -> BaseObserver:
    """Starts an observer of file events, or a polling one where the system has no events to give."""
    # A folder created while its parent is scanned is seen twice: watchdog adds it again, which changes nothing, and
    # warns.
    warnings.filterwarnings("ignore", "Callback with id .* already exists", RuntimeWarning, "watchdog")
    for make in (native, lambda: PollingObserver(timeout=1)):
        observer = make()
        observer.name = "ddpm-watcher"
        observer.daemon = True
        observer.schedule(revisions, str(folder), recursive=True, event_filter=CHANGES)
        try:
            observer.start()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EMFILE, errno.ENOSYS, errno.EACCES) or make is not native:
                raise
            continue
        return observer
    raise AssertionError("the polling observer starts everywhere")


class RunView:
    """Cached contents of a run, shared by all sessions."""

    def __init__(self, run: Run, revisions: Revisions, pulse: Pulse):
        self.run = run
        self.created_at = run.created_at
        self._revisions = revisions
        self._pulse = pulse
        self._lock = threading.RLock()
        self._log = LogReader(run)
        self._rows = RowReader(run.progress_path)
        self._read: dict[str, tuple[int, float, Any]] = {}
        self._sparklines: dict[str, tuple[tuple[int, int, int], list[float]]] = {}  # file that was read, curve

    def status(self) -> Status | None:
        """The status; of a run that is done although its process could not say so, as it would have been."""
        status = self._fresh("status.json", self.run.status)
        return status if status is None or status.state in jobs.FINAL else jobs.settled(status, self.state())

    def problem(self) -> str:
        """What is wrong with the files of the run, as one sentence; empty if nothing is."""
        return self._fresh("status.json", self.run.problem, name="problem")

    def state(self) -> State:
        """Never cached: a process that dies makes no file event."""
        return self.run.state(self._pulse)

    def rows(self, columns: Collection[str]) -> Rows:
        """Rows of these metrics and of the axes; of a long log, a sketch until all of it was read in the background."""
        with self._lock:
            before = self._read.get("rows")
            if before and not (before[2].whole and self._rows.has(columns)):
                del self._read["rows"]
            return self._fresh("progress.csv", lambda: self._rows.read(columns), name="rows")

    def forget_rows(self) -> None:
        """Frees the memory that the rows take."""
        with self._lock:
            self._rows.forget()
            self._read.pop("rows", None)

    @property
    def row_bytes(self) -> int:
        """Memory that the rows take."""
        return self._rows.size

    def newest_row(self) -> dict[str, float | None]:
        """The last row of the log, which is the end of every curve; None for NaN and infinities."""
        return self._fresh("progress.csv", lambda: progress_log.row_before(self.run.progress_path), name="newest row")

    def columns(self) -> tuple[str, ...]:
        """Names of all logged metrics."""
        return self._fresh("progress.csv", lambda: columns_of(self.run.progress_path), name="columns")

    def previews(self) -> list[tuple[int, Path]]:
        return self._fresh("samples", self.run.previews)

    def checkpoints(self) -> list[runs.Checkpoint]:
        return self._fresh("saves", self.run.checkpoints)

    def log_lines(self, step: int | None = None) -> Lines:
        """The end of the log, or what was logged around a training step."""
        with self._lock:
            return self._fresh("log.txt", self._log.tail) if step is None else self._log.around(step)

    def sparkline(self, column: str) -> list[float]:
        """Coarse curve of a metric, cheap for a log of any length, and read again only when the log is another."""
        try:
            found = self.run.content.stat("progress.csv")
        except FileNotFoundError:
            return []
        seen = (found.st_ino, found.st_size, found.st_mtime_ns)
        with self._lock:
            if self._sparklines.get(column, (None,))[0] != seen:
                self._sparklines[column] = (seen, metrics.sparkline(self.run.progress_path, column))
            return self._sparklines[column][1]

    def _fresh(self, part: str, read: Callable[[], T], name: str = "") -> T:
        """Cached result of `read`, unless the part has changed since."""
        with self._lock:
            revision = self._revisions.of(self.run.name, part)
            before = self._read.get(name or part)
            if before and before[0] == revision and time.monotonic() - before[1] < SAFETY:
                return before[2]
            value = read()
            self._read[name or part] = (revision, time.monotonic(), value)
            return value


class Store:
    """Watcher of a runs folder and views of its runs."""

    def __init__(self, runs_dir: Path):
        runs_dir.mkdir(parents=True, exist_ok=True)
        self.runs_dir = runs_dir
        self.pulse = Pulse()
        self.revisions = Revisions(runs_dir)
        self.index = RunIndex(runs_dir, self.revisions.since, self.pulse)
        self._observer = observe(runs_dir, self.revisions)
        self._views: OrderedDict[Path, RunView] = OrderedDict()
        self._glances: OrderedDict[Path, RunView] = OrderedDict()
        self._lock = threading.Lock()

    def alive(self) -> bool:
        return self._observer.is_alive() and self.runs_dir.exists()

    def close(self) -> None:
        self.index.close()
        self._observer.stop()

    def view(self, run: Run) -> RunView:
        """View for a page that shows all of a run; its metrics stay in memory."""
        return self._kept(self._views, run, KEPT_RUNS)

    def rows(self, run: Run, columns: Collection[str]) -> Rows:
        """Rows of a run; those of runs that were not looked at for the longest time make room for them."""
        rows = self.view(run).rows(columns)
        with self._lock:
            views = list(self._views.values())
        for view in views[:-1]:
            if sum(view.row_bytes for view in views) > ROOM:
                view.forget_rows()
        return rows

    def glance(self, run: Run) -> RunView:
        """View for a page that lists many runs and does not read their metrics."""
        return self._kept(self._glances, run, KEPT_GLANCES)

    def _kept(self, views: OrderedDict[Path, RunView], run: Run, most: int) -> RunView:
        with self._lock:
            view = views.get(run.folder)
            if view is None or view.created_at != run.created_at:  # a new run may have an old one's name
                view = views[run.folder] = RunView(run, self.revisions, self.pulse)
            views.move_to_end(run.folder)
            while len(views) > most:
                views.popitem(last=False)
            return view


@st.cache_resource(show_spinner=False, max_entries=2, validate=lambda store: store.alive(), on_release=Store.close)
def store(runs_dir: Path) -> Store:
    """The server's only store for that folder."""
    return Store(runs_dir)
