// Metrics of one run in the browser: fetched when asked for, kept up to date while the run trains.

import { address, decode, merge } from "./metrics.js";

const EVERY = 600; // milliseconds between two looks at a run that trains
const SOON = 500; // until a long log has been read
const AFTER_FAILURE = 3000;

export class Feed {
  // changed(): there is something new to draw.
  constructor(run, changed) {
    this.run = run;
    this.changed = changed;
    this.columns = [];
    this.width = 1000;
    this.range = null; // of the axis, while zoomed
    this.axis = "step";
    this.hopeful = null; // whether the page says that it trains
    this.whole = null; // all rows, in buckets
    this.part = null; // those of the range
    this.wrong = "";
    this.timer = 0;
    this.left = false;
    this.asking = null;
    this.seen = () => { if (!document.hidden) this.ask(); };
    document.addEventListener("visibilitychange", this.seen);
  }

  // What is to be shown; fetches what is missing.
  want({ columns, width, range, axis }) {
    const missing = columns.some((name) => !this.columns.includes(name));
    const wider = width > this.width * 1.3;
    if (missing) this.columns = [...new Set([...this.columns, ...columns])];
    if (wider || !this.whole) this.width = width;
    if (missing || wider) this.whole = this.whole && { ...this.whole, stale: true };
    const moved = JSON.stringify([range, axis]) !== JSON.stringify([this.range, this.axis]);
    [this.range, this.axis] = [range, axis];
    if (moved && !range) this.part = null;
    if (missing || wider || !this.whole) this.ask();
    else if (moved && range) this.zoom();
  }

  async ask() {
    clearTimeout(this.timer);
    if (this.left || this.asking || !this.columns.length) return;
    const { columns, width } = this;
    this.asking = true;
    let wait = 0;
    try {
      const known = this.whole?.stale ? null : this.whole;
      const news = await this.fetch({ columns, width, known });
      if (news) {
        this.whole = merge(known, news);
        if (this.moved(columns, width)) this.whole = { ...this.whole, stale: true }; // more was wanted meanwhile
        if (this.range) this.zoom();
        this.changed();
      }
      wait = !this.whole?.head.whole ? SOON : this.live() ? EVERY : 0;
    } catch (error) {
      wait = AFTER_FAILURE;
      if (error.status) {
        this.wrong = error.message;
        wait = error.status === 404 ? 0 : wait;
        this.changed();
      }
    }
    this.asking = false;
    if (this.left) return;
    if (this.moved(columns, width)) this.ask();
    else if (wait && !document.hidden) this.timer = setTimeout(() => this.ask(), wait);
  }

  moved(columns, width) {
    return columns !== this.columns || width !== this.width;
  }

  live() {
    return this.whole?.head.live || this.hopeful;
  }

  // The page says that the run trains, or that it no longer does.
  expect(live) {
    if (live === this.hopeful) return;
    this.hopeful = live;
    if (this.whole && !live) this.whole.head.live = false;
    this.ask(); // at the end, once more
  }

  // The range at full resolution; only the newest request counts.
  async zoom() {
    if (!this.whole?.head.whole || this.whole.head.size === 1) return;
    const asked = (this.zooming = JSON.stringify([this.range, this.axis, this.columns]));
    try {
      const found = await this.fetch({ columns: this.columns, width: this.width, range: this.range, axis: this.axis });
      if (this.zooming === asked && found && !this.left) {
        this.part = found;
        this.changed();
      }
    } catch (error) {
      console.warn("the part of the chart was not fetched", error);
    }
  }

  // What to draw from: the part where it has more detail, and reaches over the whole range.
  best(column) {
    const { part, whole } = this;
    if (!this.range || !part?.columns[column] || part.head.size >= (whole?.head.size ?? Infinity)) return whole;
    const x = part.axes[this.axis] ?? part.axes.step;
    const from = part.head.start === 0 || x.first[0] <= this.range[0];
    const to = part.head.stop === part.head.rows || x.last[x.last.length - 1] >= this.range[1];
    return from && to ? part : whole;
  }

  async fetch(asked) {
    const answer = await fetch(new URL(address(this.run, asked), document.baseURI));
    if (!answer.ok) throw Object.assign(new Error((await answer.text()).trim()), { status: answer.status });
    if (this.wrong) {
      this.wrong = "";
      this.changed();
    }
    return answer.status === 204 ? null : decode(await answer.arrayBuffer());
  }

  leave() {
    this.left = true;
    clearTimeout(this.timer);
    document.removeEventListener("visibilitychange", this.seen);
  }
}
