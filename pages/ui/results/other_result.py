"""Explore's tab of a kind of result that has no module of its own here: form, progress, numbers and downloads."""

import dataclasses
import json
from typing import Any

import streamlit as st

from ddpm.config import codec, fields, validation
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
        by_name = {job.name: job for job in jobs}
        if jobs:
            checkpoint_form.drop_unknown(name, "shown", list(by_name))
            st.selectbox(
                "Shown",
                list(by_name),
                key=setting_widgets.key(name, "shown"),
                format_func=lambda one: job_progress.started_at(by_name[one]),
                persist_state="session",
            )
    with halves.cell():
        job = active or by_name.get(st.session_state.get(setting_widgets.key(name, "shown"), ""))
        if job is None:
            st.info(f"{escape(kind.words)} Press Start.", icon=":material/explore:")
        else:
            layout.fragment(run_every=1.0 if job == active else None)(_progress)(job, job == active)


def _form(run: Run, name: str, active: Result | None) -> None:
    kind = KINDS[name]
    known = fields.settings(kind.settings)
    if setting_widgets.key(name, known[0].name) not in st.session_state:
        setting_widgets.fill(name, dataclasses.asdict(kind.settings()))
    setting_fields.section(name, kind.settings)
    values: dict[str, Any] = {s.name: st.session_state.get(setting_widgets.key(name, s.name)) for s in known}
    empty = [s.name for s in known if values[s.name] is None and s.default is not None]
    settings = kind.settings(**{n: value for n, value in values.items() if n not in empty})
    wrong = [f"{field} is empty: type a value." for field in empty]
    wrong += [problem.sentence for problem in validation.limit_problems(settings)]
    busy = "Another one is running: wait for it or cancel it first." if active else ""
    if start_button.show("Start", "play_arrow", wrong, busy):
        with layout.errors():
            launch.start_result(run, name, codec.with_absolute_paths(settings))
            st.session_state.pop(setting_widgets.key(name, "shown"), None)
            st.rerun()
    with st.expander("Shell command", icon=":material/terminal:"):
        shell_command.show(run.shell(*kind.command.split(), "--run", more=codec.to_flags(settings)))


def _progress(job: Result, was_active: bool) -> None:
    state, status = job.state(), job.status()
    if was_active and state not in ACTIVE:
        st.rerun()  # once, so that the polling stops
    if was_active:
        job_progress.progress(job, status, status.message if status and status.message else "Working")
    elif state in ("failed", "lost"):
        st.error(with_code(job_progress.failure_message(job, "It")), icon=":material/error:")
    if result := job.result:
        st.json(result, expanded=1)
        content = json.dumps(result, indent=2).encode()
        stem = f"{job.folder.parent.parent.name}-{job.folder.parent.name}-{job.name}"
        job_progress.downloads([("Result (JSON)", f"{stem}.json", "application/json", lambda: content)], job.command)
