"""The table of runs on Home: drawn by the browser from data/runs, and what the user asks of it."""

from typing import Any, NamedTuple

from ddpm.runs import run_names
from pages.ui.components import browser_code
from pages.ui.frame import layout

PAGES = {"monitor": layout.MONITOR, "sample": layout.SAMPLE, "evaluate": layout.EVALUATE, "explore": layout.EXPLORE}
MOST_RUNS = 10_000  # that are asked for at once

_table = browser_code.component(
    "ddpm_runs_table", "runs_table.js", html='<div class="table" style="min-height: 320px"></div>'
)


class Asked(NamedTuple):
    """What the user asked for: an action, on runs, and for "open" the script of a page."""

    what: str
    runs: tuple[str, ...]
    page: str = ""


def show(actions: list[dict[str, Any]]) -> Asked | None:
    """Shows the table; returns what was asked for just now, if anything was.

    actions: what, label; many: on several runs at once; idle: not on an active run; broken: on a damaged one too.
    """
    menu = [[page, page.capitalize()] for page in PAGES]
    found = _table(key="runs", data={"pages": menu, "actions": actions}, on_act_change=layout.callback(lambda: None))
    return read(found.get("act"), {action["what"] for action in actions})


def read(sent: object, known: set[str]) -> Asked | None:
    """What the browser sent; None for anything that it would not send."""
    if not isinstance(sent, dict):
        return None
    what, names, page = sent.get("what"), sent.get("runs"), sent.get("page", "")
    if not (isinstance(what, str) and isinstance(page, str) and isinstance(names, list)):
        return None
    if not 0 < len(names) <= MOST_RUNS:
        return None
    if not all(isinstance(name, str) and run_names.is_name(name) for name in names):
        return None
    if what == "open":
        return Asked("open", tuple(names), PAGES[page]) if page in PAGES else None
    return Asked(what, tuple(names)) if what in known else None
