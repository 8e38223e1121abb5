"""A run as a row of the list on Home."""

from pathlib import Path

import streamlit as st

from ddpm.errors import UserError
from ddpm.runs.jobs import ACTIVE, State
from ddpm.runs.runs import Run
from pages.ui.components import thumbnails
from pages.ui.components.markdown import escape
from pages.ui.frame import layout, run_actions, run_files, run_menu, run_status
from pages.ui.frame.run_store import Store


def show(store: Store, run: Run) -> None:
    """One run in a row: newest preview, progress, loss curve, links to the other pages."""
    view = store.glance(run)
    status, state = view.status(), view.state()
    if problem := view.problem():
        _show_problem(run, state, problem)
        return
    grids, losses = view.previews(), view.sparkline("loss")
    with st.container(border=True, horizontal=True, vertical_alignment="center", gap="small", key=f"run-{run.name}"):
        image, wrong = _newest(run, grids)
        with st.container(width=104, height=104, border=False, vertical_alignment="center"):
            if image:
                st.image(image, width=104, alt=f"Newest preview of {run.name}")
            else:
                st.caption("no preview" if wrong else "no preview yet", text_alignment="center")
        with st.container(width="stretch", gap="xsmall"):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{escape(run.title)}**", width="content")
                run_status.state_badge(state)
                _marks(run)
            run_status.progress_bar(status, state)
            st.caption(escape(run_status.summary_line(run, status, state)))
            if wrong:
                st.caption(escape(wrong))
            with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
                here = {"run": run.name}
                st.page_link(layout.MONITOR, label="Monitor", query_params=here)
                st.page_link(layout.SAMPLE, label="Sample", query_params=here)
                st.page_link(layout.EVALUATE, label="Evaluate", query_params=here)
                run_menu.show_menu(run, state, type="tertiary")
                with st.popover("Files", type="tertiary", key=f"more-{run.name}"):
                    run_files.downloads(run, key=f"home-{run.name}", why_not="" if losses else run_files.NO_METRICS)
                    busy = f"It is {state}: stop it first." if state in ACTIVE else ""
                    if run_actions.button("Delete …", busy, icon=":material/delete:", key=f"delete-{run.name}"):
                        run_menu.act("delete", [run.name])
                        st.rerun()
        newest = status.metrics.get("loss") if status else None
        st.metric("Loss", run_status.format_number(newest), chart_data=losses or None, chart_type="line", width=150)


def _marks(run: Run) -> None:
    about = run.about()
    if about.star:
        st.badge("starred", icon=":material/star:", color="yellow")
    if about.archived:
        st.badge("archived", icon=":material/archive:", color="gray")


def _newest(run: Run, previews: list[tuple[int, Path]]) -> tuple[bytes | None, str]:
    """The newest preview as a PNG, if there is one, and what is wrong with it."""
    try:
        return (thumbnails.shown(run, previews[-1][1], 520) if previews else None), ""
    except UserError as error:
        return None, str(error)


def _show_problem(run: Run, state: State, problem: str) -> None:
    """A run with a file that is not what it should be: what is wrong, and a way to be rid of it."""
    with st.container(border=True, horizontal=True, vertical_alignment="center", key=f"run-{run.name}"):
        st.markdown(f"**{escape(run.name)}**", width="content")
        run_status.state_badge(state)
        st.caption(escape(problem))
        busy = f"It is {state}: stop it first." if state in ACTIVE else ""
        if run_actions.button("Delete …", busy, icon=":material/delete:", key=f"delete-{run.name}"):
            run_menu.act("delete", [run.name])
            st.rerun()
