"""What was logged at the step that the page looks at: one line, which the arrow keys move from row to row.

The browser fetches it from pages/server/row_route.py.
"""

from pages.ui.components import browser_code

_HTML = """
<div class="bar" tabindex="0" role="group" aria-label="Values at a training step" hidden
  aria-description="Arrow keys go from row to row of the log, Enter pins one, Escape goes back to the newest.">
  <button type="button" class="before" aria-label="Row before" title="Row before (arrow left)">‹</button>
  <button type="button" class="after" aria-label="Row after" title="Row after (arrow right)">›</button>
  <strong class="where"></strong>
  <dl class="values"></dl>
  <button type="button" class="free" title="Back to the newest (Esc)" hidden>Unpin</button>
</div>
"""
_CSS = """
:host { display: block; }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: 0.25rem 0.75rem; min-height: 2.25rem;
  font: 0.875rem/1.4 var(--st-font); color: var(--st-text-color); font-variant-numeric: tabular-nums; }
.bar[hidden], .free[hidden] { display: none; }
.values { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; margin: 0; }
.values div { display: flex; gap: 0.35rem; }
dt { opacity: 0.8; }
dd { margin: 0; font-weight: 600; }
.where.hint { font-weight: 400; }
.before + .after { margin-left: -0.5rem; }
button { min-width: 1.75rem; height: 1.75rem; padding: 0 0.4rem; font: inherit; color: inherit; cursor: pointer;
  background: var(--st-background-color); border: 1px solid var(--st-border-color);
  border-radius: var(--st-button-radius); }
button:hover { border-color: var(--st-primary-color); color: var(--st-link-color); }
button:disabled { opacity: 0.45; cursor: default; }
:is(.bar, button):focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
"""

HINT = "Point at a curve, a preview or a line of the log, or go with the arrow keys: all show the same step."

_component = browser_code.component("ddpm_readout", "readout.js", html=_HTML, css=_CSS)


def show(run: str, active: bool) -> None:
    """Shows the values of the run of that name.  active: it may log more."""
    _component(key="readout", data={"run": run, "active": active, "hint": HINT})
