"""Which dialog on runs is asked for, kept in the session until it is answered or dismissed."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import streamlit as st

from pages.ui.components.markdown import escape
from pages.ui.frame import layout, messages
from pages.ui.frame.action_buttons import button

REQUEST = "_action"  # in the session


class Asked(NamedTuple):
    """A dialog that is asked for."""

    action: str
    names: tuple[str, ...]  # of the runs that it is about
    step: int = 0  # the checkpoint that it is about; 0: none in particular
    place: tuple[str, ...] = ()  # the page where it was asked for, and its run; (): any


def ask(action: str, names: Sequence[str], step: int = 0) -> None:
    """Asks for a dialog."""
    forget()
    st.session_state[REQUEST] = Asked(action, tuple(names), step, layout.place())


def asked() -> Asked | None:
    """What is asked for; nothing that was asked for on another page, or of another run there."""
    request: Asked | None = st.session_state.get(REQUEST)
    if request is None or request.place in ((), layout.place()):
        return request
    forget()
    return None


def forget() -> None:
    """Takes back what was asked for, with what was typed in its dialog."""
    st.session_state.pop(REQUEST, None)
    for key in [key for key in st.session_state if str(key).startswith("dialog_")]:
        del st.session_state[key]


def dialog(title: str, **more: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Streamlit's dialog, which takes its request back when it is dismissed.  Its fields have keys with "dialog_"."""

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(body)
        def show(*args: Any, **kwargs: Any) -> None:
            body(*args, **kwargs)
            messages.inside()

        return st.dialog(escape(title), on_dismiss=layout.callback(forget), **more)(show)

    return decorate


def answered() -> None:
    """Closes the dialog."""
    forget()
    st.rerun()


def buttons(label: str, icon: str, why_not: str = "", removes: bool = False) -> bool:
    """Shows Cancel and the button that does it; True when the second was pressed.  why_not: as for `button`.

    removes: it deletes something, and does not look like what starts something (page.css).
    """
    key = "removes" if removes else "does"
    with st.container(horizontal=True, horizontal_alignment="right", key=f"dialog_{key}"):
        if st.button("Cancel", key="dialog_cancel"):
            answered()
        return button(label, why_not, type="primary", icon=f":material/{icon}:", key="dialog_sure")
