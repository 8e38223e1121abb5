"""What can be done with a run, or with several at once: the menu of a run, and the dialogs behind it.

    run_menu.show_menu(run, state)          # a button with a menu
    run_menu.act("archive", ["a", "b"])     # the same, from a callback or anywhere in a page
    run_menu.dialogs()                      # once in the body of the page: the dialog that `act` asked for

A page that calls `act` or shows a menu calls `dialogs` too, after them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import streamlit as st

from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.runs import runs, trash
from ddpm.runs.jobs import ACTIVE, State
from ddpm.runs.runs import Run
from pages.ui.components.markdown import escape
from pages.ui.frame import layout, messages, run_dialogs, run_files, training_dialogs
from pages.ui.frame.action_buttons import run_action
from pages.ui.frame.asked import Asked, ask, asked, forget


class Action(NamedTuple):
    """Something that can be done with a run."""

    label: str  # "…" at the end: a dialog asks first
    icon: str
    several: bool = False  # with several at once, too
    idle: bool = False  # only while no process works in the run


ACTIONS: dict[str, Action] = {
    "star": Action("Star", "star", True),
    "unstar": Action("Remove the star", "star_outline", True),
    "describe": Action("Title, tags, notes …", "edit_note"),
    "tag": Action("Tags …", "sell", True),
    "rename": Action("Rename …", "drive_file_rename_outline", idle=True),
    "duplicate": Action("Duplicate …", "content_copy", idle=True),
    "again": Action("Change and start again", "tune"),
    "more": Action("Train more steps …", "fast_forward", idle=True),
    "continue": Action("Continue from a checkpoint …", "fork_right"),
    "clean": Action("Remove old checkpoints …", "cleaning_services", True),
    "files": Action("Download …", "download", True),
    "archive": Action("Archive", "archive", True),
    "unarchive": Action("Take out of the archive", "unarchive", True),
    "delete": Action("Delete …", "delete", True, idle=True),
}

SEVERAL = tuple(name for name, action in ACTIONS.items() if action.several)
"""Actions for several runs at once."""

AT_ONCE: dict[str, tuple[dict[str, bool], str]] = {  # without a dialog: what is said of the run, and the answer
    "star": ({"star": True}, "Starred"),
    "unstar": ({"star": False}, "The star was removed"),
    "archive": ({"archived": True}, "Archived"),
    "unarchive": ({"archived": False}, "Taken out of the archive"),
}

DIALOGS: dict[str, Callable[[list[Run], Asked], None]] = {
    "describe": run_dialogs.describe,
    "tag": run_dialogs.tag,
    "rename": run_dialogs.rename,
    "duplicate": run_dialogs.duplicate,
    "delete": run_dialogs.delete,
    "bin": run_dialogs.show_bin,
    "files": run_files.download,
    "more": training_dialogs.more_steps,
    "continue": training_dialogs.continue_from,
    "clean": training_dialogs.clean_up,
}


def available(run: Run) -> list[str]:
    """Actions that make sense for a run: it is starred or not, archived or not."""
    about = run.about()
    no = {"star" if about.star else "unstar", "archive" if about.archived else "unarchive", "tag"}
    return [name for name in ACTIONS if name not in no]


def why_not(action: str, run: Run, state: State | None = None) -> str:
    """Says in a sentence why an action cannot be done with a run now; empty if it can.

    state: of the run, where it is known already.
    """
    now = state or run.state()
    if ACTIONS[action].idle and now in ACTIVE:
        return f"{run.name} is {now}: stop it first."
    if action in ("continue", "clean", "more"):
        return training_dialogs.why_not(action, run)
    return ""


def act(action: str, names: Sequence[str], step: int = 0) -> None:
    """Does something with runs by their names: at once, with a message that it was done, or by asking for a dialog.

    action: one of ACTIONS, for several runs one of SEVERAL; or "bin", for which no names are needed.  step: a
    checkpoint that it is about, with "continue" and "clean".  What cannot be done is said in a message.
    """

    def check() -> list[Run]:
        found = [runs.find_run(layout.runs_dir(), name) for name in names]
        for run in found:
            if sentence := why_not(action, run):
                raise UserError(sentence, code="not-applicable")
        return found

    found: list[Run] = []
    if action != "bin" and not run_action(lambda: found.extend(check()), ""):
        return
    if action not in AT_ONCE:
        ask(action, [run.name for run in found], step)
        return
    changes, answer = AT_ONCE[action]
    which = found[0].name if len(found) == 1 else plural(len(found), "run")

    def change() -> None:
        for run in found:
            run.describe(**changes)

    run_action(change, f"{answer}: {which}")


def show_menu(run: Run, state: State | None = None, key: str = "actions", **more: Any) -> None:
    """Shows a button with a menu of what can be done with a run.  more: as for st.menu_button."""
    chosen = st.menu_button(
        "More",
        available(run),
        key=f"{key}-{run.name}",
        icon=":material/more_horiz:",
        format_func=_label,
        **more,
    )
    if chosen:
        act(chosen, [run.name])
        st.rerun()


def _label(action: str) -> str:
    return f":material/{ACTIONS[action].icon}: {ACTIONS[action].label}"


def dialogs() -> None:
    """Opens the dialog that `act` asked for, or goes to the page that it leads to."""
    request = asked()
    if request is None:
        return
    if request.action == "again":
        forget()
        st.session_state[layout.BEGIN_ANEW] = True
        query = {"like": request.names[0], **({"step": str(request.step)} if request.step else {})}
        st.switch_page(layout.TRAIN, query_params=query)
    found = []
    try:
        found = [runs.find_run(layout.runs_dir(), name) for name in request.names]
    except UserError as error:  # deleted or renamed meanwhile
        forget()
        messages.say(str(error), wrong=True)
        return
    DIALOGS[request.action](found, request)


def undo_line() -> None:
    """Shows which runs were just deleted, and a button that restores them; nothing where none were."""
    trashed = run_dialogs.just_deleted()
    if not trashed:
        return
    names = [path.name for path in trashed]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        which = escape(names[0]) if len(names) == 1 else plural(len(names), "run")
        st.caption(f":material/delete: {which} deleted: in the bin until it is emptied.", width="content")
        if st.button("Undo", icon=":material/undo:", key="undo_delete"):
            restored = [path for path in trashed if run_action(functools.partial(trash.restore, path), "")]
            run_dialogs.forget_deleted(restored)
            if len(restored) == len(trashed):  # else it is said why one was not
                messages.say(f"Restored: {plural(len(restored), 'run')}")
            st.rerun()
        if st.button("", icon=":material/close:", type="tertiary", key="undo_dismiss", help="Dismiss"):
            run_dialogs.forget_deleted(trashed)
            st.rerun()


def bin_button() -> None:
    """Shows a button that opens the bin; nothing where it is empty."""
    count = len(trash.entries(layout.runs_dir()))
    if count and st.button(f"Bin ({count:,})", icon=":material/delete:", type="tertiary", key="bin"):
        act("bin", [])
        st.rerun()
