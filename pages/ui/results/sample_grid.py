"""Samples as a grid of images that fills its column; one opens large, with what can be done with it.

The browser draws it, from what `pages/server/samples_route.py` answers: `static/sample_grid.js`.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import quote

import streamlit as st

from ddpm.config.training import Config
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from pages.ui.components import browser_code
from pages.ui.frame import layout

log = logging.getLogger("ddpm")

KEY = "samples"
VARY, INPAINT, INVERT, TRAJECTORY, NEAREST = "vary", "inpaint", "invert", "trajectory", "nearest"
ACTIONS = {
    VARY: "Vary",
    INPAINT: "Inpaint",
    INVERT: "Invert",
    TRAJECTORY: "Trajectory",
    NEAREST: "Nearest training images",
}

_HTML = """
<div class="room">
  <div class="names" aria-hidden="true" hidden></div>
  <div class="grid" role="group" aria-label="Samples. Arrow keys move, Enter opens an image." hidden></div>
  <img class="preview" alt="The samples so far" hidden>
  <p class="note" role="status">Loading the images …</p>
  <dialog aria-label="One of the samples">
    <div class="top"><span class="title"></span>
      <button type="button" class="shut" aria-label="Close">✕</button></div>
    <div class="middle">
      <button type="button" class="before" aria-label="Image before">‹</button>
      <div class="pictures"></div>
      <button type="button" class="after" aria-label="Image after">›</button></div>
    <p class="settings"></p>
    <div class="row"><div class="actions"></div><a class="save">Save</a></div>
  </dialog>
</div>
"""
_CSS = """
[hidden] { display: none !important; }
.room { width: 100%; font-family: var(--st-font); color: var(--st-text-color); line-height: 1.5; }
.grid, .names { display: grid; justify-content: start; }
.names { font-size: 0.8rem; text-align: center; margin-bottom: 0.25rem; }
.names span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
img { image-rendering: pixelated; display: block; user-select: none; -webkit-user-select: none; }
.tile { display: flex; padding: 0; border: 0; background: none; cursor: zoom-in; border-radius: 0; }
.tile img { width: var(--wide); height: var(--high); }
.tile:hover { outline: 2px solid var(--st-border-color); outline-offset: 1px; }
.tile:focus-visible { outline: 3px solid var(--st-primary-color); outline-offset: 1px; position: relative; z-index: 1; }
.note { display: grid; place-items: center; min-height: 14rem; margin: 0; font-size: 0.9rem; text-align: center;
  border: 1px solid var(--st-border-color); border-radius: var(--st-base-radius); }
dialog { box-sizing: border-box; max-width: calc(100vw - 2rem); max-height: calc(100vh - 1rem); padding: 1rem;
  overflow: auto; color: var(--st-text-color); background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: var(--st-base-radius); font-family: var(--st-font); }
dialog::backdrop { background: rgb(0 0 0 / 0.6); }
.top, .row, .middle, .pictures, .actions { display: flex; align-items: center; gap: 0.75rem; }
.top, .row { justify-content: space-between; flex-wrap: wrap; }
.middle { justify-content: center; margin: 0.75rem 0; }
.pictures { gap: 2px; }
.title { font-weight: 600; }
.settings { margin: 0 0 0.75rem; font-size: 0.875rem; }
.actions { flex-wrap: wrap; gap: 0.5rem; }
dialog button, .save { box-sizing: border-box; min-height: 2.25rem; padding: 0.25rem 0.75rem; font: inherit;
  font-size: 0.875rem; line-height: 1.6; color: inherit; text-decoration: none; cursor: pointer;
  background: var(--st-background-color); border: 1px solid var(--st-border-color);
  border-radius: var(--st-button-radius); }
dialog button:hover, .save:hover { border-color: var(--st-primary-color); }
dialog button:focus-visible, .save:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
dialog button:disabled { cursor: default; opacity: 0.45; }
.before, .after { font-size: 1.25rem; }
"""

_component = browser_code.component("ddpm_sample_grid", "sample_grid.js", html=_HTML, css=_CSS)


class Action(NamedTuple):
    """What was asked for with one image: a key of ACTIONS, the name of the job, and the number of the image."""

    kind: str
    job: str
    number: int


def address(run: Run, job: SampleJob) -> str:
    """Where the server answers for these samples, relative to the page's base."""
    return f"samples/{quote(run.name, safe='')}/{quote(job.name, safe='')}"


def show(run: Run, job: SampleJob, config: Config, active: bool, act: Callable[[Action], None]) -> None:
    """Shows the samples of a job, or their state while it works; `act` is called when something is asked for."""
    offered = [TRAJECTORY, NEAREST] if config.model.super_res else list(ACTIONS)

    def asked() -> None:
        state = st.session_state.get(KEY) or {}
        found = read(state.get("action"))
        if found is not None:
            act(found)

    _component(
        key=KEY,
        data={
            "address": address(run, job),
            "name": job.name,
            "active": active,
            "actions": [[kind, ACTIONS[kind]] for kind in offered],
        },
        on_action_change=layout.callback(asked),
    )


def read(value: object) -> Action | None:
    """Validates what the browser sent; None, with a line in the log, for anything else."""
    if value is None:
        return None
    if isinstance(value, dict):
        kind, job, number = value.get("kind"), value.get("job"), value.get("number")
        whole = number if isinstance(number, int) and not isinstance(number, bool) else -1
        if kind in ACTIONS and isinstance(job, str) and 0 <= whole < 10**9:
            return Action(str(kind), job, whole)
    log.warning("What the grid of samples sent was ignored: %.80r", value)
    return None
