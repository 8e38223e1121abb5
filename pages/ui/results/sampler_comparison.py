"""Comparison of two sets of samples: same zoom, and the settings that differ."""

import dataclasses
from typing import Any

import streamlit as st

from ddpm import formatting
from ddpm.config.training import Config
from ddpm.planning import summary
from ddpm.runs.results import SampleJob
from pages.ui.components import thumbnails
from pages.ui.components.markdown import escape
from pages.ui.forms import sampler_form
from pages.ui.frame import job_progress
from pages.ui.results import samples

SIDE = 460  # pixels on screen of the larger of the two
TASKS_OF = {"to_seed": ("interpolate",), "strength": ("vary",), "resample": ("inpaint",), "jump": ("inpaint",)}
"""Settings that apply to some tasks only."""


def show(one: SampleJob, other: SampleJob, config: Config) -> None:
    """Shows both grids at the same scale, and a table of the settings that differ."""
    both = [samples.image(job) for job in (one, other)]
    longest = max((max(grid.size) for grid in both if grid), default=1)
    for cell, job, grid in zip(st.columns(2), (one, other), both, strict=True):
        with cell:
            st.markdown(f"**{escape(job_progress.started_at(job))}**")
            if grid:
                side = max(1, round(SIDE * max(grid.size) / longest))
                st.image(
                    thumbnails.png(thumbnails.fitted(grid, side)), output_format="PNG", alt=f"Samples of {job.name}"
                )
            else:
                st.caption("No image was completed.")
            if sample := job.sample_config:
                st.caption(escape(summary.describe(config, sample)))
    rows = differences(one, other)
    if rows:
        st.table(
            {
                "Setting": [escape(row[0]) for row in rows],
                escape(job_progress.started_at(one)): [escape(row[1]) for row in rows],
                f"{escape(job_progress.started_at(other))} ": [escape(row[2]) for row in rows],
            }
        )
    else:
        st.caption("Both were sampled with the same settings.")


def differences(one: SampleJob, other: SampleJob) -> list[tuple[str, str, str]]:
    """(setting, value in one, value in the other) of each setting that differs."""
    a, b = _settings(one), _settings(other)
    return [
        (label, _format(a.get(label)), _format(b.get(label))) for label in {**a, **b} if a.get(label) != b.get(label)
    ]


def _settings(job: SampleJob) -> dict[str, Any]:
    """Requested settings by label, with the checkpoint that was used."""
    sample = job.sample_config
    if sample is None:
        return {}
    settings = job.settings
    values = dataclasses.asdict(summary.normal_form(sample))
    values |= {name: value for name, value in settings.get("given", {}).items() if name in values}
    checkpoint = settings.get("checkpoint", {})
    values |= {name: checkpoint[name] for name in ("step", "weights") if name in checkpoint}
    return {
        sampler_form.FIELDS[name].label: value
        for name, value in values.items()
        if sample.task in TASKS_OF.get(name, (sample.task,))
    }


def _format(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return formatting.number(value, 6) if isinstance(value, int | float) else "–" if value in ("", None) else str(value)
