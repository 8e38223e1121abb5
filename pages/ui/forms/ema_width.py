"""Field for the width of an average of the weights that is made after the training, and how far that is."""

import streamlit as st

from ddpm import formatting
from ddpm.config import ema_rates
from ddpm.runs import launch
from ddpm.runs.jobs import ACTIVE, Job
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from pages.ui.components import setting_widgets
from pages.ui.components.markdown import with_code
from pages.ui.frame import job_progress, layout
from pages.ui.frame.action_buttons import run_action

WANTED = "ema_wanted"  # in the session: weights that were asked for, which are chosen as soon as they are there
FIRST = 0.07


def choose_wanted(form: str, of: Checkpoint) -> None:
    """Chooses the weights that were asked for, once they are there.  To be called before their field is shown."""
    if st.session_state.get(WANTED) in of.weights:
        setting_widgets.put(setting_widgets.key(form, "weights"), st.session_state.pop(WANTED))


def show(form: str, run: Run, of: Checkpoint) -> None:
    """Shows the field, for a run that tracks averages of which others can be made."""
    if not any(ema_rates.width_of(rate) for rate in run.config.train.ema_rates):
        return
    job = launch.ema_job(run)
    active = bool(job.status()) and job.state() in ACTIVE
    with st.popover("EMA of another width", icon=":material/tune:", width="stretch"):
        width = st.number_input(
            "Width",
            0.01,
            ema_rates.WIDEST,
            FIRST,
            0.01,
            key=setting_widgets.key(form, "ema_width"),
            help="Share of the training up to the checkpoint that the average reaches over: the standard deviation of"
            " its profile. Narrow is sharp and noisy, wide smooth and behind. It is made of the averages in the"
            " checkpoints up to this one, and becomes one of its weights.",
            persist_state="session",
        )
        if st.button("Make it", icon=":material/add:", disabled=active or width is None, width="stretch"):
            asked = f"{ema_rates.PREFIX}{ema_rates.POWER}{float(width)}"
            st.session_state[WANTED] = asked
            if asked in of.weights or run_action(lambda: launch.start_averaging(run, width, of.step), ""):
                st.rerun()
        layout.fragment(run_every=0.5 if active else None)(_follow)(job, active)


def _follow(job: Job, was_active: bool) -> None:
    state, status = job.state(), job.status()
    if was_active and state not in ACTIVE:
        st.rerun()  # the form has the new weights then
    if was_active:
        done, total = (status.step, status.total_steps) if status else (0, 0)
        job_progress.progress(job, status, f"{done:,} of {formatting.plural(total, 'average')}")
    elif status and state in ("failed", "lost") and st.session_state.get(WANTED):
        st.error(with_code(job_progress.failure_message(job, "Making the average")), icon=":material/error:")
