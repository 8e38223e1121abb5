"""How many threads this process computes with: its share of the cores, beside others that compute.  No torch.

Whoever trains, draws or measures holds a file in one folder of this user's, locked for as long as it lives: the lock is
the truth about "alive".  The file's name says the rest, so that a look is a list and a lock each:

    01764000000123456789-4242-0-training    since when, which process, threads it asked for (0: its share), what it does

"""

import atexit
import contextlib
import hashlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import psutil

from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.host import hardware
from ddpm.storage import files, locks, paths

log = logging.getLogger("ddpm")

LOOK_EVERY = 2.0  # seconds between two looks at who else computes
TRIAL_SECONDS = 3.0  # for finding out which number of threads is best
ROUNDS = 5  # of a trial, at most
CLEARLY = 0.97  # of the usual number's time, at most, for another to be better
MANY = 16  # cores beyond which half of them may be faster than all


# --- who else computes


class Peer(NamedTuple):
    """A process that computes, by the name of its file."""

    name: str
    asked: int  # threads; 0: its share
    doing: str  # "training"


def peer(name: str) -> Peer | None:
    """Whose file has that name, if it is one."""
    parts = name.split("-")
    if len(parts) != 4 or not all(part.isdecimal() for part in parts[:3]):
        return None
    return Peer(name, int(parts[2]), parts[3])


def apart(one: Peer) -> bool:
    """Whether it is bound to other cores than this process, so that neither is in the other's way."""
    with contextlib.suppress(psutil.Error, OSError, AttributeError, ValueError):  # gone, another container's, macOS
        theirs, own = psutil.Process(int(one.name.split("-")[1])).cpu_affinity(), hardware.allowed()
        return bool(theirs and own) and set(theirs).isdisjoint(own or [])
    return False


def alive() -> list[Peer]:
    """Who computes now, in the order in which they began.  Files of those who are gone are removed.  Raises OSError."""
    found = []
    for name in sorted(os.listdir(paths.shares_folder())):
        one = peer(name)
        if one is None:
            continue
        if (_own is not None and name == _own.name) or _works(paths.shares_folder() / name, one):
            found.append(one)
        else:
            with contextlib.suppress(OSError):  # somebody else was faster
                (paths.shares_folder() / name).unlink()
    return found


def _works(path: Path, one: Peer) -> bool:
    """Whether that process still computes.  Raises OSError where that cannot be told of any."""
    try:
        return locks.held(path)
    except PermissionError:  # another user's, in a folder that several share
        return psutil.pid_exists(int(one.name.split("-")[1]))


def shares(asked: Sequence[int], cores: int) -> list[int]:
    """Threads for each of those who asked for so many, in their order; 0 asks for a share.

    What was asked for is kept, and the rest goes evenly to the others: one thread each, at least.
    """
    sharing = asked.count(0)
    each, over = divmod(max(0, cores - sum(asked)), max(1, sharing))
    threads, k = [], 0
    for one in asked:
        threads.append(one or max(1, each + (k < over)))
        k += not one
    return threads


class _Own:
    """What this process asked for, and what it has."""

    def __init__(self, asked: int, doing: str, use: Callable[[int], object], fixed: bool):
        self.doing, self._use, self._fixed = doing, use, fixed
        self.together = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's processes on this machine
        self.cores, self.most = hardware.physical(), hardware.logical()
        self.best = self.cores  # threads of a process that has all cores
        self.name = ""
        self.sentence = ""  # on sharing
        self.warning = ""
        self._file: BinaryIO | None = None
        self._alone = False  # where files cannot be written, and nobody is seen
        self._thread = threading.get_ident()
        asked = asked or hardware.asked_outside()
        if asked > self.most:
            self.warning = (
                f"{asked:,} threads were asked for and {_machine(self.cores, self.most)}: {self.most}"
                f" {'is' if self.most == 1 else 'are'} used."
            )
            asked = self.most
        self.asked = asked
        self.threads = 0
        self._next = 0.0

    def begin(self) -> None:
        self._hold(self.asked)
        self.look()
        if self._fixed and not self.asked and not self._alone:  # whoever comes later is to leave it that
            self._hold(self.threads)

    def _hold(self, asked: int) -> None:
        """Be seen by the others, with so many threads asked for."""
        before, name_before = self._file, self.name
        self.name = f"{time.time_ns():020d}-{os.getpid()}-{asked}-{self.doing}"
        try:
            self._file = locks.hold(paths.shares_folder() / self.name)
            why = "" if self._file else "is no place for locks"
        except locks.NoLocks as error:
            self._file, why = None, f"has no locks ({error.strerror or error})"
            with contextlib.suppress(OSError):
                (paths.shares_folder() / self.name).unlink()
        except OSError as error:
            self._file, why = None, f"cannot be written ({error.strerror or error})"
        _let_go(before, paths.shares_folder() / name_before)
        if why:
            self._go_alone(why)

    def _go_alone(self, why: str) -> None:
        if not self._alone:
            self._alone = True
            log.info(
                "%s %s: other processes that compute are not seen, and this one uses all cores.",
                paths.shares_folder(),
                why,
            )

    def _seen(self) -> list[Peer]:
        """Who computes, this process among them."""
        own = Peer(self.name, self.asked, self.doing)
        if self._alone:
            return [own]
        try:
            found = alive()
            if all(one.name != self.name for one in found):  # the folder was tidied up by somebody
                self._hold(self.asked)
                found = alive()
        except OSError as error:
            self._go_alone(f"cannot be read ({error.strerror or error})")
            found = []
        found = [one for one in found if one.name == self.name or not apart(one)]
        return found if any(one.name == self.name for one in found) else [*found, own]

    def look(self) -> None:
        """Use this process's share from now on, if it is another than before."""
        if time.monotonic() < self._next or threading.get_ident() != self._thread:  # a number of threads is a thread's
            return
        self._next = math.inf if self._fixed else time.monotonic() + LOOK_EVERY
        seen = self._seen()
        place = [one.name for one in seen].index(self.name)
        waiting = [0] * max(0, self.together - len(seen))  # that are still starting
        threads = self._scaled(shares([one.asked for one in seen] + waiting, self.cores)[place])
        count, words = len(seen) + len(waiting), {one.doing for one in seen}
        sharing = f"{_several(count, words)} share {plural(self.cores, 'core')}: " if count > 1 else ""
        before, self.sentence = (
            self.sentence,
            sharing and f"{sharing}this one goes on with {plural(threads, 'thread')}.",
        )
        if threads == self.threads:
            return
        if self.sentence or before:
            log.info(
                "%s",
                self.sentence
                or f"Nothing else computes now: this {self.doing} goes on with {plural(threads, 'thread')}.",
            )
        self.threads = threads
        self._use(threads)

    def _scaled(self, share: int) -> int:
        """Threads for so many cores."""
        if self.asked:
            return self.asked
        return share * self.best // self.cores if self.best > self.cores else min(share, self.best)

    def choose(self, best: int) -> None:
        """`best` threads for all cores, from now on; those set by trying may be others."""
        self.best, self.threads, self._next = best, 0, 0.0
        self.look()

    def leave(self) -> None:
        _let_go(self._file, paths.shares_folder() / self.name)
        self._file = None

    def forget(self) -> None:
        if self._file:
            self._file.close()


def _machine(cores: int, most: int) -> str:
    """What there is, as half a sentence."""
    word = "core" if most == cores else "logical core"
    whole = most == (psutil.cpu_count() or 1)
    return f"this computer has {plural(most, word)}" if whole else f"{plural(most, word)} of this computer may be used"


def _several(count: int, doing: set[str]) -> str:
    """2 trainings; where they do not all do the same, or belong together: 2 processes."""
    return plural(count, doing.pop()) if len(doing) == 1 and doing != {"process"} else f"{count} processes"


def _let_go(file: BinaryIO | None, path: Path) -> None:
    if file is not None:
        file.close()
        with contextlib.suppress(OSError):  # it was tidied up
            path.unlink()


_own: _Own | None = None  # of this process, while it computes


def take(asked: int, doing: str, use: Callable[[int], object], fixed: bool = False) -> str:
    """Compute with `asked` threads from now on, or with this process's share of the cores (0); `use` sets the number.

    doing: "training", "drawing" and so on.  fixed: the share stays what it is now, as something is timed.  Called in
    the thread that computes.  Returns a sentence where more were asked for than there are, which is logged too.
    """
    global _own
    leave()
    several = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1
    _own = _Own(asked, "process" if several else doing, use, fixed)
    _own.begin()
    if _own.warning and os.environ.get("RANK", "0") == "0":
        log.warning("%s", _own.warning)
    return _own.warning


def look() -> str:
    """Go on with this process's share, looked up every few seconds.  Returns how cores are shared,
    or "" where they are not.
    """
    if _own is None:
        return ""
    _own.look()
    return _own.sentence


def leave() -> None:
    """Compute no more: the others have this process's share."""
    global _own
    if _own is not None:
        _own.leave()
        _own = None


def _forget() -> None:
    """In the child of a fork: what is held is the parent's."""
    global _own
    if _own is not None:
        _own.forget()
        _own = None


atexit.register(leave)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def first_share() -> int:
    """Threads for this process before it says what it does: the cores, shared out among torchrun's processes here."""
    return (
        hardware.asked_outside() or shares([0] * int(os.environ.get("LOCAL_WORLD_SIZE", "1")), hardware.physical())[0]
    )


# --- which number is best, where that is in doubt


def candidates(cores: int, most: int) -> list[int]:
    """Numbers of threads that may be best on `cores` physical and `most` logical cores, the likeliest first."""
    return [cores, *([most] if most > cores else []), *([cores // 2] if cores > MANY else [])]


def tune(key: Mapping[str, Any], time_one: Callable[[int], float]) -> None:
    """Go on with the best number of threads, where this process has no other to keep to.  See `best`.

    Beside others that compute nothing can be measured: what is remembered holds, or one thread a core.
    """
    if _own is None or _own.asked or _own.together > 1:
        return
    numbers = candidates(_own.cores, _own.most)
    if len(numbers) == 1:
        return
    if _own.sentence:
        _own.choose(_remembered(numbers, key) or numbers[0])
        return
    _own.choose(best(numbers, key, time_one))


def best(numbers: Sequence[int], key: Mapping[str, Any], time_one: Callable[[int], float]) -> int:
    """Which number of threads is fastest on this machine: measured once, and remembered under `key`.

    time_one(threads) computes once with so many and tells the seconds.  The first number is the usual one: another has
    to be clearly faster.  It takes about TRIAL_SECONDS at most, and where that is too short the usual one is it.
    """
    if found := _remembered(numbers, key):
        return found
    began, times = time.monotonic(), dict.fromkeys(numbers, math.inf)
    for turn in range(1 + ROUNDS):  # the first only warms up
        for number in numbers:
            seconds = time_one(number)
            if turn:
                times[number] = min(times[number], seconds)
            slow = time.monotonic() - began + seconds > TRIAL_SECONDS
            if slow:
                break
        if slow:
            break
    usual = numbers[0]
    fastest = min(numbers, key=lambda number: times[number])
    measured = all(map(math.isfinite, times.values()))
    chosen = fastest if measured and times[fastest] < CLEARLY * times[usual] else usual
    said = ", ".join(f"{number} in {times[number] * 1e3:.0f} ms" for number in numbers)
    log.debug("Threads: %d of %s", chosen, said if measured else "numbers that take too long to compare")
    _remember(key, chosen)
    return chosen


def _trials() -> Path:
    return paths.cache_folder() / "threads.json"


def _short(key: Mapping[str, Any]) -> str:
    """`key` and this machine, in a few letters."""
    whole = {"processor": hardware.processor(), "cores": [hardware.physical(), hardware.logical()], **key}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def _all_remembered() -> dict[str, Any]:
    try:
        found = files.read_json(_trials())
    except (OSError, UserError) as error:
        log.debug("What was found out about threads cannot be read: %s", error)
        return {}
    return found if isinstance(found, dict) else {}


def _remembered(numbers: Sequence[int], key: Mapping[str, Any]) -> int:
    """The number found before, or 0."""
    found = _all_remembered().get(_short(key))
    return found if isinstance(found, int) and found in numbers else 0


def _remember(key: Mapping[str, Any], number: int) -> None:
    try:
        files.write_json(_trials(), {**_all_remembered(), _short(key): number})
    except (OSError, UserError) as error:
        log.debug("What was found out about threads cannot be kept: %s", error)
