"""Monitor: watch and control a run while it trains."""

import streamlit as st

from ddpm.runs import commands
from ddpm.runs.jobs import ACTIVE
from pages.ui.components import log_view, preview_strip, readout, shell_command
from pages.ui.components.markdown import escape, with_code
from pages.ui.forms import moved_data
from pages.ui.frame import layout, run_actions, run_files, run_status, run_store, tour
from pages.ui.results import copy_pairs, run_details, training_chart, training_progress

TICK = 2.0  # seconds between two updates of an active run's figures: once a second would cost the browser twice as much
TICK_IDLE = 4.0  # until an idle run that was resumed elsewhere is seen to be active

layout.page("Monitor")
toolbar = st.container(horizontal=True, vertical_alignment="center", key="toolbar")
toolbar.title("Monitor", width="content", anchor=False)
below = st.container()
with toolbar.container(width=220):
    run = layout.pick_run(room=below)
view = run_store.store(layout.runs_dir()).view(run)
with layout.errors(stop=True):
    config, state = run.config, view.state()
    checkpoints = view.checkpoints()
active = state in ACTIVE
every = TICK if active else None

with toolbar:
    run_actions.show(run, state)
layout.fragment(run_every=every or TICK_IDLE)(run_status.header)(view, state, checkpoints)
layout.fragment(run_every=every)(copy_pairs.link_to_previews)(run)

if not active:
    for sentence in run.manifests()[1].values():
        st.warning(with_code(sentence), icon=":material/warning:")
if not active and state != "finished":
    moved_data.show(run, config, because=status.message if (status := view.status()) else "")


# Curves, previews, log: all three show the step that one of them is pointed at

readout.show(run.name, active)
halves = st.grid(3, min_column_width=275, gap="medium")  # side by side where there is room, else one below the other
with halves.cell(column_span=2):
    st.header("Curves")
    training_chart.show([training_chart.Shown(run.name, run.name, None, active)], key=f"curves-{run.name}")

with halves.cell():
    st.header("Previews", help=training_progress.PREVIEWS_HELP)
    preview_strip.show(run.name, training_progress.no_preview(config, active))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.page_link(
            layout.SAMPLE, label="Sample from this run", icon=":material/grid_view:", query_params={"run": run.name}
        )
        run_files.preview_download(run)

with halves.cell(column_span=3):
    st.header("Log")
    log_view.show(run.name, "Nothing yet." if active else "This run has no log.")

layout.fragment(run_every=every)(copy_pairs.of_previews)(run)


# What the run is

about = st.grid(2, min_column_width=320, gap="medium")
with about.cell():
    st.header("Settings")
    run_details.settings(config)
    st.header("Data")
    run_details.data(config)
    st.header("Time")
    layout.fragment(run_every=every)(run_details.times)(view, active)
    st.header("Notes")
    run_details.notes(run)
with about.cell():
    st.header("Checkpoints")
    layout.fragment(run_every=every)(run_details.checkpoints)(run, view)
    st.header("Device")
    layout.fragment(run_every=every)(run_details.system)(run, active)
    run_details.device(view.status(), config)

with st.expander("Shell commands", icon=":material/terminal:"):
    for number, (title, command) in enumerate(commands.for_buttons(run)):
        st.caption(escape(title))
        shell_command.show(command, f"command-{number}")

tour.show()
