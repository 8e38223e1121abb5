"""Says that something was done, or why it could not be: one sentence, which leaves when it is no longer true.

    messages.say("Save requested", holds=lambda: not saved())
    messages.say(str(error), wrong=True)

There is one at a time, beside the toolbar, where no button of a page is (page.css).  It is taken away when a newer one
is said, when `holds` says so, which is asked on every run of the page and of its fragments, and after a few seconds.
What is said in a dialog that stays open stands in the dialog.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
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
    if not _in_fragment():  # which write to the place of the page at their end, and dialogs in themselves
        refresh()


def show() -> None:
    """Makes room for the message, and shows it if there is one; once on every page."""
    with st.container(key="message"):
        st.session_state[PLACE] = st.empty()
    refresh()


def refresh() -> None:
    """Shows the message again, or takes it away when it no longer holds.

    A fragment that does this at all does it in each of its runs: Streamlit reserves it a part of the place.
    """
    if (place := st.session_state.get(PLACE)) is not None:
        _draw(place)


def inside() -> None:
    """Shows in a dialog that stays open what was said in it."""
    if _in_fragment():
        _draw(st.empty())


def _draw(place: DeltaGenerator) -> None:
    message = st.session_state.get(MESSAGE)
    if message is not None and (time.monotonic() > message.until or not message.holds()):
        del st.session_state[MESSAGE]
        message = None
    if message is None:
        place.empty()
    elif message.wrong:
        place.error(with_code(message.text), icon=":material/error:")
    else:
        place.success(with_code(message.text), icon=":material/check:")


def _in_fragment() -> bool:
    """Whether a fragment runs by itself, as a dialog does for a click in it."""
    context = get_script_run_ctx()
    return bool(context and context.fragment_ids_this_run)
