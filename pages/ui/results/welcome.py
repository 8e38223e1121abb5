"""The home page while there is no run: what will come, and two ways to begin."""

import streamlit as st

from ddpm import formatting
from ddpm.config.presets import DEFAULT, PRESETS
from ddpm.runs import example, launch
from ddpm.runs.runs import Run
from pages.ui.components import thumbnails
from pages.ui.components.markdown import escape
from pages.ui.frame import layout

SIDE = 544  # pixels of an image grid, as it is enlarged


def show() -> str:
    """Shows the page; returns "start" where the quick start was pressed, "sample" for samples of the example."""
    asked = ""
    with st.container(border=True, horizontal_alignment="center", gap="medium", key="welcome"):
        st.title("Train your first diffusion model", width="content", anchor=False)
        st.markdown(
            "A small network learns generated images of coloured shapes on this computer.  \n"
            "Watch it train and sample new images from it a few minutes later.",
            width="content",
            text_alignment="center",
        )
        with st.container(horizontal=True, horizontal_alignment="center", width="content"):
            if st.button("Quick start", type="primary", icon=":material/rocket_launch:", key="quick_start"):
                asked = "start"
            if st.button(
                "Try the example model",
                icon=":material/grid_view:",
                key="example",
                help=f"Samples 16 new images with it, in {example.SAMPLE.steps} denoising steps: watch them form.",
            ):
                asked = "sample"
        _previews()
        st.markdown(
            f"Samples of the example model that comes with the program, {escape(layout.EXAMPLE)}. The shapes of the"
            " quick start are simpler, and learned in minutes.",
            width="content",
            text_alignment="center",
        )
        st.page_link(layout.TRAIN, label="Choose data and settings", icon=":material/model_training:")
    with st.container(border=True, key="what_happens"):
        st.header("What the quick start does", anchor=False)
        _phases()
    return asked


def sample_example() -> Run:
    """Provides the example and starts sampling from it; what is sampled is shown on the Sample page.

    Raises UserError.
    """
    run = example.provide(layout.runs_dir())
    job = launch.start_sampling(run, example.SAMPLE)
    st.session_state["sample_shown"] = job.name
    return run


SAMPLE_EXAMPLE = layout.Offer(
    "Sample from the example model",
    f"Samples 16 new images, in {example.SAMPLE.steps} denoising steps, with the model that the program includes:"
    f" {layout.EXAMPLE}.",
    sample_example,
)


def _phases() -> None:
    """What the quick start does, and how long each part takes."""
    preset = PRESETS[DEFAULT]
    train = preset.config.train
    first = train.sample_interval / train.total_steps
    minutes = 3.0  # as the description of the preset promises for two cores
    rows = [
        (
            "Begin",
            "Loads the libraries and renders the images; the first time, it also compiles its kernels.",
            "about 10 s",
        ),
        (
            "Train",
            f"{formatting.plural(train.total_steps, 'step')} of {formatting.plural(train.batch_size, 'image')}, with a"
            " curve that grows.",
            f"about {round(minutes):,} minutes on two cores",
        ),
        (
            "Preview",
            f"Every {formatting.plural(train.sample_interval, 'step')}, images from the same noise; a checkpoint every"
            f" {train.save_interval} steps.",
            f"the first after {formatting.duration(60 * minutes * first)} of training",
        ),
        ("Sample", "New images of a class of your choice, also while it trains.", "a few seconds for 16 images"),
    ]
    with st.grid(4, min_column_width=180, key="phases"):
        for title, what, lasts in rows:
            with st.container(gap="xsmall"):
                st.markdown(f"**{escape(title)}**")
                st.markdown(f"{escape(what)}  \n:material/schedule: {escape(lasts)}")


def _previews() -> None:
    """The example's previews, early and late."""
    run = Run(example.ASSET)
    found = dict(run.previews())
    order = sorted(found)
    for column, step in zip(st.columns(3), (order[0], order[len(order) // 2], order[-1]), strict=True):
        if image := thumbnails.shown(run, found[step], SIDE):
            after = f"After {formatting.plural(step, 'step')}"
            column.image(image, width="stretch", caption=after, alt=f"{after}: a preview of the example model")
