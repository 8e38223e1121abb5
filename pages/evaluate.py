"""Evaluate: how well a run knows pictures, in bits per dimension; over the timesteps, and beside earlier results."""

import streamlit as st

from ddpm import formatting
from ddpm.config import codec
from ddpm.errors import UserError
from ddpm.planning import summary
from ddpm.runs import launch
from ddpm.runs.jobs import ACTIVE
from pages.ui.components import setting_widgets
from pages.ui.forms import checkpoint_form, evaluation_form
from pages.ui.frame import layout
from pages.ui.results import evaluation as measured

layout.page("Evaluate")
st.title("Evaluate")
halves = st.grid(2, min_column_width=340, gap=("small", "medium"))
settings, result = halves.cell(), halves.cell()

with settings:
    run = layout.pick_run(with_example=True)
try:
    config, checkpoints, jobs = run.config, run.checkpoints(), run.evaluation_jobs()
except UserError as error:
    result.error(str(error), icon=":material/error:")
    st.stop()

if not checkpoints:
    with result:
        checkpoint_form.required(run, "one is measured")


# Which evaluations are shown: the newest, those that were chosen, or the one just started

by_name = {job.name: job for job in jobs}
chosen_key = f"evaluations-{run.name}"
started = st.session_state.pop("evaluation_started", None)
kept = [name for name in st.session_state.get(chosen_key, ()) if name in by_name]
if started in by_name or not kept:
    kept = [started if started in by_name else jobs[0].name] if jobs else []
st.session_state[chosen_key] = kept
shown = [by_name[name] for name in kept]
active = next((job for job in jobs if job.state() in ACTIVE), None)


# What to measure

with settings:
    evaluation, problems = evaluation_form.show(config, checkpoints)
    setting_widgets.complaint([p.sentence for p in problems])
    pressed = st.button(
        "Start",
        type="primary",
        icon=":material/straighten:",
        width="stretch",
        shortcut="Ctrl+Enter",
        disabled=bool(problems) or active is not None,
        help=(
            problems[0].sentence
            if problems
            else "Cancel the evaluation in hand first, or wait for it."
            if active
            else None
        ),
    )
    if not problems:
        seconds = summary.estimate_evaluation_seconds(jobs, config, evaluation)
        if seconds is not None:
            most = "at most " if evaluation.until_ci else ""
            st.caption(f":material/schedule: About {most}{formatting.duration(seconds)}, going by the last time.")
        with st.expander("The same in a shell", icon=":material/terminal:"):
            layout.command(run.shell("nll", "--run", more=codec.to_flags(evaluation)))

if pressed:
    with layout.errors():
        st.session_state["evaluation_started"] = launch.start_evaluation(run, evaluation).name
        st.rerun()


# What came of it

with result:
    if active or shown:
        measured.show(active or shown[0], config)
    else:
        st.info(
            "Bits per dimension tell how well a model knows pictures it is shown: how many bits it would need to store"
            " each colour value of them, where plain pixels take 8. Nothing was measured of this run yet: press Start.",
            icon=":material/straighten:",
        )

finished = [job for job in jobs if job.result]
with_result = [job for job in shown if job.result]
if finished and with_result:
    st.subheader("Over the timesteps")
    log = st.toggle("Log scale", True, key="terms_log", persist_state="session")
    st.caption(
        "vb: the terms of the bound, in bits per dimension, which add up to the total. mse: how far off the predicted"
        " noise is. xstart_mse: how far off the predicted clean picture is. t = 0 is the least noisy timestep."
    )
    measured.curves(with_result, config, log)
if jobs:
    st.subheader("Measured before")
    st.multiselect(
        "Shown",
        list(by_name),
        key=chosen_key,
        format_func=lambda name: measured.label(by_name[name]),
        help="The first one's numbers are shown above; the charts lay all of them over each other.",
    )
    measured.table(jobs)
