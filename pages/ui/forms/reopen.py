"""Settings out of a picture: a PNG that was drawn here carries them, and they go back into the form."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from ddpm.config.tasks import SampleConfig
from ddpm.errors import UserError
from ddpm.planning import metadata
from ddpm.runs.runs import Run
from ddpm.storage import images
from pages.ui.components import setting_widgets
from pages.ui.frame import layout

UPLOAD = "sample_settings_from"
OPENED = "sample_opened"  # in the session: what is said of the picture that was opened last, and how


def show(run: Run, use: Callable[[SampleConfig], None]) -> None:
    """The field for a picture; its settings are in the form as soon as it is there."""
    with st.expander("Open settings from a picture"):
        st.file_uploader(
            "A PNG file that was drawn here", ["png"], key=UPLOAD, on_change=layout.callback(_open), args=(run, use)
        )
        if st.session_state.get(UPLOAD) and (said := st.session_state.get(OPENED)):
            kind, sentences = said
            {"error": st.error, "warning": st.warning, "success": st.success}[kind](setting_widgets.plain(sentences))


def _open(run: Run, use: Callable[[SampleConfig], None]) -> None:
    file = st.session_state.get(UPLOAD)
    if file is None:
        return
    found = images.settings_in(file.getvalue())
    if found is None:
        st.session_state[OPENED] = (
            "error",
            f"{file.name} carries no settings: choose a PNG file that was drawn here, as it was written.",
        )
        return
    try:
        use(metadata.sample_of(found, file.name))
    except UserError as error:
        st.session_state[OPENED] = "error", str(error)
        return
    st.session_state[OPENED] = origin(run, found)


def origin(run: Run, found: Mapping[str, Any]) -> tuple[str, str]:
    """What a picture was drawn with, and whether that is this run's: a kind of box, and what to say in it."""
    about = found.get("checkpoint")
    about = about if isinstance(about, Mapping) else {}
    path = Path(str(about.get("path", "")))
    name, step = path.parent.name, about.get("step")
    if not path.name:
        return "warning", "The settings are in the form. They do not say which checkpoint the picture was drawn with."
    what = f"{about.get('weights', 'the weights')} of step {step:,}" if isinstance(step, int) else path.name
    known = {f["sha256"] for c in run.checkpoints() for f in c.files.values() if "sha256" in f}
    if about.get("sha256") in known:
        return "success", f"The settings are in the form: drawn from {run.name}, with {what}."
    if path.parent.absolute() == run.folder.absolute():
        return (
            "warning",
            (
                f"The settings are in the form. The picture was drawn with {what}, which {run.name} does not have any"
                " more: the same settings give another picture."
            ),
        )
    return (
        "warning",
        (
            f"The settings are in the form. The picture was drawn from {name}, with {what}, and the run chosen here is"
            f" {run.name}: with it they give another picture."
        ),
    )
