"""The form of the Sample page: which weights, how many pictures, which sampler."""

import dataclasses
from functools import partial

import streamlit as st

from ddpm import config as configs
from ddpm import schedules, validation
from ddpm.config import Config, SampleConfig
from ddpm.errors import UserError
from ddpm.runs import Checkpoint, Run
from ddpm.validation import Problem
from pages.ui import checkpoint_fields, forms

FORM = "sample"
FIRST = SampleConfig(num_samples=16, use_ddim=True)
FIRST_STEPS = 50
STEP_COUNTS = (1, 2, 5, 10, 15, 20, 25, 50, 75, 100, 150, 200, 250, 500, 1000, 2000, 4000)
VARIANCES = {"as in training": None, "small (the posterior's)": True, "large (beta)": False}
FIELDS = {s.name: s for s in configs.settings(SampleConfig)}

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
    special = sample.timestep_respacing not in ("", spacing(config, steps, sample.use_ddim))
    known = class_names(config)
    words = [word.strip() for word in sample.classes.split(",") if word.strip()]
    named = [known[int(w)] if w not in known and w.isdecimal() and int(w) < len(known) else w for w in words]
    forms.begin(FORM, dataclasses.asdict(sample))
    forms.begin(
        FORM,
        {
            "sampler": "DDIM" if sample.use_ddim else "DDPM",
            "steps": steps,
            "variance": next(words for words, value in VARIANCES.items() if value is sample.sigma_small),
            "timestep_respacing": sample.timestep_respacing if special else "",
            "classes": [name for name in named if name in known],
        },
    )


def class_names(config: Config) -> list[str]:
    """Of a class-conditional run: its names, or numbers where the data had none."""
    model = config.model
    return list(config.class_names) or [str(k) for k in range(model.num_classes)] if model.class_cond else []


def spacing(config: Config, steps: int, ddim: bool) -> str:
    """The respacing string for so many steps of this run's process."""
    spec = schedules.respacing(config.diffusion.diffusion_steps, steps, ddim)
    return spec or (str(steps) if config.diffusion.timestep_respacing else "")


def show(run: Run, checkpoints: list[Checkpoint]) -> tuple[SampleConfig, list[Problem]]:
    """Draw the fields.  Returns what they say, and what is wrong with it."""
    config = run.config
    if forms.key(FORM, "sampler") not in st.session_state:
        few = spacing(config, min(FIRST_STEPS, config.diffusion.diffusion_steps), ddim=True)
        begin(config, dataclasses.replace(FIRST, timestep_respacing=few))
    values: dict[str, object] = {}
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
    with grid.cell():
        values["num_samples"] = forms.box(FORM, FIELDS["num_samples"])
    with grid.cell():
        values["seed"] = forms.box(FORM, FIELDS["seed"])
    if ddim:
        with grid.cell():
            values["eta"] = st.slider(
                "eta", 0.0, 1.0, step=0.05, key=_key("eta"), help=FIELDS["eta"].help, persist_state="session"
            )
    known = class_names(config)
    if known:
        _keep_known("classes", known, many=True)
        with grid.cell():
            picked = st.multiselect(
                "Classes", known, key=_key("classes"), help=FIELDS["classes"].help, placeholder="All in turn",
                persist_state="session",
            )  # fmt: skip
        values["classes"] = ",".join(str(known.index(name)) if "," in name else name for name in picked)
    with st.expander("More"):
        values["batch_size"] = forms.box(FORM, FIELDS["batch_size"])
        special = forms.box(FORM, FIELDS["timestep_respacing"]._replace(label="Respacing, instead of steps"), spacing(config, steps, ddim) or "all")  # fmt: skip
        if not ddim:
            variance = st.selectbox(
                "Variance", list(VARIANCES), key=_key("variance"), help=FIELDS["sigma_small"].help, persist_state="session"
            )  # fmt: skip
            values["sigma_small"] = VARIANCES[variance]
        values["clip_denoised"] = st.toggle(
            FIELDS["clip_denoised"].label, key=_key("clip_denoised"), help=FIELDS["clip_denoised"].help, persist_state="session"
        )  # fmt: skip
    values["timestep_respacing"] = special or spacing(config, steps, ddim)
    missing = [Problem(name, f"{FIELDS[name].label} is empty: type a number.") for name, value in values.items() if value is None and name != "sigma_small"]  # fmt: skip
    sample = SampleConfig(**{name: value for name, value in values.items() if value is not None})  # type: ignore[arg-type]
    return sample, [*missing, *problems(config, sample)]


def problems(config: Config, sample: SampleConfig) -> list[Problem]:
    """What would keep these pictures from being drawn."""
    found = list(validation.limit_problems(sample))
    try:
        steps_of(config, sample)
    except UserError as error:
        found.append(Problem("timestep_respacing", str(error)))
    return found


def steps_of(config: Config, sample: SampleConfig) -> int:
    """Denoising steps a picture takes.  Raises UserError for an impossible respacing."""
    return len(configs.sampling_timesteps(config, sample))


def _steps(config: Config) -> int:
    T = config.diffusion.diffusion_steps
    current = st.session_state.get(_key("steps"), 50)
    options = sorted({n for n in (*STEP_COUNTS, current) if n <= T} | {T})
    _keep_known("steps", options[::-1])
    return st.select_slider(
        "Steps", options, key=_key("steps"), format_func=lambda n: f"{n:,}", persist_state="session",
        help="Denoising steps a picture. DDIM is good from about 25 on; DDPM wants most of them.",
    )  # fmt: skip
