"""Earlier samples of a run: show again, annotate, compare, delete."""

import zlib
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import summary
from ddpm.runs import trash
from ddpm.runs.results import SampleJob
from pages.ui.components.markdown import escape
from pages.ui.forms import reopen
from pages.ui.frame import job_progress, layout, messages
from pages.ui.results import samples

THUMB = 176
PER_PAGE = 12
SELECTED = "sample_compared"  # in the session: keys of the samples selected for comparison, at most two
DELETED = "sample_gone"  # in the session: where the last deleted samples are now, and their former folder
DELETE_REQUEST = "sample_condemned"  # in the session: key of the samples whose deletion is being confirmed

Choose = Callable[[str], None]


def show(jobs: list[SampleJob], shown: SampleJob | None, config: Config, choose: Choose, use: reopen.Use) -> None:
    """Shows the samples of a run, newest first; a click shows one again or fills the form."""
    _undo(jobs)
    pages = -(-len(jobs) // PER_PAGE)
    page = st.pagination(pages, key="history_page") if pages > 1 else 1
    with st.grid("auto", min_column_width=THUMB + 16):
        for job in jobs[(page - 1) * PER_PAGE : page * PER_PAGE]:
            with st.container(border=True, height="stretch", gap="xsmall", key=f"drawn_{key_of(job)}"):
                _entry(job, job == shown, config, choose, use)
    to_delete = next((job for job in jobs if key_of(job) == st.session_state.get(DELETE_REQUEST)), None)
    if to_delete:
        _confirm(to_delete)


def key_of(job: SampleJob) -> str:
    """Tells samples from those of the same name in another run, as a duplicate has them."""
    return f"{job.folder.parent.parent.name}/{job.name}"


def selected(jobs: list[SampleJob]) -> list[SampleJob]:
    """Samples selected for comparison, in the order of selection."""
    by_key = {key_of(job): job for job in jobs}
    return [by_key[key] for key in st.session_state.get(SELECTED, []) if key in by_key]


def _entry(job: SampleJob, is_shown: bool, config: Config, choose: Choose, use: reopen.Use) -> None:
    sample, own = job.sample_config, key_of(job)
    with st.container(height=THUMB + 8, horizontal_alignment="center", vertical_alignment="center", border=False):
        image, wrong = None, ""
        try:
            image = samples.latest(job, THUMB)
        except UserError as error:
            wrong = str(error)
        if wrong:
            st.caption(escape(wrong))
        elif image:
            st.image(image, output_format="PNG", alt=f"Samples of {job.name}")
        else:
            st.caption(f"*{escape(job.state())}*", width="content")
    st.markdown(f"**{escape(job_progress.started_at(job))}**")
    st.caption(escape(summary.describe(config, sample)) if sample else "–")
    if note := job.note:
        st.markdown(f":small[{escape(note)}]")
    st.space("stretch")
    with st.container(horizontal=True, gap="small"):
        st.button(
            "Shown" if is_shown else "Show",
            key=f"show_{own}",
            disabled=is_shown,
            on_click=layout.callback(choose),
            args=(job.name,),
        )
        if sample:
            st.button(
                "Use settings",
                key=f"use_{own}",
                on_click=layout.callback(use),
                args=(sample, job.settings.get("checkpoint")),
                type="tertiary",
            )
    with st.container(horizontal=True, gap=None, vertical_alignment="center"):
        where = f"compare_{own}"
        st.session_state[where] = own in st.session_state.get(SELECTED, [])
        st.checkbox(
            "Compare",
            key=where,
            on_change=layout.callback(_select),
            args=(own,),
            width="stretch",
        )
        with st.popover("", icon=":material/edit_note:", type="tertiary", help="Note", key=f"note_of_{own}"):
            field = f"note_{own}-{zlib.crc32(note.encode()):x}"  # another field for a note that changed elsewhere
            st.text_input(
                "Note",
                note,
                key=field,
                on_change=layout.callback(_note),
                args=(job, field),
                placeholder="Add a note",
                width=260,
            )
        st.button(
            "",
            icon=":material/delete:",
            key=f"delete_{own}",
            type="tertiary",
            help="Delete",
            on_click=layout.callback(_request_delete),
            args=(own,),
        )


def _select(own: str) -> None:
    """Selects or deselects for comparison: a third one replaces the first."""
    before = [other for other in st.session_state.get(SELECTED, []) if other != own]
    st.session_state[SELECTED] = [*before, own][-2:] if st.session_state[f"compare_{own}"] else before


def _note(job: SampleJob, field: str) -> None:
    with layout.errors():
        job.set_note(st.session_state[field])


def _request_delete(own: str) -> None:
    st.session_state[DELETE_REQUEST] = own


def _cancel_delete() -> None:
    st.session_state.pop(DELETE_REQUEST, None)


@st.dialog("Delete these samples?", on_dismiss=layout.callback(_cancel_delete))
def _confirm(job: SampleJob) -> None:
    st.write(
        f"The samples of **{escape(job_progress.started_at(job))}** will be moved to"
        f" {escape(job.folder.parent.parent.parent / '.trash')}. You can undo this."
    )
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Cancel", key="drawing_cancel"):
            _cancel_delete()
            st.rerun()
        if st.button("Delete", icon=":material/delete:", key="drawing_sure"):
            _cancel_delete()
            try:
                st.session_state[DELETED] = trash.trash_samples(job), job.folder
            except UserError as error:
                messages.say(str(error), wrong=True)
            st.rerun()


def recently_deleted(run_folder: Path) -> bool:
    """Whether samples of this run were just deleted and can be restored."""
    return DELETED in st.session_state and st.session_state[DELETED][1].parent.parent == run_folder


def _undo(jobs: list[SampleJob]) -> None:
    if DELETED not in st.session_state:
        return
    trashed, folder = st.session_state[DELETED]
    if jobs and folder.parent != jobs[0].folder.parent:
        return  # of another run
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(
            f":material/delete: The samples of {escape(job_progress.started_at(SampleJob(folder)))} were deleted.",
            width="content",
        )
        if st.button("Undo", icon=":material/undo:", key="drawing_undo"):
            try:
                trash.restore(trashed)
            except UserError as error:
                messages.say(str(error), wrong=True)
            del st.session_state[DELETED]
            st.rerun()
