"""Curves of one run or of several, drawn in the browser from run/metrics; see static/chart.js."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ddpm.runs import progress_log
from pages.ui.components import browser_code
from pages.ui.frame.metric_rows import MAIN

_HTML = """
<div class="curves"><div class="chart"><span class="probe"></span>
  <div class="controls" role="group" aria-label="Charts"></div>
  <div class="legend" role="group" aria-label="Runs" hidden></div>
  <div class="note" role="status" hidden></div>
  <div class="panels"></div>
  <div class="table"></div>
  <div class="tip" hidden></div>
</div></div>
"""
_CSS = """.curves {
.chart { position: relative; min-height: 420px; font: 0.875rem/1.4 var(--st-font); color: var(--st-text-color); }
.probe { position: absolute; width: 0; height: 0; color: var(--st-text-color); transition: color 1ms; }
.controls { display: flex; flex-wrap: wrap; align-items: center; gap: 0.4rem 0.55rem; margin-bottom: 0.5rem; }
.controls label { display: inline-flex; align-items: center; gap: 0.4rem; cursor: pointer; }
.choice { display: inline-flex; border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius); }
.choice label { position: relative; }
.choice input { position: absolute; inset: 0; opacity: 0; margin: 0; cursor: pointer; }
.choice span { padding: 0.3rem 0.6rem; border-radius: var(--st-button-radius); }
.choice input:checked + span { color: var(--st-primary-color); box-shadow: inset 0 0 0 1.5px var(--st-primary-color);
  font-weight: 600; }
.controls .smoothing { flex: 1 1 11rem; max-width: 18rem; padding: 0 0.4rem; }
.smoothing input { flex: 1; width: 4rem; min-width: 0; accent-color: var(--st-primary-color); }
.smoothing output { min-width: 2.2em; font-variant-numeric: tabular-nums; }
.controls .log { margin-right: 0.5rem; }
.log input, .menu input { accent-color: var(--st-primary-color); width: 1rem; height: 1rem; margin: 0; }
button, summary { font: inherit; color: inherit; cursor: pointer; }
.controls button, .menu > summary { padding: 0.3rem 0.55rem; background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius); list-style: none; }
.controls button:hover, .menu > summary:hover { border-color: var(--st-primary-color); }
.reset { color: var(--st-primary-color); }
[hidden] { display: none !important; }
.menu { position: relative; }
.menu .list { position: absolute; z-index: 20; left: 0; top: calc(100% + 4px); display: grid; gap: 0.35rem;
  padding: 0.7rem 0.9rem; max-height: 20rem; overflow: auto; white-space: nowrap;
  background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: 8px; box-shadow: 0 4px 16px #0003; }
.legend { display: flex; flex-wrap: wrap; gap: 0.3rem; margin-bottom: 0.4rem; }
.run { display: inline-flex; align-items: center; gap: 0.4rem; max-width: 100%; padding: 0.15rem 0.6rem;
  overflow-wrap: anywhere; text-align: left;
  background: none; border: 1px solid var(--st-border-color); border-radius: 1rem; }
.run::before, .tip .name::before, .value::before { content: ""; flex: none; display: inline-block; width: 0.9em;
  height: 3px; margin-right: 0.4em; vertical-align: 0.25em; background: var(--line); }
.run::before { margin: 0; }
.run[aria-pressed=false] { text-decoration: line-through; }
.run[aria-pressed=false]::before { background: var(--st-border-color); }
.note { margin: 0.5rem 0; }
.heading { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0.1rem 0.9rem; min-height: 1.5rem; }
h3 { margin: 0; padding: 0; font-size: 0.9rem; font-weight: 600; }
.value { font-variant-numeric: tabular-nums; margin-right: 0.8em; white-space: nowrap; }
.notes { color: var(--st-red-text-color, var(--st-red-color)); }
.room { position: relative; touch-action: pan-y; cursor: crosshair; outline-offset: 1px; }
.room canvas { position: absolute; left: 0; top: 0; }
.spikes { margin-left: auto; position: relative; }
.spikes ol { position: absolute; z-index: 15; right: 0; margin: 0.2rem 0 0; padding: 0.6rem 0.8rem; max-height: 18rem;
  overflow: auto; list-style: none; display: grid; gap: 0.4rem; white-space: nowrap;
  background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: 8px; box-shadow: 0 4px 16px #0003; }
.spikes li { display: flex; align-items: center; gap: 0.6rem; }
.spikes button { padding: 0.1rem 0.4rem; background: none; border: 1px solid var(--st-border-color);
  border-radius: var(--st-button-radius); font-variant-numeric: tabular-nums; }
.spikes img { height: 48px; margin-right: 4px; image-rendering: pixelated; vertical-align: middle; }
.tip { position: absolute; z-index: 10; pointer-events: none; max-width: min(300px, 92%); padding: 0.45rem 0.65rem;
  background: var(--st-background-color); border: 1px solid var(--st-border-color); border-radius: 8px;
  box-shadow: 0 2px 10px #0003; font-variant-numeric: tabular-nums; }
.tip .head { font-weight: 600; }
.tip .row { display: flex; flex-wrap: wrap; gap: 0 0.7rem; }
.tip .name { overflow-wrap: anywhere; }
.tip .number { font-weight: 600; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin-top: 0.6rem; }
caption { text-align: left; font-weight: 600; padding: 0.2rem 0; font-size: 0.9rem; color: inherit; }
th, td { padding: 0.25rem 0.7rem 0.25rem 0; text-align: right; border-bottom: 1px solid var(--st-border-color);
  font-variant-numeric: tabular-nums; font-weight: 400; white-space: nowrap; }
th:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; }
tbody th::before { content: ""; display: inline-block; width: 0.9em; height: 3px; margin-right: 0.5em;
  vertical-align: 0.25em; background: var(--line); }
:focus-visible { outline: 2px solid var(--st-primary-color); }
.choice input:focus-visible + span { outline: 2px solid var(--st-primary-color); }
}
"""

_chart = browser_code.component("ddpm_training_chart", "chart.js", html=_HTML, css=_CSS, isolate_styles=False)


class Shown(NamedTuple):
    """A run in a chart."""

    name: str
    label: str
    colour: int | None  # number in the theme's palette; None where each panel has a colour of its own
    live: bool  # whether it trains


def show(runs: Sequence[Shown], *, key: str, start: Sequence[str] = MAIN, table: bool = False) -> None:
    """Curves of runs.

    start: columns that are shown unless others were chosen.  table: the values at the cursor below the charts.
    """
    listed = [run._asdict() for run in runs]
    _chart(key=key, data=dict(runs=listed, main=list(MAIN), start=list(start), help=explanations(), table=table))


def explanations() -> Mapping[str, str]:
    """What the columns mean, by name."""
    return {
        **progress_log.HELP,
        **{f"{part}_q": f"{progress_log.HELP[part]} {progress_log.HELP['loss_q0']}" for part in ("loss", "mse", "vb")},
    }
