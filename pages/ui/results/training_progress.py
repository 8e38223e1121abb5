"""Progress of a training in charts, previews and log."""

import streamlit as st

from ddpm.config.training import Config
from pages.ui.components import thumbnails
from pages.ui.frame.run_store import RunView


def previews(view: RunView, config: Config, active: bool) -> None:
    """Preview grids sampled during training; the newest unless another one is selected."""
    run, grids = view.run, dict(view.previews())
    if not grids:
        interval = config.train.sample_interval
        first = f"The first preview is sampled at step {interval:,}" if interval else "Previews are off for this run"
        st.info(
            f"{first}; Preview now samples one immediately." if active else "No preview was sampled.",
            icon=":material/imagesmode:",
        )
        return
    steps, key, followed = list(grids), f"preview-{run.name}", f"_newest-{run.name}"
    if st.session_state.get(key) in (None, st.session_state.get(followed)):
        st.session_state[key] = steps[-1]
    st.session_state[followed] = steps[-1]
    step = steps[0]
    if len(steps) > 1:
        help = "Every preview starts from the same noise. The arrow keys move the slider."
        step = st.select_slider("Preview at step", steps, format_func=lambda step: f"{step:d}", key=key, help=help)
    image = thumbnails.shown(run, grids[step], 768)
    if image:
        st.image(image, width="stretch", alt=f"Preview grid of {run.name} at step {step}", caption=f"Step {step:,}")


def log_tail(view: RunView) -> None:
    """End of log.txt."""
    st.caption("Log")
    with st.container(height=230, autoscroll=True, key="log_tail"):
        st.code(
            view.log_tail() or ("Nothing yet." if view.run.alive() else "This run has no log."),
            language=None,
            wrap_lines=True,
        )
