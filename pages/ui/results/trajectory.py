"""Explore's trajectory: one image and every denoising step that leads to it."""

import dataclasses
import functools
import io
import json
from pathlib import Path

import numpy as np
import streamlit as st

from ddpm import formatting
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.planning import classes, metadata, summary
from ddpm.runs import launch, run_folder
from ddpm.runs.jobs import ACTIVE
from ddpm.runs.results import SampleJob, TrajectoryJob
from ddpm.runs.runs import Run
from ddpm.storage import arrays, images
from pages.ui.components import rail, setting_widgets, start_button, study_figures, thumbnails
from pages.ui.components.markdown import escape, with_code
from pages.ui.forms import checkpoint_form, inputs_form, sampling_form
from pages.ui.frame import job_progress, layout
from pages.ui.results import plotly_chart

TITLE = ":material/biotech: Trajectory"
PART = "explore_part"  # in the session: the tab of Explore that is open
FORM = "microscope"
EARLIER, NEW = "Earlier samples", "New image"
SIDE = 220  # pixels of each of the three images
THUMB = 96
STRIP_SIDE = 2**16  # more is only to be downloaded
SHOWN = {
    "x": ("x_t", "Noisy image x_t, the input of the network"),
    "x_start": ("Predicted x_start", "Clean image predicted at this step"),
    "eps": ("Noise", "Predicted noise eps, scaled to a third"),
}


def show(run: Run) -> None:
    """Shows the tab: form and trajectory."""
    try:
        config, checkpoints, jobs = run.config, run.checkpoints(), run.trajectory_jobs()
    except UserError as error:
        st.error(with_code(error), icon=":material/error:")
        return
    if not checkpoints:
        checkpoint_form.require_checkpoint(run, "sampling needs one")
    by_name = {job.name: job for job in jobs}
    active = next((job for job in jobs if job.state() in ACTIVE), None)
    fields, foot, result = rail.beside("choices")
    with fields:
        request, problem = _fields(run, config)
        if jobs:
            if st.session_state.get("microscope_shown") not in by_name:
                st.session_state["microscope_shown"] = jobs[0].name
            st.selectbox(
                "Earlier trajectories",
                list(by_name),
                key="microscope_shown",
                format_func=lambda name: job_progress.started_at(by_name[name]),
                persist_state="session",
            )
    with foot:
        _start(run, config, request, problem, active)
    job = active or (by_name[st.session_state["microscope_shown"]] if jobs else None)
    with result:
        if job is None:
            st.info(
                "Follow one image from noise to the end: the noisy image, the predicted clean image and the change"
                " at each denoising step. Choose an image and press Trace.",
                icon=":material/biotech:",
            )
        elif job == active:
            layout.fragment(run_every=0.7)(_progress)(job)
        else:
            with layout.errors():
                _show_result(job)
            if job.result:
                layout.fragment()(_step_slider)(job)
    if job is not None and job != active and job.result:
        with layout.errors():
            _downloads(job)


# --- the form


def begin_with(job: SampleJob, number: int) -> None:
    """Puts a sample into the fields, and opens the tab."""
    setting_widgets.fill(FORM, {"kind": EARLIER, "drawing": job.name, "number": number})
    st.session_state[PART] = TITLE


def _fields(run: Run, config: Config) -> tuple[tuple[SampleConfig, int] | None, str]:
    """Shows the fields.  Returns the request and the number of its image, or what is wrong."""
    chosen = st.session_state.get(setting_widgets.key(FORM, "drawing"))
    listed = inputs_form.listed(run.sample_jobs(), chosen)
    samplings = [job for job in listed if job.state() not in ACTIVE and job.images]
    kinds = [EARLIER, NEW] if samplings else [NEW]
    where = setting_widgets.key(FORM, "kind")
    if st.session_state.get(where) not in kinds:
        st.session_state[where] = kinds[0]
    kind = st.segmented_control(
        "Image",
        kinds,
        key=where,
        required=True,
        persist_state="session",
        help="Trace an earlier sample again with the same settings, or a new image.",
    )
    return _from_samples(samplings, config) if kind == EARLIER else _new_image(config)


def _start(
    run: Run, config: Config, request: tuple[SampleConfig, int] | None, problem: str, active: TrajectoryJob | None
) -> None:
    busy = "A trajectory is being computed: wait for it or cancel it first." if active else ""
    pressed = start_button.show("Trace", "biotech", [problem] if problem else [], busy)
    if request:
        with layout.errors():
            estimate = summary.estimate_trajectory(run, config, request[0])
            st.caption(f":material/schedule: Takes {escape(estimate.words)}.")
    if pressed and request:
        with layout.errors():
            st.session_state["microscope_shown"] = launch.start_trajectory(run, *request).name
            st.rerun()


def _from_samples(samplings: list[SampleJob], config: Config) -> tuple[tuple[SampleConfig, int] | None, str]:
    """An image of earlier samples: its request and number, or what is wrong."""
    by_name = {job.name: job for job in samplings}
    checkpoint_form.drop_unknown(FORM, "drawing", list(by_name))
    name = st.selectbox(
        "Samples",
        list(by_name),
        key=setting_widgets.key(FORM, "drawing"),
        format_func=lambda name: _label(by_name[name], config),
        persist_state="session",
    )
    job = by_name[name]
    found = job.images
    where = setting_widgets.key(FORM, "number")
    if (before := st.session_state.get(where, 0)) is not None:
        setting_widgets.put(where, min(before, len(found) - 1))
    left, right = st.columns([2, 1], vertical_alignment="bottom")
    number = left.number_input(
        "Number",
        0,
        len(found) - 1,
        value=None,
        key=where,
        persist_state="session",
        help="Position in the grid, from 0, row by row.",
    )
    if number is None:
        return None, "Number is empty: type which image, from 0."
    right.image(thumbnails.shown(job, found[number], THUMB) or b"", output_format="PNG", alt=f"Image {number}")
    return request_of(job, found[number])


def request_of(job: SampleJob, path: Path) -> tuple[tuple[SampleConfig, int] | None, str]:
    """Request that samples the image in a file again, from the settings it carries; or why it is unknown."""
    recipe = images.settings_in(job.read(path))
    origin = recipe.get("checkpoint") if recipe else None
    if not recipe or not isinstance(origin, dict):
        return None, "This image carries no settings because it was sampled by an older version: choose another."
    try:
        sample = metadata.sample_of(recipe, str(path))
    except UserError as error:
        return None, str(error)
    step, weights, number = origin.get("step"), origin.get("weights"), recipe.get("number", 0)
    if not (isinstance(step, int) and isinstance(weights, str) and isinstance(number, int)):
        return None, "The settings in this image do not say from which weights it was sampled: choose another."
    return (dataclasses.replace(sample, step=step, weights=weights), number), ""


def _label(job: SampleJob, config: Config) -> str:
    sample = job.sample_config
    return (
        f"{job_progress.started_at(job)} · {summary.describe(config, sample)}"
        if sample
        else job_progress.started_at(job)
    )


def _new_image(config: Config) -> tuple[tuple[SampleConfig, int] | None, str]:
    where = setting_widgets.key(FORM, "seed")
    st.session_state.setdefault(where, 0)
    left, right = st.columns(2)
    seed = left.number_input("Seed", 0, 2**32 - 1, value=None, key=where, persist_state="session")
    if seed is None:
        return None, "Seed is empty: type a number."
    sample = dataclasses.replace(sampling_form.FIRST, num_samples=1, seed=int(seed))
    known = list(classes.names(config))
    if known and not classes.must_be_named(config):
        checkpoint_form.drop_unknown(FORM, "class", known)
        name = right.selectbox("Class", known, key=setting_widgets.key(FORM, "class"), persist_state="session")
        sample = dataclasses.replace(sample, classes=metadata.label_text(config, known.index(name)))
    if config.model.super_res:
        return None, "This is a super-resolution run: sample on the Sample page first, then choose one of those images."
    return (sample, 0), ""


# --- results


def _progress(job: TrajectoryJob) -> None:
    status = job.status()
    if job.state() not in ACTIVE:
        st.rerun()  # once, so that the polling stops
    done = (
        f"{status.step:,} of {plural(status.total_steps, 'model evaluation')}" if status and status.total_steps else ""
    )
    job_progress.progress(job, status, f"{status.message if status else ''} · {done}".strip(" ·") or "Starting")


def _show_result(job: TrajectoryJob) -> None:
    status, state = job.status(), job.state()
    if state in ("failed", "lost"):
        st.error(with_code(job_progress.failure_message(job, "The trajectory")), icon=":material/error:")
    elif status and status.message:
        st.caption(escape(status.message))
    moving = _animation(job)
    if moving:
        st.image(
            moving,
            width=2 * SIDE,
            output_format="GIF",
            alt="Animation of the denoising process: x_t on the left, the predicted clean image on the right",
        )


def _animation(job: TrajectoryJob) -> bytes | None:
    path = job.folder / "trajectory.gif"
    return job.read(path) if job.has(path) else None


@st.cache_data(max_entries=8, show_spinner=False)
def _frames(_job: TrajectoryJob, path: str, changed_at: int) -> dict[str, np.ndarray]:
    with _job.open_file(_job.trajectory, run_folder.MOST_ARRAYS) as file:
        return arrays.read_npz(file, *SHOWN, "t", "calls")


def _step_slider(job: TrajectoryJob) -> None:
    """Slider over the model evaluations, and the images at the selected one."""
    result = job.result
    frames = _frames(job, str(job.trajectory), job.changed_at(job.trajectory))
    calls = [int(call) for call in frames["calls"]]
    where = f"microscope_call_{job.name}"
    if len(calls) > 1:
        call = st.select_slider(
            "Model evaluation",
            calls,
            format_func=lambda call: f"{call:d}",
            key=where,
            persist_state="session",
            help="The arrow keys move the slider.",
        )
    else:
        call = calls[0]
    place, k = calls.index(call), call - 1
    grid = st.grid(3, min_column_width=100, gap="small")
    for name, (title, description) in SHOWN.items():
        with grid.cell():
            image = thumbnails.fitted(images.from_pixels(frames[name][place]), SIDE)
            st.markdown(f"**{escape(title)}**")
            st.image(thumbnails.png(image), output_format="PNG", alt=description)
            st.caption(escape(description))
    lam = result["lam"][k]
    change, clean = result["change"][k], result["x_start_change"][k]
    now = [
        f"t = {formatting.number(result['t'][k])}",
        "noise alone" if lam is None else f"log SNR {2 * lam:+,.2f}",
        "x_t is not a number" if change is None else f"x_t changes by {change:,.1f} levels",
    ]
    if clean is not None:
        now.append(f"predicted x_start changes by {clean:,.1f} levels")
    st.caption(" · ".join(now))
    figure = json.dumps(study_figures.trajectory(result, call), allow_nan=False, separators=(",", ":"))
    plotly_chart.show(figure, key=f"microscope-{job.name}")
    strip = thumbnails.shown(job, job.folder / "strip.png", STRIP_SIDE, enlarge=False)
    if strip:
        st.image(
            strip,
            output_format="PNG",
            alt="Denoising steps in a strip: x_t, predicted clean image, predicted noise",
        )


def _downloads(job: TrajectoryJob) -> None:
    stem = f"{job.folder.parent.parent.name}-microscope-{job.name}"
    kinds = {
        "strip.png": ("Strip (PNG)", "image/png"),
        "trajectory.gif": ("GIF", "image/gif"),
        "trajectory.mp4": ("MP4", "video/mp4"),
        "trajectory.npz": ("Frames (npz)", "application/octet-stream"),
        "result.json": ("Numbers (JSON)", "application/json"),
    }
    home: list[job_progress.Download] = []
    for name, (label, kind) in kinds.items():
        path = job.folder / name
        if job.has(path):
            home.append((label, f"{stem}-{name}", kind, functools.partial(job.read, path, run_folder.MOST_ARRAYS)))
    film = job.folder / "trajectory.mp4"
    if job.has(film):
        with st.expander("Animation", icon=":material/movie:"):
            st.video(io.BytesIO(job.read(film)), loop=True)
    job_progress.downloads(home, job.settings.get("command", ""))
