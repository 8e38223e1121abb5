"""Train: choose data and settings, see the estimated cost, start."""

from pathlib import Path

import streamlit as st

from ddpm.config import objectives
from ddpm.config.model import DiffusionConfig, ModelConfig
from ddpm.config.presets import OWN, PRESETS
from ddpm.config.training import TrainConfig, unused
from ddpm.runs import commands, launch, runs
from ddpm.runs.jobs import ACTIVE
from pages.ui.components import shell_command, start_button
from pages.ui.components.markdown import escape
from pages.ui.forms import (
    data_form,
    draft,
    own_images,
    preset_cards,
    run_name,
    setting_fields,
    super_res,
    train_form,
    train_rail,
)
from pages.ui.forms.train_form import FORM
from pages.ui.frame import layout
from pages.ui.results import training_cost

layout.page("Train")
runs_dir = layout.runs_dir()
main, rail = train_rail.columns()
main.title("Train")

train_form.begin(runs_dir)
form = train_form.read(runs_dir)
config, found = form.config, form.found


# The fields

with main:
    preset = preset_cards.show(train_form.FORM, config, train_form.fill)
    halves = st.grid(2, min_column_width=300, gap=("small", "medium"))
    with halves.cell():
        st.header("Data")
        data_form.show(FORM, config, found, form.notes, form.archive)
        own_images.show(config, found.description, found.state, train_form.fill)
    with halves.cell():
        if found.description and 4 <= config.model.image_size <= 1024 and config.model.image_channels in (1, 3, 4):
            data_form.show_images(config)

    st.header("Network")
    skip = unused(config)
    setting_fields.section(FORM, ModelConfig, form.notes, skip={*skip, "small_size"})
    super_res.show_train_fields(FORM, config.model, form.notes)

    st.header("Diffusion")
    setting_fields.section(FORM, DiffusionConfig, form.notes, skip=skip)
    objective = objectives.training_objective(config)
    st.caption(f"Objective: **{escape(objective.name)}**. {escape(objective.description)}")

    st.header("Training")
    setting_fields.section(FORM, TrainConfig, form.notes, skip=skip)


# Name, start, cost: always in sight

busy = [run.name for run in runs.list_runs(runs_dir) if run.state() in ACTIVE]
with rail:
    with st.container(key="train_start"):
        # named after a preset, unless that is for one's own data, the run whose settings are used, or the data
        named = preset if preset and not (PRESETS[preset].group == OWN and config.data.data_dir) else ""
        base = named or (form.base if form.base not in PRESETS else Path(config.data.data_dir).stem)
        name, name_problems = run_name.show(runs_dir, base)
        refusals = [*train_rail.sentences(form.problems), *name_problems]
        pressed = start_button.show("Start", "play_arrow", refusal=refusals[0] if refusals else "")
    if form.is_measurable:
        training_cost.show(*data_form.costed(config, found, form.archive), busy=bool(busy))
    else:
        st.caption("The cost is known once the settings in red are corrected.")
    train_rail.show(form)
    if busy:
        st.caption(
            f":material/hourglass_top: {escape(busy[0])} is training: this run will wait in the queue"
            " until it has finished."
        )

with main:
    st.caption("Shell command")
    shell_command.show(commands.train(config, name, layout.shell_runs_dir()))

with layout.errors():
    draft.keep(runs_dir, FORM, st.session_state[train_form.BASE])

if pressed:
    with layout.errors():
        run = runs.create_run(runs_dir, name, data_form.resolved_now(config, found.description))
        launch.start_training(run)
        st.switch_page(layout.MONITOR, query_params={"run": name})
