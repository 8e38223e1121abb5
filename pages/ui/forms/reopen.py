"""Loads settings from an image: PNG files sampled by this program carry them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from ddpm.config.tasks import SampleConfig
from ddpm.errors import UserError
from ddpm.planning import metadata
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from ddpm.storage import images
from pages.ui.components.markdown import escape, with_code
from pages.ui.frame import layout

Use = Callable[[SampleConfig, Any], None]  # puts a request into the form; and what is recorded of its checkpoint
UPLOAD = "sample_settings_from"
OPENED = "sample_opened"  # in the session: message about the image loaded last, and its kind


def pinned(sample: SampleConfig, origin: Any, checkpoints: Sequence[Checkpoint]) -> SampleConfig:
    """The request with the checkpoint that it was answered with, `origin`, where that is no longer the newest."""
    about = origin if isinstance(origin, Mapping) else {}
    weights = about.get("weights")
    found = next((checkpoint for checkpoint in checkpoints if checkpoint.step == about.get("step")), None)
    if found is None or found.step == checkpoints[-1].step or weights not in found.weights:
        return sample
    if found.files[found.path(weights).name].get("sha256") != about.get("sha256"):  # of another run
        return sample
    return dataclasses.replace(sample, step=found.step, weights=weights)


def show(run: Run, use: Use) -> None:
    """Shows the upload field; the settings of an uploaded image fill the form."""
    with st.expander("Load settings from an image"):
        st.file_uploader(
            "A PNG file sampled by this program", ["png"], key=UPLOAD, on_change=layout.callback(_open), args=(run, use)
        )
        if st.session_state.get(UPLOAD) and (message := st.session_state.get(OPENED)):
            kind, sentences = message
            match kind:
                case "error":
                    st.error(with_code(sentences))
                case "warning":
                    st.warning(with_code(sentences))
                case _:
                    st.success(escape(sentences))


def _open(run: Run, use: Use) -> None:
    file = st.session_state.get(UPLOAD)
    if file is None:
        return
    recipe = images.settings_in(file.getvalue())
    if recipe is None:
        st.session_state[OPENED] = (
            "error",
            f"{file.name} carries no settings: choose an unmodified PNG file sampled by this program.",
        )
        return
    try:
        use(metadata.sample_of(recipe, file.name), recipe.get("checkpoint"))
    except UserError as error:
        st.session_state[OPENED] = "error", str(error)
        return
    st.session_state[OPENED] = origin(run, recipe)


def origin(run: Run, recipe: Mapping[str, Any]) -> tuple[str, str]:
    """Compares the checkpoint of an image with this run's: returns the kind of message box and its text."""
    about = recipe.get("checkpoint")
    about = about if isinstance(about, Mapping) else {}
    path = Path(str(about.get("path", "")))
    name, step = path.parent.name, about.get("step")
    if not path.name:
        return "warning", "The settings have been loaded. They do not name the checkpoint the image was sampled from."
    what = f"{about.get('weights', 'the weights')} of step {step:,}" if isinstance(step, int) else path.name
    known = {f["sha256"] for c in run.checkpoints() for f in c.files.values() if "sha256" in f}
    if isinstance(sha256 := about.get("sha256"), str) and sha256 in known:
        return "success", f"The settings have been loaded: sampled from {run.name} with {what}."
    if path.parent.absolute() == run.folder.absolute():
        return (
            "warning",
            (
                f"The settings have been loaded. The image was sampled with {what}, which {run.name} no longer has:"
                " the same settings give a different image."
            ),
        )
    return (
        "warning",
        (
            f"The settings have been loaded. The image was sampled from {name} with {what}, but the selected run is"
            f" {run.name}: it gives a different image."
        ),
    )
