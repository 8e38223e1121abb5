"""The log of a run, which follows the step that the page looks at.

The browser fetches it from pages/server/log_route.py, and asks for new lines by itself.
"""

from pages.ui.components import browser_code

_HTML = """
<div class="lines" tabindex="0" role="log" aria-live="off" aria-label="Log"
  aria-description="Arrow keys go through the lines that name a training step, Enter pins it."></div>
<p class="note" hidden></p>
"""
_CSS = """
:host { display: block; }
.lines { box-sizing: border-box; height: 240px; overflow: auto; padding: 0.5rem 0.75rem;
  font: 0.8rem/1.5 var(--st-code-font); color: var(--st-code-text-color); background: var(--st-code-background-color);
  border: 1px solid var(--st-border-color); border-radius: var(--st-base-radius); }
.lines:empty { display: none; }
.lines:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
.line { white-space: pre-wrap; overflow-wrap: anywhere; padding: 0 0.25rem; border-left: 3px solid transparent; }
.named { cursor: pointer; }
.at { border-left-color: var(--st-primary-color);
  background: color-mix(in srgb, var(--st-primary-color) 14%, transparent); }
.pinned { font-weight: 700; }
.note { margin: 0; font: 0.875rem/1.5 var(--st-font); color: var(--st-text-color); }
.note[hidden] { display: none; }
"""

_component = browser_code.component("ddpm_log", "log_view.js", html=_HTML, css=_CSS)


def show(run: str, empty: str) -> None:
    """Shows the log of the run of that name.  empty: what is said where there is none."""
    _component(key="log_view", data={"run": run, "empty": empty})
