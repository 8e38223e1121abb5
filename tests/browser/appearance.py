"""What axe-core does not measure: contrast of fields, boxes, switches and of the focus; what a page says."""

from pathlib import Path

from playwright.sync_api import Page

_LOOK = Path(__file__).with_suffix(".js").read_text("utf-8").partition("\n")[2].strip()


def pale_parts(page: Page) -> list[str]:
    """Parts of controls that are below 3 : 1 to what is around them."""
    return [f"{what}: {contrast:.2f}" for what, contrast in page.evaluate(f"() => {_LOOK}.parts()") if contrast < 3]


def hidden_focus(page: Page, presses: int) -> list[str]:
    """What the Tab key leads to, without an outline of 3 : 1 that says so."""
    found = []
    for _ in range(presses):
        page.keyboard.press("Tab")
        if (focus := page.evaluate(f"() => {_LOOK}.focus()")) and focus[1] < 3:
            found.append(f"{focus[0]}: {focus[1]:.2f}")
    return found


def text(page: Page) -> str:
    """All text of the page, but for code, the log and what is typed."""
    return str(page.evaluate(f"() => {_LOOK}.text()"))
