"""A data set that is not on this computer yet: downloads it, or reads its archive, with progress and Cancel."""

from pathlib import Path

import streamlit as st

from ddpm import formatting
from ddpm.config import fields
from ddpm.data import download
from ddpm.data_sets import DATA_SETS
from ddpm.runs import launch
from ddpm.runs.jobs import ACTIVE, Job
from pages.ui.components import setting_widgets
from pages.ui.components.markdown import escape
from pages.ui.frame import job_progress, layout

ARCHIVE = "train.archive"  # key of the field for its path


def show(name: str) -> None:
    """Shows how to get the data set `name`, or how far that is."""
    job = launch.data_job(name)
    with st.container(border=True, key="obtain_data"):
        if job.status() and job.state() in ACTIVE:
            layout.fragment(run_every=1.0)(_progress)(job)
            return
        here = download.bytes_here()
        done = f", and {formatting.memory(here)} are here already" if here else ""
        st.markdown(f"**{escape(DATA_SETS[name].title)} is not on this computer yet**")
        st.caption(f"The official archive has 170 MB{done}. Nothing else is sent or loaded.")
        if job.status() and job.state() in ("failed", "lost"):
            setting_widgets.show_problems([job_progress.failure_message(job, "The download")])
        st.button(
            "Resume download" if here else "Download",
            icon=":material/download:",
            key="download",
            on_click=layout.callback(launch.start_getting),
            args=(name,),
        )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            typed = st.text_input(
                "Or its archive on this computer",
                key=ARCHIVE,
                placeholder=str(Path.home() / "Downloads" / download.archive_path().name),
                persist_state="session",
            )
            st.button(
                "Use archive",
                icon=":material/folder_zip:",
                key="use_archive",
                disabled=not typed.strip(),
                on_click=layout.callback(launch.start_getting),
                args=(name, fields.absolute(typed)),
            )


def _progress(job: Job) -> None:
    if job.state() not in ACTIVE:
        st.rerun()
    status = job.status()
    doing = status.message if status and status.message else "Starting"
    done = (
        f" · {formatting.memory(status.step)} of {formatting.memory(status.total_steps)}"
        if status and status.total_steps
        else ""
    )
    job_progress.progress(job, status, f"{doing}{done}")
