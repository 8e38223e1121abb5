"""A Plotly chart that keeps zoom, pan and legend while its data change, which st.plotly_chart does not."""

from pages.ui.components import browser_code

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

_chart = browser_code.component("ddpm_plotly_chart", "plotly_chart.js", html=_HTML, css=_CSS, isolate_styles=False)


def show(figure: str, *, key: str) -> None:
    """Shows a figure of study_figures.py, given as JSON text so that an unchanged one costs nothing."""
    _chart(key=key, data=dict(figure=figure, library=browser_code.LIBRARY))
