"""Fields for a checkpoint of a run and its weights."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import streamlit as st

from ddpm.config import ema_rates, fields
from ddpm.config.tasks import FromCheckpoint
from ddpm.runs.jobs import ACTIVE
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.results import Result
from ddpm.runs.runs import Run
from pages.ui.components import setting_widgets
from pages.ui.components.markdown import escape
from pages.ui.forms import ema_width
from pages.ui.frame import job_progress, layout
from pages.ui.frame.action_buttons import run_action

R = TypeVar("R", bound=Result)
FIELDS = {s.name: s for s in fields.settings(FromCheckpoint)}


def require_checkpoint(run: Run, why: str) -> None:
    """Explains why a checkpoint is needed and how to get one where the run has none yet, and stops the page."""
    running = run.state() in ACTIVE
    st.info(
        f"{escape(run.name)} has no checkpoint yet, and {escape(why)}. "
        + ("It can save one now." if running else "Let it train until it saves one."),
        icon=":material/save:",
    )
    if running:
        if st.button("Save now", icon=":material/save:", type="primary"):
            run_action(lambda: run.request("save"), "Save requested: it follows after the current step.")
        layout.fragment(run_every=1.0)(_wait_for_checkpoint)(run)
    else:
        st.page_link(
            layout.MONITOR, label="Open on Monitor", icon=":material/monitoring:", query_params={"run": run.name}
        )
    st.stop()


def _wait_for_checkpoint(run: Run) -> None:
    if run.checkpoints():
        st.rerun()


def checkpoint(form: str, checkpoints: list[Checkpoint]) -> tuple[int, Checkpoint]:
    """Field for the checkpoint.  Returns its step (0 for the newest) and the checkpoint."""
    by_step = {0: checkpoints[-1], **{c.step: c for c in reversed(checkpoints)}}
    labels = {step: f"Step {c.step:,}" if step else f"Newest (step {c.step:,})" for step, c in by_step.items()}
    drop_unknown(form, "step", list(by_step))
    setting_widgets.relabel(setting_widgets.key(form, "step"), list(labels.values()))
    step = st.selectbox(
        "Checkpoint",
        list(by_step),
        key=setting_widgets.key(form, "step"),
        help=FIELDS["step"].help,
        persist_state="session",
        format_func=labels.__getitem__,
    )
    return step, by_step[step]


def weights(form: str, of: Checkpoint) -> str:
    """Field for the weights in a checkpoint."""
    ema_width.choose_wanted(form, of)
    return options(form, "weights", FIELDS["weights"].label, of.weights, FIELDS["weights"].help, weights_label)


def result(form: str, label: str, jobs: Sequence[R]) -> R | None:
    """Field for one of earlier results, the newest first; None where there is none."""
    by_name = {job.name: job for job in jobs}
    if not by_name:
        return None
    drop_unknown(form, "shown", list(by_name))
    name = st.selectbox(
        escape(label),
        list(by_name),
        key=setting_widgets.key(form, "shown"),
        format_func=lambda name: job_progress.started_at(by_name[name]),
        persist_state="session",
    )
    return by_name[name]


def weights_label(weights: str) -> str:
    return "Raw" if weights == "model" else ema_rates.label(weights)


def both(form: str, checkpoints: list[Checkpoint], run: Run | None = None) -> dict[str, object]:
    """Fields for the checkpoint and its weights, side by side.  Returns the settings `step` and `weights`.

    run: with a field for further averages of its weights.
    """
    grid = st.grid(2, min_column_width=150)
    with grid.cell():
        step, of = checkpoint(form, checkpoints)
    with grid.cell():
        values: dict[str, object] = {"step": step, "weights": weights(form, of)}
    if run is not None:
        ema_width.show(form, run, of)
    return values


def options(form: str, name: str, label: str, options: list[str], help: str, say: Callable[[str], str] = str) -> str:
    """Segmented control for a few options."""
    drop_unknown(form, name, options)
    selected = st.segmented_control(
        escape(label),
        options,
        key=setting_widgets.key(form, name),
        help=escape(help),
        required=True,
        format_func=lambda option: escape(say(option)),
        width="stretch",
        persist_state="session",
    )
    return selected or options[0]


def drop_unknown(form: str, name: str, options: list, many: bool = False) -> None:
    """Drops a value that this run does not offer."""
    where = setting_widgets.key(form, name)
    value = st.session_state.get(where)
    if many:
        setting_widgets.put(where, [v for v in value if v in options] if isinstance(value, list) else [])
    elif value not in options:
        st.session_state[where] = options[0]
