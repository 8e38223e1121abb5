"""The rail of the Train page: beside the form, or below it on a narrow screen, and in sight wherever it is scrolled."""

import html
from collections.abc import Sequence
from typing import Any

import streamlit as st

from ddpm.config import wording
from ddpm.config.training import unused
from ddpm.config.validation import Problem
from ddpm.formatting import plural
from pages.ui.components import field_links
from pages.ui.components.field_links import Link
from pages.ui.forms import setting_fields
from pages.ui.forms.train_form import FORM, State

# The rail is a column of Streamlit's, which is as tall as its content: the row around it is what scrolls past.
STYLE = """<style>
[data-testid=stHorizontalBlock]:has(> [data-testid=stColumn] .st-key-train_start) { flex-wrap: nowrap; }
[data-testid=stColumn]:has(.st-key-train_start) {
  position: sticky; top: 3.75rem; align-self: flex-start; max-height: calc(100vh - 4.5rem); overflow-y: auto;
  padding: 0.25rem 0.5rem 0.5rem; }
.st-key-train_cost_line, :has(> .st-key-train_cost_line) { display: none; }
@media (max-width: 1000px) {
  [data-testid=stHorizontalBlock]:has(> [data-testid=stColumn] .st-key-train_start) { flex-direction: column; }
  [data-testid=stHorizontalBlock]:has(> [data-testid=stColumn] .st-key-train_start) > [data-testid=stColumn] {
    width: 100%; flex: none; min-width: 0; }
  [data-testid=stColumn]:has(.st-key-train_start) {
    top: auto; bottom: 0; z-index: 90; align-self: stretch; max-height: min(45vh, 16rem);
    background: var(--train-background); border-top: 1px solid var(--train-border); }
  .st-key-train_start { flex-direction: row; align-items: flex-end; }
  .st-key-train_start > * { flex: 1 1 0; min-width: 0; }
  :has(> .st-key-train_cost_figures) { display: none; }
  .st-key-train_cost_line, :has(> .st-key-train_cost_line) { display: flex; }
}
</style>"""


def columns() -> Sequence[Any]:
    """The two columns: of the form, and the rail."""
    names = ("backgroundColor", "borderColor")
    light, dark = ([st.get_option(f"theme.{theme}.{name}") for name in names] for theme in ("light", "dark"))
    st.html(
        f"<style>:root {{ --train-background: light-dark({html.escape(light[0])}, {html.escape(dark[0])});"
        f" --train-border: light-dark({html.escape(light[1])}, {html.escape(dark[1])}); }}</style>"
    )
    st.html(STYLE)
    return st.columns([7, 3], gap="medium")


def sentences(problems: Sequence[Problem]) -> list[str]:
    """What is wrong, in the words of the form."""
    return [wording.sentence(problem) for problem in problems]


def show(state: State) -> None:
    """Shows what is wrong, and what was changed, as links that lead to the fields."""
    known = wording.by_name()
    hidden = [problem for problem in state.problems if problem.name in unused(state.config)]
    waits = [problem for problem in state.problems if problem.code in setting_fields.WAITING]
    wrong = [problem for problem in state.problems if problem not in waits]

    def links(problems: Sequence[Problem]) -> list[Link]:
        return [Link("" if p in hidden else known[p.name].label, wording.sentence(p), _place(p.name)) for p in problems]

    if wrong:
        title = f"{plural(len(wrong), 'setting needs', 'settings need')} attention"
        field_links.show(title, links(wrong), key="train_problems", wrong=True)
    if waits:
        field_links.show("Not ready yet", links(waits), key="train_waits")
    if state.changed and state.is_run:
        changed = [
            Link(known[name].label, f"was {wording.shown(known[name], value)}", _place(name))
            for name, value in state.changed.items()
        ]
        field_links.show(f"{plural(len(changed), 'change')} from {state.base}", changed, key="train_changes")
    setting_fields.show_problems(FORM, hidden, place="rail")  # their settings have no field at the moment


def _place(name: str) -> str:
    """Key of the widget that a link leads to."""
    return "train-source" if name == "data_dir" else f"{FORM}-{name}"
