"""Monitor: watch a run while it learns, and steer it."""

from pages.ui import layout

layout.page("Monitor")
run = layout.pick_run()
