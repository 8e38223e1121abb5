"""The rows of the table of runs: what is known of each run, kept up to date at a cost that follows from changes.

A browser asks for what has changed since the revision that it has.  Runs that the watcher heard of are looked at
again before it is answered, for a moment at most; what is left, the logs and the sizes follow in a thread, which ends
when no one has asked for a while.  A process that dies makes no event: the state of runs that are active is looked at
each time.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ddpm.errors import UserError
from ddpm.runs import footprint, run_names, runs
from ddpm.runs.jobs import Pulse
from ddpm.runs.runs import Run
from pages.ui.frame import run_row
from pages.ui.frame.run_row import Entry, Row

LOOK = 0.3  # seconds that an answer may spend on looking at runs
LIST = 10.0  # seconds after which the folder is listed although nothing was heard
CHECK = 60.0  # seconds after which the files of all runs are checked although nothing was heard
SUM = 4.0  # seconds between two readings of the log of a run
WEIGH = 60.0  # seconds between two sums of what a run takes of the disk
REST = 15.0  # seconds without a request after which the thread ends

Changes = Callable[[int], tuple[int, set[str]]]


class RunIndex:
    """The rows of all runs in a folder.  The revision of an answer names this index, and counts changes."""

    def __init__(self, runs_dir: Path, changes: Changes, pulse: Pulse):
        """changes: what was heard since a count of changes: the count now, and names in the folder that changed."""
        self._runs_dir = runs_dir
        self._changes = changes
        self._pulse = pulse
        self._id = secrets.token_hex(4)
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        self._gone: dict[str, int] = {}  # name of a run that is no longer there -> revision
        self._revision = 0
        self._heard = 0
        self._listed = self._checked = self._asked = float("-inf")
        self._to_look: dict[str, None] = {}  # names, in order
        self._to_sum: dict[str, float] = {}  # name -> when
        self._to_weigh: dict[str, float] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()

    def answer(self, since: str) -> str:
        """JSON for a browser that has the revision `since` ("" for none): what has changed, or that nothing has.

        {"same": true, "soon"}, or {"revision", "soon", "count", "gone", "rows"}, and for a browser that has none also
        {"whole": true} with what the settings are.  soon: more is on its way.  count: how many runs there are.  Raises
        OSError and UserError if the folder of runs cannot be read.
        """
        identity, _, number = since.partition(".")
        with self._lock:
            self._asked = time.monotonic()
            self._notice()
            self._look(LOOK)
            self._begin_thread()
            whole = identity != self._id or not number.isdecimal()
            last = -1 if whole else int(number)
            soon = bool(self._to_look) or _due(self._to_sum) is not None
            if last == self._revision:
                return json.dumps({"same": True, "soon": soon})
            gone = [name for name, revision in self._gone.items() if revision > last]
            head = {
                "revision": f"{self._id}.{self._revision}",
                "soon": soon,
                "count": len(self._entries),
                **({"whole": True, **run_row.legend()} if whole else {"gone": gone}),
            }
            rows = ",".join(e.text for e in self._entries.values() if e.text and e.revision > last)
            return f'{json.dumps(head)[:-1]}, "rows": [{rows}]}}'

    def rows(self) -> list[Row]:
        """All rows, after a look at every run that has changed."""
        with self._lock:
            self._notice()
            self._look(float("inf"))
            return [json.loads(entry.text) for entry in self._entries.values()]

    # --- which runs there are, and which have to be looked at

    def _notice(self) -> None:
        now = time.monotonic()
        self._heard, names = self._changes(self._heard)
        if now - self._listed > LIST:
            self._listed = now
            self._list()
        for name in filter(run_names.is_name, names):
            self._meet(Run(self._runs_dir / name), changed=True)
        if now - self._checked > CHECK:
            self._checked = now
            for entry in self._entries.values():
                if entry.text and footprint.stamp(entry.run.folder) != entry.stamp:
                    self._to_look[entry.run.name] = None
        for entry in self._entries.values():
            if entry.active and entry.run.state(self._pulse) != entry.base["state"]:
                self._to_look[entry.run.name] = None

    def _list(self) -> None:
        found = runs.list_runs(self._runs_dir)
        for name in self._entries.keys() - {run.name for run in found}:
            self._forget(name)
        for run in found:
            self._meet(run)

    def _meet(self, run: Run, changed: bool = False) -> None:
        """Takes in a run that may be new, another one of the same name, or gone."""
        try:
            created = run.created_at
        except (FileNotFoundError, NotADirectoryError):
            self._forget(run.name)
            return
        entry = self._entries.get(run.name)
        if entry is None or entry.created != created:
            self._entries[run.name] = Entry(run, created)
            self._gone.pop(run.name, None)
            changed = True
        if changed:
            self._to_look[run.name] = None

    def _forget(self, name: str) -> None:
        if self._entries.pop(name, None):
            self._revision += 1
            self._gone[name] = self._revision
            for waiting in (self._to_look, self._to_sum, self._to_weigh):
                waiting.pop(name, None)

    # --- looking at them

    def _look(self, seconds: float) -> None:
        """Looks at runs for so long, and at one at least."""
        end = time.monotonic() + seconds
        while self._to_look:
            name = next(iter(self._to_look))
            del self._to_look[name]
            entry = self._entries[name]
            entry.stamp = footprint.stamp(entry.run.folder)
            try:
                entry.look(self._pulse)
            except (FileNotFoundError, NotADirectoryError):  # it went away just now
                self._forget(name)
                continue
            self._publish(entry)
            now = time.monotonic()
            self._to_sum[name] = max(now, entry.summed_at + SUM)
            self._to_weigh[name] = max(now, entry.weighed_at + WEIGH)
            if now >= end:
                return

    def _publish(self, entry: Entry) -> None:
        if entry.write():
            self._revision += 1
            entry.revision = self._revision

    # --- in the thread

    def _begin_thread(self) -> None:
        if self._thread is None and not self._closed.is_set():
            self._thread = threading.Thread(target=self._work, name="ddpm-index", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            busy = self.work()
            with self._lock:
                if self._closed.is_set() or time.monotonic() - self._asked > REST:
                    self._thread = None
                    return
            self._closed.wait(0.001 if busy else 0.5)  # requests come first

    def work(self) -> bool:
        """Does the next thing that is left to do: looks at a run, reads its log, or sums its size; False if none is."""
        with self._lock:
            if self._to_look:
                self._look(0.0)
                return True
            summing = _due(self._to_sum)
            weighing = _due(self._to_weigh) if summing is None else None
            entry = self._entries.get(summing or weighing or "")
            self._to_sum.pop(summing or "", None)
            self._to_weigh.pop(weighing or "", None)
        if entry is None:
            return False
        try:
            if summing:
                entry.sum_up()
            else:
                entry.weigh()
        except (UserError, OSError):  # the row says what is wrong with the run
            return True
        with self._lock:
            self._publish(entry)
        return True


def _due(waiting: dict[str, float]) -> str | None:
    """The first name whose time has come."""
    now = time.monotonic()
    return next((name for name, when in waiting.items() if when <= now), None)
