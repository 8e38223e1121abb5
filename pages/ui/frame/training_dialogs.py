"""Dialogs on what a run trains: more steps, on from a checkpoint, and old checkpoints removed."""

import os

import streamlit as st

from ddpm import formatting
from ddpm.config.fields import settings
from ddpm.config.training import DataConfig
from ddpm.data_sets import DATA_SETS
from ddpm.errors import UserError, user_errors, writable
from ddpm.formatting import plural
from ddpm.runs import cleanup, copying, extending, launch, progress_log, run_names
from ddpm.runs.cleanup import Plan
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from pages.ui.components import setting_widgets, shell_command
from pages.ui.components.markdown import escape
from pages.ui.frame import layout
from pages.ui.frame.action_buttons import run_action
from pages.ui.frame.asked import Asked, answered, buttons, dialog, forget

DATA_DIR = next(s for s in settings(DataConfig) if s.name == "data_dir")
MOST_STEPS = 10**9


def why_not(action: str, run: Run) -> str:
    """Says in a sentence why a dialog has nothing to offer for a run; empty if it has."""
    try:
        with user_errors():
            sets = run.checkpoints()
            if action == "more":
                return extending.why_not(run)
    except UserError as error:
        return str(error)
    if not sets:
        return f"{run.name} has no checkpoint yet."
    return f"{run.name} has one checkpoint, which stays." if action == "clean" and len(sets) < 2 else ""


# --- more steps


@dialog("Train more steps")
def more_steps(found: list[Run], request: Asked) -> None:
    """Asks how many steps more a run is trained, and starts it."""
    run = found[0]
    config, status = run.config, run.status()
    step = max((c.step for c in run.checkpoints()), default=0)
    left = max(0, config.train.total_steps - step)
    more = st.number_input(
        "Steps more", 1, MOST_STEPS - step, max(left, config.train.total_steps), key="dialog_steps", format="%d"
    )
    total = step + int(more)
    speed = status.steps_per_second if status else None
    lasts = f" That takes about {formatting.duration(more / speed)}, as fast as it was." if speed else ""
    st.write(f"Training goes on from step {step:,} with its whole state, up to step {total:,}.{lasts}")
    if note := extending.note(config, step, total):
        st.caption(escape(note))
    data, problem = _data_field(run)
    st.caption("Shell command")
    shell_command.show(run.further_command(total), "command-further")
    if buttons("Train", "play_arrow", problem) and run_action(
        lambda: launch.start_training(run, data, total_steps=total), f"{run.name} trains up to step {total:,}"
    ):
        answered()


def _data_field(run: Run) -> tuple[str, str]:
    """Asks where the data is if it is not where the run says.  Returns its new path, and the problem with it."""
    place = run.config.data.data_dir
    if place and (place in DATA_SETS or os.path.exists(place)):
        return "", ""
    st.warning(
        f"There is no folder or file {escape(place)}." if place else "The run does not say what it was trained on.",
        icon=":material/folder_off:",
    )
    typed = st.text_input("Data path", writable(place), key="dialog_data", help=escape(DATA_DIR.help)).strip()
    path = DATA_DIR.normalize(typed)
    if path in DATA_SETS or (path and os.path.exists(path)):
        return path, ""
    return path, f"There is no folder or file {path}." if path else "Type the path of the data."


# --- on from a checkpoint


@dialog("Continue from a checkpoint")
def continue_from(found: list[Run], request: Asked) -> None:
    """Asks for a checkpoint, and starts a new run that goes on from there."""
    run = found[0]
    sets = {c.step: c for c in run.checkpoints()}
    steps = sorted(sets, reverse=True)
    step = st.selectbox(
        "Checkpoint",
        steps,
        steps.index(request.step) if request.step in sets else 0,
        format_func=lambda step: f"step {step:,} · {formatting.memory(cleanup.size(sets[step]))}",
        key="dialog_step",
    )
    total = run.config.train.total_steps
    end = st.number_input(
        "Train up to step",
        step + 1,
        MOST_STEPS,
        total if total > step else step + total,
        key=f"dialog_total-{step}",
        format="%d",
    )
    suggestion = run_names.free_name(run.folder.parent, f"{run.name}-{step}")
    setting_widgets.suggest("dialog_name", "dialog_suggestion", suggestion)
    name = st.text_input("Name of the new run", key="dialog_name").strip()
    problems = run_names.name_problem(run.folder.parent, name)
    _show_what_happens(run, sets[step], steps)
    if note := extending.note(run.config, step, int(end)):
        st.caption(escape(note))
    data, problem = _data_field(run)
    st.page_link(
        layout.TRAIN,
        label="Change settings first, and begin from its weights",
        icon=":material/tune:",
        query_params={"like": run.name, "step": str(step)},
    )
    if buttons("Start", "play_arrow", problems[0] if problems else problem):
        with st.spinner("Copying the checkpoint"):
            done = run_action(lambda: _start_copy(run, name, step, int(end), data), f"{name} goes on from {step:,}")
        if done:
            forget()
            layout.show_run(name)


def _show_what_happens(run: Run, checkpoint: Checkpoint, steps: list[int]) -> None:
    """Says what the new run has, and what stays with the old one."""
    later = [step for step in steps if step > checkpoint.step]
    rows = max(0, progress_log.step_range(run.progress_path)[1] - checkpoint.step)
    stays = f", also the {plural(len(later), 'later checkpoint')}" if later else ""
    logged = f" and the log of {plural(rows, 'later step')}" if rows else ""
    st.write(
        f"The new run begins with weights, averages, optimiser, random state, place in the data and log of step"
        f" {checkpoint.step:,}, and goes on exactly as **{escape(run.name)}** did from there."
        f" **{escape(run.name)}** keeps all that it has{stays}{logged}."
    )


def _start_copy(run: Run, name: str, step: int, total: int, data: str) -> None:
    copy = copying.copy_run(run, name, step)
    launch.start_training(copy, data, total_steps=total)


# --- old checkpoints


@dialog("Remove old checkpoints", width="medium")
def clean_up(found: list[Run], request: Asked) -> None:
    """Asks which checkpoints are to be removed, and says what that frees."""
    steps = [request.step] if request.step else None
    keep = 1
    if steps is None:
        keep = int(st.number_input("Keep the newest", 1, 1000, 3, key="dialog_keep", format="%d"))
    plans = [cleanup.plan(run, keep, steps) for run in found]
    count, size = sum(len(plan.remove) for plan in plans), sum(plan.bytes for plan in plans)
    for plan in plans[:8]:
        _show_plan(plan)
    if len(plans) > 8:
        st.caption(f"and {plural(len(plans) - 8, 'more run')}")
    st.caption(
        "They are removed for good, not moved to the bin. The newest whole checkpoint always stays; previews, samples"
        " and the log stay too."
    )

    def clean() -> None:
        for run in found:
            cleanup.clean(run, keep, steps)

    label = f"Remove {plural(count, 'checkpoint')}, free {formatting.memory(size)}"
    why_not = "" if count else "There is nothing to remove."
    if buttons(label, "delete_forever", why_not, removes=True) and run_action(
        clean, f"Removed: {plural(count, 'checkpoint')}"
    ):
        answered()


def _show_plan(plan: Plan) -> None:
    """Says what happens to the checkpoints of one run."""
    removed = formatting.some([f"{c.step:,}" for c in plan.remove], 6)
    what = f"steps {removed}: {formatting.memory(plan.bytes)}" if plan.remove else "nothing to remove"
    kept = "".join(f"; {step:,} stays, as {why}" for step, why in plan.why.items())
    st.write(f"**{escape(plan.run.name)}**: {escape(what + kept)}")
