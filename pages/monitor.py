"""Monitor: watch and control a run while it trains."""

import time

import streamlit as st

from ddpm.formatting import clock, duration, plural
from ddpm.runs import launch, metrics
from ddpm.runs.jobs import ACTIVE
from pages.ui.components import figures, thumbnails
from pages.ui.forms import moved_data
from pages.ui.frame import layout, run_status, run_store
from pages.ui.results.live_chart import live_chart, preload

TICK, SLOW_TICK = 1.0, 2.0  # seconds between two looks at a run that is active, at its numbers and at the rest

layout.page("Monitor")
preload()
toolbar = st.container(horizontal=True, vertical_alignment="bottom", key="toolbar")
with toolbar.container(width=300):
    run = layout.pick_run()
view = run_store.store(layout.runs_dir()).view(run)
with layout.errors(stop=True):
    config, state = run.config, view.state()
    saved = view.checkpoints()
active = state in ACTIVE
every, seldom = (TICK, SLOW_TICK) if active else (None, None)


# Actions

idle = "" if active else f"Nothing is running: the run is {state}."
leaving = "It is about to stop." if state in ("stopping", "queued") else ""
no_resume = (
    f"It is {state}."
    if active
    else (
        f"It has completed its {plural(config.train.total_steps, 'step')}."
        if state == "finished"
        else "It has no data yet: enter its path below."
        if not config.data.data_dir
        else ""
    )
)

with toolbar:
    if active:
        if run_status.button(
            "Stop",
            "A stop has been requested." if state == "stopping" else "",
            "Finish the current step, save a checkpoint and stop. Resume continues from there.",
            icon=":material/stop_circle:",
            type="primary",
            key="stop",
        ):
            run_status.run_action(lambda: launch.stop(run), "Stop requested: it saves first")
            st.rerun()
        if state in ("stopping", "not responding") and run_status.button(
            "Kill …", help="End the process immediately, without saving.", icon=":material/dangerous:", key="kill"
        ):
            run_status.confirm_kill(run)
    elif run_status.button(
        "Resume",
        no_resume,
        "Continue from the newest checkpoint. With the same data the result is exactly as if it had never stopped.",
        icon=":material/play_arrow:",
        type="primary",
        key="resume",
    ):
        run_status.run_action(lambda: launch.start_training(run), "Starting")
        st.rerun()
    if run_status.button(
        "Save now", idle or leaving, "Write a checkpoint after the current step.", icon=":material/save:", key="save"
    ):
        run_status.run_action(lambda: run.request("save"), "Save requested")
    if run_status.button(
        "Preview now",
        idle or leaving,
        "Sample a preview grid after the current step.",
        icon=":material/imagesmode:",
        key="preview",
    ):
        run_status.run_action(lambda: run.request("sample"), "Preview requested")
    run_status.downloads(run, key="take", why_not="" if run.progress_path.exists() else "There are no metrics yet.")


@layout.fragment(run_every=every)
def head() -> None:
    """State, progress, time left, and errors."""
    status, now = view.status(), view.state()
    if now != state:
        st.rerun()  # other buttons, and another pace
    layout.tab_title(f"{run_status.percent(status)} · {run.name}" if active else f"{run.name} · {now}")
    with st.container(horizontal=True, vertical_alignment="center"):
        run_status.state_badge(now)
        with st.container():
            run_status.progress_bar(status, now)
    if status and now == "failed":
        st.error(status.message or "It ended with an error: see the log below.", icon=":material/error:")
    if now == "lost":
        rest = (
            f"Everything up to step {saved[-1].step:,} is saved: Resume continues from there."
            if saved
            else "Nothing was saved yet: Resume starts again from the beginning."
        )
        st.error(
            f"The process ended without reporting why: it was killed, or the computer was switched off. {rest}",
            icon=":material/link_off:",
        )
    if status and status.warning:
        st.warning(status.warning, icon=":material/warning:")
    newest = status.metrics if status else {}
    with st.grid(min_column_width=132, key="figures"):
        st.metric("Loss", run_status.format_number(newest.get("loss")), help=metrics.HELP["loss"])
        st.metric("Gradient norm", run_status.format_number(newest.get("grad_norm")), help=metrics.HELP["grad_norm"])
        for name, label in (("vb", "Bound"), ("lg_loss_scale", "Loss scale (log2)")):
            if name in newest:
                st.metric(label, run_status.format_number(newest[name]), help=metrics.HELP[name])
        st.metric("Images seen", f"{int(newest.get('samples') or 0):,}", help=metrics.HELP["samples"])
        st.metric("Speed", run_status.speed(status), help=metrics.HELP["steps_per_second"])
        if active:
            st.metric("Time left", run_status.time_left(status))
            st.metric("Finish", run_status.finish_time(status))
        else:
            st.metric("Trained for", duration(newest.get("seconds")), help=metrics.HELP["seconds"])
            st.metric("Last update", clock(status.updated_at, time.time()) if status else "–")


head()

if not active:
    for sentence in run.manifests()[1].values():
        st.warning(sentence, icon=":material/warning:")
if not active and state != "finished":
    moved_data.show(run, config, because=status.message if (status := view.status()) else "")


# Curves, previews, log

halves = st.grid(3, min_column_width=275, gap="medium")  # side by side where there is room, else one below the other
curves, seen = halves.cell(column_span=2), halves.cell()

with curves:
    with st.container(horizontal=True, vertical_alignment="bottom", key="chart_controls"):
        x = st.segmented_control(
            "Horizontal axis", ["step", "time", "images"], default="step", required=True, key="x", bind="query-params"
        )
        smoothing = st.slider(
            "Smoothing",
            0.0,
            0.99,
            0.6,
            0.01,
            key="smooth",
            bind="query-params",
            help="Weight of earlier values in the bold line; the faint line shows the logged values.",
        )
        log = st.toggle("Log scale", True, key="log", bind="query-params")
    look = figures.ChartOptions(x, smoothing, log)

    @layout.fragment(run_every=every)
    def draw_curves() -> None:
        if view.metrics().empty:
            st.info("The chart appears with the first logged row.", icon=":material/hourglass_empty:")
            return
        live_chart(view.figure(figures.MAIN, look, figures.panels), key=f"curves-{run.name}")

    draw_curves()

with seen:

    @layout.fragment(run_every=seldom)
    def draw_previews() -> None:
        """Preview grids sampled during training; the newest unless another one is selected."""
        grids = dict(view.previews())
        if not grids:
            often = config.train.sample_interval
            first = f"The first preview is sampled at step {often:,}" if often else "Previews are off for this run"
            st.info(
                f"{first}; Preview now samples one immediately." if active else "No preview was sampled.",
                icon=":material/imagesmode:",
            )
            return
        steps, key, followed = list(grids), f"preview-{run.name}", f"_newest-{run.name}"
        if st.session_state.get(key) in (None, st.session_state.get(followed)):
            st.session_state[key] = steps[-1]
        st.session_state[followed] = steps[-1]
        step = (
            st.select_slider(
                "Preview at step",
                steps,
                key=key,
                help="Every preview starts from the same noise. The arrow keys move the slider.",
            )
            if len(steps) > 1
            else steps[0]
        )
        shown = thumbnails.shown(grids[step], 768)
        if shown:
            st.image(shown, width="stretch", alt=f"Preview grid of {run.name} at step {step}", caption=f"Step {step:,}")

    draw_previews()
    st.page_link(
        layout.SAMPLE, label="Sample from this run", icon=":material/grid_view:", query_params={"run": run.name}
    )

    @layout.fragment(run_every=seldom)
    def draw_log() -> None:
        """The end of log.txt."""
        st.caption("Log")
        with st.container(height=230, autoscroll=True, key="log_tail"):
            st.code(view.log_tail() or "Nothing yet.", language=None, wrap_lines=True)

    draw_log()


# Loss by timestep, commands

quarters = st.expander("Loss by timestep", icon=":material/stacked_line_chart:", key="quarters", on_change="rerun")
with quarters:
    if quarters.open:
        parts = [name for name in figures.PARTS if name in view.columns()] or ["loss"]
        part = parts[0]
        if len(parts) > 1:
            part = (
                st.segmented_control("Of", parts, default=part, required=True, key="part", bind="query-params") or part
            )

        @layout.fragment(run_every=seldom)
        def draw_quarters() -> None:
            st.caption(metrics.HELP[part] + " " + metrics.HELP["loss_q0"])
            live_chart(view.figure(figures.quarters(part), look, figures.overlay), key=f"quarters-{part}-{run.name}")

        draw_quarters()

with st.expander("Shell command", icon=":material/terminal:"):
    for what, command in run_status.commands(run):
        st.caption(what)
        layout.command(command)
