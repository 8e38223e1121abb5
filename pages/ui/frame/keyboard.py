"""The list of keys that `?` opens: those of every page, and those of the page that is shown.

A part of a page that hears keys has a row here.  Keys are separated by spaces.
"""

from pages.ui.components import browser_code

Keys = tuple[tuple[str, str], ...]

EVERYWHERE: Keys = (
    ("?", "Show or close this list"),
    ("Tab Shift+Tab", "Go to the next or the previous link, field or button"),
    ("Enter Space", "Press what is in focus, or unfold it"),
    ("Esc", "Close a dialog, a menu or a list"),
    ("← → ↑ ↓", "Move a slider, or choose from a list"),
)
FORM: Keys = (("Ctrl+Enter", "Press the button that starts what the form asks for"),)
MASK: Keys = (
    ("← → ↑ ↓", "On the mask: move the brush; with Shift by eight pixels"),
    ("Space", "On the mask: paint; with an arrow key, a line"),
    ("E", "On the mask: change between painting and erasing"),
    ("[ ]", "On the mask: a smaller or a larger brush"),
    ("Ctrl+Z", "On the mask: undo"),
)
MONITOR: Keys = (
    ("← →", "On the values of a step: the row before or after; on the previews: the one before or after"),
    ("↑ ↓", "On the log: the line before or after that names a step"),
    ("Enter", "Pin the step that is shown, or unpin it"),
    ("Esc", "On the values of a step: back to the newest"),
    ("Space", "On the previews: play or pause"),
    ("Home End", "On the previews: the first or the last"),
    ("F", "On the previews: the full screen"),
)
HOME: Keys = (
    ("/", "Go to the filter of the runs"),
    ("← → ↑ ↓", "In the table: go from cell to cell; Home, End, Page Up and Page Down go further"),
    ("Space", "Select the run; with Shift and ↑ or ↓ several, with Ctrl+A all"),
    ("Enter", "Open the run on Monitor, its menu on the last cell; on a heading, sort by it"),
    ("Shift+F10", "Open the menu of the run"),
)
COMPARE: Keys = (
    ("← →", "On a curve: the row before or after"),
    ("B", "Blink between the previews, and back"),
    ("D", "Show the difference of the previews, and back"),
)
OF_PAGE: dict[str, Keys] = {
    "Home": HOME,
    "Compare": COMPARE,
    "Monitor": MONITOR,
    "Train": FORM,
    "Sample": FORM + MASK,
    "Evaluate": FORM,
    "Explore": FORM,
}

_HTML = """
<button type="button" class="open" aria-keyshortcuts="?">Keyboard <kbd aria-hidden="true">?</kbd></button>
<dialog aria-labelledby="title">
  <h2 id="title">Keyboard</h2>
  <div class="list"></div>
  <button type="button" class="close" autofocus>Close</button>
</dialog>
"""
_CSS = """
:host { display: block; }
button { font: inherit; font-size: 0.875rem; color: inherit; cursor: pointer; background: none;
  border: 1px solid transparent; border-radius: var(--st-button-radius); padding: 0.25rem 0.75rem; }
.open { color: var(--st-text-color); opacity: 0.8; }
.close { border-color: var(--st-border-color); margin-top: 1rem; }
button:hover { border-color: var(--st-primary-color); opacity: 1; }
button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
kbd { font-family: var(--st-code-font); font-size: 0.8rem; padding: 0.1rem 0.4rem; white-space: nowrap;
  border: 1px solid currentcolor; border-radius: 4px; }
dialog { max-width: min(40rem, 92vw); max-height: 85vh; overflow: auto; padding: 1.5rem; color: var(--st-text-color);
  background: var(--st-background-color); border: 1px solid var(--st-border-color); border-radius: 12px; }
dialog::backdrop { background: rgb(0 0 0 / 0.45); }
h2 { margin: 0 0 0.75rem; font-size: 1.2rem; font-weight: 600; }
table { width: 100%; border-collapse: collapse; margin-bottom: 0.75rem; }
caption { text-align: left; font-weight: 600; padding: 0.5rem 0 0.25rem; }
th, td { text-align: left; font-weight: 400; vertical-align: top; padding: 0.3rem 1rem 0.3rem 0; }
th { width: 9.5rem; line-height: 1.8; }
"""

_component = browser_code.component("ddpm_keys", "keys.js", html=_HTML, css=_CSS)


def show(page: str) -> None:
    """A button that opens the list, which `?` opens too."""
    own = OF_PAGE.get(page)
    groups = [["Every page", EVERYWHERE], *([[page, own]] if own else [])]
    _component(key="keys", data={"groups": groups})
