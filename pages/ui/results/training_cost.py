"""Cost of a training before it starts: size, memory, and, once measured, time."""

import streamlit as st

from ddpm import formatting
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning.training_cost import estimate_training_cost
from ddpm.runs import launch
from ddpm.runs.jobs import ACTIVE, Job
from pages.ui.components.markdown import escape
from pages.ui.frame import layout, run_status


def show(config: Config, num_images: int | None) -> None:
    """Parameters, memory, time, finish and epochs of a valid configuration.  num_images: training images, if known."""
    job = launch.cost_job(config)
    active = bool(job.status()) and job.state() in ACTIVE
    with st.container(border=True):
        st.markdown("**Estimated cost**")
        layout.fragment(run_every=1.0 if active else None)(_metrics)(config, num_images, job, active)
        _measure_button(config, job, active)


def _metrics(config: Config, num_images: int | None, job: Job, was_active: bool) -> None:
    if was_active and job.state() not in ACTIVE:
        st.rerun()  # once, so that the polling stops
    cost = estimate_training_cost(config, num_images)
    steps, previews = formatting.plural(config.train.total_steps, "step"), formatting.plural(cost.previews, "preview")
    memory, available = formatting.memory(cost.memory_bytes), formatting.memory(cost.available_bytes)
    basis = "Measured" if cost.memory_measured else "Estimated"
    with st.grid(3, min_column_width=120):
        st.metric("Parameters", formatting.amount(cost.parameters))
        st.metric(
            "Memory",
            memory if cost.memory_measured else f"≈ {memory}",
            help=f"{basis}. This computer has {available} available now.",
        )
        st.metric("Time per step", formatting.duration(cost.seconds_per_step))
        st.metric("Total time", formatting.duration(cost.total_seconds), help=f"{steps} and {previews}.")
        run_status.time_metric("Finish", cost.finish_time, help="If training started now.")
        epochs = "–" if cost.epochs is None else f"{cost.epochs:,.1f}"
        st.metric("Epochs", epochs, help="How often each training image is seen.")
    if not cost.fits:
        st.warning(
            f"This training needs about {memory} of memory, and {available} are available: the computer may become"
            " very slow or end the process. Reduce the microbatch or switch on Gradient checkpointing; neither"
            " changes the result.",
            icon=":material/memory_alt:",
        )


def _measure_button(config: Config, job: Job, active: bool) -> None:
    status = job.status()
    failed = status is not None and job.state() in ("failed", "lost")
    done = _is_measured(job)
    label = "Measuring …" if active else "Measure again" if done or failed else "Measure speed"
    if failed and status:
        st.caption(f":red[{escape(status.message or 'The measurement ended without a result.')}]")
    if done and status and status.sharing:
        st.caption(f"Measured while other jobs were running. {escape(status.sharing)}")
    if st.button(
        label,
        icon=":material/speed:",
        disabled=active,
        width="stretch",
        help="Runs a few training steps in a separate process and times them. Nothing is saved.",
    ):
        try:
            launch.start_measuring(config, again=True)
        except UserError as error:
            st.error(escape(error))
        else:
            st.rerun()


def _is_measured(job: Job) -> bool:
    status = job.status()
    return bool(status and job.state() == "finished" and "seconds_per_step" in status.metrics)
