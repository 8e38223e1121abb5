"""A Plotly chart that keeps zoom, pan and legend while its data grow, which st.plotly_chart does not.

Plotly's script is the one in the installed package, served by Streamlit from ./static.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import streamlit as st

from ddpm.errors import UserError
from ddpm.storage import files
from pages.ui.components.markdown import escape
from pages.ui.frame import layout

LIBRARY = "app/static/plotly.min.js"

_LOADER, _CHART = (Path(__file__).with_name(name).read_text("utf-8") for name in ("load_plotly.js", "live_chart.js"))

_HTML = """
<div class="frame"><span class="probe"></span>
  <button class="reset" type="button" hidden>Show all</button>
  <div class="chart"></div><div class="note">Loading the charts …</div>
</div>
"""
_CSS = """
.frame { position: relative; min-height: 120px; }
.probe { position: absolute; width: 0; height: 0; color: var(--st-text-color); transition: color 1ms; }
.note { position: absolute; inset: 0; display: grid; place-items: center; color: var(--st-gray-text-color); }
.note[hidden], .reset[hidden] { display: none; }
.reset { position: absolute; z-index: 5; top: 14px; right: 72px; padding: 2px 10px; cursor: pointer;
  font: inherit; font-size: 0.85rem; color: var(--st-primary-color); background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius); }
.reset:hover { border-color: var(--st-primary-color); }
"""

_component = st.components.v2.component(
    "ddpm_live_chart", html=_HTML, css=_CSS, js=f"{_LOADER}\n{_CHART}", isolate_styles=False
)


_preloader = st.components.v2.component(
    "ddpm_preload",
    js=f"{_LOADER}\nexport default function ({{ data }}) {{ plotly(data).catch(() => {{}}); }}",
    isolate_styles=False,
)


def preload() -> None:
    """Lets the browser fetch the chart library while the server still reads the log."""
    if provide_library():
        with st.sidebar:
            _preloader(key="preload", data=LIBRARY, height=1)


def live_chart(figure: str, *, key: str) -> None:
    """Shows a figure of figures.py, given as JSON text so that an unchanged one costs nothing."""
    if provide_library():
        _component(key=key, data={"figure": figure, "library": LIBRARY})
        return
    st.plotly_chart(json.loads(figure), key=f"{key}-native", config={"showSendToCloud": False})
    st.caption(f"{escape(layout.ROOT / 'static')} is not writable, so zoom is lost at the next update.")


@st.cache_resource(show_spinner=False)
def provide_library() -> bool:
    """Copies plotly.min.js to ./static unless it is there.  False where that is not allowed."""
    package = find_spec("plotly")
    source = Path((package and package.origin) or "plotly/__init__.py").parent / "package_data" / "plotly.min.js"
    target = layout.ROOT / "static" / "plotly.min.js"
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return True
    try:
        files.write_bytes(target, source.read_bytes())
    except (OSError, UserError):
        return False
    return True
