"""The button that starts what a form asks for."""

from collections.abc import Sequence

import streamlit as st

from pages.ui.components import setting_widgets
from pages.ui.components.markdown import escape


def show(label: str, icon: str, problems: Sequence[str] = (), refusal: str = "", missing: Sequence[str] = ()) -> bool:
    """Shows the problems and the button below them; returns whether it was pressed.

    It cannot be pressed while there are problems, while something is `missing` that was not given yet, which is no
    mistake, or when `refusal` says another reason.  The problems have a
    container of their own, as the form above should: the button then keeps its place in the page, and Streamlit does
    not show an old one next to it while the page reruns.
    """
    with st.container():
        setting_widgets.show_problems(problems)
        for sentence in missing:
            st.caption(escape(sentence))
    refusal = next(iter((*problems, *missing)), refusal)
    return st.button(
        escape(label),
        type="primary",
        icon=f":material/{icon}:",
        width="stretch",
        shortcut="Ctrl+Enter",
        disabled=bool(refusal),
        help=escape(refusal) or None,
    )
