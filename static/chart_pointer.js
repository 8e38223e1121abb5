// Mouse, finger and keyboard on the panels of a chart: the cursor, its pin, zoom and pan.

import { element } from "./chart_panel.js";
import { bucketAt } from "./metrics.js";
import { count, duration, general } from "./formatting.js";
import { fromPixel, heights, valueAt } from "./scene.js";

const A_DRAG = 5; // pixels
const A_HEIGHT = 24; // pixels from which on a box zooms into the values too
const MANY = 4; // lines from which on only that of the cursor's run tells all in the label
const PIXELS = 10; // that Shift and an arrow key move the cursor by

export function pointing(chart) {
  let drag = null;
  let waiting = null;
  const place = chart.place;

  const panelAt = (event) => {
    const room = event.composedPath().find((node) => node.classList?.contains("room"));
    return room ? [...chart.panels.values()].find((panel) => panel.room === room) : null;
  };
  const local = (panel, event) => {
    const box = panel.room.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const inside = (panel, x) => x >= panel.frame.left - 2 && x <= panel.frame.width - panel.frame.right + 2;

  // The cursor at a pixel, on a step that was logged: of the line that is nearest to the pointer.
  const cursorAt = (panel, px, py) => {
    const x = fromPixel(panel.frame, px);
    const found = panel.at(x);
    if (!found.length) return null;
    const near = found.reduce((best, one) => (distance(panel, one, py) < distance(panel, best, py) ? one : best));
    const axis = near.line.curve.x;
    return { run: near.line.run, step: near.step, x: axis.first[near.bucket] >= chart.shown[0] ? axis.first[near.bucket] : x };
  };
  const distance = (panel, one, py) => {
    const off = panel.range ? Math.abs(heights(panel.frame, panel.range)(one.smoothed) - py) : NaN;
    return Number.isFinite(off) ? off : Infinity;
  };

  const soon = (action) => {
    waiting ??= requestAnimationFrame(() => { waiting = null; last(); });
    last = action;
  };
  let last = () => {};

  const move = (event) => {
    const panel = drag?.panel ?? panelAt(event);
    if (!panel?.frame) return;
    const [px, py] = local(panel, event);
    if (drag) return soon(() => dragged(px, py));
    if (!inside(panel, px)) return leave();
    soon(() => {
      const cursor = cursorAt(panel, px, py);
      showTip(chart, panel, cursor, px);
      if (cursor) chart.point(cursor);
    });
  };

  const leave = () => soon(() => {
    chart.tip.hidden = true;
    if (chart.cursor) chart.point(null);
  });

  const down = (event) => {
    const panel = panelAt(event);
    if (!panel?.frame || event.button > 0) return;
    const [px, py] = local(panel, event);
    if (!inside(panel, px)) return;
    drag = { panel, px, py, x: chart.shown, pan: event.shiftKey, moved: false, touch: event.pointerType === "touch" };
    if (!drag.touch) panel.room.setPointerCapture(event.pointerId);
  };

  const dragged = (px, py) => {
    if (!drag) return;
    const { panel } = drag;
    drag.moved ||= Math.abs(px - drag.px) > A_DRAG;
    if (!drag.moved) return;
    chart.tip.hidden = true;
    if (drag.pan) {
      const shift = fromPixel({ ...panel.frame, x: drag.x }, drag.px) - fromPixel({ ...panel.frame, x: drag.x }, px);
      chart.zoomTo(drag.x.map((x) => x + shift), true);
      return;
    }
    const { frame } = panel;
    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
    const xs = [drag.px, clamp(px, frame.left, frame.width - frame.right)].sort((a, b) => a - b);
    const ys = [drag.py, clamp(py, frame.top, frame.height - frame.bottom)].sort((a, b) => a - b);
    const tall = ys[1] - ys[0] >= A_HEIGHT;
    drag.tall = tall;
    panel.box = { x1: xs[0], x2: xs[1], y1: tall ? ys[0] : frame.top, y2: tall ? ys[1] : frame.height - frame.bottom };
    chart.showCursor();
  };

  const up = (event) => {
    if (!drag) return;
    const { panel, moved, pan, tall } = drag;
    const [px, py] = local(panel, event);
    dragged(px, py);
    drag = null;
    const box = panel.box;
    panel.box = null;
    if (moved && box && !pan) {
      if (tall) panel.y = [box.y2, box.y1].map((y) => valueAt(panel.frame, panel.range, y));
      chart.zoomTo([fromPixel(panel.frame, box.x1), fromPixel(panel.frame, box.x2)]);
    } else if (moved) chart.keepZoom();
    else {
      const cursor = cursorAt(panel, px, py);
      const here = chart.cursor?.pinned && cursor && chart.cursor.step === cursor.step;
      if (cursor) chart.pin(here ? null : cursor);
    }
  };
  const cancel = () => {
    if (drag) drag.panel.box = null;
    drag = null;
    chart.showCursor();
  };

  const key = (event) => {
    const panel = panelAt(event);
    if (!panel?.frame || event.ctrlKey || event.metaKey || event.altKey) return;
    const acts = {
      ArrowLeft: () => step(panel, -1, event.shiftKey),
      ArrowRight: () => step(panel, 1, event.shiftKey),
      Home: () => step(panel, -Infinity),
      End: () => step(panel, Infinity),
      Enter: () => chart.cursor && chart.pin(chart.cursor.pinned ? null : chart.cursor),
      Escape: () => (chart.cursor?.pinned ? chart.pin(null) : chart.point(null)),
      "+": () => zoom(0.5),
      "-": () => zoom(2),
      0: () => chart.showAll(),
    };
    if (!(event.key in acts)) return;
    event.preventDefault();
    acts[event.key]();
    showTip(chart, panel, chart.cursor, null);
  };

  const step = (panel, by, far = false) => {
    const line = panel.drawn[0];
    if (!line) return;
    const { x, inside: [from, to] } = line.curve;
    const now = chart.cursor ? bucketAt(x, chart.cursor.x) : by > 0 ? from - 1 : to;
    const few = far ? Math.max(1, Math.round((PIXELS * (to - from)) / panel.frame.width)) : 1;
    const k = Math.min(Math.max(Number.isFinite(by) ? now + by * few : by < 0 ? from : to - 1, from), to - 1);
    const cursor = { run: line.run, step: line.part.axes.step.first[k], x: x.first[k] };
    if (chart.cursor?.pinned) chart.pin(cursor);
    else chart.point(cursor);
  };

  const zoom = (times) => {
    const [low, high] = chart.range ?? chart.shown;
    const middle = chart.cursor?.x ?? (low + high) / 2;
    chart.zoomTo([middle - (middle - low) * times, middle + (high - middle) * times]);
  };

  const events = { pointermove: move, pointerleave: leave, pointerdown: down, pointerup: up, pointercancel: cancel, dblclick: () => chart.showAll(), keydown: key };
  for (const [name, act] of Object.entries(events)) place.addEventListener(name, act);
  return () => {
    chart.controls.leave();
    for (const [name, act] of Object.entries(events)) place.removeEventListener(name, act);
  };
}

// The label beside the pointer: true step and value of each line, and what its bucket hides.
function showTip(chart, panel, cursor, px) {
  const { tip } = chart;
  const found = cursor ? panel.at(cursor.x) : [];
  tip.hidden = !found.length;
  if (!found.length) return;
  const own = found.find((one) => one.line.run === cursor.run) ?? found[0];
  const axis = chart.axis === "seconds" ? ` · ${duration(own.line.curve.x.first[own.bucket])}` : chart.axis === "samples" ? ` · ${count(own.line.curve.x.first[own.bucket])} images` : "";
  const rows = found.map((one) => {
    const row = element("div", "row");
    const name = element("span", "name", one.line.label);
    name.style.setProperty("--line", one.line.colour);
    const value = element("span", "number", general(one.value));
    const more = [];
    if (found.length <= MANY || one === own) {
      if (panel.look.reach > 0) more.push(`smoothed ${general(one.smoothed)}`);
      if (one.until > one.step) more.push(`${general(one.least)} to ${general(one.most)} up to step ${count(one.until)}`);
    }
    row.append(name, value, element("span", "more", more.join(" · ")));
    return row;
  });
  const steps = new Set(found.map((one) => one.step));
  tip.replaceChildren(element("div", "head", `step ${count(own.step)}${axis}${steps.size > 1 ? ", others near it" : ""}`), ...rows);
  panel.room.setAttribute("aria-valuetext", `step ${count(own.step)}: ${found.map((one) => `${one.line.label} ${general(one.value)}`).join(", ")}`);
  panel.room.setAttribute("aria-valuenow", String(own.step));
  const room = panel.room.getBoundingClientRect();
  const around = tip.offsetParent.getBoundingClientRect();
  const at = px ?? own.pixel;
  const left = at + 16 + tip.offsetWidth > panel.frame.width ? at - 16 - tip.offsetWidth : at + 16;
  tip.style.left = `${Math.max(0, room.left - around.left + left)}px`;
  tip.style.top = `${room.top - around.top + 12}px`;
}
