"""Home: the runs, the live one first, and how to start a new one."""

from pages.ui import layout

layout.page("Home")
