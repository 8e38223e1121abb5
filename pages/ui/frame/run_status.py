"""Status of a run as several pages show it: state, progress, actions."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import streamlit as st

from ddpm.config import codec
from ddpm.config.presets import DEFAULT, PRESETS
from ddpm.config.tasks import OWN_DATA
from ddpm.errors import UserError, told
from ddpm.formatting import clock, duration, plural
from ddpm.planning import classes
from ddpm.runs import launch, runs
from ddpm.runs.jobs import ACTIVE, State, Status
from ddpm.runs.runs import Run
from pages.ui.components import setting_widgets
from pages.ui.frame import layout

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


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


def state_badge(state: State) -> None:
    badge = BADGES[state]
    st.badge(state, icon=f":material/{badge.icon}:", color=badge.color, help=badge.help)


def progress_bar(status: Status | None, state: State) -> None:
    """Shows how many of the steps are done."""
    if status is None or not status.total_steps:
        st.progress(0.0, text=status.message if status and status.message else "No steps yet")
        return
    text = f"step {status.step:,} of {status.total_steps:,} · {percent(status)}"
    doing = f" · {status.message}" if status.message and state in ACTIVE else ""
    st.progress(min(1.0, status.step / status.total_steps), text=text + doing)
    if state in ACTIVE and (line := computed(status)):
        st.caption(line)


def computed(status: Status) -> str:
    """What computes, and which jobs it shares the cores with."""
    return " ".join(filter(None, (status.computed and f"Computed {status.computed}.", status.sharing)))


def percent(status: Status | None) -> str:
    """Share of the steps done as 42 %, rounded down, so that 100 % is the end."""
    return f"{int(100 * status.step / status.total_steps)} %" if status and status.total_steps else "0 %"


def speed(status: Status | None) -> str:
    """Steps per second, or seconds per step when a step takes longer than one."""
    rate = status.steps_per_second if status else None
    if not rate:
        return "–"
    return f"{rate:.3g} it/s" if rate >= 1 else f"{1 / rate:.3g} s/it"


def finish_time(status: Status | None) -> str:
    left = status.seconds_left if status else None
    return "–" if left is None else clock(time.time() + left)


def time_left(status: Status | None) -> str:
    return duration(status.seconds_left if status else None)


def summary_line(run: Run, status: Status | None, state: State) -> str:
    """One line on the progress or the outcome."""
    if status and state == "failed" and status.message:
        return status.message
    if state in ACTIVE:
        parts = [speed(status), f"{time_left(status)} left", f"finishes at {finish_time(status)}"]
        return " · ".join(part for part in parts if "–" not in part) or "starting"
    trained = status.metrics.get("seconds") if status else None
    parts = [f"trained for {duration(trained)}" if trained else "", clock(run.created_at)]
    return " · ".join(part for part in parts if part)


def format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def button(label: str, why_not: str = "", help: str = "", **more: Any) -> bool:
    """Button that explains why it is disabled."""
    return st.button(label, disabled=bool(why_not), help=why_not or help or None, **more)


def downloads(run: Run, *, key: str, why_not: str = "") -> None:
    """Download buttons for results.xlsx and progress.csv, created on click."""
    st.download_button(
        "results.xlsx",
        functools.partial(_workbook, run),
        f"{run.name}-results.xlsx",
        XLSX,
        key=f"{key}-xlsx",
        icon=":material/table_view:",
        on_click="ignore",
        disabled=bool(why_not),
        help=why_not
        or "A spreadsheet with the settings, all metrics, the checkpoints, native charts and the last preview.",
    )
    st.download_button(
        "progress.csv",
        run.progress_path.read_bytes,
        f"{run.name}-progress.csv",
        "text/csv",
        key=f"{key}-csv",
        icon=":material/csv:",
        on_click="ignore",
        disabled=bool(why_not),
        help=why_not or "The log as it is on disk: one row every few steps.",
    )


def _workbook(run: Run) -> bytes:
    from ddpm.reports import xlsx  # openpyxl takes a moment to import

    return xlsx.workbook(run)


def commands(run: Run) -> list[tuple[str, str]]:
    """Shell commands that do what the buttons do: (title, command)."""
    config = run.config
    few = ["--num_samples", "64", "--steps", str(min(20, config.diffusion.diffusion_steps))]
    few += ["--base_samples", OWN_DATA] if config.model.super_res else []
    few += ["--classes", "0-9"] if classes.must_be_said(config) else []
    return [
        ("Train again with the same settings", run.anew()),
        ("Resume", run.shell("train", "--resume")),
        ("Stop", run.shell("stop")),
        ("Sample images", run.shell("sample", "--run", more=[*few, "--out", "samples"])),
        ("Evaluate bits per dimension", run.shell("nll", "--run", more=["--num_samples", "100"])),
        ("Export metrics as a spreadsheet", run.shell("export", more=["--xlsx", f"{run.name}.xlsx"])),
    ]


def run_action(deed: Callable[[], Any], done: str) -> None:
    """Runs an action and shows that it was done, or why it could not be."""
    try:
        with told():
            deed()
    except UserError as error:
        st.toast(setting_widgets.escape(str(error)), icon=":material/error:", duration="long")
    else:
        st.toast(done, icon=":material/check:")


def quick_start() -> Run:
    """Creates and starts a run of the quick-start preset.  Raises UserError."""
    from ddpm.data import datasets

    base = codec.resolved(datasets.resolve(PRESETS[DEFAULT].config))
    run = runs.create(layout.runs_dir(), runs.free_name(layout.runs_dir(), DEFAULT), base)
    launch.start_training(run)
    return run


@st.dialog("End the process immediately?")
def confirm_kill(run: Run) -> None:
    saved = max((c.step for c in run.checkpoints()), default=0)
    status = run.status()
    lost = (status.step if status else 0) - saved
    st.write(
        f"**{setting_widgets.escape(run.name)}** was last saved at step {saved:,}. Ending it now discards the"
        f" {plural(lost, 'step')} since then."
    )
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Cancel", key="kill_cancel"):
            st.rerun()
        if st.button("Kill", type="primary", icon=":material/dangerous:", key="kill_sure"):
            run_action(lambda: launch.kill(run), f"{setting_widgets.escape(run.name)} was killed")
            st.rerun()


DELETE_REQUEST = "_delete"  # in the session: the run that is asked about, so that the question stays on screen


def cancel_delete() -> None:
    st.session_state.pop(DELETE_REQUEST, None)


@st.dialog("Delete this run?", on_dismiss=layout.callback(cancel_delete))
def confirm_delete(run: Run) -> None:
    st.write(
        f"**{setting_widgets.escape(run.name)}** with its checkpoints, previews and samples will be moved to"
        f" `{run.folder.parent / '.trash'}`, and can be moved back from there."
    )
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Cancel", key="delete_cancel"):
            cancel_delete()
            st.rerun()
        if st.button("Delete", type="primary", icon=":material/delete:", key="delete_sure"):
            cancel_delete()
            run_action(lambda: runs.trash(run), f"{setting_widgets.escape(run.name)} was deleted")
            st.rerun()
