"""Links that lead to fields of a form: they unfold what a field is in, scroll to it and give it the focus."""

from collections.abc import Sequence
from typing import NamedTuple

from pages.ui.components import browser_code

_HTML = '<p role="status"></p><ul></ul>'
_CSS = """
:host, p, li, button { font-family: var(--st-font); font-size: 0.875rem; line-height: 1.45;
  color: var(--st-text-color); }
p { margin: 0 0 0.25rem; font-weight: 600; }
p.wrong { color: light-dark(#b42318, #ff8f85); }
ul { margin: 0; padding: 0 0 0 1.1rem; }
li { margin: 0 0 0.2rem; overflow-wrap: anywhere; }
code { font-family: var(--st-code-font); font-size: 0.8125rem; color: var(--st-code-text-color); }
button { padding: 0; border: 0; background: none; color: var(--st-link-color); font-weight: 600; cursor: pointer;
  text-decoration: underline; text-underline-offset: 0.15em; }
button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
"""
_component = browser_code.component("ddpm_field_links", "field_links.js", html=_HTML, css=_CSS)


class Link(NamedTuple):
    """One line."""

    label: str  # of the field; empty for a line that leads nowhere
    text: str  # what is said of it
    place: str  # key of the widget, as Streamlit's class st-key-... has it


def show(title: str, links: Sequence[Link], *, key: str, wrong: bool = False) -> None:
    """Shows the links below a title.  wrong: they are about what has to be corrected."""
    _component(key=key, data={"title": title, "wrong": wrong, "links": [link._asdict() for link in links]})
