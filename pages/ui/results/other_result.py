"""Explore's tab of a kind of result that has no module of its own here: form, progress, numbers and downloads."""

import json

import streamlit as st

from ddpm.config import codec
from ddpm.errors import UserError
from ddpm.runs import launch
from ddpm.runs.jobs import ACTIVE
from ddpm.runs.results import KINDS, Result
from ddpm.runs.runs import Run
from pages.ui.components import setting_widgets, shell_command, start_button
from pages.ui.components.markdown import escape, with_code
from pages.ui.forms import checkpoint_form, setting_fields
from pages.ui.frame import job_progress, layout


def show(run: Run, name: str) -> None:
    """Shows the tab of a row of KINDS."""
    kind = KINDS[name]
    try:
        checkpoints, jobs = run.checkpoints(), run.results(name)
    except UserError as error:
        st.error(with_code(error), icon=":material/error:")
        return
    if not checkpoints:
        checkpoint_form.require_checkpoint(run, "this needs one")
    active = next((job for job in jobs if job.state() in ACTIVE), None)
    halves = st.grid(2, min_column_width=340, gap=("small", "medium"))
    with halves.cell():
        _form(run, name, active)
        shown = checkpoint_form.result(name, "Shown", jobs)
    with halves.cell():
        job = active or shown
        if job is None:
            st.info(f"{escape(kind.words)} Press Start.", icon=":material/explore:")
        else:
            layout.fragment(run_every=1.0 if job == active else None)(_progress)(job, job == active)


def _form(run: Run, name: str, active: Result | None) -> None:
    kind = KINDS[name]
    setting_fields.fill_first(name, kind.settings)
    setting_fields.section(name, kind.settings)
    settings, wrong = setting_fields.read(name, kind.settings)
    busy = "Another one is running: wait for it or cancel it first." if active else ""
    if start_button.show("Start", "play_arrow", wrong, busy):
        with layout.errors():
            launch.start_result(run, name, codec.with_absolute_paths(settings))
            st.session_state.pop(setting_widgets.key(name, "shown"), None)
            st.rerun()
    with st.expander("Shell command", icon=":material/terminal:"):
        shell_command.show(run.shell(*kind.command.split(), "--run", more=codec.to_flags(settings)))


def _progress(job: Result, was_active: bool) -> None:
    job_progress.follow(job, was_active, "It")
    if result := job.result:
        st.json(result, expanded=1)
        content = json.dumps(result, indent=2).encode()
        stem = f"{job.folder.parent.parent.name}-{job.folder.parent.name}-{job.name}"
        job_progress.downloads([("Result (JSON)", f"{stem}.json", "application/json", lambda: content)], job.command)
