"""Progress of a running job, its Cancel button, and the outcome of one that has ended."""

import time
from collections.abc import Callable, Sequence

import streamlit as st

from ddpm import formatting
from ddpm.errors import UserError
from ddpm.runs import launch
from ddpm.runs.jobs import ACTIVE, Job, Status
from pages.ui.components import shell_command
from pages.ui.components.local_time import clock
from pages.ui.components.markdown import escape, with_code
from pages.ui.frame import run_status

Download = tuple[str, str, str, Callable[[], bytes]]  # label, file name, kind of file, its bytes when asked for


def progress(job: Job, status: Status | None, text: str) -> None:
    """Shows a bar with `text` and the time left, and the Cancel button."""
    bar, cancel = st.columns([2, 1], vertical_alignment="center")
    done, total = (status.step, status.total_steps) if status else (0, 0)
    left = f" · {formatting.duration(status.seconds_left)} left" if status and status.seconds_left is not None else ""
    bar.progress(min(1.0, done / total) if total else 0.0, f"{escape(text)}{left}" if total else "Starting …")
    if status and (line := run_status.computed(status)):
        bar.caption(escape(line))
    stopping = "stop" in job.requests()
    if cancel.button(
        "Cancelling …" if stopping else "Cancel",
        icon=":material/close:",
        disabled=stopping,
        width="stretch",
        key=f"cancel-{job.folder.parent.name}-{job.name}",  # a page may show more than one job
    ):
        try:
            launch.stop(job)
        except UserError as error:
            st.caption(escape(str(error)))


def follow(job: Job, was_active: bool, what: str) -> None:
    """Shows how far a job is, or how it has ended.  what: the subject of the sentence that says that it failed.

    For a fragment that is asked again and again while the job `was_active`.
    """
    state, status = job.state(), job.status()
    if was_active and state not in ACTIVE:
        st.rerun()  # once, so that the asking stops
    if was_active:
        progress(job, status, status.message if status and status.message else "Starting")
    elif state in ("failed", "lost"):
        st.error(with_code(failure_message(job, what)), icon=":material/error:")
    elif status and status.message:
        st.caption(escape(status.message))


def failure_message(job: Job, what: str) -> str:
    """Explains why `what` failed."""
    status = job.status()
    if status and status.state == "failed" and status.message:
        return status.message
    last = [line for line in job.log_tail(20).splitlines() if line.strip()][-1:]
    return f"{what} ended before it was complete" + (f": {last[0].strip()}" if last else ".")


def started_at(job: Job) -> str:
    """Time a job was started, from the name of its folder, to the second: no two of a run are called alike.

    A choice among jobs is found by its label.
    """
    try:
        then = time.strptime(job.name[:15], "%Y%m%d-%H%M%S")
        return f"{clock(time.mktime(then))}:{then.tm_sec:02}{job.name[15:]}"
    except ValueError:
        return job.name


def downloads(files: Sequence[Download], command: str = "") -> None:
    """Shows download buttons for the results of a job, and the command that reproduces it where one is given."""
    with st.grid(2, min_column_width=150):
        for label, name, mime, content in files:
            st.download_button(
                escape(label),
                content,
                name,
                mime,
                icon=":material/download:",
                on_click="ignore",
                key=f"get_{label}",
                width="stretch",
            )
    if command:
        with st.expander("Shell command"):
            shell_command.show(command, "command-job")
