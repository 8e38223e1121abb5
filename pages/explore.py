"""Explore: studies of a checkpoint, such as the comparison of samplers."""

from functools import partial

import streamlit as st

from ddpm.runs.results import KINDS
from pages.ui.frame import layout
from pages.ui.results import matrix, other_result, solver_benchmark, trajectory

layout.page("Explore")
st.title("Explore")
run = layout.pick_run(offer=layout.USE_EXAMPLE)

FRONTIER, MICROSCOPE = ":material/ssid_chart: Compare samplers", trajectory.TITLE
PARTS = {FRONTIER: solver_benchmark.show, MICROSCOPE: trajectory.show, matrix.TITLE: matrix.show}
PARTS |= {
    row.title: partial(other_result.show, name=name) for name, row in KINDS.items() if row.work and name != matrix.KIND
}

part = st.segmented_control(
    "What to explore",
    list(PARTS),
    key=trajectory.PART,
    default=FRONTIER,
    required=True,
    label_visibility="collapsed",
    persist_state="session",
)
PARTS[part](run)
