"""Cards of the presets: one click fills the Train form."""

from collections.abc import Callable, Sequence

import streamlit as st

from ddpm.config import codec
from ddpm.config.presets import OURS, OWN, PRESETS, RELEASED, Preset
from ddpm.config.training import Config
from ddpm.data_sets import DATA_SETS
from pages.ui.components.markdown import escape
from pages.ui.forms import data_form
from pages.ui.frame import layout

PER_ROW = 4

Fill = Callable[[Config, str], None]


def show(form: str, draft: Config, fill: Fill) -> str | None:
    """Shows the cards; a click calls `fill(config, name)`, with the data that the form names then.

    Returns the preset that equals `draft`, if one does.
    """
    selected = next((name for name, preset in PRESETS.items() if _settings(preset, draft.data.data_dir) == draft), None)
    _row([name for name, preset in PRESETS.items() if preset.group == OURS], selected, form, fill)
    for group, icon in ((OWN, ":material/folder_open:"), (RELEASED, ":material/inventory_2:")):
        names = [name for name, preset in PRESETS.items() if preset.group == group]
        with st.expander(group, icon=icon, expanded=selected in names):
            for first in range(0, len(names), PER_ROW):
                _row(names[first : first + PER_ROW], selected, form, fill)
    return selected


def _settings(preset: Preset, data_dir: str) -> Config:
    """Settings of a preset, with the user's own data where it names none, and no other data set than it is for."""
    named = data_dir in DATA_SETS
    own = "" if named and (preset.archive or preset.group == OWN) else data_dir
    return codec.replace(preset.config, {"data_dir": preset.config.data.data_dir or own})


def _row(names: Sequence[str], selected: str | None, form: str, fill: Fill) -> None:
    def choose(name: str) -> None:
        fill(_settings(PRESETS[name], data_form.named_now(form)), name)

    for cell, name in zip(st.columns(len(names)), names, strict=True):
        preset, is_selected = PRESETS[name], name == selected
        card = cell.container(border=True, height="stretch", vertical_alignment="distribute", key=f"preset_{name}")
        with card.container(gap="xsmall"):
            st.markdown(f"**{escape(preset.title)}**")
            st.caption(escape(preset.description))
        with card:
            st.button(
                "Selected" if is_selected else "Select",
                key=f"choose_{name}",
                disabled=is_selected,
                width="stretch",
                icon=":material/check:" if is_selected else None,
                on_click=layout.callback(choose),
                args=(name,),
            )
