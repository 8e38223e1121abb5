"""What is proposed for images of one's own: the preset that fits their number and size, one click away."""

from collections.abc import Callable

import streamlit as st

from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.data import checked
from ddpm.data.datasets import Description
from ddpm.data_sets import DATA_SETS
from ddpm.planning import own_images
from pages.ui.components.markdown import escape
from pages.ui.frame import layout


def show(config: Config, about: Description | None, state: str, fill: Callable[[Config, str], None]) -> None:
    """Shows the proposal for the data of a form, unless that is a data set by name; a click calls `fill`.

    state: of the files, by which what was seen of all images is known.
    """
    if about is None or config.data.data_dir in DATA_SETS:
        return
    seen = checked.known(state) if state else None
    proposal = own_images.propose(about, min(seen.sides, default=0) if seen else 0)
    if proposal is None:
        return
    taken = proposal.is_taken(config)
    st.caption(f":material/lightbulb: {escape(proposal.sentence)}")
    st.button(
        "These settings are in the form" if taken else "Use these settings",
        key="train-own-images",
        icon=":material/check:" if taken else ":material/tune:",
        disabled=taken,
        on_click=layout.callback(fill),
        args=(codec.replace(proposal.config, {"data_dir": config.data.data_dir}), proposal.preset),
    )
