"""Rows of the table of promises, and how they are tried: case after case, by several workers at once."""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from tqdm import tqdm

W = TypeVar("W")

EXAMPLES = 5  # of what was lost, at most
SHOWN = 500  # characters at each end of what is said of one


class Row(NamedTuple):
    """What became of one promise."""

    promise: str
    tried: int
    lost: int
    examples: tuple[str, ...] = ()  # of what was lost, in a line or more each


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what was tried until then."""

    def __init__(self, row: Row):
        super().__init__()
        self.row = row


def line(row: Row) -> str:
    """The row as a line of the table."""
    return f"| {row.promise} | {row.tried:,} | {row.lost:,} |"


def tried(
    promise: str,
    seconds: float,
    cases: Iterator[tuple[str, Callable[[W], str]]],
    workers: Sequence[W],
    total: int | None = None,
) -> Row:
    """Tries named cases for that long, or all of them; each is given a worker, and returns what was lost, or nothing.

    A line on stderr says how far it is.  total: how many cases there are.
    """
    began, lock, end = time.monotonic(), threading.Lock(), threading.Event()
    count, lost = 0, list[str]()
    errors: list[BaseException] = []
    timed = math.isfinite(seconds)

    def work(worker: W) -> None:
        nonlocal count
        try:
            while not end.is_set():
                with lock:
                    name, play = next(cases, ("", None))
                if play is None:
                    return
                wrong = play(worker)
                with lock:
                    count += 1
                    if wrong:
                        lost.append(f"{name}: {wrong[:SHOWN]} ... {wrong[-SHOWN:]}")
                    left = f", {max(0.0, seconds - (time.monotonic() - began)):.0f} s left" if timed else ""
                    bar.set_postfix_str(f"{len(lost)} lost{left}", refresh=False)
                    bar.update()
                if time.monotonic() - began > seconds:
                    end.set()
        except BaseException as error:  # raised below, in the thread that waits
            errors.append(error)
            end.set()

    every = 0.5 if sys.stderr.isatty() else 30.0  # seconds between two states of the line
    with tqdm(total=None if timed else total, desc=promise[:40], unit="case", mininterval=every, leave=False) as bar:
        threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        interrupted = False
        while any(thread.is_alive() for thread in threads):
            try:
                for thread in threads:
                    thread.join(0.2)
            except KeyboardInterrupt:
                interrupted = True
                end.set()
    with contextlib.suppress(IndexError):
        raise errors[0]
    row = Row(promise, count, len(lost), tuple(lost[:EXAMPLES]))
    if interrupted:
        raise Interrupted(row)
    return row
