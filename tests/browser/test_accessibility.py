"""Every page for everybody: axe-core finds nothing, in light and in dark; and what no checker sees."""

from importlib.resources import files as resources
from typing import Any

import fake_run
import pytest
from appearance import hidden_focus, pale_parts, text
from playwright.sync_api import Page, expect
from screens import EMPTY, SCREENS, WELCOME, furnish, wait_until_drawn

pytestmark = pytest.mark.browser

AXE = resources("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
# A page of Streamlit's has its main part and its menu in landmarks, but not its toolbar.
RULES = {"region": {"enabled": False}}
# A sketch beside its number, which Streamlit draws without a name.
WHERE = {"exclude": ["[data-testid=stMetricChart]"]}

# Those of screens.py that show every kind of part between them: each takes a second or two.
CHECKED = (
    *("welcome", "sample-without-runs", "home", "train", "monitor-commands", "monitor-lost"),
    *("compare", "sample", "evaluate", "explore", "explore-trajectory"),
)


def violations(page: Page, *only: str) -> list[str]:
    """What axe-core finds on the page as it is: the rule, the element and, of colours, their contrast."""
    page.evaluate(AXE)
    options: dict[str, Any] = {"resultTypes": ["violations"], "rules": RULES}
    if only:
        options["runOnly"] = list(only)
    found = page.evaluate("([where, options]) => axe.run(where, options)", [WHERE, options])["violations"]
    return [f"{rule['id']}: {node['html'][:200]} {node['failureSummary']}" for rule in found for node in rule["nodes"]]


def put_on(page: Page, scheme: str) -> None:
    """Changes to the light or the dark theme, which follow the system."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    expect(page.locator("[data-testid=stApp]")).to_have_css("color-scheme", scheme)
    page.wait_for_function("() => document.getAnimations().every((a) => a.playState !== 'running')")


def test_axe_finds_nothing(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    by_name = {screen.name: screen for screen in (WELCOME, *EMPTY, *SCREENS)}
    for screen in map(by_name.__getitem__, CHECKED):
        if screen.name == "home":
            furnish(server.runs_dir)
        page.emulate_media(color_scheme="light")
        screen.open(page, server)
        put_on(page, "light")
        assert violations(page) == [], screen.name
        assert page.locator("h1").count() == 1, f"{screen.name} has no title, or two"
        put_on(page, "dark")
        assert violations(page, "color-contrast") == [], screen.name
        assert pale_parts(page) == [], screen.name
        put_on(page, "light")
        assert pale_parts(page) == [], screen.name
        assert "`" not in text(page), screen.name
        assert hidden_focus(page, 12) == [], screen.name


def test_keys_messages_and_dialogs(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    fake_run.write(server.runs_dir, "first", 60)
    with fake_run.running(server.runs_dir, "second", rate=0.4):
        page.goto(server.address("monitor", run="second"))
        wait_until_drawn(page)

        keys = page.get_by_role("dialog", name="Keyboard")
        page.keyboard.press("?")
        expect(keys).to_be_visible()
        assert violations(page) == []
        page.keyboard.press("Escape")
        expect(keys).to_be_hidden()

        for name in ("Sample", "Evaluate", "Explore"):
            link = page.get_by_test_id("stSidebar").get_by_role("link", name=name)
            assert link.get_attribute("href").endswith("?run=second")  # type: ignore[union-attr]

        page.get_by_role("button", name="Save now").click()
        message = page.locator(".st-key-message [data-testid=stAlert]")
        expect(message).to_be_visible()
        covered = page.evaluate(COVERED)
        assert covered == [], "a message lies over a button"
        expect(page.get_by_test_id("stStatusWidget")).to_be_hidden()
        expect(message).to_be_hidden()  # it is saved, and nothing is said to be asked for any longer

        start, stop = (page.evaluate(COLOUR, name) for name in ("preview", "stop"))
        assert start != stop

    page.goto(server.address())
    wait_until_drawn(page)
    page.get_by_role("button", name="More").first.click()
    page.get_by_role("menuitem", name="Delete").click()
    dialog = page.get_by_role("dialog", name="Move to the bin?")
    expect(dialog).to_be_visible()
    assert page.evaluate("() => document.querySelector('[data-testid=stDialog]').contains(document.activeElement)")
    expect(page.get_by_role("menuitem")).to_have_count(0)
    assert violations(page) == []
    put_on(page, "dark")
    assert violations(page, "color-contrast") == []
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()

    page.goto(server.address("monitor", run="first"))
    wait_until_drawn(page)
    page.get_by_role("button", name="Train more").click()
    expect(page.get_by_role("dialog", name="Train more steps")).to_be_visible()
    put_on(page, "dark")
    assert violations(page, "color-contrast") == []  # of the button that starts, outside the element of the theme
    put_on(page, "light")
    assert violations(page) == []


# Names of the buttons that a message lies over.
COVERED = """() => {
  const box = document.querySelector(".st-key-message [data-testid=stAlert]").getBoundingClientRect();
  return [...document.querySelectorAll("[data-testid=stMain] button")].filter((button) => {
    const own = button.getBoundingClientRect();
    return own.width && own.left < box.right && own.right > box.left && own.top < box.bottom && own.bottom > box.top;
  }).map((button) => button.innerText);
}"""
COLOUR = "(name) => getComputedStyle(document.querySelector(`.st-key-${name} button`)).color"
