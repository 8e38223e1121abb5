"""A page of the dashboard, run without a browser."""

import json
from pathlib import Path
from typing import Any

from streamlit import config
from streamlit.testing.v1 import AppTest
from waiting import PATIENCE

from pages.ui.results import training_cost

config.get_config_options()  # read here: a test may work in another folder, and no later one would have a theme
training_cost.QUIET = float("inf")  # no test starts a measurement that it does not ask for

ROOT = Path(__file__).resolve().parents[1]


def new_page(page: str, **query: str) -> AppTest:
    """A page that was not run yet."""
    at = AppTest.from_file(str(ROOT / "home.py"), default_timeout=PATIENCE)
    for key, value in query.items():
        at.query_params[key] = value
    if page != "home.py":
        at.switch_page(page)
    return at


def open_page(page: str, **query: str) -> AppTest:
    at = new_page(page, **query)
    at.run()
    assert not at.exception, at.exception
    return at


def text(at: AppTest) -> str:
    """Everything that the page says in words."""
    kinds = ("markdown", "caption", "info", "warning", "error", "header", "title")
    return "\n".join([*(str(element.value) for kind in kinds for element in getattr(at, kind)), *commands(at)])


def commands(at: AppTest) -> list[str]:
    """The shell commands that the page offers."""
    return [data["line"] for data in components(at) if {*data} == {"line"}]


def components(at: AppTest) -> list[dict[str, Any]]:
    """What the components in a page are given."""
    found = [json.loads(element.proto.json).get("data") for element in at.get("bidi_component") if element.proto.json]
    return [data for data in found if isinstance(data, dict)]


def said(at: AppTest) -> str:
    """What the page says, without the marks that keep it from being read as markup."""
    return plain(text(at))


def plain(markdown: str | None) -> str:
    """What is shown of a text: without the marks that keep it from being read as markup."""
    return (markdown or "").replace("\\", "")


def button(at: AppTest, label: str):  # type: ignore[no-untyped-def]
    return next(b for b in at.button if b.label == label)
