"""Waiting for a state, with more patience than a busy machine needs; waiting by the clock tests the machine."""

import time
from collections.abc import Callable
from typing import TypeVar

from ddpm.runs.jobs import ACTIVE, Job

T = TypeVar("T")

PATIENCE = 240.0  # seconds: long, as only what is broken takes so long


def until(condition: Callable[[], T], what: str = "what was waited for") -> T:
    """What the condition gives as soon as it is true."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} never came"
        time.sleep(0.01)
    return found


def until_it_beats(job: Job) -> None:
    """Returns once the job's process has written its status again."""
    before = job.status()
    until(lambda: (now := job.status()) and before and now.beat > before.beat, "a heartbeat")


def until_finished(job: Job) -> None:
    """However long a job takes that goes on: only one that stands still is given up."""
    before, end = None, time.monotonic() + PATIENCE
    while (state := job.state()) != "finished":
        now = job.status()
        assert state in ACTIVE or not (now and now.pid), (now, job.log_tail())  # a slow start is given up by pages only
        if now != before:
            before, end = now, time.monotonic() + PATIENCE
        assert time.monotonic() < end, f"it stands still: {before}"
        time.sleep(0.05)
