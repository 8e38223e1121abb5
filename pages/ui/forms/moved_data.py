"""Field for the data of a stopped run that was moved, or has not been named yet."""

import os

import streamlit as st

from ddpm.config.fields import settings
from ddpm.config.training import Config, DataConfig
from ddpm.data_sets import DATA_SETS
from ddpm.errors import writable
from ddpm.runs import launch
from ddpm.runs.runs import Run
from pages.ui.components.markdown import escape
from pages.ui.frame import run_actions

FIELDS = {s.name: s for s in settings(DataConfig)}


def show(run: Run, config: Config, because: str) -> None:
    """Shows the field in an expander, open where the data is missing.  because: why resuming failed last."""
    place = config.data.data_dir
    missing = not place or (place not in DATA_SETS and not os.path.exists(place))
    title = "Resume with data elsewhere"
    if missing:
        title = "The data is missing" if place else "No data is set yet"
    with st.expander(
        title, icon=":material/folder_open:", expanded=missing or "--data_dir" in because, key="moved_data"
    ):
        if missing and place:
            st.warning(f"There is no folder or file {escape(place)}.", icon=":material/folder_off:")
        typed = st.text_input(
            "Data path",
            writable(place),
            key=f"moved_to-{run.name}",
            help=(
                "If the images are the same, training continues exactly as it would have. Images with other content"
                " are reported, and other classes are refused."
            ),
        )
        enlarge = st.toggle(
            FIELDS["enlarge"].label, config.data.enlarge, key=f"moved_enlarge-{run.name}", help=FIELDS["enlarge"].help
        )
        path = FIELDS["data_dir"].normalize(place if typed == writable(place) else typed.strip())
        nowhere = (
            ""
            if path in DATA_SETS or os.path.exists(path)
            else f"There is no folder or file {writable(path)}."
            if path
            else "Type the path of the data."
        )
        if run_actions.button("Resume with this data", nowhere, key="resume_moved", icon=":material/play_arrow:"):
            run_actions.run_action(
                lambda: launch.start_training(run, path, enlarge),
                "Starting",
                lambda: run.state() in ("queued", "starting"),
            )
            st.rerun()
