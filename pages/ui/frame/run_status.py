"""Status of a run as several pages show it: state, progress, numbers, errors."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import streamlit as st

from ddpm import formatting
from ddpm.formatting import duration
from ddpm.runs import progress_log
from ddpm.runs.jobs import ACTIVE, State, Status
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from pages.ui.components.local_time import clock
from pages.ui.components.markdown import escape, with_code
from pages.ui.frame import layout
from pages.ui.frame.run_store import RunView


class Badge(NamedTuple):
    """Appearance and meaning of a state."""

    color: Any
    icon: str
    help: str


BADGES: dict[State, Badge] = {
    "queued": Badge("gray", "hourglass_empty", "Waits until the training before it has finished."),
    "starting": Badge("blue", "rocket_launch", "The process is starting: loading libraries, data and network."),
    "running": Badge(
        "green", "play_arrow", "Trains in a separate process, which continues when this page or the server is closed."
    ),
    "stopping": Badge("orange", "pending", "Finishes the current step, saves a checkpoint and stops."),
    "stopped": Badge("gray", "pause", "Stopped on request after saving. Resume continues as if it had never stopped."),
    "finished": Badge("blue", "check", "All training steps are done."),
    "failed": Badge("red", "error", "Ended with an error; the log has the details."),
    "lost": Badge(
        "red", "link_off", "The process ended without reporting why: it was killed, or the computer was switched off."
    ),
    "unreadable": Badge("orange", "lock", "The status of this run cannot be read by this user."),
    "not responding": Badge("orange", "sentiment_stressed", "The process exists, but has stopped updating its status."),
}


SPEED_HELP = (
    "Training steps of the last minutes by the clock, previews and checkpoints included. The time left is the steps"
    " left at this speed."
)


def state_badge(state: State) -> None:
    badge = BADGES[state]
    st.badge(escape(state), icon=f":material/{badge.icon}:", color=badge.color, help=badge.help)


def progress_bar(status: Status | None, state: State) -> None:
    """Shows how many of the steps are done."""
    if status is None or not status.total_steps:
        st.progress(0.0, text=escape(status.message) if status and status.message else "No steps yet")
        return
    text = f"step {status.step:,} of {status.total_steps:,} · {percent(status)}"
    doing = f" · {escape(status.message)}" if status.message and state in ACTIVE else ""
    st.progress(min(1.0, status.step / status.total_steps), text=text + doing)
    if state in ACTIVE and (line := computed(status)):
        st.caption(escape(line))


def computed(status: Status) -> str:
    """What computes, and which jobs it shares the cores with."""
    return " ".join(filter(None, (status.computed and f"Computed {status.computed}.", status.sharing)))


def percent(status: Status | None) -> str:
    """Share of the steps done as 42 %, rounded down, so that 100 % is the end."""
    return formatting.percent(status.step, status.total_steps) if status else formatting.percent(0, 0)


def speed(status: Status | None) -> str:
    """Steps per second, or seconds per step when a step takes longer than one."""
    return formatting.speed(status.steps_per_second if status else None)


def finish_time(status: Status | None) -> float | None:
    """Expected end of the training as a Unix time."""
    left = status.seconds_left if status else None
    return None if left is None else time.time() + left


def time_left(status: Status | None) -> str:
    return duration(status.seconds_left if status else None)


def summary_line(run: Run, status: Status | None, state: State) -> str:
    """One line on the progress or the outcome."""
    if status and state == "failed" and status.message:
        return status.message
    if state in ACTIVE:
        finish = finish_time(status)
        parts = [speed(status), f"{time_left(status)} left", f"finishes at {clock(finish)}" if finish else "–"]
        return " · ".join(part for part in parts if "–" not in part) or "starting"
    trained = status.metrics.get("seconds") if status else None
    parts = [f"trained for {duration(trained)}" if trained else "", clock(run.created_at)]
    return " · ".join(part for part in parts if part)


def format_number(value: float | None) -> str:
    return formatting.number(value)


def time_metric(label: str, when: float | None, help: str | None = None) -> None:
    """Metric with a time of day, and below it the date where it is not today."""
    day, _, time_of_day = clock(when).rpartition(", ") if when else ("", "", "–")
    text = escape(help) if help else None
    st.metric(escape(label), escape(time_of_day), escape(day) or None, delta_color="off", delta_arrow="off", help=text)


def header(view: RunView, state: State, checkpoints: Sequence[Checkpoint]) -> None:
    """State, progress, errors and the newest metrics; reruns the page when the state is no longer `state`."""
    run, status, now = view.run, view.status(), view.state()
    if now != state:
        st.rerun()  # other buttons, and another interval
    active = state in ACTIVE
    layout.tab_title(f"{percent(status)} · {run.name}" if active else f"{run.name} · {now}")
    with st.container(horizontal=True, vertical_alignment="center"):
        state_badge(now)
        with st.container():
            progress_bar(status, now)
    if status and now == "failed":
        st.error(with_code(status.message) or "It ended with an error: see the log below.", icon=":material/error:")
    if now == "lost":
        remedy = (
            f"Everything up to step {checkpoints[-1].step:,} is saved: Resume continues from there."
            if checkpoints
            else "Nothing was saved yet: Resume starts again from the beginning."
        )
        st.error(f"{BADGES['lost'].help} {remedy}", icon=":material/link_off:")
    if status and status.warning:
        st.warning(with_code(status.warning), icon=":material/warning:")
    _metrics(view.newest_row() or (status.metrics if status else {}), status, active)


def _metrics(newest: Mapping[str, float | None], status: Status | None, active: bool) -> None:
    with st.grid(min_column_width=132, key="figures"):
        st.metric("Loss", format_number(newest.get("loss")), help=progress_log.HELP["loss"])
        st.metric("Gradient norm", format_number(newest.get("grad_norm")), help=progress_log.HELP["grad_norm"])
        for name, label in (("vb", "Bound"), ("lg_loss_scale", "Loss scale (log2)")):
            if name in newest:
                st.metric(label, format_number(newest[name]), help=progress_log.HELP[name])
        measured = status.metrics if status else {}
        for name, label in (("eval_mse", "Held-out loss"), ("eval_gap", "Held-out gap")):
            if name in newest or name in measured:
                st.metric(label, format_number(measured.get(name)), help=progress_log.HELP[name])
        st.metric("Images seen", f"{int(newest.get('samples') or 0):,}", help=progress_log.HELP["samples"])
        st.metric("Speed", speed(status), help=SPEED_HELP)
        if active:
            st.metric("Time left", time_left(status))
            time_metric("Finish", finish_time(status))
        st.metric("Trained for", duration(newest.get("seconds")), help=progress_log.HELP["seconds"])
        if not active:
            time_metric("Last update", status.updated_at if status else None)
