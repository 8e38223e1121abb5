"""Explore's matrix: seeds against the values of one setting, from the same noise, as one labelled sheet."""

import functools
import json

import streamlit as st

from ddpm.config import codec, fields
from ddpm.config.matrix import MatrixConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import matrix_rows, summary
from ddpm.planning.matrix_rows import Row
from ddpm.runs import launch, run_folder
from ddpm.runs.jobs import ACTIVE
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.results import MatrixJob
from ddpm.runs.runs import Run
from pages.ui.components import rail, setting_widgets, shell_command, start_button, thumbnails
from pages.ui.components.markdown import escape, with_code
from pages.ui.forms import checkpoint_form, setting_fields
from pages.ui.frame import job_progress, layout

TITLE = ":material/grid_on: Matrix"
FORM = "matrix"
KIND = "matrices"
FIELDS = {s.name: s for s in fields.settings(MatrixConfig)}
FIRST_FIELDS = ("across", "values", "num_samples", "seed", "classes", "sampler", "steps", "guidance_scale")
OF_CHECKPOINT = ("step", "weights")
OF_ROWS = {"steps": ("steps", "timestep_respacing"), "guidance": ("guidance_scale",)}  # what rows say themselves
SHEET_SIDE = 4000  # pixels of the sheet's longer side on the screen: more is only to be downloaded


def show(run: Run) -> None:
    """Shows the tab: form and sheet."""
    try:
        config, checkpoints, jobs = run.config, run.checkpoints(), run.results(KIND)
    except UserError as error:
        st.error(with_code(error), icon=":material/error:")
        return
    if not checkpoints:
        checkpoint_form.require_checkpoint(run, "sampling needs one")
    if config.model.super_res:
        st.info("This is a super-resolution run: sample on the Sample page.", icon=":material/grid_on:")
        return
    active = next((job for job in jobs if job.state() in ACTIVE), None)
    form, foot, result = rail.beside("choices")
    with form:
        settings, rows, wrong = _fields(config, checkpoints)
        shown = checkpoint_form.result(FORM, "Earlier matrices", jobs)
        with st.expander("Shell command", icon=":material/terminal:"):
            shell_command.show(run.shell("matrix", "--run", more=codec.to_flags(settings)))
    with foot:
        busy = "A matrix is being sampled: wait for it or cancel it first." if active else ""
        if start_button.show("Sample the matrix", "grid_on", wrong, busy):
            with layout.errors():
                launch.start_result(run, KIND, codec.with_absolute_paths(settings))
                st.session_state.pop(setting_widgets.key(FORM, "shown"), None)
                st.rerun()
        if rows:
            st.caption(f":material/schedule: Takes {escape(summary.estimate_matrix(run, config, rows).words)}.")
    job = active or shown
    with result:
        if job is None:
            st.info(
                "The same noise in every row, and another value of one setting: what an average of the weights, more"
                " training, guidance or more denoising steps do to the same images.",
                icon=":material/grid_on:",
            )
        else:
            layout.fragment(run_every=1.0 if job == active else None)(_result)(job, job == active)


def _fields(config: Config, checkpoints: list[Checkpoint]) -> tuple[MatrixConfig, list[Row], list[str]]:
    """Shows the fields.  Returns the settings, the rows they come to, and what is wrong."""
    setting_fields.fill_first(FORM, MatrixConfig)
    without = set() if config.model.class_cond else {"classes"}
    if not config.model.cond_drop_prob:
        without.add("guidance_scale")
    across = st.session_state[setting_widgets.key(FORM, "across")]
    left_out = {*without, *OF_ROWS.get(across, ())}
    setting_fields.show(FORM, [FIELDS[name] for name in FIRST_FIELDS if name not in left_out], columns=2)
    rest = [s for name, s in FIELDS.items() if name not in (*FIRST_FIELDS, *left_out, *OF_CHECKPOINT)]
    with st.expander("More"):
        checkpoint_form.both(FORM, checkpoints)
        setting_fields.show(FORM, rest, columns=2)
    settings, wrong = setting_fields.read(FORM, MatrixConfig, skip=left_out)
    rows: list[Row] = []
    if not wrong:
        try:
            rows = matrix_rows.rows(config, checkpoints, settings)
        except UserError as error:
            wrong.append(str(error))
    if rows:
        st.caption(f"Rows: {escape(', '.join(row.label for row in rows))}.")
    return settings, rows, wrong


def _result(job: MatrixJob, was_active: bool) -> None:
    job_progress.follow(job, was_active, "The matrix")
    sheet = thumbnails.shown(job, job.sheet, SHEET_SIDE, enlarge=False)
    if sheet:
        st.image(sheet, output_format="PNG", alt="Samples from the same noise: a row for each value, a column a seed")
    if not was_active and job.result:
        stem, result = f"{job.folder.parent.parent.name}-matrix-{job.name}", job.result
        job_progress.downloads(
            [
                ("Sheet (PNG)", f"{stem}.png", "image/png", functools.partial(job.read, job.sheet)),
                (
                    "Arrays (npz)",
                    f"{stem}.npz",
                    "application/octet-stream",
                    functools.partial(job.read, job.arrays, run_folder.MOST_ARRAYS),
                ),
                ("Result (JSON)", f"{stem}.json", "application/json", lambda: json.dumps(result, indent=2).encode()),
            ],
            job.command,
        )
