"""Where the data of a stopped run is now: to go on with it after it was moved, or to name it for the first time."""

import os

import streamlit as st

from ddpm.config.fields import settings
from ddpm.config.training import Config, DataConfig
from ddpm.data_sets import DATA_SETS
from ddpm.errors import writable
from ddpm.runs import launch
from ddpm.runs.runs import Run
from pages.ui.frame import run_status

FIELDS = {s.name: s for s in settings(DataConfig)}


def show(run: Run, config: Config, because: str) -> None:
    """A folded field, open where the data is not to be found.  because: why the last attempt to go on failed."""
    place = config.data.data_dir
    missing = not place or (place not in DATA_SETS and not os.path.exists(place))
    title = (
        "Its data is not there"
        if missing and place
        else "Its data is not named yet"
        if missing
        else "Its data was moved or changed"
    )
    with st.expander(
        title, icon=":material/folder_open:", expanded=missing or "--data_dir" in because, key="moved_data"
    ):
        if missing and place:
            st.warning(f"There is no folder or file {writable(place)}.", icon=":material/folder_off:")
        typed = st.text_input(
            "Where it is now",
            writable(place),
            key=f"moved_to-{run.name}",
            help=(
                "The same images elsewhere: training goes on exactly as it would have. Other images are told apart by"
                " their content, which is said, and other classes are refused."
            ),
        )
        enlarge = st.toggle(
            FIELDS["enlarge"].label, config.data.enlarge, key=f"moved_enlarge-{run.name}", help=FIELDS["enlarge"].help
        )
        chosen = FIELDS["data_dir"].normalize(place if typed == writable(place) else typed.strip())
        nowhere = (
            ""
            if chosen in DATA_SETS or os.path.exists(chosen)
            else f"There is no folder or file {writable(chosen)}."
            if chosen
            else "Type where it is."
        )
        if run_status.button("Resume with this data", nowhere, key="resume_moved", icon=":material/play_arrow:"):
            run_status.act(lambda: launch.start_training(run, chosen, enlarge), "Starting")
            st.rerun()
