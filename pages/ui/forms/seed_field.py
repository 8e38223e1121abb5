"""Field for the seed, with a die; unless it is pinned, the next press of Sample has another one.

What the field shows is what is sampled with.  A seed that was typed, or came with settings, is pinned.
"""

import secrets
from collections.abc import Sequence
from functools import partial

import streamlit as st

from ddpm.config.tasks import SampleConfig
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from pages.ui.components import setting_widgets
from pages.ui.components.markdown import escape
from pages.ui.forms.sampler_form import FIELDS, FORM
from pages.ui.frame import layout

SEEDS = 2**32
LOOKED_AT = 20  # newest jobs whose seeds are avoided

_key = partial(setting_widgets.key, FORM)
PINNED, NEXT, RUN = _key("seed_pinned"), _key("seed_next"), _key("seed_of_run")


def show(run: Run, jobs: Sequence[SampleJob]) -> int | None:
    """Shows the field, the die and the pin; returns the seed, None where the field is empty."""
    where = _key("seed")
    st.session_state.setdefault(PINNED, False)
    planned = st.session_state.pop(NEXT, None)
    if not st.session_state[PINNED]:
        if planned is not None:
            setting_widgets.fill(FORM, planned)
        elif st.session_state.get(RUN) != run.name:
            st.session_state[where] = unused(jobs)
    st.session_state[RUN] = run.name
    s = FIELDS["seed"]
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="bottom", key="sample-seed-row"):
        seed = st.number_input(
            escape(s.label),
            value=None,
            step=1,
            key=where,
            help=escape(s.help),
            persist_state="session",
            on_change=layout.callback(pin),
            width="stretch",
        )
        st.button(
            "Roll",
            icon=":material/casino:",
            key="seed_die",
            help="Roll another seed",
            on_click=layout.callback(roll),
        )
    st.toggle(
        "Keep this seed",
        key=PINNED,
        persist_state="session",
        help="Off: every press of Sample takes seeds that were not used yet. On: the same images again.",
    )
    return seed


def pin() -> None:
    """Keeps the seed from now on."""
    st.session_state[PINNED] = True


def roll() -> None:
    """Puts a random seed into the field."""
    st.session_state[_key("seed")] = secrets.randbelow(SEEDS - 10**7)


def unused(jobs: Sequence[SampleJob]) -> int:
    """A seed after those of the newest samples, so that none of their images comes again."""
    ends = [0]
    for job in jobs[:LOOKED_AT]:
        sample = job.sample_config
        if sample and sample.task != "invert":
            ends.append(_after(sample))
    return max(ends) % SEEDS


def advance(sample: SampleConfig) -> None:
    """Plans the seeds of the press that follows this one; they are taken unless the seed is pinned."""
    if sample.task == "invert":
        return
    planned = {"seed": _after(sample) % SEEDS}
    if sample.task == "interpolate":  # on from where this one ended
        planned = {"seed": sample.to_seed, "to_seed": _after(sample) % SEEDS}
    st.session_state[NEXT] = planned


def _after(sample: SampleConfig) -> int:
    if sample.task == "interpolate":
        return max(sample.seed, sample.to_seed) + 1
    return sample.seed + sample.num_samples
