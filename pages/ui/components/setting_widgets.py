"""Form fields generated from the settings: one field per setting, with its help, limits and problems.

A form's values live in the session state under `<form>.<setting>`, so that they stay when the page is left:

    setting_widgets.fill("train", setting_widgets.values_of(config))  # once, and again to start over from others
    config, empty = setting_widgets.read("train", base)               # what the fields say now
    setting_widgets.show_field("train", setting)                      # one field
"""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from ddpm.config import codec
from ddpm.config.fields import Setting, settings
from ddpm.config.training import Config
from ddpm.config.validation import Problem
from ddpm.formatting import number
from pages.ui.components.markdown import escape, with_code

STEPS: dict[str, float] = {
    "image_size": 8,
    "num_channels": 32,
    "diffusion_steps": 100,
    "dropout": 0.05,
    "lr": 1e-4,
    "weight_decay": 0.01,
    "hold_out": 0.05,
    "grad_clip": 0.5,
    "eta": 0.1,
    "total_steps": 500,
    "lr_warmup_steps": 50,
    "lr_anneal_steps": 500,
    "log_interval": 5,
    "save_interval": 500,
    "sample_interval": 250,
    "preview_samples": 4,
    "preview_steps": 5,
}
"""Increments of the + and - buttons; 1 for integers and 0.1 for floats where none is given."""


def key(form: str, name: str) -> str:
    """Key of a field in the session state."""
    return f"{form}.{name}"


def values_of(config: Config) -> dict[str, Any]:
    """All settings by their flat names, as fields hold them: None where a value has a word of its own."""
    sections = [getattr(config, name) for name in codec.SECTIONS]
    return {s.name: held(s, getattr(section, s.name)) for section in sections for s in settings(type(section))}


def held(s: Setting, value: Any) -> Any:
    """A value as its field holds it: None, an empty number field that shows the word, where it has one."""
    return None if s.type in (int, float) and s.empty is not None and value == s.empty[0] else value


def put(where: str, value: Any) -> None:
    """Sets the field with the key `where`, if it has another value.

    What is set is sent to the browser: said anew in every run, it would undo what is typed or moved there meanwhile.
    """
    if where not in st.session_state or st.session_state[where] != value:
        st.session_state[where] = value


def suggest(where: str, remembered: str, suggestion: str) -> None:
    """Sets the field with the key `where` to a suggestion, whenever that changes, until the field is edited.

    remembered: key in the session for what was suggested last.
    """
    if st.session_state.get(where) in (None, st.session_state.get(remembered)):
        put(where, suggestion)
    st.session_state[remembered] = suggestion


def relabel(where: str, labels: Sequence[str]) -> None:
    """Has the browser write the value of a selectbox anew where the labels of its options changed.

    It else keeps the label that the value had before, such as that of another run's newest checkpoint.
    """
    said = f"{where}_labels"
    if where in st.session_state and st.session_state.get(said, labels) != labels:
        st.session_state[where] = st.session_state[where]
    st.session_state[said] = labels


def meant(s: Setting, value: Any) -> Any:
    """The value that a field says: that of its word where it is empty and has one."""
    return s.empty[0] if value is None and s.empty is not None else value


def fill(form: str, values: Mapping[str, Any]) -> None:
    """Puts `values` into the fields.  Call it before the fields are shown, or in a callback."""
    for name, value in values.items():
        st.session_state[key(form, name)] = value


def read(form: str, base: Config) -> tuple[Config, list[Problem]]:
    """Reads the settings from the fields; returns them and a problem for each that may not be empty, but is.

    base: the settings that those problems offer.
    """
    values, empty = {}, []
    for name, section in codec.SECTIONS.items():
        for s in settings(section):
            default = getattr(getattr(base, name), s.name)
            value = meant(s, st.session_state.get(key(form, s.name), default))
            if value is None:
                sentence = f"{s.name} is empty: type a value, {default!r} for one."
                empty.append(Problem(s.name, sentence, code="missing-value", remedies=({s.name: default},)))
                value = default
            values[s.name] = s.normalize(value)
    return codec.replace(base, {**values, "class_names": ()}), empty


def show_problems(sentences: Sequence[str]) -> None:
    """Shows what is wrong in small red print under a field."""
    for sentence in sentences:
        st.markdown(f":small[:red[:material/error: {with_code(sentence)}]]")


def show_waiting(sentence: str) -> None:
    """Shows in small print under a field what is waited for."""
    st.markdown(f":small[:gray[:material/hourglass_top: {with_code(sentence)}]]")


def show_field(form: str, s: Setting, placeholder: str | None = None) -> Any:
    """Shows one field for a number, a choice or a text; returns its value, None for a number that was emptied.

    Where the setting has a word for a value, an empty field shows it, also once that value was typed.
    """
    label = escape(f"{s.label} ({s.unit})" if s.unit else s.label)
    where, about = key(form, s.name), escape(_help(s))
    if placeholder is None and s.empty is not None:
        placeholder = s.empty[1][0].upper() + s.empty[1][1:]
    if s.choices:
        return st.selectbox(label, s.choices, key=where, help=about, persist_state="session")
    if s.type in (int, float):
        step = STEPS.get(s.name, 1 if s.type is int else 0.1)
        if st.session_state.get(where) is not None:
            put(where, held(s, st.session_state[where]))
        number = st.number_input(
            label,
            value=None,  # of an emptied field: with any other the browser puts a number there that nobody typed
            step=s.type(step),
            format=None if s.type is int else "%g",
            key=where,
            help=about,
            placeholder=placeholder,
            persist_state="session",
        )
        return meant(s, number)
    return st.text_input(label, key=where, help=about, placeholder=placeholder, persist_state="session")


def show_switch(form: str, s: Setting) -> None:
    """Shows one field for a setting that is on or off."""
    st.toggle(escape(s.label), key=key(form, s.name), help=escape(s.help), persist_state="session", width="content")


def _help(s: Setting) -> str:
    """Help text, with what an empty field means, and the limits where they are informative."""
    text = f"{s.help} Empty: {s.empty[1]}." if s.empty is not None else s.help
    if s.low is None or s.high is None or s.high >= 65536:
        return text
    if s.empty is not None and s.low == s.empty[0]:
        return f"{text} At most {number(s.high)}."
    return f"{text} From {number(s.low)} to {number(s.high)}."
