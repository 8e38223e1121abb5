"""Canvas for painting a mask over an image, in its own pixels: white is inpainted, black is kept.

The browser sends a mask as bits when a stroke ends: {"image": name, "stamp": when, "mask": base64}.  What it sent
is kept in the session, so it is there again when the page is; another image begins anew.
"""

import base64
import binascii
import hashlib
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import streamlit as st

from ddpm.storage import images
from pages.ui.components import thumbnails

log = logging.getLogger("ddpm")

_HTML = """
<div class="room"><span class="probe"></span><div class="tool">
  <div class="row">
    <div class="modes" role="group" aria-label="What the brush does">
      <button type="button" class="paint" aria-pressed="true">Paint</button>
      <button type="button" class="erase" aria-pressed="false">Erase</button>
    </div>
    <label class="brush"><span>Brush</span><input type="range" min="1" step="1" aria-label="Brush size in pixels">
      <output></output></label>
  </div>
  <canvas tabindex="0" role="application" aria-label="Mask, painted over the image" aria-description="Arrow keys move
    the cursor, with Shift by eight pixels. Space paints, and paints a line while an arrow key is pressed too. E
    changes between painting and erasing. Square brackets change the brush. Control Z undoes."></canvas>
  <div class="row acts">
    <button type="button" class="undo" title="Ctrl+Z">Undo</button>
    <button type="button" class="clear" title="Remove all paint">Clear</button>
    <button type="button" class="invert" title="Swap painted and unpainted areas">Invert</button>
    <button type="button" class="fill" title="Paint everything">Fill</button>
  </div>
  <div class="row said"><span class="share" role="status"></span>
    <span class="keys" aria-hidden="true">arrows · space · e · [ ]</span></div>
  <span class="spoken" aria-live="polite"></span>
</div></div>
"""
_CSS = """
.room { width: 100%; font-size: 1rem; line-height: 1.6; color: var(--st-text-color); font-family: var(--st-font); }
.probe { position: absolute; width: 0; height: 0; color: var(--st-text-color); transition: color 1ms; }
.tool { display: flex; flex-direction: column; gap: 0.75rem; min-width: min(100%, 300px); max-width: 100%; }
.row { display: flex; align-items: center; gap: 1rem; }
button { box-sizing: border-box; min-height: 2.5rem; padding: 0.25rem 0.75rem; font: inherit;
  font-size: 0.875rem; color: inherit; cursor: pointer; background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius);
  touch-action: manipulation; user-select: none; -webkit-user-select: none; }
button:hover { border-color: var(--st-primary-color); color: var(--st-primary-color); }
button:focus-visible, canvas:focus-visible, input:focus-visible {
  outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
button[aria-disabled=true] { cursor: default; color: inherit; opacity: 0.45; border-color: var(--st-border-color); }
.modes { display: flex; flex: none; }
.modes button { min-height: 2rem; padding: 0 1rem; margin-left: -1px; }
.modes button:first-child { margin: 0; border-top-right-radius: 0; border-bottom-right-radius: 0; }
.modes button:last-child { border-top-left-radius: 0; border-bottom-left-radius: 0; }
.modes button[aria-pressed=true] { z-index: 1; color: var(--st-primary-color); border-color: var(--st-primary-color);
  background: color-mix(in srgb, var(--st-primary-color) 12%, var(--st-background-color)); }
.brush { display: flex; flex: 1; min-width: 0; align-items: center; gap: 0.6rem; font-size: 0.875rem; }
.brush input { flex: 1; min-width: 0; height: 1.5rem; margin: 0; appearance: none; -webkit-appearance: none; cursor:
pointer;
  border-radius: 0.5rem; background: linear-gradient(to right, var(--st-primary-color) var(--share),
  var(--st-border-color) 0) center / 100% 0.25rem no-repeat; }
.brush input::-webkit-slider-thumb { -webkit-appearance: none; width: 0.9rem; height: 0.9rem; border: 0; border-radius:
50%;
  background: var(--st-primary-color); }
.brush input::-moz-range-thumb { width: 0.9rem; height: 0.9rem; border: 0; border-radius: 50%;
  background: var(--st-primary-color); }
.brush output { flex: none; min-width: 2.9em; text-align: right; font-variant-numeric: tabular-nums; }
canvas { display: block; align-self: flex-start; border-radius: 2px; cursor: crosshair; image-rendering: pixelated;
  box-shadow: 0 0 0 1px var(--st-border-color); touch-action: none; user-select: none; -webkit-user-select: none; }
.acts { display: grid; grid-template-columns: repeat(4, 1fr); gap: 0.5rem; }
.acts button { padding-inline: 0.25rem; }
.said { justify-content: space-between; margin-top: -0.25rem; font-size: 0.875rem; opacity: 0.65; }
.keys { visibility: hidden; }
canvas:focus-visible ~ .said .keys { visibility: visible; }
.spoken { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
"""

_component = st.components.v2.component(
    "ddpm_mask_canvas", html=_HTML, css=_CSS, js=Path(__file__).with_name("mask_canvas.js").read_text("utf-8")
)


class Painted(NamedTuple):
    """A validated mask from the browser."""

    image: str  # of which image: `name`
    stamp: int  # milliseconds; a later mask has a larger one
    mask: str  # as of `encode`


def paint(image: np.ndarray, *, key: str, first: np.ndarray | None = None) -> np.ndarray | None:
    """Shows `image`, uint8 [H, W, C], enlarged for painting.

    Returns the mask, uint8 [H, W]: 255 where it is painted, 0 elsewhere; None while nothing is painted.  The script
    runs again when a stroke ends.  first: the mask [H, W] that an image begins with, painted where not 0.
    """
    height, width = shape = image.shape[:2]
    this, store = name(image), f"{key}-painted"
    component = st.session_state.get(key) or {}  # what came with this run, if it was the brush that made it run
    sent = read(component.get("painted"), this, shape)
    kept: Painted | None = st.session_state.get(store)
    if kept and kept.image != this:
        kept = None
    if sent and (kept is None or sent.stamp > kept.stamp):
        st.session_state[store] = kept = sent
    if kept is None and first is not None:
        st.session_state[store] = kept = Painted(this, 0, encode(first))
    url = "data:image/png;base64," + base64.b64encode(thumbnails.png(images.from_pixels(image))).decode()
    _component(
        key=key,
        data={
            "image": {"name": this, "url": url, "width": width, "height": height},
            "painted": kept and kept._asdict(),
        },
        on_painted_change=lambda: None,  # without it the component has no such value
    )
    mask = decode(kept.mask, shape) if kept else None
    return mask if mask is not None and mask.any() else None


def name(image: np.ndarray) -> str:
    """Hash that identifies an image: equal for the same pixels in the same shape."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:16]


def encode(mask: np.ndarray) -> str:
    """Encodes a mask [H, W], painted where not 0, as base64: one bit per pixel, row by row, highest bit first."""
    return base64.b64encode(np.packbits(mask.astype(bool)).tobytes()).decode()


def decode(text: object, shape: tuple[int, ...]) -> np.ndarray | None:
    """Decodes a mask from `encode`: uint8 of `shape`, 0 or 255; None and a line in the log for anything else."""
    count = int(np.prod(shape))
    if not isinstance(text, str):
        log.warning("A painted mask was ignored: it came as %s instead of text.", type(text).__name__)
        return None
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        log.warning("A painted mask was ignored: it is no base64 (%s).", error)
        return None
    if len(content) != -(-count // 8):
        log.warning("A painted mask was ignored: it has %d bytes instead of %d.", len(content), -(-count // 8))
        return None
    bits = np.unpackbits(np.frombuffer(content, np.uint8), count=count)
    return (bits * np.uint8(255)).reshape(shape)


def read(value: object, image: str, shape: tuple[int, ...]) -> Painted | None:
    """Validates what the browser sent for an image; None for another image, or, with a log line, if invalid."""
    if value is None:
        return None
    if not isinstance(value, dict):
        log.warning("A painted mask was ignored: it came as %s instead of an object.", type(value).__name__)
        return None
    if value.get("image") != image:
        return None  # painted just before the image changed
    stamp, mask = value.get("stamp"), value.get("mask")
    if not isinstance(stamp, int) or isinstance(stamp, bool):
        log.warning("A painted mask was ignored: its time is %.40r instead of a whole number.", stamp)
        return None
    if decode(mask, shape) is None:
        return None
    return Painted(image, stamp, str(mask))
