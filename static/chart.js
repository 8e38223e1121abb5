// Curves of one run or of several, drawn in the browser: panels over a common axis, with one cursor and one zoom.
//
// data: { runs: [{ name, label, colour }], live, main: [column], help: { column: sentence } }; colour is a number in
// the theme's palette, or null where each panel has its own.

import { controls } from "./chart_controls.js";
import { element, Panel } from "./chart_panel.js";
import { pointing } from "./chart_pointer.js";
import { Spikes } from "./chart_spikes.js";
import { followCursor, sendCursor } from "./cursor.js";
import { Feed } from "./feed.js";
import { bucketAt, same } from "./metrics.js";
import { timeUnit } from "./scales.js";
import { svg } from "./paint.js";
import { choices, isSparse, panelOf, usual } from "./panels.js";
import { Table } from "./chart_table.js";
import { toPixel } from "./scene.js";
import { reach } from "./smoothing.js";
import { axisColumn, changeView, followView, view } from "./view.js";

const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];
const TITLES = { step: "step", samples: "images seen" };

export function mount(component) {
  const chart = new Chart(component);
  return { update: (now) => chart.update(now.data), leave: () => chart.leave() };
}

class Chart {
  constructor({ parentElement, data }) {
    this.root = parentElement.querySelector(".chart");
    this.feeds = new Map();
    this.panels = new Map();
    this.cursor = null; // { run, step, x, pinned }
    const { hide, zoom } = view(true);
    this.hidden = new Set(hide);
    this.range = zoom; // of the axis, while zoomed
    this.controls = controls(this.root.querySelector(".controls"), this);
    this.legend = this.root.querySelector(".legend");
    this.place = this.root.querySelector(".panels");
    this.note = this.root.querySelector(".note");
    this.tip = this.root.querySelector(".tip");
    this.spikes = new Spikes(this);
    this.table = data.table ? new Table(this.root.querySelector(".table")) : null;
    const probe = this.root.querySelector(".probe"); // a colour that follows the theme tells that it was switched
    const redraw = () => this.draw();
    probe.addEventListener("transitionend", () => setTimeout(() => (this.drawLegend(), redraw()), 30));
    this.sizes = new ResizeObserver(redraw);
    this.sizes.observe(this.root);
    this.ends = [
      followView(() => this.viewChanged()),
      followCursor((detail) => this.follow(detail)),
      pointing(this),
    ];
    this.axis = axisColumn(view().x);
    this.update(data);
    if (view().step !== null) this.pinnedAtFirst = view().step;
  }

  update(data) {
    const before = JSON.stringify(this.data?.runs);
    this.data = data;
    const names = data.runs.map((run) => run.name);
    for (const [name, feed] of this.feeds) if (!names.includes(name)) (feed.leave(), this.feeds.delete(name));
    for (const name of names) if (!this.feeds.has(name)) this.feeds.set(name, new Feed(name, () => this.draw()));
    for (const run of data.runs) this.feeds.get(run.name).expect(run.live);
    if (before !== JSON.stringify(data.runs)) this.drawLegend();
    this.drawNow();
  }

  get several() {
    return this.data.runs.length > 1;
  }

  viewChanged() {
    const axis = axisColumn(view().x);
    if (axis !== this.axis) {
      const across = (x) => this.across(x, this.axis, axis);
      this.range = this.range && this.range.map(across);
      this.axis = axis;
      if (this.cursor && this.feeds.get(this.cursor.run)?.whole?.axes[axis] === undefined) this.pin(null); // its place is not known
      else if (this.cursor) {
        this.cursor.x = this.placeOf(this.cursor.run, this.cursor.step);
        this.tell(Boolean(this.cursor.pinned)); // other runs are at another step there
      }
      this.keepZoom();
    }
    this.draw();
  }

  // A place on one axis as the place on another, by the first run that has both.
  across(x, from, to) {
    for (const { whole } of this.feeds.values()) {
      const [a, b] = [whole?.axes[from], whole?.axes[to]];
      if (!a || !b || !a.first.length) continue;
      const k = bucketAt(a, x);
      const share = a.last[k] > a.first[k] ? Math.min(1, Math.max(0, (x - a.first[k]) / (a.last[k] - a.first[k]))) : 0;
      return b.first[k] + share * (b.last[k] - b.first[k]);
    }
    return x;
  }

  shownRuns() {
    return this.data.runs.filter((run) => !this.several || !this.hidden.has(run.name)); // a single one has no legend
  }

  // Columns that some run has, and whether loss and mse are one and the same in all of them.
  known() {
    const all = [];
    let alike = true;
    let any = false;
    for (const { whole } of this.feeds.values())
      for (const name of whole?.head.all ?? []) if (!all.includes(name)) all.push(name);
    for (const { whole } of this.feeds.values())
      if (whole?.columns.loss && whole.columns.mse) (any = true, alike &&= same(whole, "loss", "mse"));
    return { all, alike: any && alike };
  }

  wanted() {
    const { all, alike } = this.known();
    const { columns, more } = view();
    const possible = choices(all, this.data.main);
    const chosen = columns?.map((key) => (alike && key === "mse" ? "loss" : key)).filter((key) => possible.includes(key));
    const keys = chosen?.length ? [...new Set(chosen)] : usual(all, this.data.start ?? this.data.main, alike);
    for (const key of more ?? []) if (possible.includes(key) && !keys.includes(key)) keys.push(key);
    return { possible, alike, all, keys };
  }

  draw() {
    this.frame ??= requestAnimationFrame(() => this.drawNow());
  }

  drawNow() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    const width = Math.floor(this.place.clientWidth);
    if (!width || this.gone) return;
    const { keys, possible, alike, all } = this.wanted();
    const panels = keys.map((key) => panelOf(key, all, alike, this.several));
    this.ask(panels, width);
    this.controls.draw({ keys, possible, help: this.data.help, alike, zoomed: this.zoomed });
    const wrong = [...this.feeds.values()].map((feed) => feed.wrong).filter(Boolean);
    const reading = [...this.feeds.values()].filter((feed) => feed.whole && !feed.whole.head.whole).length;
    const empty = ![...this.feeds.values()].some((feed) => feed.whole?.head.rows);
    this.note.textContent = wrong[0] ?? (reading ? `A long log is being read: this is a sketch of ${reading === 1 ? "one" : `${reading} runs`} …` : empty && [...this.feeds.values()].some((feed) => feed.whole) ? "The chart appears with the first logged row." : this.lacking());
    this.note.hidden = !this.note.textContent;
    for (const [key, panel] of this.panels) if (!keys.includes(key)) (panel.node.remove(), this.panels.delete(key));
    const whole = this.extent();
    const there = [...this.feeds.values()].every((feed) => feed.whole?.head.rows);
    if (whole && this.range && there && (this.range[0] >= whole[1] || this.range[1] <= whole[0])) this.zoomTo(null); // of another run
    const extent = whole && (this.range ?? whole);
    this.shown = extent;
    if (!extent) {
      for (const { node } of this.panels.values()) node.remove();
      this.panels.clear();
      return this.palette && this.table?.draw(this);
    }
    const look = this.look(width, extent);
    panels.forEach((panel, number) => {
      let made = this.panels.get(panel.key);
      if (!made) this.panels.set(panel.key, (made = new Panel(panel.key)));
      if (this.place.children[number] !== made.node) this.place.insertBefore(made.node, this.place.children[number] ?? null);
      made.title.title = this.data.help[panel.lines[0].column] ?? "";
      made.draw(panel, this.linesOf(panel, number, look), { ...look, last: number === panels.length - 1, alone: panels.length === 1 });
      this.spikes.draw(made);
    });
    const answered = [...this.feeds.values()].every((feed) => feed.whole || feed.wrong);
    if (this.pinnedAtFirst !== undefined && answered && !empty) this.pinFirst(); // others hear where each run is there
    this.showCursor();
    this.root.dataset.updates = Number(this.root.dataset.updates || 0) + 1;
    this.root.dataset.rows = Math.max(...[...this.feeds.values()].map((feed) => feed.whole?.head.rows ?? 0));
    this.root.dataset.from = extent[0];
    this.root.dataset.to = extent[1];
    this.root.dataset.size = Math.max(0, ...[...this.panels.values()].flatMap((panel) => panel.drawn.map((line) => line.curve.size)));
    this.root.dataset.zoomed = String(Boolean(this.range));
    this.root.dataset.whole = String(!reading);
  }

  ask(panels, width) {
    const columns = [...new Set([...panels.flatMap((panel) => panel.lines.map((line) => line.column)), ...(panels.length ? [] : this.data.main)])];
    for (const run of this.data.runs) // a hidden one may hold the cursor
      this.feeds.get(run.name).want({ columns, width, range: this.range, axis: this.axis });
  }

  // Says why runs that are there are not drawn: all are hidden, or their logs do not have the axis.
  lacking() {
    const shown = this.shownRuns();
    if (!shown.length) return "All runs are hidden: choose one above.";
    const without = shown.filter(({ name }) => { const { whole } = this.feeds.get(name); return whole?.head.rows && !whole.axes[this.axis]; });
    const what = this.axis === "seconds" ? "training time" : TITLES[this.axis];
    return without.length ? `Without ${what} in every row of the log: ${without.map(({ name, label }) => label ?? name).join(", ")}.` : "";
  }

  extent() {
    let [low, high] = [Infinity, -Infinity];
    for (const run of this.shownRuns()) {
      const { whole } = this.feeds.get(run.name);
      const x = whole?.axes[this.axis];
      if (!x?.first.length) continue;
      low = Math.min(low, x.first[0]);
      high = Math.max(high, x.last[x.last.length - 1]);
    }
    return low <= high ? [low, low < high ? high : low + 1] : null;
  }

  look(width, extent) {
    const style = getComputedStyle(this.root);
    const read = (name, other) => style.getPropertyValue(name).trim() || other;
    const palette = read("--st-chart-categorical-colors", "#3b5bdb").split(/,(?![^(]*\))/).map((colour) => colour.trim());
    const [v, unit] = [view(), this.axis === "seconds" ? timeUnit(extent[1]) : { seconds: 1 }];
    this.palette = palette;
    return {
      width, x: extent, log: v.log, reach: reach(v.smooth), axis: this.axis, unit: unit.seconds, oneRun: !this.several,
      title: this.axis === "seconds" ? `training time, ${unit.name}` : TITLES[this.axis],
      font: read("--st-font", "sans-serif"), scale: Math.min(window.devicePixelRatio || 1, 2),
      theme: {
        text: read("--st-text-color", "#333"), small: style.color, grid: read("--st-border-color", "#ddd"),
        red: read("--st-red-color", "#d33"), accent: read("--st-primary-color", "#3b5bdb"), page: read("--st-background-color", "#fff"),
      },
    };
  }

  colour(number) {
    return this.palette[number % this.palette.length];
  }

  linesOf(panel, number) {
    return this.shownRuns().flatMap((run) =>
      panel.lines.map(({ column, label }, k) => ({
        feed: this.feeds.get(run.name),
        run: run.name,
        column,
        label: this.several ? (panel.lines.length > 1 ? `${run.label}, ${label}` : run.label) : label,
        colour: this.colour(run.colour ?? (panel.lines.length > 1 ? k : number)),
        dash: run.colour === null ? [] : DASHES[k % DASHES.length],
        sparse: isSparse(column, this.data.main),
      })));
  }

  drawLegend() {
    this.legend.hidden = !this.several;
    const look = getComputedStyle(this.root).getPropertyValue("--st-chart-categorical-colors").split(/,(?![^(]*\))/);
    this.legend.replaceChildren(...(this.several ? this.data.runs : []).map((run) => {
      const button = element("button", "run", run.label);
      button.type = "button";
      button.style.setProperty("--line", look[run.colour % look.length]);
      button.setAttribute("aria-pressed", String(!this.hidden.has(run.name)));
      button.title = "Show or hide";
      button.onclick = () => {
        this.hidden.has(run.name) ? this.hidden.delete(run.name) : this.hidden.add(run.name);
        changeView({ hide: [...this.hidden] });
        button.setAttribute("aria-pressed", String(!this.hidden.has(run.name)));
        this.draw();
      };
      return button;
    }));
  }

  // --- zoom

  get zoomed() {
    return Boolean(this.range) || [...this.panels.values()].some((panel) => panel.y);
  }

  // dragged: it will move on before it goes into the address.
  zoomTo(range, dragged = false) {
    const whole = this.extent();
    if (!whole) return;
    this.range = range && range[1] - range[0] < (whole[1] - whole[0]) * 0.9999 ? range : null;
    if (!this.range) for (const feed of this.feeds.values()) feed.part = null;
    if (!dragged) this.keepZoom();
    this.draw();
  }

  keepZoom() {
    const zoom = this.range?.map((x) => Number(x.toPrecision(9))) ?? null;
    if (JSON.stringify(zoom) !== JSON.stringify(view().zoom)) changeView({ zoom });
  }

  showAll() {
    for (const panel of this.panels.values()) panel.y = null;
    this.zoomTo(null);
  }

  // --- cursor

  pinFirst() {
    const run = this.feeds.has(view().of) ? view().of : this.data.runs[0].name;
    const { whole } = this.feeds.get(run);
    if (!whole?.head.rows) return;
    const step = this.pinnedAtFirst;
    delete this.pinnedAtFirst;
    this.pin({ run, step, x: this.placeOf(run, step) });
  }

  placeOf(run, step) {
    const feed = this.feeds.get(run) ?? this.feeds.values().next().value;
    const { whole } = feed;
    if (!whole?.axes.step.first.length) return step;
    const x = whole.axes[this.axis];
    if (this.axis === "step" || !x) return step;
    const k = bucketAt(whole.axes.step, step);
    return x.first[k];
  }

  // Points at a place, or at none; a pinned cursor stays where it is.
  point(cursor) {
    if (this.cursor?.pinned) return;
    this.cursor = cursor;
    this.tell(false);
  }

  // Pins the cursor, which goes into the link, or lets go of it.
  pin(cursor) {
    this.cursor = cursor && { ...cursor, pinned: true };
    this.tell(true);
  }

  tell(pinned) {
    const { cursor } = this;
    const [step, of] = [cursor?.step ?? null, cursor && cursor.run !== this.data.runs[0].name ? cursor.run : null];
    if (pinned && (step !== view().step || of !== view().of)) changeView({ step, of });
    const more = { axis: this.axis, x: cursor?.x ?? null, steps: this.stepsAt(cursor?.x), from: this };
    sendCursor({ run: cursor?.run ?? this.data.runs[0].name, step: cursor?.step ?? null, pinned, ...more });
    this.showCursor();
  }

  // Step of each run at a place of the axis; at its end where there is no cursor.
  stepsAt(x = Infinity) {
    const found = {};
    for (const [name, { whole }] of this.feeds) {
      const axis = whole?.axes[this.axis];
      if (!axis?.first.length) continue;
      const k = bucketAt(axis, x);
      found[name] = x > axis.last[k] ? whole.axes.step.last[k] : whole.axes.step.first[k];
    }
    return found;
  }

  // What another part of the page points at or pins.
  follow({ run, step, pinned, x, axis, from }) {
    if (from === this || !this.feeds.has(run) || (this.cursor?.pinned && !pinned)) return;
    const place = axis === this.axis && Number.isFinite(x) ? x : this.placeOf(run, step);
    this.cursor = step === null ? null : { run, step, x: place, pinned };
    if (pinned && step !== view().step) changeView({ step, of: null });
    this.showCursor();
  }

  showCursor() {
    if (!this.shown) return;
    const first = this.panels.values().next().value;
    if (!first?.frame) return;
    const x = this.cursor?.x;
    const pixel = x !== undefined && x >= this.shown[0] && x <= this.shown[1] ? toPixel(first.frame, x) : null;
    for (const panel of this.panels.values()) panel.point(pixel, x, this.cursor?.pinned);
    this.table?.draw(this);
    this.root.dataset.step = this.cursor ? String(this.cursor.step) : "";
    this.root.dataset.pinned = String(Boolean(this.cursor?.pinned));
  }

  picture() {
    const panels = [...this.panels.values()].map((panel) => ({
      scene: panel.scene, frame: panel.frame, colour: panel.look.theme.text,
      title: this.several ? `${panel.title.textContent}: ${this.shownRuns().map((run) => run.label).join(", ")}` : panel.title.textContent,
    }));
    const { font, theme } = this.panels.values().next().value.look;
    return svg(panels, font, theme.page);
  }

  leave() {
    this.gone = true;
    cancelAnimationFrame(this.frame);
    this.sizes.disconnect();
    for (const end of this.ends) end();
    for (const feed of this.feeds.values()) feed.leave();
  }
}
