"""A short tour of Monitor for who has just started the first training, until it is dismissed."""

import streamlit as st

from pages.ui.components import browser_code
from pages.ui.frame import layout

WANTED = "_tour"  # in the session

STEPS = (
    {
        "title": "The curve",
        "text": "The loss falls fast at first and slowly later, while the images still get better. Drag over a part of"
        " it to zoom in.",
        "selectors": ["[class*=st-key-curves-]", "#curves"],
    },
    {
        "title": "The previews",
        "text": "Images that the network samples as it trains, always from the same noise: see shapes come out of it.",
        "selectors": ["[class*=st-key-previews-]", "#previews"],
    },
    {
        "title": "Sample",
        "text": "As soon as a checkpoint is saved you can sample new images from it here, also while it trains.",
        "selectors": ["[data-testid=stSidebar] a[href*='/sample']"],
    },
    {
        "title": "Take it home",
        "text": "results.xlsx has all settings and metrics, with charts. Everything else lies in the run's folder as"
        " plain files.",
        "selectors": ["[class*=st-key-take-xlsx]"],
    },
)

_tour = browser_code.component("ddpm_tour", "tour.js")


def begin() -> None:
    """Has Monitor show the tour, unless this browser has seen it."""
    st.session_state[WANTED] = True


def show() -> None:
    """Shows the tour where it was begun.  A browser that has seen it, or dismisses it, says so."""
    if st.session_state.get(WANTED):
        _tour(key="tour", data=list(STEPS), on_over_change=layout.callback(_end))


def _end() -> None:
    st.session_state.pop(WANTED, None)
