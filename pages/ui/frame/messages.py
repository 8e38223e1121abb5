"""Says that something was done, or why it could not be: one sentence, which leaves when it is no longer true.

    messages.say("Save requested", holds=lambda: not saved())
    messages.say(str(error), wrong=True)

There is one at a time, beside the toolbar, where no button of a page is (page.css).  It is taken away when a newer one
is said, when `holds` says so, which is asked on every run of the page and of its fragments, and after a few seconds.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages.ui.components.markdown import with_code

MESSAGE, PLACE = "_message", "_message_place"  # in the session
SECONDS, LONG = 4.0, 10.0  # that one stays: that something was done, or that it could not be; as page.css has it


class Message(NamedTuple):
    """A sentence, and until when it is shown."""

    text: str
    wrong: bool
    until: float
    holds: Callable[[], bool]


def say(text: str, wrong: bool = False, holds: Callable[[], bool] = lambda: True) -> None:
    """Shows a sentence in place of the one before; code in it stands in backquotes.  holds: whether it is still true.

    wrong: it says why something could not be done.
    """
    until = time.monotonic() + (LONG if wrong else SECONDS)
    st.session_state[MESSAGE] = Message(text, wrong, until, holds)
    context = get_script_run_ctx()
    if not (context and context.fragment_ids_this_run):  # a fragment refreshes at its end; a dialog may not, and reruns
        refresh()


def show() -> None:
    """Makes room for the message, and shows it if there is one; once on every page."""
    with st.container(key="message"):
        st.session_state[PLACE] = st.empty()
    refresh()


def refresh() -> None:
    """Shows the message again, or takes it away when it no longer holds."""
    message, place = st.session_state.get(MESSAGE), st.session_state.get(PLACE)
    if message is None or place is None:
        return
    if time.monotonic() > message.until or not message.holds():
        del st.session_state[MESSAGE]
        place.empty()
    elif message.wrong:
        place.error(with_code(message.text), icon=":material/error:")
    else:
        place.success(with_code(message.text), icon=":material/check:")
