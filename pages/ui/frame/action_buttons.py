"""Buttons that say why they cannot be pressed, and actions that say how they went."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from ddpm.errors import UserError, user_errors
from pages.ui.components.markdown import escape, with_code


def button(label: str, why_not: str = "", help: str = "", **more: Any) -> bool:
    """Button that explains why it is disabled."""
    return st.button(escape(label), disabled=bool(why_not), help=escape(why_not or help) or None, **more)


def run_action(action: Callable[[], Any], message: str) -> bool:
    """Runs an action and shows that it was done, or why it could not be.  Returns whether it was done."""
    try:
        with user_errors():
            action()
    except UserError as error:
        st.toast(with_code(error), icon=":material/error:", duration="long")
        return False
    if message:
        st.toast(escape(message), icon=":material/check:")
    return True
