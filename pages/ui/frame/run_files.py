"""What can be taken home of runs: workbooks, logs and previews."""

import functools
import io
import zipfile
from collections.abc import Sequence

import streamlit as st

from ddpm import formatting
from ddpm.formatting import plural
from ddpm.runs import run_folder
from ddpm.runs.runs import Run
from pages.ui.components.markdown import escape
from pages.ui.frame.asked import Asked, answered, dialog

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
NO_METRICS = "There are no metrics yet."


def downloads(run: Run, *, key: str, why_not: str = "") -> None:
    """Download buttons for results.xlsx and progress.csv, created on click."""
    st.download_button(
        "results.xlsx",
        functools.partial(workbook, run),
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


def preview_download(run: Run) -> None:
    """Download button for all previews in one file, created on click."""
    st.download_button(
        "All previews",
        functools.partial(previews, run),
        f"{run.name}-previews.zip",
        "application/zip",
        key="take-previews",
        icon=":material/folder_zip:",
        type="tertiary",
        on_click="ignore",
        help="The previews as they are on disk, in a .zip file.",
    )


def previews(run: Run) -> bytes:
    """A .zip file of all previews of a run."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:  # stored as they are: PNG files are compressed
        for _, path in run.previews():
            zipped.writestr(f"{run.name}/{path.name}", run.read(path))
    return buffer.getvalue()


def workbook(run: Run) -> bytes:
    """results.xlsx of a run."""
    from ddpm.reports import xlsx  # openpyxl takes a moment to import

    return xlsx.workbook(run)


def workbook_of_runs(runs: Sequence[Run]) -> bytes:
    """One workbook of several runs."""
    from ddpm.reports import xlsx_runs

    return xlsx_runs.workbook_of_runs(runs)


@dialog("Download")
def download(found: list[Run], request: Asked) -> None:
    """Offers the files of a run, or one workbook of several."""
    if len(found) == 1:
        run = found[0]
        st.write(f"Of **{escape(run.name)}**:")
        with st.container(horizontal=True):
            downloads(run, key="dialog_files", why_not="" if run.has(run.progress_path) else NO_METRICS)
    else:
        st.write(f"Of {plural(len(found), 'run')}: {escape(formatting.some([run.name for run in found], 5))}")
        st.download_button(
            "runs.xlsx",
            functools.partial(workbook_of_runs, found),
            "runs.xlsx",
            XLSX,
            key="dialog_files-xlsx",
            icon=":material/table_view:",
            on_click="ignore",
            help="A row for each run, the settings that differ, and the loss of all at the same steps.",
        )
    if st.button("Close", key="dialog_cancel"):
        answered()
