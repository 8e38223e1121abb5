"""The Train form as a whole: what it began with, what it says now, and what of that keeps a run from starting."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st

from ddpm.config import codec, validation, wording
from ddpm.config.presets import DEFAULT, PRESETS
from ddpm.config.training import Config
from ddpm.config.validation import Problem
from ddpm.errors import UserError
from ddpm.planning import starting, training_cost
from ddpm.runs import runs
from ddpm.runs.runs import Run
from pages.ui.components import setting_widgets
from pages.ui.forms import data_form, draft, image_check, obtain_data, setting_fields
from pages.ui.forms.data_form import Contents
from pages.ui.forms.setting_fields import Notes
from pages.ui.frame import layout

FORM = "train"
BASE = "train_base"  # in the session: the preset or the run that the form began with; a run as "run:NAME"
ASKED = "train_asked"  # in the session: the run that the address named last
RUN = "run:"
MOST_DIGITS = 15  # of a step in the address
LINKS = ("like", "from")  # parameters of the address that name a run whose settings the form begins with


class State(NamedTuple):
    """What the form says now."""

    config: Config
    found: Contents  # what the data is
    problems: Sequence[Problem]  # all that keep a run from starting
    base: str  # the preset or the run that the form began with
    is_run: bool
    changed: Mapping[str, Any]  # settings that differ from it, and their values there
    is_measurable: bool  # whether the network and the steps are settled, whatever the data

    @property
    def archive(self) -> str:
        """What of ARCHIVES the preset trains on; empty where it is data by name, or the user's own."""
        return "" if self.is_run else PRESETS[self.base].archive

    @property
    def notes(self) -> Notes:
        """What stands below the fields."""
        title = self.base if self.is_run else PRESETS[self.base].title
        return Notes(setting_fields.group_by_field(self.problems), self.changed, title)


def fill(config: Config, base: str) -> None:
    """Puts settings into the form, which then begins with them.  For a callback, or before the form is shown."""
    setting_widgets.fill(FORM, setting_widgets.values_of(codec.resolved(config)))
    data_form.fill(FORM, config.data.data_dir)
    st.session_state[BASE] = base
    if not base.startswith(RUN):
        for name in LINKS:
            st.query_params.pop(name, None)  # or a reload would fill the form with that run


def begin(runs_dir: Path) -> None:
    """Fills the form where this session has none: as it was left, with the run of the address, or the quick start.

    A form that has begun with the run of the address is left alone, so that a reload keeps what was changed.
    """
    asked = next((name for link in LINKS if (name := st.query_params.get(link))), None)
    text = st.query_params.get("step", "")
    step = text if text.isdecimal() and len(text) <= MOST_DIGITS else ""
    link = f"{asked} {step}" if asked else None
    before = st.session_state.get(ASKED)
    st.session_state[ASKED] = link
    kept = draft.load(runs_dir) if BASE not in st.session_state else None
    if kept is not None and (kept.base in PRESETS or kept.base.startswith(RUN)):
        began = _settings_of(runs_dir, kept.base) or PRESETS[DEFAULT].config
        setting_widgets.fill(FORM, {**setting_widgets.values_of(began), **kept.values})
        st.session_state[BASE] = kept.base
    is_other = asked is not None and st.session_state.get(BASE) != RUN + asked
    anew = st.session_state.pop(layout.BEGIN_ANEW, False)
    if asked and (anew or (link != before and (is_other or (step and kept is None)))):
        with layout.errors():
            fill(_again(runs.find_run(runs_dir, asked), int(step or 0)), RUN + asked)
    if BASE not in st.session_state:
        fill(PRESETS[DEFAULT].config, DEFAULT)
    if made := obtain_data.take_made():
        data_form.fill(FORM, made)
    data_form.settle(FORM)


def _again(run: Run, step: int) -> Config:
    """The settings of a new run like `run`, which begins from its weights of that step, or anew where it is 0."""
    if not step:
        return run.again()
    checkpoint = run.checkpoint(step)
    return run.again(checkpoint.path(checkpoint.weights[-1]))  # the raw ones, with the averages next to them


def read(runs_dir: Path) -> State:
    """Reads the form."""
    base = st.session_state[BASE]
    is_run = base.startswith(RUN)
    name = base.removeprefix(RUN)
    began = _settings_of(runs_dir, base)
    config, empty = setting_widgets.read(FORM, began or PRESETS[DEFAULT].config)
    wrong = [*empty, *_no_steps(config, began), *validation.problems(config)]
    is_measurable = not any(problem.name != "data_dir" for problem in wrong)
    found = data_form.inspect(config.data.data_dir)
    problems = [*wrong, *data_form.problems(found)]
    seen = None
    if found.description and found.state:
        seen = image_check.begin(
            config.data.data_dir, found.state, found.description.count + found.description.test_count
        )
        problems += image_check.waiting(found.state, seen)
    if is_measurable:
        problems += starting.problems(training_cost.with_steps(config), runs_dir, found.description, seen)
    return State(
        config,
        found,
        setting_fields.unsettled(FORM, problems),
        name,
        is_run,
        _changed(config, began) if began else {},
        is_measurable and not any(problem.code == "too-large" for problem in problems),
    )


def _settings_of(runs_dir: Path, base: str) -> Config | None:
    """The settings that the form began with; None for a run that is gone."""
    if not base.startswith(RUN):
        return codec.resolved(PRESETS[base].config)
    try:
        return codec.resolved(runs.find_run(runs_dir, base.removeprefix(RUN)).config)
    except UserError:
        return None


def _no_steps(config: Config, began: Config | None) -> list[Problem]:
    """The problem of no steps at all, which on the command line stand for the usual number."""
    if config.train.total_steps != 0 or config.train.train_for:
        return []
    usual = began.train.total_steps if began else codec.resolved(Config()).train.total_steps
    sentence = "total_steps is 0, so nothing would be trained: type how many."
    return [Problem("total_steps", sentence, code="nothing-learnt", remedies=({"total_steps": usual},))]


def _changed(config: Config, began: Config) -> dict[str, Any]:
    """Settings that differ from those the form began with, and their values there."""
    now, before = (
        {s.name: getattr(getattr(c, name), s.name) for name in codec.SECTIONS for s in wording.settings_of(name)}
        for c in (config, began)
    )
    return {
        name: value
        for name, value in before.items()
        if now[name] != value and not (name == "data_dir" and not value)  # a preset may leave the data open
    }
