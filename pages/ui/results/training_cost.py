"""Cost of a training before it starts: size, memory, and time, which measures itself once the form rests."""

import time

import streamlit as st

from ddpm import formatting
from ddpm.config.training import Config
from ddpm.planning import durations
from ddpm.planning.training_cost import TrainingCost, estimate_training_cost, steps_before
from ddpm.runs import launch
from ddpm.runs.jobs import ACTIVE, Job
from pages.ui.components.markdown import escape
from pages.ui.frame import layout, run_status

QUIET = 2.0  # seconds without a change until the speed is measured
LONG = 10.0  # seconds of a step, as a first guess, from which on it is measured only when that is asked for
LOOKED = "train_cost"  # in the session: what the form has cost since when, as (folder of its measurement, time)
STEPS_HELP = "As many as the speed is expected to give: the training measures it, and corrects the number as it goes."
OURS = "train_measuring"  # in the session: the measurement that this page began by itself


def show(config: Config, num_images: int | None, held_out_images: int, busy: bool) -> None:
    """Parameters, memory, time, finish and epochs of a training that can be measured.

    num_images: training images, if known.  held_out_images: held-out ones.
    busy: a training runs, beside which a speed would be wrong.
    """
    job = launch.cost_job(config)
    name, since = st.session_state.get(LOOKED, ("", 0.0))
    if name != job.name:
        since = time.monotonic()
        st.session_state[LOOKED] = (job.name, since)
        _stop_other(job)
    counts = (num_images, held_out_images)
    cost = estimate_training_cost(config, *counts)
    active = bool(job.status()) and job.state() in ACTIVE
    is_quick = durations.guess_step(config) <= LONG
    waits = not active and not busy and cost.fits and is_quick and _is_open(job)
    with st.container(key="train_cost"):
        layout.fragment(run_every=1.0 if active or waits else None)(_follow)(config, counts, job, since, waits, active)
        if not active and not waits:
            _again(config, job, cost, busy)


def _is_open(job: Job) -> bool:
    """Whether there is neither a result nor a failure: a measurement that was stopped may be made again."""
    return not job.status() or job.state() == "stopped"


def _stop_other(job: Job) -> None:
    """Ends the measurement of what the form said before, if this page began it."""
    other = st.session_state.pop(OURS, None)
    if other is not None and other.name != job.name and other.state() in ACTIVE:
        other.request("stop")


def _follow(
    config: Config, counts: tuple[int | None, int], job: Job, since: float, waits: bool, was_active: bool
) -> None:
    """Shows the cost; begins the measurement when nothing was changed for long enough, and follows it."""
    active = bool(job.status()) and job.state() in ACTIVE
    if waits and not active and _is_open(job) and time.monotonic() - since >= QUIET:
        st.session_state[OURS] = launch.start_measuring(config)
        active = True
    elif not active and (was_active or (waits and not _is_open(job))):
        st.rerun()  # once, so that the asking stops
    _metrics(config, estimate_training_cost(config, *counts))
    if active or waits:
        st.caption(
            ":material/speed: Measuring the speed …" if active else ":material/speed: The speed measures itself."
        )


def _guess(config: Config) -> str:
    """Says in a sentence how long a training lasts that was not measured."""
    step = durations.guess_step(config)
    said = f"A first guess is {formatting.duration(step)} a step"
    if not config.train.train_for:  # which is the time
        said += f", {formatting.duration(step * (config.train.total_steps - steps_before(config.train)))} in all"
    return f"{said}."


def _metrics(config: Config, cost: TrainingCost) -> None:
    counted = [formatting.plural(cost.previews, "preview")]
    if cost.measurements:
        counted.append(f"the loss on held-out images {formatting.plural(cost.measurements, 'time')}")
    steps = formatting.plural(config.train.total_steps, "step")
    memory, available = formatting.memory(cost.memory_bytes), formatting.memory(cost.available_bytes)
    basis, memory = ("Measured", memory) if cost.memory_measured else ("Estimated", f"≈ {memory}")
    epochs = "–" if cost.epochs is None else f"{cost.epochs:,.1f}"
    with st.container(key="train_cost_figures"), st.grid(2, min_column_width=100, gap="small"):
        st.metric(
            "Total time", formatting.duration(cost.total_seconds), help=f"{steps}, {escape(' and '.join(counted))}."
        )
        run_status.time_metric("Finish", cost.finish_time, help="If training started now.")
        st.metric("Time per step", formatting.duration(cost.seconds_per_step))
        st.metric(
            "Memory", escape(memory), help=f"{escape(basis)}. This computer has {escape(available)} available now."
        )
        st.metric("Parameters", formatting.amount(cost.parameters))
        if config.train.train_for:
            st.metric("Training steps", f"≈ {config.train.total_steps:,}", help=STEPS_HELP)
        st.metric("Epochs", epochs, help="How often each training image is seen.")
    with st.container(key="train_cost_line"):
        took = f"**{formatting.duration(cost.total_seconds)}** · " if cost.total_seconds else ""
        count = f"≈ {steps} · " if config.train.train_for else ""
        passes = "" if cost.epochs is None else f" · {epochs} epochs"
        st.markdown(f":small[{took}{count}{escape(memory)} · {formatting.amount(cost.parameters)} parameters{passes}]")
    if not cost.fits:
        st.warning(
            f"This training needs about {escape(memory.removeprefix('≈ '))} of memory, and {escape(available)} are"
            " available: the computer may become very slow or end the process. Reduce the microbatch, which changes"
            " nothing but rounding.",
            icon=":material/memory_alt:",
        )


def _again(config: Config, job: Job, cost: TrainingCost, busy: bool) -> None:
    """Says why there is no measurement, or how it was made, with a button that makes one."""
    status = job.status()
    if status and job.state() in ("failed", "lost"):
        st.caption(f":red[{escape(status.message or 'The measurement ended without a result.')}]")
    elif status and cost.seconds_per_step and status.sharing:
        st.caption(f"Measured while other jobs were running. {escape(status.sharing)}")
    elif not cost.seconds_per_step and busy:
        st.caption(
            f"{escape(_guess(config))} The speed is not measured while a training runs, as both would be slower."
        )
    elif not status and durations.guess_step(config) > LONG:
        st.caption(f"{escape(_guess(config))} The speed is measured only when you ask for it.")
    st.button(
        "Measure again" if status else "Measure speed",
        icon=":material/speed:",
        type="tertiary",
        help="Times a few training steps in a separate process. Nothing is saved.",
        on_click=layout.callback(launch.start_measuring),
        args=(config, True),
    )
