"""Looks at every image of a folder before a training starts, in the background where there are many.

The index of tar shards is made in the background, too.
"""

import time

import streamlit as st

from ddpm.config.validation import Problem
from ddpm.data import checked
from ddpm.data.checked import Checked
from ddpm.data.datasets import LARGE
from ddpm.data.decoded import Progress
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.runs import launch
from ddpm.runs.jobs import ACTIVE, Job
from pages.ui.components.markdown import escape
from pages.ui.frame import job_progress, layout

FEW = 50  # images that are looked at while the page is drawn
LONGEST = 2.0  # seconds in which a page makes the index of tar shards; a longer one is made in the background


def begin(data_dir: str, state: str, count: int) -> Checked | None:
    """What was seen of the images in that state of the files; begins to look where that was not done.

    More than LARGE images are looked at only by `ddpm data check`: it would take hours.
    """
    if found := checked.known(state):
        return found
    if count > LARGE:
        return None
    with layout.errors():
        if count <= FEW:
            with st.spinner("Looking at all images …"):
                return checked.check(data_dir)
        if launch.check_job(state).status() is None:
            launch.start_checking(data_dir, state)
    return None


def quick() -> Progress:
    """What ends the making of an index that takes long, with a UserError: a page does not wait for that."""
    until = time.monotonic() + LONGEST

    def progress(done: int, total: int) -> None:
        if time.monotonic() > until:
            raise UserError(
                "The index of these tar shards is being made, which is done once and reads all of them: wait for it.",
                code="unindexed-data",
            )

    return progress


def begin_index(data_dir: str, state: str) -> None:
    """Begins to make the index of tar shards, where that was not done."""
    with layout.errors():
        if launch.check_job(state).status() is None:
            launch.start_checking(data_dir, state, "index")


def waiting(state: str, seen: Checked | None) -> list[Problem]:
    """The problem of images that are still being looked at."""
    job = launch.check_job(state)
    if seen or not (job.status() and job.state() in ACTIVE):
        return []
    sentence = "The images are still being checked, as one that cannot be read would end the training: wait a moment."
    return [Problem("data_dir", sentence, code="unchecked-images", keep="Start without waiting")]


def show(data_dir: str, state: str, command: str = "check") -> None:
    """Shows how far that is, or that all images are readable; one that ended early can be begun again.

    command: index where the index of tar shards is made.
    """
    job = launch.check_job(state)
    seen = checked.known(state)
    if seen is None and job.status():
        active = job.state() in ACTIVE
        layout.fragment(run_every=1.0 if active else None)(_follow)(state, job, active)
        if not active and st.button("Try again", key="check_again", icon=":material/refresh:", type="tertiary"):
            with layout.errors():
                launch.start_checking(data_dir, state, command)
                st.rerun()
    elif seen and not seen.broken:
        least, most = min(seen.sides), max(seen.sides)
        sides = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        text = f"All {plural(seen.total, 'image')} can be read; the shorter side has {sides} pixels."
        st.caption(f":material/check: {escape(text)}")


def _follow(state: str, job: Job, was_active: bool) -> None:
    if was_active and job.state() not in ACTIVE:
        st.rerun()
    status = job.status()
    if was_active:
        job_progress.progress(job, status, _text(status.step, status.total_steps) if status else "")
    else:
        st.caption(f":orange[:material/info: {escape(job_progress.failure_message(job, 'Looking at all images'))}]")


def _text(done: int, total: int) -> str:
    return f"Looking at all images: {done:,} of {total:,}"
