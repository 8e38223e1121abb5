"""Home: the list of runs, active ones first, and buttons that start a new one."""

import streamlit as st

from ddpm.config.presets import DEFAULT, PRESETS
from ddpm.runs import runs
from ddpm.runs.jobs import ACTIVE
from pages.ui.components.markdown import escape
from pages.ui.forms import import_form
from pages.ui.frame import layout, run_actions, run_menu, run_store, tour
from pages.ui.results import run_card, runs_table, welcome

MOST_CARDS = 3  # runs that are shown as cards; more are a table

layout.page("Home")
runs_dir = layout.runs_dir()
store = run_store.store(runs_dir)
IMPORT = "Import an improved-diffusion folder"
found = runs.list_runs(runs_dir)


def start_quickly() -> None:
    with layout.errors(stop=True):
        run = run_actions.quick_start()
    tour.begin()
    st.switch_page(layout.MONITOR, query_params={"run": run.name})


run_menu.undo_line()
run_menu.dialogs()

# No runs yet

if not found:
    match welcome.show():
        case "start":
            start_quickly()
        case "sample":
            with layout.errors(stop=True):
                sampled = welcome.sample_example()
            st.switch_page(layout.SAMPLE, query_params={"run": sampled.name})
    with st.expander(IMPORT, icon=":material/folder_open:"):
        import_form.show(runs_dir)
    run_menu.bin_button()
    st.caption(f"Runs are kept in {escape(runs_dir)}.", text_alignment="center")
    st.stop()


# Start something new

with st.container(horizontal=True, vertical_alignment="center", key="begin"):
    st.title("Runs", width="stretch", anchor=False)
    if st.button(
        "Quick start",
        icon=":material/rocket_launch:",
        key="quick_start",
        help=f"One click: {PRESETS[DEFAULT].description}",
    ):
        start_quickly()
    if st.button("New training", type="primary", icon=":material/add:", key="new", help="Choose data and settings."):
        st.switch_page(layout.TRAIN)
    run_menu.bin_button()

with st.expander(IMPORT, icon=":material/folder_open:"):
    import_form.show(runs_dir)


# The runs


def cards() -> None:
    now = runs.list_runs(runs_dir)
    if not 0 < len(now) <= MOST_CARDS:
        st.rerun()
    for run in sorted(now, key=lambda run: store.glance(run).state() not in ACTIVE):
        with layout.errors():
            run_card.show(store, run)


if len(found) <= MOST_CARDS:
    # Slower while nothing is active: runs may be started from a shell.
    layout.fragment(run_every=2.0 if any(store.glance(run).state() in ACTIVE for run in found) else 5.0)(cards)()
else:
    runs_table.show()
