"""Evaluation in bits per dimension: progress, numbers, charts of the terms, downloads."""

import functools
import json
from collections.abc import Sequence
from typing import Any

import streamlit as st

from ddpm import formatting
from ddpm.config.training import Config
from ddpm.errors import UserError, as_user_error, writable
from ddpm.planning import timesteps
from ddpm.reports import downloads
from ddpm.runs import run_folder
from ddpm.runs.jobs import ACTIVE
from ddpm.runs.results import EvaluationJob, bits
from pages.ui.components import study_figures
from pages.ui.components.markdown import escape, with_code
from pages.ui.forms import checkpoint_form
from pages.ui.frame import job_progress, layout
from pages.ui.results import plotly_chart

PARTS = {"train": "seen in training", "test": "held out", "all": "all"}
NPZ = "application/octet-stream"
PUBLISHED = 10_000  # images of the smallest test set that published figures are from


def show(job: EvaluationJob, config: Config) -> None:
    """Shows one evaluation: its progress, or its numbers and their meaning."""
    active = job.state() in ACTIVE
    layout.fragment(run_every=1.0 if active else None)(_progress)(job, active)
    if not active:
        _result(job, config)


def _progress(job: EvaluationJob, was_active: bool) -> None:
    state, status = job.state(), job.status()
    if was_active and state not in ACTIVE:
        st.rerun()  # once, so that the polling stops
    if was_active:
        found = status.metrics if status else {}
        mean = found.get("bits_per_dim")
        value = "–" if mean is None else bits(mean, found.get("ci95"))
        st.metric("Bits per dimension so far", value, help="The mean, and its 95 % confidence interval.", border=True)
        doing = status.message if status and status.message else "Starting"
        job_progress.progress(
            job, status, f"{formatting.plural(int(found.get('pictures') or 0), 'image')} done · {doing}"
        )
    elif state in ("failed", "lost"):
        st.error(with_code(job_progress.failure_message(job, "The evaluation")), icon=":material/error:")
    elif status and status.message:
        st.caption(escape(status.message))


def _result(job: EvaluationJob, config: Config) -> None:
    result = job.result
    if not result:
        return
    with st.container(border=True):
        st.metric(
            "Bits per dimension",
            bits(result["bits_per_dim"], result["ci95"]),
            help=("The variational bound: the mean over the images and its 95 % confidence interval. Lower is better."),
        )
        with st.grid(3, min_column_width=110):
            st.metric(
                "Prior",
                formatting.number(result["prior"], 2),
                help="KL divergence between x_T and pure noise, which depends on the noise schedule alone and cannot"
                " be trained.",
            )
            st.metric(
                "Images",
                f"{result['pictures']:,}",
                help=f"{PARTS[result['data']['part']].capitalize()}: {escape(result['data']['data_dir'])}",
            )
            st.metric("Timesteps", f"{result['timesteps']:,}")
        for line in meaning(result, config):
            st.caption(escape(line))
    with layout.errors():
        _downloads(job)


def meaning(result: dict[str, Any], config: Config) -> list[str]:
    """Explains the numbers."""
    model, mean = config.model, result["bits_per_dim"]
    dims = model.image_size**2 * model.image_channels
    sentences = [
        f"With this model an image could be stored in {formatting.amount(mean * dims / 8)} bytes on average;"
        f" uncompressed pixels take {formatting.amount(dims)} bytes (8 bits per value)."
    ]
    if mean > 8:
        sentences.append("That is more than uncompressed pixels take: the finest detail is not learned yet.")
    first = result["vb_quarters"][0]
    if mean > 0:
        sentences.append(
            f"{round(100 * first / mean)} % of it comes from the least noisy quarter of the timesteps, which encode the"
            " finest detail."
        )
    if result["data"]["part"] == "train":
        sentences.append(
            "The model was trained on these images, so new images may need more bits: hold some out to measure it."
        )
    named = result.get("evaluation", {}).get("variance", "auto")
    if named != "auto":
        sentences.append(f"Evaluated with the variance {named} instead of the one used in training.")
    if note := comparable(result["pictures"], result["timesteps"], config):
        sentences.append(note)
    if result["ended"] == "until_ci":
        sentences.append("It ended early because the requested confidence interval was reached.")
    return sentences


def comparable(images: int, steps: int, config: Config) -> str:
    """Why bits per dimension of so many images and timesteps cannot be compared with published ones; or ""."""
    T = config.diffusion.diffusion_steps
    few = [
        *([f"{formatting.plural(images, 'image')}"] if images < PUBLISHED else []),
        *([f"{steps:,} of {T:,} timesteps"] if steps < T else []),
    ]
    if not few:
        return ""
    return (
        f"From {' and '.join(few)}: not comparable with published figures, which take all timesteps and a whole test"
        " set."
    )


def _downloads(job: EvaluationJob) -> None:
    stem = f"{job.folder.parent.parent.name}-{job.name}"
    files: list[job_progress.Download] = [
        *(
            (f"{name} (npz)", path.name, NPZ, functools.partial(job.read, path, run_folder.MOST_ARRAYS))
            for name, path in ((name, job.terms_path(name)) for name in job.TERMS)
            if job.has(path)
        ),
        ("Terms (CSV)", f"{stem}.csv", "text/csv", lambda: downloads.terms_csv(job)),
        ("Result (JSON)", f"{stem}.json", "application/json", lambda: json.dumps(job.result, indent=2).encode()),
    ]
    job_progress.downloads(files, job.settings.get("command", ""))


def curves(jobs: Sequence[EvaluationJob], config: Config, log: bool) -> None:
    """Charts of the terms by timestep, for one or more evaluations."""
    found: list[study_figures.Curve] = []
    for job in jobs:
        try:
            steps = [int(t) for t in timesteps.timesteps(config, job.config)]
            found.append(study_figures.Curve(label(job), steps, job.terms()))
        except UserError as error:
            st.caption(f":red[{escape(error)}]")
    if found:
        figure = json.dumps(study_figures.terms(found, log), allow_nan=False, separators=(",", ":"))
        plotly_chart.show(figure, key=f"terms-{jobs[0].folder.parent.parent.name}")


def readable(jobs: Sequence[EvaluationJob]) -> tuple[list[EvaluationJob], list[str]]:
    """Those of which everything can be read, and a sentence on each other one: damaged, or of another version."""
    found, wrong = [], []
    for job in jobs:
        try:
            _ = job.settings, job.config, job.result, job.summary
            found.append(job)
        except (UserError, OSError) as error:
            wrong.append(str(as_user_error(error) if isinstance(error, OSError) else error))
    return found, wrong


def label(job: EvaluationJob) -> str:
    """Label of an evaluation: time and result."""
    return f"{job_progress.started_at(job)} · {job.summary or job.state()}"


def table(jobs: Sequence[EvaluationJob]) -> None:
    """Table of the evaluations of this run, newest first."""
    st.dataframe([_row(job) for job in jobs], hide_index=True, width="stretch", key="evaluations_table")


def _row(job: EvaluationJob) -> dict[str, Any]:
    settings, result = job.settings, job.result
    origin, where = settings.get("checkpoint", {}), settings.get("data", {})
    return {
        "When": job_progress.started_at(job),
        "Checkpoint": f"step {origin['step']:,}" if origin else "–",
        "Weights": checkpoint_form.weights_label(origin["weights"]) if origin else "–",
        "Data": writable(where.get("data_dir", "–")),
        "Split": PARTS.get(where.get("part", ""), "–"),
        "Images": result.get("pictures"),
        "Bits/dim": bits(result["bits_per_dim"], result["ci95"]) if result else job.state(),
    }
