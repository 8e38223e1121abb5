"""Actions on a run: the Monitor toolbar, downloads, and the dialogs that confirm a kill or a deletion."""

import functools
from collections.abc import Callable
from typing import Any

import streamlit as st

from ddpm.config import codec
from ddpm.config.presets import DEFAULT, PRESETS
from ddpm.errors import UserError, user_errors
from ddpm.formatting import plural
from ddpm.runs import launch, run_folder, run_names, runs, trash
from ddpm.runs.jobs import ACTIVE, State
from ddpm.runs.runs import Run
from pages.ui.components.markdown import escape
from pages.ui.frame import layout

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
NO_METRICS = "There are no metrics yet."


def show(run: Run, state: State) -> None:
    """Toolbar of Monitor: Stop or Resume, Save now, Preview now, downloads."""
    active = state in ACTIVE
    idle = "" if active else f"Nothing is running: the run is {state}."
    leaving = "It is about to stop." if state in ("stopping", "queued") else ""
    if active:
        _stop_buttons(run, state)
    elif button(
        "Resume",
        _why_no_resume(run, state),
        "Continue from the newest checkpoint. With the same data the result is exactly as if it had never stopped.",
        icon=":material/play_arrow:",
        type="primary",
        key="resume",
    ):
        run_action(lambda: launch.start_training(run), "Starting")
        st.rerun()
    if button(
        "Save now",
        idle or leaving,
        "Write a checkpoint after the current step.",
        icon=":material/save:",
        key="save",
    ):
        run_action(lambda: run.request("save"), "Save requested")
    if button(
        "Preview now",
        idle or leaving,
        "Sample a preview grid after the current step.",
        icon=":material/imagesmode:",
        key="preview",
    ):
        run_action(lambda: run.request("sample"), "Preview requested")
    downloads(run, key="take", why_not="" if run.has(run.progress_path) else NO_METRICS)


def _stop_buttons(run: Run, state: State) -> None:
    if button(
        "Stop",
        "A stop has been requested." if state == "stopping" else "",
        "Finish the current step, save a checkpoint and stop. Resume continues from there.",
        icon=":material/stop_circle:",
        key="stop",
    ):
        run_action(lambda: launch.stop(run), "Stop requested: it saves first")
        st.rerun()
    if state in ("stopping", "not responding") and button(
        "Kill …", help="End the process immediately, without saving.", icon=":material/dangerous:", key="kill"
    ):
        confirm_kill(run)


def _why_no_resume(run: Run, state: State) -> str:
    if state == "finished":
        return f"It has completed all of its {plural(run.config.train.total_steps, 'step')}."
    return "" if run.config.data.data_dir else "It has no data yet: enter its path below."


def button(label: str, why_not: str = "", help: str = "", **more: Any) -> bool:
    """Button that explains why it is disabled."""
    return st.button(escape(label), disabled=bool(why_not), help=escape(why_not or help) or None, **more)


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
        help=escape(why_not)
        or "A spreadsheet with the settings, all metrics, the checkpoints, native charts and the last preview.",
    )
    st.download_button(
        "progress.csv",
        functools.partial(run.read, run.progress_path, run_folder.MOST_LOG),
        f"{run.name}-progress.csv",
        "text/csv",
        key=f"{key}-csv",
        icon=":material/csv:",
        on_click="ignore",
        disabled=bool(why_not),
        help=escape(why_not) or "The log as it is on disk: one row every few steps.",
    )


def _workbook(run: Run) -> bytes:
    from ddpm.reports import xlsx  # openpyxl takes a moment to import

    return xlsx.workbook(run)


def run_action(action: Callable[[], Any], message: str) -> None:
    """Runs an action and shows that it was done, or why it could not be."""
    try:
        with user_errors():
            action()
    except UserError as error:
        st.toast(escape(error), icon=":material/error:", duration="long")
    else:
        st.toast(escape(message), icon=":material/check:")


def quick_start() -> Run:
    """Creates and starts a run of the quick-start preset.  Raises UserError."""
    from ddpm.data import datasets

    base = codec.resolved(datasets.resolve(PRESETS[DEFAULT].config))
    run = runs.create_run(layout.runs_dir(), run_names.free_name(layout.runs_dir(), DEFAULT), base)
    launch.start_training(run)
    return run


@st.dialog("End the process immediately?")
def confirm_kill(run: Run) -> None:
    saved = max((c.step for c in run.checkpoints()), default=0)
    status = run.status()
    lost = (status.step if status else 0) - saved
    st.write(
        f"**{escape(run.name)}** was last saved at step {saved:,}. Ending it now discards the"
        f" {plural(lost, 'step')} since then."
    )
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Cancel", key="kill_cancel"):
            st.rerun()
        if st.button("Kill", icon=":material/dangerous:", key="kill_sure"):
            run_action(lambda: launch.kill(run), f"{run.name} was killed")
            st.rerun()


DELETE_REQUEST = "_delete"  # in the session: the run whose deletion is being confirmed


def cancel_delete() -> None:
    st.session_state.pop(DELETE_REQUEST, None)


@st.dialog("Delete this run?", on_dismiss=layout.callback(cancel_delete))
def confirm_delete(run: Run) -> None:
    st.write(
        f"**{escape(run.name)}** with its checkpoints, previews and samples will be moved to"
        f" {escape(run.folder.parent / '.trash')}, and can be moved back from there."
    )
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Cancel", key="delete_cancel"):
            cancel_delete()
            st.rerun()
        if st.button("Delete", icon=":material/delete:", key="delete_sure"):
            cancel_delete()
            run_action(lambda: trash.trash_run(run), f"{run.name} was deleted")
            st.rerun()
