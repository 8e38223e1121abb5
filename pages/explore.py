"""Explore: what a checkpoint can do, and what it costs."""

import streamlit as st

from pages.ui.frame import layout
from pages.ui.results import solver_benchmark, trajectory

layout.page("Explore")
st.title("Explore")
run = layout.pick_run(with_example=True)

FRONTIER, MICROSCOPE = ":material/ssid_chart: Frontier", ":material/biotech: Microscope"
PARTS = {FRONTIER: solver_benchmark.show, MICROSCOPE: trajectory.show}

part = st.segmented_control(
    "What to explore",
    list(PARTS),
    key="explore_part",
    default=FRONTIER,
    required=True,
    label_visibility="collapsed",
    persist_state="session",
)
PARTS[part](run)
