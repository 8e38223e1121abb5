"""Progress of a training in charts, and what is said where there are no previews."""

import streamlit as st

from ddpm.config.training import Config
from ddpm.runs import metrics
from pages.ui.components import figures
from pages.ui.frame.run_store import RunView
from pages.ui.results.live_chart import live_chart


def curves(view: RunView, options: figures.ChartOptions) -> None:
    """Panels of loss, gradient norm and learning rate."""
    if view.metrics().empty:
        st.info("The chart appears with the first logged row.", icon=":material/hourglass_empty:")
        return
    live_chart(view.figure(figures.MAIN, options, figures.panels), key=f"curves-{view.run.name}")


def quarters(view: RunView, options: figures.ChartOptions, part: str) -> None:
    """Loss, or one of its terms, in each quarter of the timesteps."""
    st.caption(metrics.HELP[part] + " " + metrics.HELP["loss_q0"])
    figure = view.figure(figures.quarters(part), options, figures.overlay)
    live_chart(figure, key=f"quarters-{part}-{view.run.name}")


PREVIEWS_HELP = "Every preview starts from the same noise, so that they show how the same images develop."


def no_preview(config: Config, active: bool) -> str:
    """What is said while there is no preview."""
    interval = config.train.sample_interval
    first = f"The first preview is sampled at step {interval:,}" if interval else "Previews are off for this run"
    return f"{first}; Preview now samples one immediately." if active else "No preview was sampled."
