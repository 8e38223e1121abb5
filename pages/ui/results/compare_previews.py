"""Previews of several runs at one step or time: side by side, in turn, subtracted; see static/compare_previews.js."""

from collections.abc import Sequence

from pages.ui.components import browser_code
from pages.ui.results.training_chart import Shown

_CSS = """
.previews { font: 0.875rem/1.4 var(--st-font); color: var(--st-text-color); min-height: 260px; }
.bar { display: flex; flex-wrap: wrap; gap: 0.5rem; margin-bottom: 0.7rem; }
button, select { font: inherit; color: inherit; cursor: pointer; padding: 0.3rem 0.8rem; max-width: 18rem;
  background: var(--st-background-color); border: 1px solid var(--st-border-color);
  border-radius: var(--st-button-radius); }
button:hover { border-color: var(--st-primary-color); }
button[aria-pressed=true] { color: var(--st-primary-color); border-color: var(--st-primary-color); font-weight: 600; }
:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 1px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr)); gap: 1rem; }
[data-mode=blink] .figures { grid-template-columns: minmax(0, 560px); }
figure { margin: 0; max-width: 560px; }
img, canvas { width: 100%; border-radius: 6px; image-rendering: pixelated; display: block; }
figcaption { margin-top: 0.3rem; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
figcaption::before { content: ""; display: inline-block; width: 0.9em; height: 3px; margin-right: 0.5em;
  vertical-align: 0.25em; background: var(--line, transparent); }
[hidden] { display: none !important; }
"""

_previews = browser_code.component(
    "ddpm_compare_previews", "compare_previews.js", html='<div class="previews"></div>', css=_CSS
)


def show(runs: Sequence[Shown], *, key: str) -> None:
    """Previews of runs where the cursor of the charts is."""
    _previews(key=key, data=dict(runs=[run._asdict() for run in runs]))
