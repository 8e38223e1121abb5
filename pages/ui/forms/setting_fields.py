"""The fields of a group of settings, each with what is wrong with it, and what it was before it was changed."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import streamlit as st

from ddpm.config import validation, wording
from ddpm.config.fields import Setting, settings
from ddpm.config.validation import Problem
from pages.ui.components import setting_widgets
from pages.ui.components.markdown import escape
from pages.ui.frame import layout

Problems = Mapping[str, Sequence[Problem]]
WAITING = {"unchecked-images", "unindexed-data"}  # codes of problems that pass by themselves
KEPT = "{form}_kept"  # in the session: problems, with the values that the user has said to keep
OPENED = "{form}_opened"  # in the session: folds that were opened because something in them was wrong


class Notes(NamedTuple):
    """What stands below the fields of a form."""

    problems: Problems
    changed: Mapping[str, Any]  # settings that differ from what the form began with, and their values there
    base: str  # the name of that


NO_NOTES = Notes({}, {}, "")


def group_by_field(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    """Groups problems by setting."""
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(problem.name, []).append(problem)
    return found


def section(form: str, cls: type, notes: Notes = NO_NOTES, skip: Collection[str] = (), columns: int = 3) -> None:
    """Shows the fields of one dataclass of settings: basic ones first, then a fold for each other group.

    `skip` names settings that do not apply.  A fold opens by itself when something in it is wrong, and stays open.
    """
    fields = [s for s in settings(cls) if s.name not in skip]
    show(form, [s for s in fields if s.basic], notes, columns)
    groups: dict[str, list[Setting]] = {}
    for s in fields:
        if not s.basic:
            groups.setdefault(s.group, []).append(s)
    for title, members in groups.items():
        with fold(form, title, any(s.name in notes.problems for s in members)):
            show(form, members, notes, columns)


def fold(form: str, title: str, wrong: bool) -> Any:
    """A fold that opens once something in it is wrong, and is not closed when that is corrected."""
    opened = st.session_state.setdefault(OPENED.format(form=form), set())
    if wrong:
        opened.add(title)
    is_open = title in opened  # in the key too: the browser keeps a fold that it knows as it is
    return st.expander(escape(title), expanded=is_open, key=f"{form}_fold_{title}{'_open' if is_open else ''}")


def fill_first(form: str, cls: type) -> None:
    """Puts the initial values of a task's settings into a form, the first time."""
    first = settings(cls)
    if setting_widgets.key(form, first[0].name) not in st.session_state:
        setting_widgets.fill(form, {s.name: setting_widgets.held(s, s.default) for s in first})


def read(form: str, cls: type, skip: Collection[str] = ()) -> tuple[Any, list[str]]:
    """Reads a task's settings from a form that shows all of them but those of `skip`.

    Returns them, with initial values in the place of what is missing, and what is wrong, as sentences.
    """
    known = settings(cls)
    held = {s.name: st.session_state.get(setting_widgets.key(form, s.name)) for s in known}
    values = {s.name: s.default if s.name in skip else setting_widgets.meant(s, held[s.name]) for s in known}
    empty = [s for s in known if values[s.name] is None and s.default is not None]
    found = cls(**(values | {s.name: s.default for s in empty}))
    wrong = [f"{s.label} is empty: type a value." for s in empty]
    return found, wrong + [problem.sentence for problem in validation.limit_problems(found)]


def show(form: str, fields: Sequence[Setting], notes: Notes = NO_NOTES, columns: int = 3) -> None:
    """Shows input fields in a grid and switches in a row below it, each with its problems."""
    boxes, switches = [s for s in fields if s.type is not bool], [s for s in fields if s.type is bool]
    if boxes:
        grid = st.grid(columns, min_column_width=150)
        for s in boxes:
            with grid.cell():
                setting_widgets.show_field(form, s)
                show_notes(form, s, notes)
    if switches:
        with st.container(horizontal=True, gap="medium"):
            for s in switches:
                with st.container(width="content", gap="xsmall"):
                    setting_widgets.show_switch(form, s)
                    _show_change(form, s, notes)
        for s in switches:
            show_problems(form, notes.problems.get(s.name, ()))


def show_notes(form: str, s: Setting, notes: Notes) -> None:
    """Shows below a field what it was before it was changed, and what is wrong with it."""
    _show_change(form, s, notes)
    show_problems(form, notes.problems.get(s.name, ()))


def _show_change(form: str, s: Setting, notes: Notes) -> None:
    if s.name not in notes.changed:
        return
    before = notes.changed[s.name]
    st.button(
        escape(f"Was {wording.shown(s, before)}"),
        key=f"{form}-back-{s.name}",
        type="tertiary",
        icon=":material/undo:",
        help=escape(f"Changed from {notes.base}. A click puts it back."),
        on_click=layout.callback(take),
        args=(form, {s.name: before}),
    )


def show_problems(form: str, problems: Sequence[Problem], place: str = "field") -> None:
    """Shows problems in small print, red where something is wrong, each with its remedies as buttons.

    place: distinguishes where in the page they are shown.
    """
    for number, problem in enumerate(problems):
        if problem.code in WAITING:
            setting_widgets.show_waiting(wording.sentence(problem))
        else:
            setting_widgets.show_problems([wording.sentence(problem)])
        if not problem.remedies and not problem.keep:
            continue
        with st.container(horizontal=True, gap="small"):
            for k, remedy in enumerate(problem.remedies):
                st.button(
                    escape(wording.remedy(remedy)),
                    key=f"{form}-{place}-{problem.name}-{number}-{k}",
                    on_click=layout.callback(take),
                    args=(form, remedy),
                )
            if problem.keep:
                st.button(
                    escape(problem.keep),
                    key=f"{form}-{place}-{problem.name}-{number}-keep",
                    type="tertiary",
                    help="Start like this all the same.",
                    on_click=layout.callback(keep),
                    args=(form, problem),
                )


def take(form: str, values: Mapping[str, Any]) -> None:
    """Puts settings into their fields, as a remedy or an earlier value has them.  For a callback."""
    known = wording.by_name()
    setting_widgets.fill(form, {name: setting_widgets.held(known[name], value) for name, value in values.items()})


def keep(form: str, problem: Problem) -> None:
    """Remembers that the user insists on what a problem is about, as it is now.  For a callback."""
    st.session_state.setdefault(KEPT.format(form=form), set()).add(_kept(form, problem))


def unsettled(form: str, problems: Sequence[Problem]) -> list[Problem]:
    """The problems that are left: those that prevent a start, and those that nobody has said to keep."""
    kept = st.session_state.get(KEPT.format(form=form), set())
    return [problem for problem in problems if not (problem.keep and _kept(form, problem) in kept)]


def _kept(form: str, problem: Problem) -> str:
    return f"{problem.code} {problem.name} {st.session_state.get(setting_widgets.key(form, problem.name))}"
