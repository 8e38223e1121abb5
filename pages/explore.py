"""Explore: what a checkpoint can do, and what it costs."""

import streamlit as st

from pages.ui import frontier, layout

layout.page("Explore")
st.title("Explore")
run = layout.pick_run(empty="There is nothing to explore yet. Train a run first: the quick start needs but a click.")

# What there is to explore: a tab for each, as soon as there are several.
frontier.show(run)
