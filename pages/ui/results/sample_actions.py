"""What can be done with one sample: begin a task with it, follow its denoising, look for what it may be a copy of."""

import streamlit as st

from ddpm.runs.runs import Run
from pages.ui.forms import sampling_form
from pages.ui.frame import layout
from pages.ui.results import nearest, sample_grid, trajectory
from pages.ui.results.sample_grid import Action

LEADS_TO = "sample_leads_to"  # in the session: the run whose trajectory was asked for


def act(run: Run, action: Action) -> None:
    """Does what was asked for.  Call it in a callback, before the fields are shown."""
    job = next((job for job in run.sample_jobs() if job.name == action.job), None)
    if job is None or action.number >= len(job.images):
        return  # deleted in another tab
    if action.kind == sample_grid.TRAJECTORY:
        trajectory.begin_with(job, action.number)
        st.session_state[LEADS_TO] = run.name
    elif action.kind == sample_grid.NEAREST:
        nearest.begin_with(job, action.number)
    else:
        sampling_form.begin_with(run.config, action.kind, job, action.number)


def follow() -> None:
    """Opens the page that was asked for."""
    if run := st.session_state.pop(LEADS_TO, None):
        layout.show_run(run, layout.EXPLORE)
