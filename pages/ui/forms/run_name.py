"""Field for the name of a new run."""

from pathlib import Path

import streamlit as st

from ddpm.runs import run_names
from pages.ui.components import setting_widgets

KEY = "train.name"
SUGGESTION = "train_suggestion"  # in the session: the name suggested last


def show(runs_dir: Path, base: str) -> tuple[str, list[str]]:
    """Shows the field, which follows the suggestion `base` until it is edited.  Returns the name and its problems."""
    setting_widgets.suggest(KEY, SUGGESTION, run_names.free_name(runs_dir, base))
    name = st.text_input("Run name", key=KEY, persist_state="session")
    problems = run_names.name_problem(runs_dir, name)
    setting_widgets.show_problems(problems)
    return name, problems
