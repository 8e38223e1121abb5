"""The table of runs on Home: drawn by the browser from data/runs, and what the user asks of it."""

from typing import Any, NamedTuple
from urllib.parse import quote

import streamlit as st

from ddpm.runs import run_names
from pages.ui.components import browser_code
from pages.ui.frame import layout, run_menu

PAGES = {"monitor": layout.MONITOR, "sample": layout.SAMPLE, "evaluate": layout.EVALUATE, "explore": layout.EXPLORE}
MENU = [[page, page.capitalize()] for page in PAGES]
MOST_RUNS = 10_000  # that are asked for at once

_table = browser_code.component(
    "ddpm_runs_table", "runs_table.js", html='<div class="table" style="min-height: 320px"></div>'
)


KEY = "runs"
BROKEN = ("delete",)  # actions on a run with damaged files
PAIRS = {"star": "star", "unstar": "star", "archive": "archived", "unarchive": "archived"}


class Asked(NamedTuple):
    """What the user asked for: an action, on runs, and for "open" the script of a page."""

    what: str
    runs: tuple[str, ...]
    page: str = ""


def show() -> None:
    """Shows the table, and does what was asked for."""
    _table(key=KEY, data={"pages": MENU, "actions": actions()}, on_act_change=layout.callback(_act))
    asked = _asked()
    if asked and asked.what == "open":
        st.switch_page(asked.page, query_params={"run": asked.runs[0]})
    if asked and asked.what == "compare":
        st.switch_page(layout.COMPARE, query_params={"runs": ",".join(quote(name, safe="") for name in asked.runs)})


def _asked() -> Asked | None:
    return read((st.session_state.get(KEY) or {}).get("act"))


def _act() -> None:
    asked = _asked()
    if asked and asked.what in run_menu.ACTIONS:
        run_menu.act(asked.what, asked.runs)


def actions() -> list[dict[str, Any]]:
    """What can be done with runs, for the menus in the browser.

    what, label; many: on several runs at once; idle: not on an active run; broken: on a damaged one too; only, unless:
    where a run has that mark; together: on several alone.
    """
    found: list[dict[str, Any]] = [{"what": "compare", "label": "Compare", "many": True, "together": True}]
    for what, action in run_menu.ACTIONS.items():
        marks = {"unless" if what in ("star", "archive") else "only": PAIRS[what]} if what in PAIRS else {}
        kind: dict[str, Any] = {"many": action.several, "idle": action.idle, "broken": what in BROKEN}
        found.append({**kind, **marks, "what": what, "label": action.label})
    return found


def read(sent: object) -> Asked | None:
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
    if what == "compare":
        return Asked(what, tuple(names)) if len(names) > 1 else None
    known = run_menu.SEVERAL if len(names) > 1 else run_menu.ACTIONS
    return Asked(what, tuple(names)) if what in known else None
