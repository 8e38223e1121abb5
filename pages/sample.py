"""Sample: generate images from a run, watch them form, download them."""

import streamlit as st

from ddpm.config.tasks import SampleConfig
from ddpm.errors import UserError
from ddpm.planning import summary
from ddpm.runs import launch
from ddpm.runs.jobs import ACTIVE
from pages.ui.components import rail, start_button
from pages.ui.components.markdown import escape, with_code
from pages.ui.forms import checkpoint_form, reopen, sampling_form, seed_field
from pages.ui.frame import job_progress, layout
from pages.ui.results import sample_actions, sample_history, sampler_comparison, samples, welcome

layout.page("Sample")
sample_actions.follow()
st.title("Sample")
above = st.container()
settings, foot, result = rail.beside("tabs")

with settings:
    run = layout.pick_run(offer=welcome.SAMPLE_EXAMPLE, room=above)
try:
    config, checkpoints, jobs = run.config, run.checkpoints(), run.sample_jobs()
except UserError as error:
    result.error(with_code(error), icon=":material/error:")
    st.stop()

if not checkpoints:
    with result:
        checkpoint_form.require_checkpoint(run, "sampling needs one")


# What to sample

selected = st.session_state.get("sample_shown")
shown = next((job for job in jobs if job.name == selected), jobs[0] if jobs else None)
active = next((job for job in jobs if job.state() in ACTIVE), None)

with above:
    task = sampling_form.choose_task(run, jobs)
with settings:
    sample, problems = sampling_form.show(run, checkpoints, task)
with foot:
    busy = "Sampling is running: wait for it or cancel it first." if active else ""
    wrong = [problem.sentence for problem in problems if problem.code != "missing-value"]
    missing = [problem.sentence for problem in problems if problem.code == "missing-value"]
    pressed = start_button.show("Sample", "grid_view", wrong, busy, missing)
    if not problems:
        st.caption(f":material/schedule: {escape(summary.sampling_cost(run, config, sample))}.")
    if active and active is not shown:
        layout.fragment(run_every=1.0)(job_progress.follow)(active, True, "Sampling")

if pressed:
    with layout.errors():
        st.session_state["sample_shown"] = launch.start_sampling(run, sample).name
        seed_field.advance(sample)
        st.rerun()


# The samples


def select(name: str) -> None:
    st.session_state["sample_shown"] = name


def use_settings(earlier: SampleConfig, origin: object) -> None:
    sampling_form.fill(config, reopen.pinned(earlier, origin, checkpoints))
    seed_field.pin()


with settings:
    reopen.show(run, use_settings)

with result:
    if shown:
        samples.show(run, shown, config, use_settings)
    else:
        with st.container(border=True, height=300, horizontal_alignment="center", vertical_alignment="center"):
            st.caption(
                ":material/grid_view: Nothing has been sampled from this run yet. Press Sample.", width="content"
            )

compared = sample_history.selected(jobs)
if len(compared) == 2:
    st.header("Comparison")
    with layout.errors():
        sampler_comparison.show(compared[0], compared[1], config)
if jobs or sample_history.recently_deleted(run.folder):
    st.header("Earlier samples", help="Tick Compare on two of them to see them next to each other.")
    sample_history.show(jobs, shown, config, select, use_settings)
