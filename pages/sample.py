"""Sample: draw new pictures from a run, watch them sharpen, take them home."""

import streamlit as st

from ddpm import process
from ddpm.config import SampleConfig
from ddpm.errors import UserError
from ddpm.jobs import ACTIVE
from pages.ui import checkpoint_fields, compared, drawn, forms, history, layout, reopen, sample_fields

layout.page("Sample")
st.title("Sample")
above = st.container()
halves = st.grid(2, min_column_width=340, gap=("small", "medium"))
settings, result = halves.cell(), halves.cell()

with settings:
    run = layout.pick_run(with_example=True)
try:
    config, checkpoints, jobs = run.config, run.checkpoints(), run.sample_jobs()
except UserError as error:
    result.error(str(error), icon=":material/error:")
    st.stop()

if not checkpoints:
    with result:
        checkpoint_fields.required(run, "pictures are drawn from one")


# What to draw

chosen = st.session_state.get("sample_shown")
shown = next((job for job in jobs if job.name == chosen), jobs[0] if jobs else None)
drawing = shown is not None and shown.state() in ACTIVE

with above:
    task = sample_fields.choose_task(config)
with settings:
    sample, problems = sample_fields.show(run, checkpoints, task)
    forms.complaint([p.sentence for p in problems])
    pressed = st.button(
        "Draw", type="primary", icon=":material/brush:", width="stretch", shortcut="Ctrl+Enter",
        disabled=bool(problems) or drawing,
        help=problems[0].sentence if problems else "Cancel the drawing in hand first, or wait for it." if drawing else None,
    )  # fmt: skip
    if not problems:
        st.caption(drawn.cost(run, config, sample))

if pressed:
    with layout.errors():
        st.session_state["sample_shown"] = process.start_sampling(run, sample).name
        st.rerun()


# What was drawn


def choose(name: str) -> None:
    st.session_state["sample_shown"] = name


def use(earlier: SampleConfig) -> None:
    sample_fields.begin(config, earlier)


with settings:
    reopen.show(run, use)

with result:
    if shown:
        drawn.show(shown, config, use)
    else:
        with st.container(border=True, height=drawn.BOX, horizontal_alignment="center", vertical_alignment="center"):
            st.caption(":material/brush: Nothing has been drawn from this run yet. Press Draw.", width="content")

two = history.picked(jobs)
if len(two) == 2:
    st.subheader("Compared")
    compared.show(two[0], two[1], config)
if jobs or history.gone(run.folder):
    st.subheader("Drawn before")
    history.show(jobs, shown, config, choose, use)
