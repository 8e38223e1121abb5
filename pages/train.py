"""Train: choose data and settings, see the estimated cost, start."""

from pathlib import Path

import streamlit as st

from ddpm.config import objectives, validation
from ddpm.config.model import DiffusionConfig, ModelConfig
from ddpm.config.presets import DEFAULT, PRESETS
from ddpm.config.training import Config, TrainConfig, unused
from ddpm.data import datasets
from ddpm.runs import commands, launch, runs
from ddpm.runs.jobs import ACTIVE
from pages.ui.components import setting_widgets, start_button
from pages.ui.components.markdown import escape
from pages.ui.forms import data_form, preset_cards, run_name, super_res
from pages.ui.frame import layout
from pages.ui.results import training_cost

FORM = "train"

layout.page("Train")
runs_dir = layout.runs_dir()
st.title("Train")


# Initial values: the quick start, or the settings of ?from=RUN


def fill(config: Config, base: str) -> None:
    setting_widgets.fill(FORM, setting_widgets.values_of(config))
    data_form.fill(FORM, config.data.data_dir)
    st.session_state["train_base"] = base


forked = st.query_params.get("from")
if forked and st.session_state.get("train_forked") != forked:
    with layout.errors():
        fill(runs.find_run(runs_dir, forked).config, forked)
st.session_state["train_forked"] = forked
if "train_base" not in st.session_state:
    fill(PRESETS[DEFAULT].config, DEFAULT)

draft, empty = setting_widgets.read(FORM, Config())
found = data_form.inspect(draft.data.data_dir)
problems = [*empty, *validation.problems(draft), *data_form.problems(draft, found)]
wrong = setting_widgets.group_by_field(problems)


selected_preset = preset_cards.show(draft, fill)


# The fields

halves = st.grid(2, min_column_width=340, gap=("small", "medium"))
with halves.cell():
    st.header("Data")
    data_form.show(FORM, draft, found.description, wrong)
with halves.cell():
    if found.description and 4 <= draft.model.image_size <= 1024 and draft.model.image_channels in (1, 3, 4):
        data_form.show_images(draft)
form, aside = halves.cell(), halves.cell()
with form:
    st.header("Network")
    unused_names = unused(draft)
    setting_widgets.section(FORM, ModelConfig, problems=wrong, skip={*unused_names, "small_size"})
    super_res.show_train_fields(FORM, draft.model, wrong)

    st.header("Diffusion")
    setting_widgets.section(FORM, DiffusionConfig, problems=wrong, skip=unused_names)
    objective = objectives.training_objective(draft)
    st.caption(f"Objective: **{escape(objective.name)}**. {escape(objective.description)}")

    st.header("Training")
    setting_widgets.section(FORM, TrainConfig, problems=wrong, skip=unused_names)


# Cost, name, start

with aside, st.container():  # of its own: see start_button
    if problems:
        count = len(problems)
        st.info(
            f"{count:,} {'setting needs' if count == 1 else 'settings need'} attention: see the messages in red.",
            icon=":material/edit_note:",
        )
    else:
        count = found.description.count if found.description else 0
        num_images = count - datasets.held_out_count(count, draft.data.hold_out) if count else None
        training_cost.show(data_form.resolved(draft), num_images)

with aside, st.container():
    base = st.session_state["train_base"]  # a preset, or the run whose settings are used
    base = selected_preset or (base if base not in PRESETS else Path(draft.data.data_dir).stem)
    name, name_problems = run_name.show(runs_dir, base)

    busy = [run.name for run in runs.list_runs(runs_dir) if run.state() in ACTIVE]
    if busy:
        st.caption(
            f":material/hourglass_top: {escape(busy[0])} is training: this run will wait in the queue"
            " until it has finished."
        )
with aside:
    refusals = [*(p.sentence for p in problems), *name_problems]  # shown at their fields
    pressed = start_button.show("Start", "play_arrow", refusal=refusals[0] if refusals else "")
    st.caption("Shell command")
    layout.command(commands.train(draft, name, layout.shell_runs_dir()))

if pressed:
    with layout.errors():
        run = runs.create_run(runs_dir, name, data_form.resolved_now(draft, found.description))
        launch.start_training(run)
        st.switch_page(layout.MONITOR, query_params={"run": name})
