"""Sampler part of the Sample form: sampler, denoising steps, guidance and advanced settings."""

import re
from functools import partial
from typing import Any

import streamlit as st

from ddpm import schedules
from ddpm.config import fields
from ddpm.config.tasks import FEW_STEPS, SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import timesteps
from ddpm.solvers import SOLVERS
from ddpm.spacings import SPACINGS
from pages.ui.components import setting_widgets
from pages.ui.components.markdown import escape
from pages.ui.forms import checkpoint_form

FORM = "sample"
FIELDS = {s.name: s for s in fields.settings(SampleConfig)}
FIRST_STEPS = 10  # model evaluations per image initially
STEP_COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 250, 500, 1000)
AS_TRAINED = 0  # of the steps: every timestep that was trained
CLIPS = {"cut": "Clip", "dynamic": "Dynamic threshold", "off": "Off"}
MOST_GUIDANCE = 10.0  # of the slider
VARIANCES = {
    "auto": "As in training",
    "fixed_small": "Small (the posterior's)",
    "fixed_large": "Large (beta)",
    "analytic": "Analytic",
}
ANALYTIC = "Estimated once from the run's data, which takes about a minute, then stored."
TO_ZERO = ("draw", "interpolate", "vary")  # tasks that may end before the clean image
FROM_NOISE = ("draw", "interpolate")

key = partial(setting_widgets.key, FORM)


def fill(config: Config, sample: SampleConfig) -> None:
    """Puts a request in normal form into the fields."""
    T = config.diffusion.diffusion_steps
    inpaint = sample.task == "inpaint"
    setting_widgets.fill(
        FORM,
        {
            "sampler": FEW_STEPS if inpaint or sample.task == "invert" else sample.sampler,
            "repainter": sample.sampler if inpaint else "ddim",
            "steps": sample.steps or (_model_evaluations(config, sample) if sample.timestep_respacing else AS_TRAINED),
            "guidance_interval": _interval(sample.guidance_interval, T),
            "clip": (
                "dynamic"
                if sample.clip_denoised and sample.dynamic_threshold
                else "cut"
                if sample.clip_denoised
                else "off"
            ),
            "dynamic_threshold": sample.dynamic_threshold or 0.995,
        },
    )


def _model_evaluations(config: Config, sample: SampleConfig) -> int:
    try:
        return len(timesteps.timesteps(config, sample))
    except UserError:
        return FIRST_STEPS


def _interval(text: str, T: int) -> tuple[int, int]:
    """Timesteps named by `text`, as in 100-800; all of them where it is empty."""
    match = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", text)
    first, last = sorted(map(int, match.groups())) if match else (0, T - 1)
    return min(first, T - 1), min(last, T - 1)


def sampler(task: str) -> str:
    """Field for the sampler, or the only one that supports the task."""
    if task == "invert":
        return "ddim"
    names = list(timesteps.REPAINTERS) if task == "inpaint" else list(SOLVERS)
    where = "repainter" if task == "inpaint" else "sampler"
    checkpoint_form.drop_unknown(FORM, where, names)
    return st.selectbox(
        "Sampler",
        names,
        key=key(where),
        format_func=lambda name: SOLVERS[name].label,
        persist_state="session",
        help="Method that turns noise into an image. The strengths of the selected one are described below.",
    )


def description(name: str) -> str:
    """When to choose a sampler, and its paper."""
    row = SOLVERS[name]
    return f"{row.label}: {row.words} ({row.source})"


def steps(config: Config, respaced: bool) -> int:
    """Field for the number of denoising steps; `respaced`: the timestep respacing sets it instead."""
    T = config.diffusion.diffusion_steps
    current = st.session_state.get(key("steps"), FIRST_STEPS)
    options = [*sorted({*STEP_COUNTS, current} - {AS_TRAINED}), AS_TRAINED]
    return st.select_slider(
        "Denoising steps",
        options,
        key=key("steps"),
        format_func=lambda n: f"{n:,}" if n else f"all {_all(config, T):,}",
        persist_state="session",
        disabled=respaced,
        help=(
            "The timestep respacing sets the steps: clear it under More to choose a number here."
            if respaced
            else "Model evaluations per image (NFE). All: every timestep of the training process."
        ),
    )


def _all(config: Config, T: int) -> int:
    return len(schedules.space_timesteps(T, config.diffusion.timestep_respacing))


def sampler_settings(config: Config, task: str, name: str) -> dict[str, Any]:
    """Settings that only this sampler has."""
    row, values = SOLVERS[name], dict[str, Any]()
    if "eta" in row.takes and task != "invert":
        values["eta"] = st.slider(
            "eta", 0.0, 1.0, step=0.05, key=key("eta"), help=FIELDS["eta"].help, persist_state="session"
        )
    if "churn" in row.takes:
        values["churn"] = setting_widgets.show_field(FORM, FIELDS["churn"])
    if "variance" in row.takes and not config.model.learn_sigma:
        values["variance"] = st.selectbox(
            "Variance",
            list(VARIANCES),
            key=key("variance"),
            format_func=VARIANCES.__getitem__,
            help=FIELDS["variance"].help,
            persist_state="session",
        )
        if values["variance"] == "analytic":
            st.caption(ANALYTIC)
    return values


def has_sampler_settings(config: Config, task: str, name: str) -> bool:
    """Whether the sampler has settings of its own."""
    takes = SOLVERS[name].takes
    return (
        ("eta" in takes and task != "invert")
        or "churn" in takes
        or ("variance" in takes and not config.model.learn_sigma)
    )


def why_unguided(config: Config) -> str:
    """Reason why this run does not support guidance; empty where it does."""
    if not config.model.class_cond:
        return "Guidance needs a class-conditional model: train one with Class-conditional switched on."
    if not config.model.cond_drop_prob > 0:
        return "Guidance needs a model trained with class dropout: train one with cond_drop_prob of about 0.1."
    return ""


def guidance(config: Config) -> float | None:
    """Field for the guidance scale; disabled, and None, where the run does not support guidance."""
    if why_not := why_unguided(config):
        st.slider(
            "Guidance", 0.0, MOST_GUIDANCE, 1.0, step=0.1, key=key("no_guidance"), disabled=True, help=escape(why_not)
        )
        return None
    most = max(MOST_GUIDANCE, float(st.session_state.get(key("guidance_scale"), 1.0)))
    return st.slider(
        "Guidance",
        0.0,
        most,
        step=0.1,
        key=key("guidance_scale"),
        help=FIELDS["guidance_scale"].help,
        persist_state="session",
    )


def more(config: Config, task: str, name: str, count: int, scale: float | None) -> dict[str, Any]:
    """Advanced fields in an expander."""
    values: dict[str, Any] = {}
    T = config.diffusion.diffusion_steps
    grid = st.grid(2, min_column_width=150)
    respaced = bool(st.session_state.get(key("timestep_respacing")))
    with grid.cell():
        spaced = _spacing(
            timesteps.usual(task, name),
            "The timestep respacing sets the timesteps." if respaced else "" if count else "All timesteps are used.",
        )
        if count and not respaced:
            values["spacing"] = spaced
    with grid.cell():
        values["timestep_respacing"] = setting_widgets.show_field(
            FORM,
            FIELDS["timestep_respacing"]._replace(label="Timestep respacing (instead of steps)"),
            "250, 10,15,20 or ddim50",
        )
    with grid.cell():
        clip = st.selectbox(
            "Clip",
            list(CLIPS),
            key=key("clip"),
            format_func=CLIPS.__getitem__,
            help=FIELDS["clip_denoised"].help + " Dynamic: " + FIELDS["dynamic_threshold"].help,
            persist_state="session",
        )
        values["clip_denoised"] = clip != "off"
        if clip == "dynamic":
            values["dynamic_threshold"] = st.slider(
                "Dynamic threshold",
                min(0.9, st.session_state.get(key("dynamic_threshold"), 0.9)),
                1.0,
                step=0.005,
                format="%.3f",
                key=key("dynamic_threshold"),
                help=FIELDS["dynamic_threshold"].help,
                persist_state="session",
            )
    with grid.cell():
        values["precision"] = setting_widgets.show_field(FORM, FIELDS["precision"])
    with grid.cell():
        values["batch_size"] = setting_widgets.show_field(FORM, FIELDS["batch_size"])
    with grid.cell():
        values["threads"] = setting_widgets.show_field(FORM, FIELDS["threads"])
    with grid.cell():
        values["kernels"] = setting_widgets.show_field(FORM, FIELDS["kernels"])
    if not why_unguided(config) and T > 1:
        where = key("guidance_interval")
        setting_widgets.put(where, _inside(st.session_state.get(where) or (0, T - 1), T))
        interval: Any = st.slider(
            "Guided timesteps",
            0,
            T - 1,
            key=where,
            help=FIELDS["guidance_interval"].help,
            persist_state="session",
            disabled=scale in (None, 1),
        )
        if scale not in (None, 1) and interval != (0, T - 1):
            values["guidance_interval"] = f"{interval[0]}-{interval[1]}"
    with st.container(horizontal=True, gap="medium"):
        for setting, there in (("denoise_to_zero", task in TO_ZERO), ("analytic_first_step", task in FROM_NOISE)):
            if there and count and not respaced:
                s = FIELDS[setting]
                values[setting] = st.toggle(
                    escape(s.label), key=key(setting), help=escape(s.help), persist_state="session", width="content"
                )
    return values


def _inside(interval: tuple[int, int], T: int) -> tuple[int, int]:
    return min(interval[0], T - 1), min(interval[1], T - 1)


def _spacing(usual: str, why_not: str) -> str:
    names = ("auto", *SPACINGS)
    setting_widgets.relabel(key("spacing"), [usual, *names])
    return st.selectbox(
        "Spacing",
        names,
        key=key("spacing"),
        persist_state="session",
        disabled=bool(why_not),
        help=escape(why_not or FIELDS["spacing"].help),
        format_func=lambda name: f"auto ({usual})" if name == "auto" else name,
    )
