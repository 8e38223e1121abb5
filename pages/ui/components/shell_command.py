"""A command for a shell, with a button that copies it.

Streamlit's own block of code fetches a highlighter of 1.6 MB for it, on every page that has one.
"""

from ddpm.errors import writable
from pages.ui.components import browser_code

_HTML = """
<div class="box">
  <pre tabindex="0" aria-label="Shell command"><code></code></pre>
  <button type="button" aria-live="polite"></button>
</div>
"""
_CSS = """
:host { display: block; }
* { box-sizing: border-box; }
.box { position: relative; }
pre { margin: 0; padding: 0.75rem 6.5rem 0.75rem 0.75rem; font: 0.85rem/1.6 var(--st-code-font);
  white-space: pre-wrap; overflow-wrap: anywhere; color: var(--st-code-text-color);
  background: var(--st-code-background-color); border-radius: var(--st-base-radius); }
code { font: inherit; }
span { display: inline-block; max-width: 100%; }
button { position: absolute; top: 0.4rem; right: 0.4rem; padding: 0.25rem 0.6rem; cursor: pointer;
  font: 0.8rem/1.4 var(--st-font); color: var(--st-text-color); background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: var(--st-base-radius); }
button:hover { border-color: var(--st-primary-color); color: var(--st-primary-color); }
:is(pre, button):focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
"""

_component = browser_code.component("ddpm_command", "shell_command.js", html=_HTML, css=_CSS)


def show(line: str, key: str = "command") -> None:
    """Shows a command; undecodable bytes in file names are escaped.  key: another one for each of a page."""
    _component(key=key, data={"line": writable(line)})
