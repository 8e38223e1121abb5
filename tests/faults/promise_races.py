"""Races: several processes start in one folder at once, and folders and locks vanish while a process works."""

import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from working import ELSEWHERE, WITHOUT_LOCKS, Working, remove, working

from ddpm.runs.jobs import ACTIVE, Job
from ddpm.storage import processes
from faults.table import Row

ROOT = Path(__file__).resolve().parents[2]

STARTERS = 4
PATIENCE = 120.0  # seconds until a race counts as lost because nothing happens


# Each line names a folder: the process tries to work there, says whether it does, and leaves at the next line.
STARTER = """
import sys
from pathlib import Path
from ddpm.errors import UserError
from ddpm.runs import worker
from ddpm.storage import leases
worker.WATCH = leases.EXPIRY = 1.5
leases.RENEWAL = 0.05
for line in sys.stdin:
    try:
        with worker.Worker(Path(line.strip())) as work:
            work.beat(state="running", now=True)
            print("works", flush=True)
            sys.stdin.readline()
            work.beat(state="stopped")
    except UserError as error:
        print(error.code, flush=True)
        sys.stdin.readline()
    print("left", flush=True)
"""


class Starter:
    """A process that starts in one folder after another."""

    def __init__(self, prelude: str):
        self._process = subprocess.Popen(
            [sys.executable, "-c", prelude + STARTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # warnings about missing locks
            text=True,
            cwd=ROOT,
        )

    def tell(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def said(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def starters(preludes: list[str]) -> Iterator[list[Starter]]:
    found = [Starter(prelude) for prelude in preludes]
    try:
        yield found
    finally:
        for one in found:
            one.end()


def _stale(folder: Path, of: str) -> None:
    """Leaves the lease of a process that ended without a word: of this machine, or of another."""
    own = processes.Owner.this()
    owner = {"host": own.host, "boot": own.boot, "pid": 2**22 - 5, "start": 1.0}
    if of == "another":
        owner |= {"host": "gone", "boot": "gone"}
    record = {**owner, "token": "old", "beat": 9, "renewed": 1.0, "released": False}
    (folder / "run.lease").mkdir(parents=True)
    (folder / "run.lease" / "000004.json").write_text(json.dumps(record))


def started_at_once(place: Path, rounds: int, preludes: list[str], stale: str = "", chaos: bool = False) -> int:
    """How many of the rounds do not end with one process that works.  chaos: its lock is removed all the time."""
    lost = 0
    with starters(preludes) as found:
        for number in range(rounds):
            folder = place / f"{number}"
            folder.mkdir(parents=True)
            if stale:
                _stale(folder, stale)
            end = threading.Event()

            def unlink(folder: Path = folder, end: threading.Event = end) -> None:
                while not end.is_set():
                    (folder / "run.lock").unlink(missing_ok=True)
                    time.sleep(random.uniform(0, 0.002))

            remover = threading.Thread(target=unlink if chaos else lambda: None)
            remover.start()
            for one in found:
                one.tell(str(folder))
            words = [one.said() for one in found]
            end.set()
            remover.join()
            for one in found:
                one.tell("leave")
            left = [one.said() for one in found]
            # While locks vanish, all may find it busy, or see their own vanish; two that work are never allowed.
            wrong = words.count("works") > 1 if chaos else sorted(words) != ["busy"] * (len(words) - 1) + ["works"]
            if wrong or left != ["left"] * len(words):
                print(folder, words, left, file=sys.stderr)
                lost += 1
            shutil.rmtree(folder)
    return lost


def stopped_processes(place: Path, rounds: int) -> int:
    """How often a process stopped at a random moment is not seen so within five seconds, or not when it goes on."""
    lost = 0
    with working(place / "stopped") as (one,):
        one.said()
        job = Job(place / "stopped")
        for _ in range(rounds):
            time.sleep(random.uniform(0, 0.3))
            one.process.send_signal(signal.SIGSTOP)
            seen = _within(5, lambda: job.state() == "not responding")
            one.process.send_signal(signal.SIGCONT)
            lost += not (seen and _within(5, lambda: job.state() == "running"))
    return lost


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def places_taken_away(place: Path, rounds: int, how: str, prelude: str = "") -> int:
    """How often a process whose folder is moved, deleted or unlocked goes on, saves elsewhere, or makes it again."""
    lost = 0
    for number in range(rounds):
        folder, moved = place / f"{how}{number}", place / f"{how}{number} moved"
        with working(folder, prelude=prelude) as (one,):
            one.said()
            time.sleep(random.uniform(0, 1.5))
            with_a_second = Working(folder, prelude) if how == "unlock" else None
            if how == "move":
                folder.rename(moved)
            elif how == "delete":
                while folder.exists():
                    shutil.rmtree(folder, ignore_errors=True)
            else:
                remove(folder / random.choice(["run.lock", "run.lease"]))
            second = with_a_second.said() if with_a_second else ""
            saved = f"saved-{one.process.pid}"
            next_one = second == "working" and (folder / saved).exists()  # it came when the first had ended
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(PATIENCE)
            where = {"move": moved, "unlock": folder}.get(how)
            well = one.process.returncode == (2 if how == "delete" else 0)
            well &= next_one or second == "" or second.startswith("busy")
            well &= (where / saved).exists() if where else not folder.exists()
            well &= how == "unlock" or not folder.exists()
            well &= where is None or Job(where).state() == ("running" if next_one else "stopped")
            if with_a_second:
                with_a_second.end()
            if not well:
                print(how, number, one.process.returncode, second, sorted(os.listdir(place)), file=sys.stderr)
                lost += 1
    return lost


def killed_processes(place: Path, rounds: int, prelude: str = "") -> int:
    """How often a killed process is not lost within five seconds, or its folder not free for the next one."""
    lost, folder = 0, place / "killed"
    for _ in range(rounds):
        with working(folder, prelude=prelude) as (one,):
            if one.said() != "working":
                lost += 1
                continue
            one.process.kill()
            lost += not _within(5, lambda: Job(folder).state() not in ACTIVE)
    return lost


def rows(seconds: float) -> Iterator[Row]:
    """Yields a row for each race; nothing where processes have no signals."""
    if processes.LINUX:
        yield from raced(500 if math.isinf(seconds) else max(3, min(500, int(seconds / SECONDS))))


SECONDS = 2.5  # that one round of all takes, about


def raced(rounds: int) -> Iterator[Row]:
    """Tries everything; `rounds` of the quick races, fewer of the slow ones."""
    none, few = WITHOUT_LOCKS.format("ENOLCK"), max(1, rounds // 20)
    other = [ELSEWHERE.format(f"machine {k}") for k in range(STARTERS)]
    without = [machine + none for machine in other]
    own = [f"{machine}import portalocker\nportalocker.lock = lambda file, flags: None\n" for machine in other]
    same = [""] * STARTERS
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        base = Path(place)

        def race(promise: str, count: int, preludes: list[str], stale: str = "", chaos: bool = False) -> Row:
            return Row(promise, count, started_at_once(base / promise, count, preludes, stale, chaos))

        yield race("Of four starters at once, one works", rounds, same)
        yield race("The same after one that was killed", rounds, same, "own")
        yield race("The same after one on a machine that is gone", few, same, "another")
        yield race("Where locks are removed all the time, never two", rounds, same, chaos=True)
        yield race("Of four starters without locks, one works", rounds, [none] * STARTERS)
        yield race("The same without locks, after one that was killed", rounds, [none] * STARTERS, "own")
        yield race("The same without locks, on four machines", few, without)
        yield race("The same without locks, on four machines, after one", few, without, "another")
        yield race("The same on four machines whose locks are their own", few, own)
        yield Row("A stopped process does not respond within 5 s", few, stopped_processes(base, few))
        yield Row("A killed process is lost within 5 s, its folder free", few, killed_processes(base, few))
        yield Row("The same without locks", few, killed_processes(base / "n", few, none))
        yield Row("A moved folder ends its process, saved there", few, places_taken_away(base, few, "move"))
        yield Row("A deleted folder ends its process, stays away", few, places_taken_away(base, few, "delete"))
        yield Row("A removed lock ends its process, lets none in", few, places_taken_away(base, few, "unlock"))
