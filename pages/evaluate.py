"""Evaluate: bits per dimension of a run, the terms of the bound by timestep, and the quality of its samples."""

import streamlit as st

from ddpm.config import codec
from ddpm.errors import UserError
from ddpm.planning import summary, timesteps
from ddpm.runs import launch
from ddpm.runs.jobs import ACTIVE
from pages.ui.components import rail, shell_command, start_button
from pages.ui.components.markdown import escape, with_code
from pages.ui.forms import checkpoint_form, evaluation_form
from pages.ui.frame import layout
from pages.ui.results import evaluation_result, quality_result

layout.page("Evaluate")
st.title("Evaluate")
BITS, QUALITY = ":material/straighten: Bits per dimension", ":material/compare: Sample quality"
part = st.segmented_control(
    "What to evaluate",
    [BITS, QUALITY],
    key="evaluate_part",
    default=BITS,
    required=True,
    label_visibility="collapsed",
    persist_state="session",
)
above = st.container()
places = rail.beside("tabs")
settings, foot, result = places

with settings:
    run = layout.pick_run(offer=layout.USE_EXAMPLE, room=above)
try:
    config, checkpoints = run.config, run.checkpoints()
    jobs, unreadable = evaluation_result.readable(run.evaluation_jobs())
except UserError as error:
    result.error(with_code(error), icon=":material/error:")
    st.stop()

if not checkpoints:
    with result:
        checkpoint_form.require_checkpoint(run, "an evaluation needs one")
if part == QUALITY:
    quality_result.show(run, config, checkpoints, places)
    st.stop()


# Evaluations shown: the newest, those selected, or the one just started

by_name = {job.name: job for job in jobs}
selection_key = f"evaluations-{run.name}"
started = st.session_state.pop("evaluation_started", None)
selected = [name for name in st.session_state.get(selection_key, ()) if name in by_name]
if started in by_name or not selected:
    selected = [started if started in by_name else jobs[0].name] if jobs else []
st.session_state[selection_key] = selected
shown = [by_name[name] for name in selected]
active = next((job for job in jobs if job.state() in ACTIVE), None)


# The form

with settings:
    evaluation, problems = evaluation_form.show(run, checkpoints)
    if not problems:
        with st.expander("Shell command", icon=":material/terminal:"):
            shell_command.show(run.shell("nll", "--run", more=codec.to_flags(evaluation)))
with foot:
    busy = "An evaluation is running: wait for it or cancel it first." if active else ""
    pressed = start_button.show("Start", "straighten", [p.sentence for p in problems], busy)
    if not problems:
        estimate = summary.estimate_evaluation(run, config, evaluation)
        most = "At most " if evaluation.until_ci else "Takes "
        st.caption(f":material/schedule: {most}{escape(estimate.words)}.")
        if note := evaluation_result.comparable(
            evaluation.num_samples, len(timesteps.timesteps(config, evaluation)), config
        ):
            st.caption(escape(note))

if pressed:
    with layout.errors():
        st.session_state["evaluation_started"] = launch.start_evaluation(run, evaluation).name
        st.rerun()


# The result

with result:
    if active or shown:
        evaluation_result.show(active or shown[0], config)
    else:
        st.info(
            "Bits per dimension measure how well the model fits a set of images: the number of bits needed to store"
            " each colour value, where uncompressed pixels need 8. This run has not been evaluated yet: press Start.",
            icon=":material/straighten:",
        )

finished = [job for job in jobs if job.result]
with_result = [job for job in shown if job.result]
if finished and with_result:
    st.header("By timestep")
    log = st.toggle("Log scale", True, key="terms_log", persist_state="session")
    st.caption(
        "vb: terms of the variational bound in bits per dimension; their sum and the prior make the total. mse: mean"
        " squared error of the predicted noise. xstart_mse: mean squared error of the predicted clean image. t = 0"
        " is the least noisy timestep."
    )
    evaluation_result.curves(with_result, config, log)
if jobs:
    st.header("Earlier evaluations")
    st.multiselect(
        "Shown",
        list(by_name),
        key=selection_key,
        format_func=lambda name: evaluation_result.label(by_name[name]),
        help="The numbers above are those of the first; the charts show all of them.",
    )
    evaluation_result.table(jobs)
for sentence in unreadable:
    st.caption(f":red[{escape(sentence)}]")
