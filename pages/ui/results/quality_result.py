"""Evaluate's part for sample quality: form, progress, the panel of figures, comparison of results."""

import functools
import json
from collections.abc import Sequence

import streamlit as st

from ddpm import formatting
from ddpm.config import codec, records
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import quality_figures, summary
from ddpm.planning.quality_figures import FIGURES, ROWS
from ddpm.reports import quality_sheet
from ddpm.runs import launch, near_copies, run_folder
from ddpm.runs.jobs import ACTIVE
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.results import QualityJob, quality_text
from ddpm.runs.runs import Run
from pages.ui.components import quality_charts, rail, setting_widgets, shell_command, start_button, thumbnails
from pages.ui.components.markdown import escape, with_code
from pages.ui.forms import checkpoint_form, quality_form
from pages.ui.frame import job_progress, layout
from pages.ui.results import copy_pairs, plotly_chart

KIND = "qualities"
FORM = quality_form.FORM
SHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
GRID_SIDE = 800  # pixels of the samples on the screen


def show(run: Run, config: Config, checkpoints: list[Checkpoint], places: rail.Sides) -> None:
    """Shows form and result in the places of the page."""
    if config.model.super_res:
        places.result.info(
            "This is a super-resolution run, and quality is measured of samples that begin with noise alone.",
            icon=":material/photo_size_select_large:",
        )
        return
    jobs: list[QualityJob] = run.results(KIND)
    active = next((job for job in jobs if job.state() in ACTIVE), None)
    with places.fields:
        settings, wrong = quality_form.show(config, checkpoints)
        shown = checkpoint_form.result(FORM, "Earlier evaluations", jobs)
        with st.expander("Shell command", icon=":material/terminal:"):
            shell_command.show(run.shell("evaluate", "quality", "--run", more=codec.to_flags(settings)))
    with places.foot:
        busy = "An evaluation is running: wait for it or cancel it first." if active else ""
        if start_button.show("Start", "straighten", wrong, busy):
            with layout.errors():
                launch.start_result(run, KIND, codec.with_absolute_paths(settings))
                st.session_state.pop(setting_widgets.key(FORM, "shown"), None)
                st.rerun()
        if not wrong:
            st.caption(f":material/schedule: Takes {escape(summary.estimate_quality(run, config, settings).words)}.")
            st.caption(escape(quality_form.compared_with(config, settings)))
    job = active or shown
    with places.result:
        if job is None:
            st.info(
                "How near samples are to real images: in the features of a small network that comes with the program,"
                " and in detail and colours. Other real images, blurred ones and noise stand beside them, so that the"
                " numbers can be read. Press Start.",
                icon=":material/straighten:",
            )
            return
        layout.fragment(run_every=1.0 if job == active else None)(_progress)(job, job == active)
        if job != active and job.result:
            with layout.errors():
                _panel(job)
                _comparison(job, [other for other in jobs if other.name != job.name and other.result])


def _progress(job: QualityJob, was_active: bool) -> None:
    job_progress.follow(job, was_active, "The evaluation")
    if not was_active and not job.result and job.state() in ("stopped", "failed", "lost") and "quality" in job.settings:
        have = job.count_kept()
        if st.button(
            "Resume",
            icon=":material/play_arrow:",
            help=f"Goes on with {formatting.plural(have, 'sample')} that it has.",
        ):
            with layout.errors():
                launch.resume_quality(job)
                st.rerun()


def _panel(job: QualityJob) -> None:
    result, about = job.result, job.result["about"]
    rows = {row["name"]: row for row in result["rows"]}
    names = [name for name in ROWS if name in rows]
    figures = rows["samples"]["figures"]
    with st.container(border=True), st.grid(3, min_column_width=150):
        for key in ("fd", "fd_infinity", "kd"):
            st.metric(
                escape(FIGURES[key].title),
                formatting.number(figures[key][0], 3),
                help=escape(f"{FIGURES[key].words} Its 95 % interval: {quality_text(figures[key])}."),
            )
    if note := quality_figures.applicability(result):
        st.warning(escape(note), icon=":material/rule:")
    st.dataframe(
        [
            {
                "Figure": f"{figure.title}{f' ({figure.unit})' if figure.unit else ''}",
                **{f"{ROWS[name]} ({rows[name]['n']:,})": quality_text(rows[name]["figures"][key]) for name in names},
                "Better": figure.better,
            }
            for key, figure in FIGURES.items()
        ],
        hide_index=True,
        width="stretch",
        height="content",
        key="quality_table",
    )
    st.caption(escape(quality_figures.described(about)))
    st.caption(escape(f"Row of real images: {about['real']}. In brackets: 95 % intervals."))
    figure = json.dumps(quality_charts.distances(result), allow_nan=False, separators=(",", ":"))
    plotly_chart.show(figure, key=f"quality-{job.folder.parent.parent.name}-{job.name}")
    _further(job)
    with st.expander("What the figures mean", icon=":material/help:"):
        for line in quality_figures.meaning(result):
            st.markdown(escape(line))
    if grid := thumbnails.shown(job, job.grid, GRID_SIDE):
        st.subheader("Samples")
        st.caption("The first of them, in the order of their seeds: none was chosen.")
        st.image(grid, output_format="PNG", alt="Grid of the first samples")
    stem = f"{job.folder.parent.parent.name}-quality-{job.name}"
    files: list[job_progress.Download] = [
        ("Workbook (xlsx)", f"{stem}.xlsx", SHEET, lambda: quality_sheet.workbook(job)),
        ("Result (JSON)", f"{stem}.json", "application/json", lambda: json.dumps(result, indent=2).encode()),
    ]
    if npz := job.npz:
        files.append(
            (
                "Samples (npz)",
                f"{stem}.npz",
                "application/octet-stream",
                functools.partial(job.read, npz, run_folder.MOST_ARRAYS),
            )
        )
    job_progress.downloads(files, job.command)


def _further(job: QualityJob) -> None:
    """Near-copies of training images, with the closest pairs, and FID."""
    result = job.result
    lines = quality_figures.further(result)
    if not lines:
        return
    st.subheader("Near-copies of training images" if result.get("copies") else "Further", help=copy_pairs.HELP)
    for line in lines:
        st.markdown(escape(line))
    if result.get("copies"):
        found = records.read(near_copies.NearCopies, result["copies"], "result.json")
        with st.expander("Closest pairs: sample and training image", bool(found.copied), icon=":material/compare:"):
            copy_pairs.show(job, found, "Sample")


def _comparison(job: QualityJob, others: Sequence[QualityJob]) -> None:
    """Puts another result beside this one, or says why that would mislead."""
    if not others:
        return
    st.subheader("Compare")
    by_name = {other.name: other for other in others}
    checkpoint_form.drop_unknown(FORM, "beside", [None, *by_name])
    name = st.selectbox(
        "With",
        [None, *by_name],
        key=setting_widgets.key(FORM, "beside"),
        format_func=lambda name: "–" if name is None else _label(by_name[name]),
        persist_state="session",
    )
    if name is None:
        return
    first, second = job.result, by_name[name].result
    try:
        quality_figures.check_comparable(first["about"], second["about"])
    except UserError as error:
        st.error(with_code(error), icon=":material/block:")
        return
    if also := quality_figures.also_differ(first["about"], second["about"]):
        st.caption(escape(f"They differ in {', '.join(also)}."))
    columns = quality_figures.columns([_label(job), _label(by_name[name])], [first, second])
    st.dataframe(
        [
            {"Figure": figure.title, **{label: quality_text(values[key]) for label, values in columns}}
            for key, figure in FIGURES.items()
        ],
        hide_index=True,
        width="stretch",
        height="content",
        key="quality_comparison",
    )


def _label(job: QualityJob) -> str:
    about = job.result.get("about", {})
    step = f" · step {about['step']:,}" if about.get("step") else ""
    return f"{job_progress.started_at(job)}{step}"
