"""Form of the Evaluate page: weights, images and their number."""

import dataclasses

import streamlit as st

from ddpm import formatting
from ddpm.config import fields, validation
from ddpm.config.tasks import EvalConfig
from ddpm.config.training import Config
from ddpm.config.validation import Problem
from ddpm.data import datasets
from ddpm.data_sets import DATA_SETS
from ddpm.errors import UserError, writable
from ddpm.planning import summary, timesteps
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from pages.ui.components import setting_widgets
from pages.ui.forms import checkpoint_form, data_form

FORM = "evaluate"
FIRST = EvalConfig(num_samples=100)
OWN = ""  # the option for what the run was trained on
PATH = data_form.PATH
SIZES = ("num_samples", "timestep_respacing")  # settings that decide how long it takes
BEGAN = "evaluate_began"  # in the session: the run whose first evaluation was filled in, and its sizes
FIELDS = {s.name: s for s in fields.settings(EvalConfig)}
PARTS = {"auto": "Automatic", "train": "Training", "test": "Held out"}
MORE = ("batch_size", "rows", "seed", "timestep_respacing")


def show(run: Run, checkpoints: list[Checkpoint]) -> tuple[EvalConfig, list[Problem]]:
    """Shows the fields.  Returns their values and problems."""
    config = run.config
    _fill_first(run)
    values: dict[str, object] = checkpoint_form.both(FORM, checkpoints, run)
    values["data_dir"] = _data(config)
    contents = data_form.inspect(str(values["data_dir"]) or config.data.data_dir)
    values["split"] = _split(config, str(values["data_dir"]), contents)
    grid = st.grid(2, min_column_width=150)
    for name in ("num_samples", "until_ci"):
        with grid.cell():
            values[name] = setting_widgets.show_field(FORM, FIELDS[name])
    with st.expander("More"):
        inner = st.grid(2, min_column_width=150)
        more = MORE if config.model.learn_sigma else ("variance", *MORE)  # a learned one leaves no choice
        for name in more:
            with inner.cell():
                values[name] = setting_widgets.show_field(
                    FORM, FIELDS[name], "as in training" if name == "timestep_respacing" else None
                )
        for name in ("enlarge", "skip_broken", "clip_denoised"):
            values[name] = st.toggle(
                FIELDS[name].label, key=setting_widgets.key(FORM, name), help=FIELDS[name].help, persist_state="session"
            )
    missing = [
        Problem(name, f"{FIELDS[name].label} is empty: type a number.", code="missing-value")
        for name, value in values.items()
        if value is None
    ]
    evaluation = EvalConfig(**{name: value for name, value in values.items() if value is not None})  # type: ignore[arg-type]
    return evaluation, [*missing, *problems(config, evaluation, contents)]


def _fill_first(run: Run) -> None:
    """Fills the fields with an evaluation that ends soon; again for another run, unless something was changed."""
    fresh = setting_widgets.key(FORM, "num_samples") not in st.session_state
    before = st.session_state.get(BEGAN)
    if fresh:
        setting_widgets.fill(FORM, {**dataclasses.asdict(FIRST), "source": OWN, "path": ""})
    now = {name: st.session_state.get(setting_widgets.key(FORM, name)) for name in SIZES}
    if fresh or (before and before[0] != run.name and before[1] == now):
        first = summary.first_evaluation(run, run.config, FIRST)
        now = {name: getattr(first, name) for name in SIZES}
        setting_widgets.fill(FORM, now)
        st.session_state[BEGAN] = run.name, now


def problems(config: Config, evaluation: EvalConfig, contents: data_form.Contents) -> list[Problem]:
    """Problems that prevent the evaluation."""
    wrong = list(validation.limit_problems(evaluation))
    if contents.error:
        wrong.append(Problem("data_dir", contents.error, code="unreadable-data"))
    elif contents.description is None:
        wrong.append(
            Problem(
                "data_dir",
                "No data is selected: type the path of a folder of images or of an .npz file.",
                code="no-data-named",
            )
        )
    else:
        size, own = contents.description.size, evaluation.data_dir in (OWN, config.data.data_dir)
        enlarge = evaluation.enlarge or (own and config.data.enlarge)
        if size and min(size) < config.model.image_size and not enlarge:
            wrong.append(
                Problem(
                    "enlarge",
                    f"The first image has only {size[0]} x {size[1]} pixels, and the model's image size is"
                    f" {config.model.image_size}: use larger images, or switch on {FIELDS['enlarge'].label} under"
                    " More.",
                    code="small-images",
                )
            )
        try:
            datasets.class_numbers(config, contents.description.class_names)
        except UserError as error:
            wrong.append(Problem("data_dir", str(error), code=error.code))
    try:
        timesteps.timesteps(config, evaluation)
    except UserError as error:
        wrong.append(Problem("timestep_respacing", str(error), code=error.code))
    return wrong


def _data(config: Config) -> str:
    """Field for the data.  Returns a data_dir, empty for the run's own."""
    own = DATA_SETS[config.data.data_dir].title if config.data.data_dir in DATA_SETS else writable(config.data.data_dir)
    options = [OWN, *(name for name in DATA_SETS if name != config.data.data_dir), PATH]
    checkpoint_form.drop_unknown(FORM, "source", options)
    titles = {
        OWN: f"Training data: {own}",
        PATH: "Folder or file",
        **{n: s.title for n, s in DATA_SETS.items()},
    }
    setting_widgets.relabel(setting_widgets.key(FORM, "source"), [titles[name] for name in options])
    source = st.selectbox(
        FIELDS["data_dir"].label,
        options,
        key=setting_widgets.key(FORM, "source"),
        help=FIELDS["data_dir"].help,
        format_func=titles.__getitem__,
        persist_state="session",
    )
    if source != PATH:
        return source
    typed = st.text_input(
        "Path", key=setting_widgets.key(FORM, "path"), placeholder="/home/me/images", persist_state="session"
    )
    return fields.absolute(typed) or PATH


def _split(config: Config, data_dir: str, contents: data_form.Contents) -> str:
    """Field for the split, where there is a choice."""
    about = contents.description
    if about is None:
        return FIRST.split
    own = data_dir in (OWN, config.data.data_dir)
    held = datasets.held_out_count(about.count, config.data.hold_out) if own else 0
    test = about.test_count or held
    if not test:
        note = "seen in training: none was held out" if own else ""
        st.caption(f"{formatting.plural(about.count, 'image')} {note}".strip() + ".")
        return FIRST.split
    part = checkpoint_form.options(
        FORM, "split", FIELDS["split"].label, list(PARTS), FIELDS["split"].help, PARTS.__getitem__
    )
    count = about.count - held if part == "train" else test
    roughly = "About " if held else ""  # each image's content decides
    st.caption(
        f"{roughly}{formatting.plural(count, 'image')} {'for training' if part == 'train' else 'not seen in training'}."
    )
    return part
