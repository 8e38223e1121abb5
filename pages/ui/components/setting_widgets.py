"""Form fields generated from the settings: one field per setting, with its help, limits and problems.

A form's values live in the session state under `<form>.<setting>`, so that they stay when the page is left:

    setting_widgets.fill("train", config)               # once, and again to start over from other settings
    config, empty = setting_widgets.read("train", base)  # what the fields say now
    setting_widgets.section("train", ModelConfig, ...)   # the fields themselves
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import streamlit as st

from ddpm.config import codec
from ddpm.config.fields import Setting, settings
from ddpm.config.training import Config
from ddpm.config.validation import Problem
from pages.ui.components.markdown import escape

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

Problems = Mapping[str, Sequence[str]]


def key(form: str, name: str) -> str:
    """Key of a field in the session state."""
    return f"{form}.{name}"


def values_of(config: Config) -> dict[str, Any]:
    """All settings by their flat names."""
    sections = [getattr(config, name) for name in codec.SECTIONS]
    return {s.name: getattr(section, s.name) for section in sections for s in settings(type(section))}


def fill(form: str, values: Mapping[str, Any]) -> None:
    """Puts `values` into the fields.  Call it before the fields are shown, or in a callback."""
    for name, value in values.items():
        st.session_state[key(form, name)] = value


def read(form: str, base: Config) -> tuple[Config, list[Problem]]:
    """Reads the settings from the fields; returns them and a problem for each empty field."""
    values, empty = {}, []
    known = [s for section in codec.SECTIONS.values() for s in settings(section)]
    for s, default in zip(known, values_of(base).values(), strict=True):
        value = st.session_state.get(key(form, s.name), default)
        if value is None:
            empty.append(
                Problem(s.name, f"{s.name} is empty: type a value, {default!r} for one.", code="missing-value")
            )
            value = default
        values[s.name] = s.normalize(value)
    return codec.replace(base, values), empty


def group_by_field(problems: Sequence[Problem]) -> dict[str, list[str]]:
    """Groups error sentences by setting."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        found.setdefault(problem.name, []).append(problem.sentence)
    return found


def show_problems(sentences: Sequence[str]) -> None:
    """Shows what is wrong in small red print under a field."""
    for sentence in sentences:
        st.markdown(f":small[:red[:material/error: {escape(sentence)}]]")


def section(
    form: str,
    cls: type,
    *,
    problems: Problems,
    skip: Collection[str] = (),
    placeholders: Mapping[str, str] | None = None,
    columns: int = 3,
) -> None:
    """Shows the fields of one dataclass of settings: basic ones first, then an expander for each other group.

    `skip` names settings that do not apply.  An expander opens by itself while something in it is wrong.
    """
    fields = [s for s in settings(cls) if s.name not in skip]
    show_fields(form, [s for s in fields if s.basic], problems, placeholders or {}, columns)
    groups: dict[str, list[Setting]] = {}
    for s in fields:
        if not s.basic:
            groups.setdefault(s.group, []).append(s)
    for title, members in groups.items():
        wrong = sum(s.name in problems for s in members)
        label = f"{escape(title)} · :red[{wrong:d} to correct]" if wrong else escape(title)
        state = "wrong" if wrong else "right"
        with st.expander(label, expanded=bool(wrong), key=f"{form}_{cls.__name__}_{title}_{state}"):
            show_fields(form, members, problems, placeholders or {}, columns)


def show_fields(
    form: str, fields: Sequence[Setting], problems: Problems, placeholders: Mapping[str, str], columns: int
) -> None:
    """Shows input fields in a grid and toggles in a row below it, each with its problems."""
    boxes, switches = [s for s in fields if s.type is not bool], [s for s in fields if s.type is bool]
    if boxes:
        grid = st.grid(columns, min_column_width=150)
        for s in boxes:
            with grid.cell():
                show_field(form, s, placeholders.get(s.name))
                show_problems(problems.get(s.name, ()))
    if switches:
        with st.container(horizontal=True, gap="medium"):
            for s in switches:
                st.toggle(
                    escape(s.label),
                    key=key(form, s.name),
                    help=escape(s.help),
                    persist_state="session",
                    width="content",
                )
        for s in switches:
            show_problems(problems.get(s.name, ()))


def show_field(form: str, s: Setting, placeholder: str | None = None) -> Any:
    """Shows one field for a number, a choice or a text; returns its value."""
    label = escape(f"{s.label} ({s.unit})" if s.unit else s.label)
    where = key(form, s.name)
    if s.choices:
        return st.selectbox(label, s.choices, key=where, help=escape(s.help), persist_state="session")
    if s.type is int:
        whole = int(STEPS.get(s.name, 1))
        return st.number_input(label, step=whole, key=where, help=escape(_with_limits(s)), persist_state="session")
    if s.type is float:
        step = float(STEPS.get(s.name, 0.1))
        return st.number_input(
            label, step=step, format="%g", key=where, help=escape(_with_limits(s)), persist_state="session"
        )
    return st.text_input(label, key=where, help=escape(s.help), placeholder=placeholder, persist_state="session")


def _with_limits(s: Setting) -> str:
    """Help text, with the limits where they are informative."""
    if s.low is None or s.high is None or s.high >= 65536:
        return s.help
    return f"{s.help} From {s.low:g} to {s.high:g}."
