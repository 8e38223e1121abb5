"""A form next to what it makes: both are in sight together, the form scrolls by itself, and its button stays.

form = rail.beside("sample", 12)
with form.fields: ...
with form.foot: the button that starts
with form.result: ...
"""

from typing import NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

_CSS = """<style>
.st-key-KEY-sides div[data-testid=stHorizontalBlock]:has(> div > div > div > .st-key-KEY-rail) {
  flex-wrap: nowrap; align-items: stretch; }
div[data-testid=stColumn]:has(.st-key-KEY-rail) { flex: 0 0 clamp(15.5rem, 30%, 23rem); min-width: 0; width: auto; }
div[data-testid=stColumn]:has(.st-key-KEY-result) { flex: 1 1 0; min-width: 0; }
div[data-testid=stColumn]:has(.st-key-KEY-rail) > div { height: 100%; }
div:has(> .st-key-KEY-rail) { position: sticky; top: 4rem; z-index: 2; }
.st-key-KEY-rail { max-height: calc(100dvh - ABOVErem); flex-wrap: nowrap; }
.st-key-KEY-rail > div { flex: none; }
.st-key-KEY-rail > div:has(> .st-key-KEY-fields) { flex: 0 1 auto; min-height: 0; overflow: hidden auto;
  scrollbar-gutter: stable; padding: 2px 0.5rem 2px 2px; }
@media (max-width: 640px) {
  .st-key-KEY-sides div[data-testid=stHorizontalBlock]:has(> div > div > div > .st-key-KEY-rail) { flex-wrap: wrap; }
  div[data-testid=stColumn]:has(.st-key-KEY-rail),
  div[data-testid=stColumn]:has(.st-key-KEY-result) { flex: 1 1 100%; }
  div:has(> .st-key-KEY-rail) { position: static; }
  .st-key-KEY-rail { max-height: none; }
  .st-key-KEY-rail > div:has(> .st-key-KEY-foot) { position: sticky; bottom: 0; }
}
</style>"""


class Sides(NamedTuple):
    """Places of a form and of its result."""

    fields: DeltaGenerator
    foot: DeltaGenerator
    result: DeltaGenerator


def beside(key: str, above: float) -> Sides:
    """Makes the places.  Below 640 pixels they stand one above the other, and the foot stays at the lower edge.

    above: height in rem of what stands above them, so that the foot is in sight before the page is scrolled.
    """
    st.html(_CSS.replace("KEY", key).replace("ABOVE", f"{above:g}"))
    with st.container(key=f"{key}-sides"):
        left, right = st.columns([1, 2], gap="medium")
    with left, st.container(key=f"{key}-rail"):
        fields, foot = st.container(key=f"{key}-fields"), st.container(key=f"{key}-foot")
    return Sides(fields, foot, right.container(key=f"{key}-result"))
