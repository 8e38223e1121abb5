// One panel of a chart: a heading with the newest values, the curves, and over them the cursor and what is dragged.

import { general, plural } from "./formatting.js";
import { bucketAt } from "./metrics.js";
import { paint } from "./paint.js";
import { curve, ends, grid, heights, lastOf, lastValue, lines, lostMarks, valueRange } from "./scene.js";

const HEIGHT = 176;
const ALONE = 280; // of the only panel
const TITLES = 40; // pixels below the last panel, for the numbers and the title of the axis

export function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export class Panel {
  constructor(key) {
    this.key = key;
    this.node = element("section", "panel");
    this.heading = element("div", "heading");
    this.title = element("h3");
    this.values = element("span", "values");
    this.notes = element("span", "notes");
    this.heading.append(this.title, this.values, this.notes);
    this.room = element("div", "room");
    this.room.tabIndex = 0;
    this.room.setAttribute("role", "slider");
    this.curves = element("canvas");
    this.over = element("canvas", "over");
    this.room.append(this.curves, this.over);
    this.node.append(this.heading, this.room);
    this.y = null; // range that was zoomed to
    this.drawn = [];
    this.curvesOf = new Map(); // run and column -> { part, looked, curve }
  }

  // lines: [{ feed, column, label, colour, dash, sparse }]; look: { x, log, reach, unit, axis, title, theme, font, last, width }
  draw(panel, lineList, look) {
    this.look = look;
    const frame = (this.frame = {
      width: look.width, height: (look.alone ? ALONE : HEIGHT) + (look.last ? TITLES : 4), left: 56, right: 66, top: 8, bottom: look.last ? TITLES : 4,
      x: look.x, log: look.log, reach: look.reach, axis: look.axis, unit: look.unit, scale: look.scale,
    });
    this.title.textContent = panel.title;
    this.room.setAttribute("aria-label", `${panel.title}: arrow keys point at a step`);
    if (!this.room.hasAttribute("aria-valuenow")) {
      this.room.setAttribute("aria-valuenow", "0");
      this.room.setAttribute("aria-valuetext", "no step is pointed at");
    }
    this.drawn = [];
    for (const line of lineList) {
      const part = line.feed.best(line.column);
      const found = this.curveOf(line, part, frame);
      if (found) this.drawn.push({ ...line, part, curve: found });
    }
    this.range = this.y ?? valueRange(this.drawn.map((line) => line.curve), look.log);
    this.scene = [
      ...grid(frame, this.range, look.theme, look.last, look.title),
      ...lines(frame, this.range, this.drawn, look.theme),
      ...ends(frame, this.range, this.drawn),
      ...this.drawn.flatMap((line) => lostMarks(frame, this.range, line, look.theme)),
    ];
    for (const canvas of [this.curves, this.over]) fit(canvas, frame, look.scale);
    this.room.style.height = `${frame.height}px`;
    paint(this.curves.getContext("2d"), this.scene, frame, look.font, look.scale);
    this.sayNewest(lineList);
  }

  // The curve of a line: that of the last time, unless something changed by which it is smoothed and placed.
  curveOf({ run, column }, part, { width, x, log, reach }) {
    const id = JSON.stringify([run, column]);
    const looked = JSON.stringify([this.look.axis, width, x, log, reach]);
    const before = this.curvesOf.get(id);
    if (before?.part === part && before.looked === looked) return before.curve;
    const found = curve(part, column, this.look.axis, this.frame);
    this.curvesOf.set(id, { part, looked, curve: found });
    return found;
  }

  sayNewest(lineList) {
    const several = lineList.length > 1;
    this.values.replaceChildren();
    if (several && this.look.oneRun)
      for (const line of this.drawn) {
        const k = lastOf(line.curve);
        this.values.append(coloured(line, `${line.label} ${general(k < 0 ? NaN : line.curve.smoothed[k])}`));
      }
    if (!several && this.drawn.length) this.values.append(coloured(this.drawn[0], this.newest(this.drawn[0])));
    const lost = this.drawn.reduce((sum, line) => sum + (line.part.head.lost?.[line.column]?.count ?? 0), 0);
    const empty = !this.range && this.drawn.length && this.look.log ? "nothing above zero: switch off Log scale" : "";
    this.notes.textContent = [lost ? `not a number in ${plural(lost, "row")} (✕)` : "", empty].filter(Boolean).join(" · ");
  }

  // The value that was logged last, and the one at the end of the smoothed line.
  newest({ curve: c, part, column }) {
    const k = lastOf(c);
    if (k < 0) return "";
    const raw = lastValue(part, column, c, k);
    return this.look.reach > 0 ? `${general(raw)} · smoothed ${general(c.smoothed[k])}` : general(raw);
  }

  // Values at a place of the axis: [{ line, step, until, value, least, most, smoothed }]
  at(x) {
    const found = [];
    for (const line of this.drawn) {
      const { part, curve: c } = line;
      let k = bucketAt(c.x, x);
      if (k < 0) continue;
      if (line.sparse && !c.count[k]) k = nearestFilled(c, k);
      if (k < 0 || x > c.x.last[c.x.last.length - 1] * (1 + 1e-9) + 1e-9) continue;
      found.push({
        line, bucket: k, pixel: c.pixels[k], step: part.axes.step.first[k], until: part.axes.step.last[k],
        value: c.first[k], least: c.least[k], most: c.most[k], smoothed: c.smoothed[k], size: c.size,
      });
    }
    return found;
  }

  // The cursor at a pixel, with a dot on each line.
  point(pixel, x, pinned) {
    const { frame, look } = this;
    const scene = [];
    if (pixel !== null && frame) {
      const heightOf = this.range && heights(frame, this.range);
      scene.push({ kind: "rule", x1: pixel, x2: pixel, y1: frame.top, y2: frame.height - frame.bottom, colour: look.theme.text, dash: pinned ? [] : [3, 3], width: pinned ? 1.5 : 1 });
      for (const { line, pixel: at, smoothed } of this.at(x))
        if (heightOf) {
          const y = heightOf(smoothed);
          if (y >= frame.top - 1 && y <= frame.height - frame.bottom + 1) scene.push({ kind: "dot", x: at, y, colour: line.colour });
        }
    }
    if (this.box) scene.push({ kind: "band", xs: [this.box.x1, this.box.x2], low: [this.box.y2, this.box.y2], high: [this.box.y1, this.box.y1], colour: look.theme.accent, alpha: 0.18 });
    paint(this.over.getContext("2d"), scene, frame, look.font, look.scale);
  }
}

function nearestFilled(c, k) {
  for (let d = 1; d < c.count.length; d++) {
    if (c.count[k - d]) return k - d;
    if (c.count[k + d]) return k + d;
  }
  return -1;
}

function coloured(line, text) {
  const made = element("span", "value", text);
  made.style.setProperty("--line", line.colour);
  return made;
}

function fit(canvas, frame, scale) {
  const [width, height] = [Math.round(frame.width * scale), Math.round(frame.height * scale)];
  if (canvas.width === width && canvas.height === height) return;
  canvas.width = width;
  canvas.height = height;
  canvas.style.width = `${frame.width}px`;
  canvas.style.height = `${frame.height}px`;
}
