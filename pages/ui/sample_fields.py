"""The form of the Sample page: which weights, how many pictures, which sampler."""

import dataclasses
from functools import partial

import streamlit as st

from ddpm import classes, schedules, spacing, validation
from ddpm import config as configs
from ddpm.config import Config, SampleConfig
from ddpm.errors import UserError
from ddpm.runs import Checkpoint, Run
from ddpm.validation import Problem
from pages.ui import checkpoint_fields, forms, super_res

FORM = "sample"
FIRST = SampleConfig(num_samples=16, batch_size=0, use_ddim=True)
FIRST_STEPS = 50
STEP_COUNTS = (1, 2, 5, 10, 15, 20, 25, 50, 75, 100, 150, 200, 250, 500, 1000, 2000, 4000)
VARIANCES = {"as in training": None, "small (the posterior's)": True, "large (beta)": False}
FIELDS = {s.name: s for s in configs.settings(SampleConfig)}
IN_ALL, OF_EACH = "In all", "Of each class"
ROWS = FIELDS["num_samples"]._replace(name="rows", label="Pictures of each class")

_key = partial(forms.key, FORM)
_options = partial(checkpoint_fields.options, FORM)
_keep_known = partial(checkpoint_fields.keep_known, FORM)


def begin(config: Config, sample: SampleConfig) -> None:
    """Put the settings of one drawing into the fields: the first ones, or earlier ones to be used again."""
    T = config.diffusion.diffusion_steps
    try:
        steps = steps_of(config, sample)
    except UserError:
        steps = T
    special = sample.timestep_respacing not in ("", respacing(config, steps, sample.use_ddim))
    forms.begin(FORM, dataclasses.asdict(sample))
    super_res.begin(FORM, config, sample.base_samples)
    forms.begin(
        FORM,
        {
            "sampler": "DDIM" if sample.use_ddim else "DDPM",
            "steps": steps,
            "variance": next(words for words, value in VARIANCES.items() if value is sample.sigma_small),
            "timestep_respacing": sample.timestep_respacing if special else "",
            "classes": sample.classes if classes.must_be_said(config) else _picked(config, sample.classes),
            "count": IN_ALL,
            "rows": 4,
        },
    )


def _picked(config: Config, text: str) -> list[str]:
    """The names of the classes that `text` asks for; none where it asks for all, or for what there is not."""
    known = classes.names(config)
    return [known[label] for label in _labels(config, text) if label < len(known)] if text.strip() else []


def _labels(config: Config, text: str) -> list[int]:
    """The labels that `text` asks for; none where it is wrong, which `problems` tells."""
    try:
        return classes.chosen(config, text)
    except UserError:
        return []


def respacing(config: Config, steps: int, ddim: bool) -> str:
    """The respacing string for so many steps of this run's process."""
    spec = schedules.respacing(config.diffusion.diffusion_steps, steps, ddim)
    return spec or (str(steps) if config.diffusion.timestep_respacing else "")


def show(run: Run, checkpoints: list[Checkpoint]) -> tuple[SampleConfig, list[Problem]]:
    """Draw the fields.  Returns what they say, and what is wrong with it."""
    config = run.config
    if forms.key(FORM, "sampler") not in st.session_state:
        few = respacing(config, min(FIRST_STEPS, config.diffusion.diffusion_steps), ddim=True)
        begin(config, dataclasses.replace(FIRST, timestep_respacing=few))
    values: dict[str, object] = {}
    known = list(classes.names(config))
    grid = st.grid(2, min_column_width=150)
    with grid.cell():
        values["step"], checkpoint = checkpoint_fields.checkpoint(FORM, checkpoints)
    with grid.cell():
        values["weights"] = checkpoint_fields.weights(FORM, checkpoint)
    with grid.cell():
        ddim = _options("sampler", "Sampler", ["DDIM", "DDPM"], FIELDS["use_ddim"].help) == "DDIM"
        values["use_ddim"] = ddim
    with grid.cell():
        steps = _steps(config)
    if known:
        with grid.cell():
            values["classes"] = _classes(config, known)
        with grid.cell():
            count = _options("count", "How many", [IN_ALL, OF_EACH], "In all: the classes take turns. Of each class: so many of every one; a few classes make a grid with a column for each.")  # fmt: skip
    with grid.cell():
        if known and count == OF_EACH:
            rows, labels = forms.box(FORM, ROWS), _labels(config, str(values["classes"]))
            values["num_samples"] = rows and rows * max(1, len(labels))
            if config.model.super_res and not values["classes"]:  # otherwise the small pictures say it
                values["classes"] = f"0-{len(labels) - 1}"
        else:
            values["num_samples"] = forms.box(FORM, FIELDS["num_samples"])
    with grid.cell():
        values["seed"] = forms.box(FORM, FIELDS["seed"])
    if ddim:
        with grid.cell():
            values["eta"] = st.slider(
                "eta", 0.0, 1.0, step=0.05, key=_key("eta"), help=FIELDS["eta"].help, persist_state="session"
            )
    unfit: list[str] = []
    if config.model.super_res:
        values["base_samples"] = super_res.choose(FORM, run, config, str(values.get("classes", "")), unfit)
    with st.expander("More"):
        values["batch_size"] = forms.box(FORM, FIELDS["batch_size"])
        special = forms.box(FORM, FIELDS["timestep_respacing"]._replace(label="Respacing, instead of steps"), respacing(config, steps, ddim) or "all")  # fmt: skip
        if not ddim and not config.model.learn_sigma:
            variance = st.selectbox(
                "Variance", list(VARIANCES), key=_key("variance"), help=FIELDS["sigma_small"].help, persist_state="session"
            )  # fmt: skip
            values["sigma_small"] = VARIANCES[variance]
        values["clip_denoised"] = st.toggle(
            FIELDS["clip_denoised"].label, key=_key("clip_denoised"), help=FIELDS["clip_denoised"].help, persist_state="session"
        )  # fmt: skip
    values["timestep_respacing"] = special or respacing(config, steps, ddim)
    missing = [Problem(name, f"{FIELDS[name].label} is empty: type a number.") for name, value in values.items() if value is None and name != "sigma_small"]  # fmt: skip
    sample = SampleConfig(**{name: value for name, value in values.items() if value is not None})  # type: ignore[arg-type]
    return sample, [*missing, *(Problem("base_samples", sentence) for sentence in unfit), *problems(config, sample)]


def problems(config: Config, sample: SampleConfig) -> list[Problem]:
    """What would keep these pictures from being drawn."""
    found = list(validation.limit_problems(sample))
    try:
        steps_of(config, sample)
    except UserError as error:
        found.append(Problem("timestep_respacing", str(error)))
    if not config.model.super_res:  # where the small pictures may say it
        try:
            classes.chosen(config, sample.classes)
        except UserError as error:
            found.append(Problem("classes", str(error)))
    return found


def steps_of(config: Config, sample: SampleConfig) -> int:
    """Denoising steps a picture takes.  Raises UserError for an impossible respacing."""
    return spacing.calls(config, sample)


def _classes(config: Config, known: list[str]) -> str:
    """The field for the classes to draw: a list to pick from, or a text where they are many numbers."""
    if classes.must_be_said(config):
        if not isinstance(st.session_state.get(_key("classes")), str):  # from a run with a list
            st.session_state[_key("classes")] = ""
        return str(forms.box(FORM, FIELDS["classes"], "0-9"))
    _keep_known("classes", known, many=True)
    picked = st.multiselect(
        "Classes", known, key=_key("classes"), help=FIELDS["classes"].help, persist_state="session",
        placeholder="As the small pictures, or all" if config.model.super_res else "All in turn",
    )  # fmt: skip
    return ",".join(str(known.index(name)) if "," in name else name for name in picked)


def _steps(config: Config) -> int:
    T = config.diffusion.diffusion_steps
    current = st.session_state.get(_key("steps"), 50)
    options = sorted({n for n in (*STEP_COUNTS, current) if n <= T} | {T})
    _keep_known("steps", options[::-1])
    return st.select_slider(
        "Steps", options, key=_key("steps"), format_func=lambda n: f"{n:,}", persist_state="session",
        help="Denoising steps a picture. DDIM is good from about 25 on; DDPM wants most of them.",
    )  # fmt: skip
