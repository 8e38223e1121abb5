"""A form next to what it makes: both are in sight together, the form scrolls by itself, and its button stays.

form = rail.beside("tabs")
with form.fields: ...
with form.foot: the button that starts
with form.result: ...
"""

from typing import Literal, NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

Under = Literal["title", "tabs", "choices"]

# The form is as high as what is left of the window below what stands above it: `Under` says what that is.
_CSS = """<style>
[class*=st-key-rail-under-] div[data-testid=stHorizontalBlock]:has(> div > div > div > .st-key-rail) {
  flex-wrap: nowrap; align-items: stretch; }
div[data-testid=stColumn]:has(.st-key-rail) { flex: 0 0 clamp(15.5rem, 30%, 23rem); min-width: 0; width: auto; }
div[data-testid=stColumn]:has(.st-key-rail-result) { flex: 1 1 0; min-width: 0; }
div[data-testid=stColumn]:has(.st-key-rail) > div { height: 100%; }
div:has(> .st-key-rail) { position: sticky; top: 4rem; z-index: 2; }
.st-key-rail { max-height: calc(100dvh - 12.75rem); flex-wrap: nowrap; }
.st-key-rail-under-title .st-key-rail { max-height: calc(100dvh - 9.5rem); }
.st-key-rail-under-choices .st-key-rail { max-height: calc(100dvh - 19rem); }
.st-key-rail > div { flex: none; }
.st-key-rail > div:has(> .st-key-rail-fields) { flex: 0 1 auto; min-height: 0; overflow: hidden auto;
  scrollbar-gutter: stable; padding: 2px 0.5rem 2px 2px; }
@media (max-width: 1000px) {
  .st-key-rail-under-choices .st-key-rail { max-height: calc(100dvh - 21rem); }
}
@media (max-width: 640px) {
  [class*=st-key-rail-under-] div[data-testid=stHorizontalBlock]:has(> div > div > div > .st-key-rail) {
    flex-wrap: wrap; }
  div[data-testid=stColumn]:has(.st-key-rail), div[data-testid=stColumn]:has(.st-key-rail-result) { flex: 1 1 100%; }
  div:has(> .st-key-rail) { position: static; }
  [class*=st-key-rail-under-] .st-key-rail { max-height: none; }
  .st-key-rail > div:has(> .st-key-rail-foot) { position: sticky; bottom: 0; }
}
</style>"""


class Sides(NamedTuple):
    """Places of a form and of its result."""

    fields: DeltaGenerator
    foot: DeltaGenerator
    result: DeltaGenerator


def beside(under: Under) -> Sides:
    """Makes the places, once a page.  In a narrow window they stand one above the other, and the foot stays below.

    under: what stands above them: the title; with it a row of tabs; or with both a choice of the run.
    """
    st.html(_CSS)
    with st.container(key=f"rail-under-{under}"):
        left, right = st.columns([1, 2], gap="medium")
    with left, st.container(key="rail"):
        fields, foot = st.container(key="rail-fields"), st.container(key="rail-foot")
    return Sides(fields, foot, right.container(key="rail-result"))
