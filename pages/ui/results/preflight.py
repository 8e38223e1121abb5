"""What a training will cost, told before it starts: size, memory, and, once measured, time."""

import shlex
import time
from pathlib import Path

import psutil
import streamlit as st

from ddpm import formatting
from ddpm.config import codec
from ddpm.config.presets import PRESETS
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import architecture, memory
from ddpm.runs import launch
from ddpm.runs.jobs import ACTIVE, Job
from pages.ui.components import setting_widgets
from pages.ui.frame import layout


def card(config: Config, pictures: int | None) -> None:
    """Parameters, memory, time, finish and epochs of a valid configuration.  `pictures`: in the data, if known."""
    job = launch.measurement(config)
    active = bool(job.status()) and job.state() in ACTIVE
    with st.container(border=True):
        st.markdown("**Before it starts**")
        layout.fragment(run_every=1.0 if active else None)(_numbers)(config, pictures, active)
        _measure_button(config, job, active)


def seconds_per_step(job: Job) -> float | None:
    """The measured time of a training step, where there is one."""
    status = job.status()
    return status.metrics.get("seconds_per_step") if status and job.state() == "finished" else None


def _numbers(config: Config, pictures: int | None, was_active: bool) -> None:
    job = launch.measurement(config)
    if was_active and job.state() not in ACTIVE:
        st.rerun()  # once, so that the polling really stops
    train = config.train
    pace = seconds_per_step(job)
    status = job.status()
    previews = train.total_steps // train.sample_interval if train.sample_interval else 0
    preview_pace = (status.metrics.get("seconds_per_preview") or 0.0) if status else 0.0
    whole = pace * train.total_steps + preview_pace * previews if pace else None
    measured = status.metrics.get("peak_bytes") if status and pace else None
    needed = measured or memory.training_bytes(config.model, train)
    free = psutil.virtual_memory().available
    with st.grid(3, min_column_width=120):
        st.metric("Parameters", formatting.amount(architecture.parameters(config.model)))
        st.metric(
            "Memory",
            ("" if measured else "≈ ") + formatting.memory(needed),
            help=(
                f"{'Measured' if measured else 'Estimated'}. This computer has {formatting.memory(free)} to spare now."
            ),
        )
        st.metric("One step", formatting.duration(pace))
        st.metric(
            "All of it",
            formatting.duration(whole),
            help=f"{formatting.plural(train.total_steps, 'step')}, with {formatting.plural(previews, 'preview')}.",
        )
        st.metric("Done at", formatting.clock(time.time() + whole) if whole else "–", help="If it started now.")
        epochs = train.total_steps * train.batch_size / pictures if pictures else None
        st.metric(
            "Epochs", f"{epochs:,.1f}" if epochs is not None else "–", help="How often each picture will be seen."
        )
    if needed > 0.9 * free:
        st.warning(
            f"This needs about {formatting.memory(needed)}, and {formatting.memory(free)} are free: the computer may"
            " become very slow or end the training. A smaller microbatch, or Gradient checkpointing, helps without changing the"
            " result.",
            icon=":material/memory_alt:",
        )


def _measure_button(config: Config, job: Job, active: bool) -> None:
    status = job.status()
    failed = status is not None and job.state() in ("failed", "lost")
    done = seconds_per_step(job) is not None
    label = "Measuring …" if active else "Measure again" if done or failed else "Measure speed"
    if failed and status:
        st.caption(f":red[{setting_widgets.plain(status.message or 'The measurement ended without a result.')}]")
    if done and status and status.sharing:
        st.caption(f"Measured beside other work. {status.sharing}")
    if st.button(
        label,
        icon=":material/speed:",
        disabled=active,
        width="stretch",
        help="Trains a few steps in a process of its own, keeps nothing, and tells the time they take.",
    ):
        try:
            launch.start_measuring(config, again=True)
        except UserError as error:
            st.error(str(error))
        else:
            st.rerun()


def command(runs_dir: Path, name: str, config: Config) -> str:
    """What to type into a shell for the same run: from the preset that is nearest, or from the defaults."""
    candidates = [codec.to_flags(config)]
    candidates += [["--preset", preset, *codec.to_flags(config, PRESETS[preset].config)] for preset in PRESETS]
    place = [] if runs_dir == layout.ROOT / "runs" else ["--runs_dir", str(runs_dir)]
    return shlex.join(["ddpm", "train", *min(candidates, key=len), "--run", name, *place])
