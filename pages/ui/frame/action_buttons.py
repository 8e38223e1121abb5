"""Buttons that say why they cannot be pressed, and actions that say how they went."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from ddpm.errors import UserError, user_errors
from pages.ui.components.markdown import escape
from pages.ui.frame import messages


def button(label: str, why_not: str = "", help: str = "", **more: Any) -> bool:
    """Button that explains why it is disabled."""
    return st.button(escape(label), disabled=bool(why_not), help=escape(why_not or help) or None, **more)


def run_action(action: Callable[[], Any], message: str, holds: Callable[[], bool] = lambda: True) -> bool:
    """Runs an action and shows that it was done, or why it could not be.  Returns whether it was done.

    holds: whether the message is still true; once it is not, it leaves.
    """
    try:
        with user_errors():
            action()
    except UserError as error:
        messages.say(str(error), wrong=True)
        return False
    if message:
        messages.say(message, holds=holds)
    return True
