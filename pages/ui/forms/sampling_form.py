"""Form of the Sample page: task, weights, number of images and sampler."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import streamlit as st

from ddpm.config import validation
from ddpm.config.tasks import FEW_STEPS, SampleConfig
from ddpm.config.training import Config
from ddpm.config.validation import Problem
from ddpm.errors import UserError
from ddpm.planning import classes, guidance, resolve, summary
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from pages.ui.components import setting_widgets
from pages.ui.components.markdown import escape
from pages.ui.forms import checkpoint_form, ema_width, example_inputs, inputs_form, sampler_form, seed_field, super_res
from pages.ui.forms.sampler_form import FIELDS, FIRST_STEPS, FORM
from pages.ui.frame import layout

FIRST = SampleConfig(num_samples=16, batch_size=0, sampler=FEW_STEPS, steps=FIRST_STEPS)
TASKS = {
    "draw": (":material/grid_view: Sample", "Sample new images, each from its own noise."),
    "interpolate": (
        ":material/animation: Interpolate",
        "Interpolate between the images of two seeds, in noise space.",
    ),
    "vary": (":material/shuffle: Vary", "Add noise to an image and denoise it again, for variations of it."),
    "inpaint": (
        ":material/format_paint: Inpaint",
        "Sample new content where you paint, and keep the rest of the image.",
    ),
    "invert": (
        ":material/swap_horiz: Invert",
        "Map an image to its noise and back (DDIM inversion), to see how well the model reconstructs it.",
    ),
}
COUNTS = {
    "draw": ("num_samples", 16),
    "interpolate": ("between", 8),
    "vary": ("variations", 4),
    "inpaint": ("variations", 4),
    "invert": ("inverted", 4),
}
"""Field for the number of images of each task, and its initial value."""
FIRST_STRENGTH = 0.8  # of a variation, which is seen to be one
STEPS = {"invert": 50}  # initial denoising steps of a task that needs more than FIRST_STEPS
USUAL = "sample_usual"  # in the session: what the task that was chosen last usually needs, by field
IN_ALL, OF_EACH = "In total", "Per class"
ROWS = FIELDS["num_samples"]._replace(name="rows", label="Images per class")

_key = partial(setting_widgets.key, FORM)
_options = partial(checkpoint_form.options, FORM)
_keep_known = partial(checkpoint_form.drop_unknown, FORM)


def fill(config: Config, sample: SampleConfig) -> None:
    """Puts a request into the fields: the initial one, or an earlier one to reuse."""
    sample = summary.normal_form(sample)
    sample = dataclasses.replace(sample, guidance_scale=guidance.scale_of(config.model, sample))
    setting_widgets.fill(FORM, dataclasses.asdict(sample))
    setting_widgets.fill(FORM, dict(COUNTS.values()))
    sampler_form.fill(config, sample)
    super_res.fill(FORM, config, sample.base_samples)
    inputs_form.fill(config, sample)
    st.session_state[USUAL] = _usual(config, sample.task)
    setting_widgets.fill(
        FORM,
        {
            COUNTS[sample.task][0]: sample.num_samples,
            "classes": sample.classes if classes.must_be_named(config) else _class_names(config, sample.classes),
            "strength": sample.strength if sample.task == "vary" else FIRST_STRENGTH,
            "count": IN_ALL,
            "rows": 4,
        },
    )


def _class_names(config: Config, text: str) -> list[str]:
    """Names of the classes in `text`; empty for all classes or unknown ones."""
    known = classes.names(config)
    return [known[label] for label in _labels(config, text) if label < len(known)] if text.strip() else []


def _labels(config: Config, text: str) -> list[int]:
    """Labels of the classes in `text`; empty where it is invalid, which `problems` reports."""
    try:
        return classes.parse_classes(config, text)
    except UserError:
        return []


def _fill_first(config: Config) -> None:
    """Puts the initial request into the fields, the first time."""
    if _key("sampler") not in st.session_state:
        fill(config, dataclasses.replace(FIRST, guidance_scale=guidance.USUAL))


def use_checkpoint(config: Config, step: int) -> None:
    """Chooses the checkpoint to sample from, before the page is opened; the other fields stay as they are."""
    _fill_first(config)
    setting_widgets.fill(FORM, {"step": step})


def choose_task(run: Run, jobs: Sequence[SampleJob]) -> str:
    """Task control at the top.  Super-resolution models offer fewer tasks."""
    config = run.config
    _fill_first(config)
    tasks = ["draw", "interpolate"] if config.model.super_res else list(TASKS)
    _keep_known("task", tasks)
    selected = st.segmented_control(
        "Task",
        tasks,
        key=_key("task"),
        format_func=lambda task: TASKS[task][0],
        required=True,
        wrap=True,
        label_visibility="collapsed",
        persist_state="session",
        on_change=layout.callback(_begin),
        args=(config, jobs),
    )
    return selected or tasks[0]


def _begin(config: Config, jobs: Sequence[SampleJob]) -> None:
    """Lets an interpolation begin with two samples that differ, unless the seed is pinned."""
    _take_usual(config, st.session_state[_key("task")])
    if st.session_state[_key("task")] != "interpolate" or st.session_state.get(seed_field.PINNED):
        return
    if pair := example_inputs.two_seeds(config, jobs):
        setting_widgets.fill(FORM, {"seed": pair.first, "to_seed": pair.last})
        if pair.name and not classes.must_be_named(config):
            setting_widgets.fill(FORM, {"classes": [pair.name]})


def _take_usual(config: Config, task: str) -> None:
    """Puts what a task usually needs into its fields, unless another value than that of the last was chosen."""
    before, usual = st.session_state.get(USUAL, _usual(config, "draw")), _usual(config, task)
    setting_widgets.fill(
        FORM, {name: value for name, value in usual.items() if st.session_state.get(_key(name)) == before[name]}
    )
    st.session_state[USUAL] = usual


def _usual(config: Config, task: str) -> dict[str, float]:
    """Steps and guidance that a task usually needs: only without guidance does inversion go back the way it came."""
    steps = min(STEPS[task], config.diffusion.diffusion_steps) if task in STEPS else FIRST_STEPS
    return {"steps": steps, "guidance_scale": 1.0 if task == "invert" else guidance.USUAL}


def begin_with(config: Config, task: str, job: SampleJob, number: int) -> None:
    """Puts a task and a sample that it begins with into the fields."""
    setting_widgets.fill(
        FORM, {"task": task, "picture_from": "drawn", "picture_drawing": job.name, "picture_number": number}
    )
    _take_usual(config, task)


def show(run: Run, checkpoints: list[Checkpoint], task: str) -> tuple[SampleConfig, list[Problem]]:
    """Shows the fields of a task.  Returns their values and problems."""
    config = run.config
    values: dict[str, Any] = {}
    unusable: list[Problem] = []
    values["task"] = task
    st.caption(TASKS[task][1])
    if task in inputs_form.TASKS:
        values |= inputs_form.show(run, config, task, unusable)
    of_image = values.pop("classes", "")
    grid = st.grid(2, min_column_width=150)
    with grid.cell():
        values["step"], checkpoint = checkpoint_form.checkpoint(FORM, checkpoints)
    with grid.cell():
        values["weights"] = checkpoint_form.weights(FORM, checkpoint)
        ema_width.show(FORM, run, checkpoint)
    if task == "invert":
        name = sampler_form.sampler(task)
    else:
        with grid.cell():
            name = sampler_form.sampler(task)
    with grid.cell():
        count = sampler_form.steps(config, respaced=bool(st.session_state.get(_key("timestep_respacing"))))
    st.caption(escape(sampler_form.description(name)))
    grid = st.grid(2, min_column_width=150)
    if sampler_form.has_sampler_settings(config, task, name):
        with grid.cell():
            values |= sampler_form.sampler_settings(config, task, name)
    if task == "vary":
        with grid.cell():
            values["strength"] = st.slider(
                "Strength",
                0.0,
                1.0,
                step=0.05,
                key=_key("strength"),
                help=FIELDS["strength"].help,
                persist_state="session",
            )
    with grid.cell():
        values["guidance_scale"] = sampler_form.guidance(config)
    values |= _count_fields(run, task, str(values.get("picture", "")), of_image, grid)
    if of_image and not values.get("classes"):
        values["classes"] = of_image
    if config.model.super_res:
        sentences: list[str] = []
        values["base_samples"] = super_res.show_sample_fields(
            FORM, run, config, str(values.get("classes", "")), sentences
        )
        unusable += [Problem("base_samples", sentence, code="unreadable-data") for sentence in sentences]
    with st.expander("More"):
        values |= sampler_form.more(config, task, name, count, values["guidance_scale"])
        if task == "inpaint":
            with st.grid(2, min_column_width=150):
                values["resample"] = setting_widgets.show_field(FORM, FIELDS["resample"])
                values["jump"] = setting_widgets.show_field(FORM, FIELDS["jump"])
    values |= {"sampler": name, "steps": 0 if values["timestep_respacing"] else count}
    missing = [
        Problem(name, f"{FIELDS[name].label} is empty: type a number.", code="missing-value")
        for name, value in values.items()
        if value is None and FIELDS[name].default is not None
    ]
    sample = SampleConfig(**{name: value for name, value in values.items() if value is not None})
    return sample, [*missing, *unusable, *problems(config, sample)]


def _count_fields(run: Run, task: str, picture: str, of_image: str, grid: Any) -> dict[str, Any]:
    """Shows the fields for classes, seeds and the number of images.  of_image: the class of the input image."""
    values: dict[str, Any] = {}
    config = run.config
    known = list(classes.names(config))
    count = IN_ALL
    if known:
        with grid.cell():
            values["classes"] = _classes(config, known, of_image)
    if known and task == "draw":
        with grid.cell():
            count = _options(
                "count",
                "Count",
                [IN_ALL, OF_EACH],
                "In total: the classes take turns. Per class: this number for each class; with few classes the grid"
                " has one column per class.",
            )
    if not (task == "invert" and inputs_form.is_single_image(picture)):
        with grid.cell():
            if count == OF_EACH:
                rows, labels = setting_widgets.show_field(FORM, ROWS), _labels(config, str(values["classes"]))
                values["num_samples"] = rows and rows * max(1, len(labels))
                if config.model.super_res and not values["classes"]:  # otherwise the low-resolution images say it
                    values["classes"] = f"0-{len(labels) - 1}"
            else:
                values["num_samples"] = setting_widgets.show_field(
                    FORM, FIELDS["num_samples"]._replace(name=COUNTS[task][0])
                )
    else:
        values["num_samples"] = 1
    if task != "invert":
        with grid.cell():
            values["seed"] = seed_field.show(run, run.sample_jobs())
    if task == "interpolate":
        with grid.cell():
            values["to_seed"] = setting_widgets.show_field(FORM, FIELDS["to_seed"])
    return values


def problems(config: Config, sample: SampleConfig) -> list[Problem]:
    """Problems that prevent sampling."""
    found = list(validation.limit_problems(sample))
    try:
        if not found:
            model_evaluations(config, sample)
    except UserError as error:
        found.append(Problem("steps", str(error), code=error.code))
    if not config.model.super_res:  # where the low-resolution images may say it
        try:
            classes.parse_classes(config, sample.classes)
        except UserError as error:
            found.append(Problem("classes", str(error), code=error.code))
    return found


def model_evaluations(config: Config, sample: SampleConfig) -> int:
    """Model evaluations per image.  Raises UserError for an impossible respacing."""
    return resolve.resolve_process(config, sample).nfe


def _classes(config: Config, known: list[str], of_image: str) -> str:
    """Field for the classes: a list to select from, or a text where there are many."""
    usual = "All classes in turn"
    if config.model.super_res:
        usual = "As in the low-resolution images, or all"
    elif of_image:
        usual = f"As the input image: {known[_labels(config, of_image)[0]]}"
    if classes.must_be_named(config):
        if not isinstance(st.session_state.get(_key("classes")), str):  # from a run with a list
            st.session_state[_key("classes")] = ""
        return str(setting_widgets.show_field(FORM, FIELDS["classes"], "0-9"))
    _keep_known("classes", known, many=True)
    picked = st.multiselect(
        "Classes",
        known,
        key=_key("classes"),
        help=FIELDS["classes"].help,
        persist_state="session",
        placeholder=usual,
    )
    return classes.joined(known, picked)
