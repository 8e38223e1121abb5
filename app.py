"""Home: the list of runs, active ones first, and buttons that start a new one."""

import streamlit as st

from ddpm.config.presets import DEFAULT, PRESETS
from ddpm.runs import example, runs
from ddpm.runs.jobs import ACTIVE
from ddpm.runs.runs import Run
from pages.ui.components import setting_widgets, thumbnails
from pages.ui.forms import import_form
from pages.ui.frame import layout, run_status, run_store

SHOWN = 12  # runs, until all are asked for

layout.page("Home")
runs_dir = layout.runs_dir()
store = run_store.store(runs_dir)
IMPORT = "Open a folder of improved-diffusion"
found = runs.all_runs(runs_dir)


def start_quickly() -> None:
    with layout.errors(stop=True):
        run = run_status.quick_start()
    st.switch_page(layout.MONITOR, query_params={"run": run.name})


# No runs yet

if not found:
    with st.container(border=True, horizontal_alignment="center", gap="medium", key="welcome"):
        st.space("small")
        st.header("Train your first diffusion model", width="content", anchor=False)
        st.markdown(
            "A small network learns generated images of coloured shapes on this computer.  \n"
            "Watch it train and sample new images from it a few minutes later.",
            width="content",
            text_alignment="center",
        )
        if st.button("Start the quick start", type="primary", icon=":material/rocket_launch:", key="quick_start"):
            start_quickly()
        if st.button(
            "Sample from the example model first",
            icon=":material/brush:",
            type="tertiary",
            key="example",
            help=f"The program includes a small trained model: {layout.EXAMPLE}.",
        ):
            with layout.errors(stop=True):
                example.provide(runs_dir)
            st.switch_page(layout.SAMPLE, query_params={"run": example.NAME})
        st.page_link(layout.TRAIN, label="Choose data and settings", icon=":material/model_training:")
        st.space("small")
    with st.expander(IMPORT, icon=":material/folder_open:"):
        import_form.show(runs_dir)
    st.caption(f"Runs are kept in `{runs_dir}`.", text_alignment="center")
    st.stop()


# Start something new

with st.container(horizontal=True, vertical_alignment="center", key="begin"):
    st.header("Runs", width="stretch", anchor=False)
    if st.button(
        "Quick start",
        icon=":material/rocket_launch:",
        key="quick_start",
        help=f"One click: {PRESETS[DEFAULT].description}",
    ):
        start_quickly()
    if st.button("New training", type="primary", icon=":material/add:", key="new", help="Choose data and settings."):
        st.switch_page(layout.TRAIN)

with st.expander(IMPORT, icon=":material/folder_open:"):
    import_form.show(runs_dir)

condemned = {run.name: run for run in found}.get(st.session_state.get(run_status.DELETE_REQUEST, ""))
if condemned:
    run_status.confirm_delete(condemned)


# The runs


def card(run: Run) -> None:
    """One run in a row: newest preview, progress, loss curve, links to the other pages."""
    view = store.glance(run)
    status, state = view.status(), view.state()
    if state == "unreadable":
        with st.container(border=True, horizontal=True, vertical_alignment="center", key=f"run-{run.name}"):
            st.markdown(f"**{run.name}**", width="content")
            run_status.state_badge(state)
            st.caption(setting_widgets.escape(run.unreadable()))
        return
    grids, losses = view.previews(), view.sketch("loss")
    with st.container(border=True, horizontal=True, vertical_alignment="center", gap="small", key=f"run-{run.name}"):
        picture = thumbnails.shown(grids[-1][1], 520) if grids else None
        with st.container(width=104, height=104, border=False, vertical_alignment="center"):
            if picture:
                st.image(picture, width=104, alt=f"Newest preview of {run.name}")
            else:
                st.caption("no preview yet", text_alignment="center")
        with st.container(width="stretch", gap="xsmall"):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{setting_widgets.escape(run.name)}**", width="content")
                run_status.state_badge(state)
            run_status.progress_bar(status, state)
            st.caption(run_status.summary_line(run, status, state))
            with st.container(horizontal=True, vertical_alignment="center", gap=None):
                here = {"run": run.name}
                st.page_link(layout.MONITOR, label="Monitor", query_params=here)
                st.page_link(layout.SAMPLE, label="Sample", query_params=here)
                st.page_link(layout.EVALUATE, label="Evaluate", query_params=here)
                with st.popover("More", type="tertiary", key=f"more-{run.name}"):
                    run_status.downloads(
                        run, key=f"home-{run.name}", why_not="" if losses else "There are no metrics yet."
                    )
                    busy = f"It is {state}: stop it first." if state in ACTIVE else ""
                    if run_status.button("Delete …", busy, icon=":material/delete:", key=f"delete-{run.name}"):
                        st.session_state[run_status.DELETE_REQUEST] = run.name
                        st.rerun()
        newest = status.metrics.get("loss") if status else None
        st.metric("Loss", run_status.format_number(newest), chart_data=losses or None, chart_type="line", width=150)


def listing() -> None:
    now = runs.all_runs(runs_dir)
    if not now:
        st.rerun()
    everyone = sorted(now, key=lambda run: store.glance(run).state() not in ACTIVE)
    shown = everyone if st.session_state.get("all_runs") else everyone[:SHOWN]
    for run in shown:
        with layout.errors():
            card(run)
    if len(shown) < len(everyone):
        st.button(
            f"Show all {len(everyone)} runs",
            key="more_runs",
            on_click=layout.callback(st.session_state.update),
            kwargs={"all_runs": True},
        )


# Two paces, for runs are started from a shell as well.
layout.fragment(run_every=2.0 if any(store.glance(run).state() in ACTIVE for run in found) else 5.0)(listing)()
