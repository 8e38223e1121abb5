"""Dialogs on runs as folders: what is said of them, their names, copies, the bin."""

from pathlib import Path

import streamlit as st

from ddpm import formatting
from ddpm.formatting import plural
from ddpm.runs import about, copying, launch, renaming, run_names, runs, trash
from ddpm.runs.jobs import ACTIVE, Job
from ddpm.runs.runs import Run
from ddpm.runs.trash import Deleted
from ddpm.storage import folders
from pages.ui.components.local_time import clock
from pages.ui.components.markdown import escape, with_code
from pages.ui.frame import job_progress, layout, messages
from pages.ui.frame.action_buttons import run_action
from pages.ui.frame.asked import Asked, answered, buttons, dialog, forget

AT_ONCE = 50 * 2**20  # bytes that are copied while the page waits: it takes less time than to start a process
DELETED = "_deleted"  # in the session: where in the bin the last deleted runs are now


# --- what the user says of them


@dialog("Title, tags, notes")
def describe(found: list[Run], request: Asked) -> None:
    """Asks for what is said of a run."""
    run = found[0]
    before = run.about()
    if problem := run.about_problem():
        st.warning(with_code(problem), icon=":material/warning:")
    title = st.text_input(
        "Title", before.title, max_chars=about.MOST_TITLE, key="dialog_title", placeholder="Shown in place of the name"
    )
    tags = _tags_field("Tags", before.tags, before.tags)
    notes = st.text_area("Notes", before.notes, height=180, max_chars=about.MOST_NOTES, key="dialog_notes")
    star = st.toggle("Star", before.star, key="dialog_star")
    st.caption(f"The folder is called {escape(run.name)}.")
    if buttons("Save", "save") and run_action(
        lambda: run.describe(title=title, tags=tags, notes=notes, star=star), f"{run.name} was saved"
    ):
        answered()


@dialog("Tags")
def tag(found: list[Run], request: Asked) -> None:
    """Asks for tags to add to several runs, and to remove from them."""
    st.write(f"For {plural(len(found), 'run')}: {escape(formatting.some([run.name for run in found], 5))}")
    theirs = sorted({tag for run in found for tag in run.about().tags}, key=str.casefold)
    add = _tags_field("Add", (), ())
    remove = st.multiselect("Remove", theirs, key="dialog_remove", disabled=not theirs)

    def change() -> None:
        for run in found:
            run.describe(add=add, remove=remove)

    why_not = "" if add or remove else "Choose tags to add or to remove."
    if buttons("Save", "save", why_not) and run_action(change, f"{plural(len(found), 'run')} tagged"):
        answered()


def _tags_field(label: str, chosen: tuple[str, ...], first: tuple[str, ...]) -> list[str]:
    """Field for tags, which offers those of all runs; spaces and commas in what is typed separate tags."""
    known = {tag: None for run in runs.list_runs(layout.runs_dir()) for tag in run.about().tags}
    typed = st.multiselect(
        escape(label),
        list(dict.fromkeys([*first, *sorted(known, key=str.casefold)])),
        list(chosen),
        key=f"dialog_{label}",
        accept_new_options=True,
        placeholder="Type a word and press Enter",
    )
    return [tag for text in typed for tag in about.split_tags(text)]


# --- names and copies


@dialog("Rename")
def rename(found: list[Run], request: Asked) -> None:
    """Asks for a new name of a run's folder."""
    run = found[0]
    name = st.text_input("Name of the folder", run.name, key="dialog_name").strip()
    st.caption("A title, tags and notes of any characters are kept beside the name: see Title, tags, notes.")
    problems = run_names.name_problem(run.folder.parent, name) if name != run.name else []
    if buttons("Rename", "check", problems[0] if problems else "") and run_action(
        lambda: renaming.rename_run(run, name), f"{run.name} is now called {name}"
    ):
        forget()
        if st.query_params.get("run") == run.name:
            layout.show_run(name)
        st.rerun()


@dialog("Duplicate")
def duplicate(found: list[Run], request: Asked) -> None:
    """Asks for the name of a copy of a run, and shows how far the copying is."""
    run = found[0]
    job = launch.copy_job(run)
    if job.status() and job.state() in ACTIVE:
        layout.fragment(run_every=0.5)(_copying)(run, job)
        return
    if st.session_state.get("dialog_copy"):
        _close_after(run, job)
        st.error(with_code(job_progress.failure_message(job, "Copying")), icon=":material/error:")
    runs_dir = run.folder.parent
    suggestion = run_names.free_name(runs_dir, f"{run.name}-copy")
    name = st.text_input("Name of the copy", suggestion, key="dialog_name").strip()
    size = copying.size(run)
    st.caption(
        f"Copies settings, log, checkpoints, previews and results: {formatting.memory(size)}. The copy can"
        " be trained further, and the original stays as it is."
    )
    problems = run_names.name_problem(runs_dir, name)
    if not buttons("Duplicate", "content_copy", problems[0] if problems else ""):
        return
    if size > AT_ONCE:
        st.session_state["dialog_copy"] = name
        if run_action(lambda: launch.start_copying(run, name), ""):
            st.rerun()
    elif run_action(lambda: copying.copy_run(run, name), f"{run.name} was copied to {name}"):
        answered()


def _copying(run: Run, job: Job) -> None:
    """Shows how far a copying is; closes the dialog when it is done."""
    state, status = job.state(), job.status()
    if state in ACTIVE:
        done, total = (status.step, status.total_steps) if status else (0, 0)
        said = f"{formatting.memory(done * 2**20)} of {formatting.memory(total * 2**20)}"
        job_progress.progress(job, status, said)
        st.caption(f"Copying {escape(run.name)} goes on when this is closed.")
        return
    _close_after(run, job)
    st.rerun()


def _close_after(run: Run, job: Job) -> None:
    """Closes the dialog after a copying that was completed or cancelled, and says which."""
    said = {"finished": "was copied", "stopped": "was not copied"}.get(job.state())
    if said:
        messages.say(f"{run.name} {said}")
        answered()


# --- the bin


@dialog("Move to the bin?")
def delete(found: list[Run], request: Asked) -> None:
    """Asks whether runs are to be deleted."""
    size = formatting.memory(sum(folders.size(run.folder) for run in found))
    which = formatting.some([run.name for run in found], 8)
    st.write(
        f"**{escape(which)}** with checkpoints, previews and samples ({size}) will be moved to"
        f" {escape(found[0].folder.parent / trash.FOLDER)}. You can undo this until the bin is emptied."
    )
    if buttons("Delete", "delete", removes=True):
        trashed = [path for run in found if (path := _trashed(run))]
        if trashed:
            st.session_state[DELETED] = trashed
            if "run" in st.query_params:  # a page on a run that is not there any more
                forget()
                st.switch_page(layout.HOME, query_params={})
            answered()


def _trashed(run: Run) -> Path | None:
    """Moves a run to the bin, or says why that cannot be."""
    paths: list[Path] = []
    run_action(lambda: paths.append(trash.trash_run(run)), "")
    return paths[0] if paths else None


def just_deleted() -> list[Path]:
    """Runs that were deleted last, and are still in the bin."""
    there = {entry.name for entry in trash.entries(layout.runs_dir())}
    deleted = st.session_state.get(DELETED, [])
    return [path for path in deleted if path.parent.parent == layout.runs_dir() and path.name in there]


def forget_deleted(paths: list[Path]) -> None:
    """Offers no longer to restore these."""
    st.session_state[DELETED] = [path for path in st.session_state.get(DELETED, []) if path not in paths]


@dialog("Bin", width="medium")
def show_bin(found: list[Run], request: Asked) -> None:
    """Shows what is in the bin, restores it, or removes it for good."""
    entries = trash.entries(layout.runs_dir())
    if not entries:
        st.write("The bin is empty.")
        if st.button("Close", key="dialog_cancel"):
            answered()
        return
    sizes = {entry.name: entry.bytes for entry in entries}
    total = formatting.memory(sum(sizes.values()))
    st.write(f"{plural(len(entries), 'folder')}, {total}")
    with st.container(height=min(60 + 44 * len(entries), 380)):
        for entry in entries:
            with st.container(horizontal=True, vertical_alignment="center"):
                deleted = clock(entry.origin.deleted_at) if entry.origin and entry.origin.deleted_at else ""
                about_it = " · ".join(filter(None, (formatting.memory(sizes[entry.name]), deleted)))
                st.markdown(f"{escape(entry.label)}  \n:small[{escape(about_it)}]", width="stretch")
                if entry.origin:
                    st.button(
                        "Restore",
                        icon=":material/undo:",
                        key=f"dialog_restore-{entry.name}",
                        on_click=layout.callback(_restore),
                        args=(entry,),
                    )
    sure = st.checkbox("Remove all of it for good", key="dialog_for_good")
    if buttons(
        f"Empty the bin, free {total}", "delete_forever", "" if sure else "Tick the box first.", removes=True
    ) and run_action(lambda: trash.empty(layout.runs_dir(), list(sizes)), f"The bin is empty: {total} freed"):
        answered()


def _restore(entry: Deleted) -> None:
    if run_action(lambda: trash.restore(entry.folder), f"{entry.label} was restored"):
        forget_deleted([entry.folder])
