"""The toolbar of Monitor: stop, resume, train further, save, preview, downloads, and the menu of the run."""

import streamlit as st

from ddpm.config import codec, learning_rate
from ddpm.config.presets import DEFAULT, PRESETS
from ddpm.errors import UserError
from ddpm.formatting import percent, plural
from ddpm.runs import extending, launch, run_names, runs
from ddpm.runs.jobs import ACTIVE, State
from ddpm.runs.runs import Run
from pages.ui.components.markdown import escape
from pages.ui.frame import layout, run_menu
from pages.ui.frame.action_buttons import button, run_action
from pages.ui.frame.run_files import NO_METRICS, downloads


def show(run: Run, state: State) -> None:
    """Toolbar of Monitor: Stop or Resume, Save now, Preview now, downloads."""
    active = state in ACTIVE
    idle = "" if active else f"Nothing is running: the run is {state}."
    leaving = "It is about to stop." if state in ("stopping", "queued") else ""
    if active:
        _stop_buttons(run, state)
    elif state == "finished":
        if button(
            "Train more …",
            run_menu.why_not("more", run, state),
            "Continue from the last step, with everything as it was, for as many more as you like.",
            icon=":material/fast_forward:",
            type="primary",
            key="train_more",
        ):
            run_menu.act("more", [run.name])
    elif button(
        "Resume",
        _why_no_resume(run),
        "Continue from the newest checkpoint. With the same data the result is exactly as if it had never stopped.",
        icon=":material/play_arrow:",
        type="primary",
        key="resume",
    ):
        run_action(lambda: launch.start_training(run), "Starting", lambda: run.state() in ("queued", "starting"))
        st.rerun()
    if state == "failed" and button(
        "Change and start again",
        help="Open Train with the settings of this run; what you change there is marked.",
        icon=":material/tune:",
        key="again",
    ):
        run_menu.act("again", [run.name])
    if button(
        "Save now",
        idle or leaving,
        "Write a checkpoint after the current step.",
        icon=":material/save:",
        key="save",
    ):
        saved = _newest(run)
        run_action(lambda: run.request("save"), "Save requested", lambda: _newest(run) == saved and _goes_on(run))
    if button(
        "Preview now",
        idle or leaving,
        "Sample a preview grid after the current step.",
        icon=":material/imagesmode:",
        key="preview",
    ):
        sampled = run.previews()
        run_action(
            lambda: run.request("sample"), "Preview requested", lambda: run.previews() == sampled and _goes_on(run)
        )
    downloads(run, key="take", why_not="" if run.has(run.progress_path) else NO_METRICS)
    run_menu.show_menu(run, state)
    run_menu.dialogs()


def _stop_buttons(run: Run, state: State) -> None:
    if button(
        "Stop",
        "A stop has been requested." if state == "stopping" else "",
        "Finish the current step, save a checkpoint and stop. Resume continues from there.",
        icon=":material/stop_circle:",
        key="stop",
    ):
        run_action(lambda: launch.stop(run), "Stop requested: it saves first", lambda: _goes_on(run))
        st.rerun()
    if state == "running":
        _cool_down_button(run)
    if state in ("stopping", "not responding") and button(
        "Kill …", help="End the process immediately, without saving.", icon=":material/dangerous:", key="kill"
    ):
        confirm_kill(run)


def _cool_down_button(run: Run) -> None:
    """Offers to end a training early, but with the cooldown of its learning rate."""
    train, status, why_not = extending.train_now(run), run.status(), ""
    try:
        learning_rate.cooled_from(train, status.step if status else 0)
    except UserError as error:
        why_not = str(error)
    if "cooldown" in run.requests():
        why_not = "The cooldown has been requested."
    more = percent(train.lr_cooldown, 1 - train.lr_cooldown)
    if button(
        "Cool down and finish",
        why_not,
        f"Let the learning rate fall to 0 from here on, over {more} as many steps as are done by then, and finish"
        " with that. The samples become sharper than those of a training that is stopped.",
        icon=":material/ac_unit:",
        key="cooldown",
    ):
        run_action(lambda: launch.cool_down(run), "Cooldown requested", lambda: _goes_on(run))
        st.rerun()


def _newest(run: Run) -> int:
    """Step of the newest checkpoint; 0 where there is none."""
    return max((c.step for c in run.checkpoints()), default=0)


def _goes_on(run: Run) -> bool:
    return run.state() in ACTIVE


def _why_no_resume(run: Run) -> str:
    return "" if run.config.data.data_dir else "It has no data yet: enter its path below."


def quick_start() -> Run:
    """Creates and starts a run of the quick-start preset.  Raises UserError."""
    from ddpm.data import datasets

    base = codec.resolved(datasets.resolve(PRESETS[DEFAULT].config))
    run = runs.create_run(layout.runs_dir(), run_names.free_name(layout.runs_dir(), DEFAULT), base)
    launch.start_training(run)
    return run


@st.dialog("End the process immediately?")
def confirm_kill(run: Run) -> None:
    saved = _newest(run)
    status = run.status()
    lost = (status.step if status else 0) - saved
    st.write(
        f"**{escape(run.name)}** was last saved at step {saved:,}. Ending it now discards the"
        f" {plural(lost, 'step')} since then."
    )
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Cancel", key="kill_cancel"):
            st.rerun()
        if st.button("Kill", icon=":material/dangerous:", key="kill_sure"):
            run_action(lambda: launch.kill(run), f"{run.name} was killed")
            st.rerun()
