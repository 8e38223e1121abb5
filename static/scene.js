// What a panel of curves consists of, as a list of lines, bands, marks and texts that paint.js draws.
// A frame is { width, height, left, right, top, bottom, x: [low, high], log, reach, axis, unit, scale }, in pixels but for x;
// scale: pixels of the screen to one of the page.

import { count, general } from "./formatting.js";
import { between, covered, isDense, thinned } from "./pixel_columns.js";
import { logTicks, ticks } from "./scales.js";
import { smooth } from "./smoothing.js";

const LINE_HEIGHT = 14; // of the numbers at the ends of lines
const MOST_BANDS = 4; // curves of a panel that have a band each: those of more hide each other
const SMOOTH = 2; // reach, in pixels, from which on a curve is so smooth that a point on each pixel draws it

export function toPixel(frame, x) {
  const [low, high] = frame.x;
  return frame.left + ((x - low) / (high - low || 1)) * (frame.width - frame.left - frame.right);
}

export function fromPixel(frame, pixel) {
  const [low, high] = frame.x;
  return low + ((pixel - frame.left) / (frame.width - frame.left - frame.right)) * (high - low);
}

// A column of a part along an axis of the frame: where its buckets lie, and its smoothed values.
export function curve(part, column, axis, frame) {
  const found = part?.columns[column];
  const x = part?.axes[axis]; // a log may lack it
  if (!found || !x) return null;
  const n = x.first.length;
  const pixels = new Float64Array(n);
  for (let k = 0; k < n; k++) pixels[k] = toPixel(frame, (x.first[k] + x.last[k]) / 2);
  let [start, stop] = [0, n];
  while (start < n && !(x.last[start] >= frame.x[0])) start++;
  while (stop > start && !(x.first[stop - 1] <= frame.x[1])) stop--;
  return {
    ...found,
    x,
    pixels,
    size: part.head.size,
    smoothed: smooth(pixels, found.mean, found.count, frame.reach, frame.log),
    start: Math.max(0, start - 1), // with one more on each side, so that lines reach the edges
    stop: Math.min(n, stop + 1),
    inside: [start, stop],
    spiked: spiked(part, column),
  };
}

// Buckets of a part in which a spike lies -> the row of the highest.
function spiked(part, column) {
  const { head } = part;
  const rows = head.spikes[column]?.highest ?? [];
  return new Map(rows.map(([row, step, value]) => [Math.floor((row - head.from) / head.size), { step, value }]));
}

// Range of values that the curves show, without what sticks out of them; null where there is nothing to show.
export function valueRange(curves, log) {
  let [low, high] = [Infinity, -Infinity];
  const take = (value) => {
    if (!Number.isFinite(value) || (log && value <= 0)) return;
    if (value < low) low = value;
    if (value > high) high = value;
  };
  for (const c of curves)
    for (let k = c.inside[0]; k < c.inside[1]; k++) {
      if (!c.count[k]) continue;
      const usual = c.spiked.has(k) ? (c.size > 1 ? [c.least[k]] : []) : [c.smoothed[k], c.least[k], c.most[k]];
      usual.forEach(take);
    }
  if (low > high) return null;
  if (log) {
    const room = Math.max((Math.log10(high) - Math.log10(low)) * 0.05, 0.01);
    return [low / 10 ** room, high * 10 ** room];
  }
  const room = (high - low || Math.abs(high) || 1) * 0.05;
  return [low - room, high + room];
}

// Height in the frame of a value; NaN where the axis has no place for it.
export function heights(frame, range) {
  const [low, high] = frame.log ? range.map(Math.log10) : range;
  const bottom = frame.height - frame.bottom;
  const scale = (bottom - frame.top) / (high - low || 1);
  return (value) => {
    const place = frame.log ? Math.log10(value) : value;
    return Number.isFinite(place) ? bottom - (place - low) * scale : NaN;
  };
}

// The value at a height: the other way round.
export function valueAt(frame, range, y) {
  const [low, high] = frame.log ? range.map(Math.log10) : range;
  const { top, bottom, height } = frame;
  const place = low + ((height - bottom - y) / (height - top - bottom)) * (high - low);
  return frame.log ? 10 ** place : place;
}

// Lines of a grid, and their numbers: of the horizontal axis only where `last` is true.
export function grid(frame, range, theme, last, title) {
  const found = [];
  const bottom = frame.height - frame.bottom;
  const at = range && heights(frame, range);
  const places = range ? (frame.log ? logTicks : ticks)(range[0], range[1], Math.max(2, Math.round((bottom - frame.top) / 32))) : [];
  for (const value of places) {
    const y = at(value);
    if (y < frame.top - 1 || y > bottom + 1) continue;
    found.push({ kind: "rule", x1: frame.left, x2: frame.width - frame.right, y1: y, y2: y, colour: theme.grid });
    found.push({ kind: "text", x: frame.left - 6, y, text: general(value), align: "right", colour: theme.small });
  }
  const unit = frame.unit;
  const least = frame.axis === "seconds" ? 0 : 1; // there is no half of a step or of an image
  for (const value of ticks(frame.x[0] / unit, frame.x[1] / unit, Math.max(2, Math.round((frame.width - frame.left) / 110)), least)) {
    const x = toPixel(frame, value * unit);
    if (x < frame.left - 1 || x > frame.width - frame.right + 1) continue;
    found.push({ kind: "rule", x1: x, x2: x, y1: frame.top, y2: bottom, colour: theme.grid });
    if (last) found.push({ kind: "text", x, y: bottom + 12, text: Number.isInteger(value) ? count(value) : general(value), align: "center", colour: theme.small });
  }
  if (last)
    found.push({ kind: "text", x: (frame.left + frame.width - frame.right) / 2, y: bottom + 30, text: title, align: "center", colour: theme.text });
  return found;
}

// The curves of a panel: band and mean where rows are put together, the rows where they are not, the smoothed line.
export function lines(frame, range, drawn, theme) {
  if (!range) return [];
  const found = [];
  const at = heights(frame, range);
  const shown = drawn.map(({ curve: c, colour, dash, sparse }) => {
    const kept = indices(c, sparse);
    const placed = (values) => Float64Array.from(kept, (k) => at(values[k]));
    return { c, colour, dash, kept, placed, xs: Float64Array.from(kept, (k) => c.pixels[k]), dense: isDense(kept.length, frame) };
  });
  for (const { c, colour, kept, placed, xs, dense } of shown) {
    const faint = { colour, clip: true };
    if (c.size > 1 && drawn.length <= MOST_BANDS) {
      const high = placed(c.most);
      const low = placed(c.least);
      if (frame.log) kept.forEach((k, j) => { if (c.count[k] && !(c.least[k] > 0)) low[j] = frame.height - frame.bottom; });
      found.push({ ...faint, alpha: 0.16, ...(dense ? between(xs, high, low, frame) : { kind: "band", xs, high, low }) });
    }
    if (frame.reach > 0)
      found.push({ ...faint, width: 1, alpha: c.size > 1 ? 0.45 : 0.3, ...outline(xs, placed(c.mean), frame, dense) });
  }
  for (const { c, colour, dash, placed, xs, dense } of shown) {
    const ys = placed(c.smoothed);
    const calm = dense && (frame.reach >= SMOOTH || dash.length);
    const drawnAs = calm ? outline(...thinned(xs, ys, 1), frame, false) : outline(xs, ys, frame, dense);
    found.push({ colour, dash, width: 2, alpha: 1, clip: true, ...drawnAs });
    for (const k of lonely(c)) found.push({ kind: "dot", x: c.pixels[k], y: at(c.smoothed[k]), colour });
    for (const [k, spike] of c.spiked)
      if (k >= c.inside[0] && k < c.inside[1] && (at(spike.value) < frame.top))
        found.push({ kind: "up", x: c.pixels[k], y: frame.top + 1, colour: theme.red });
  }
  return found;
}

function outline(xs, ys, frame, dense) {
  return dense ? covered(xs, ys, frame) : { kind: "line", xs, ys };
}

function indices(c, sparse) {
  const found = [];
  for (let k = c.start; k < c.stop; k++) if (!sparse || c.count[k]) found.push(k);
  return found;
}

// Values without a neighbour, which a line does not show.
function lonely(c) {
  const found = [];
  let before = null;
  for (let k = c.start; k < c.stop; k++)
    if (c.count[k]) {
      if (before === null && !(c.count[k + 1] > 0)) found.push(k);
      before = k;
    } else before = null;
  return found.length < 200 ? found : [];
}

// Last value of each curve, at its end; those that would lie over one another make room.
export function ends(frame, range, drawn) {
  if (!range) return [];
  const found = [];
  const at = heights(frame, range);
  for (const { curve: c, colour } of drawn) {
    const k = lastOf(c);
    if (k < 0) continue;
    const y = Math.min(Math.max(at(c.smoothed[k]), frame.top), frame.height - frame.bottom);
    if (Number.isFinite(y)) found.push({ kind: "text", x: frame.width - frame.right + 6, y, text: general(c.smoothed[k]), align: "left", colour });
  }
  found.sort((a, b) => a.y - b.y);
  for (let k = 1; k < found.length; k++) found[k].y = Math.max(found[k].y, found[k - 1].y + LINE_HEIGHT);
  for (let k = found.length - 1, most = frame.height - frame.bottom; k >= 0; k--, most -= LINE_HEIGHT) found[k].y = Math.min(found[k].y, most);
  return found;
}

// The last bucket in view that has a value; -1 where there is none.
export function lastOf(c) {
  for (let k = c.inside[1] - 1; k >= c.inside[0]; k--) if (c.count[k] && Number.isFinite(c.smoothed[k])) return k;
  return -1;
}

// The value that was logged last in bucket k, where no later one has any; else the first of the bucket.
export function lastValue(part, column, c, k) {
  const last = part.head.stop === part.head.rows && !c.count.subarray(k + 1).some((count) => count > 0);
  return c.size > 1 && last ? part.head.newest[column] : c.first[k];
}

// Crosses where a metric was not a number, at the height of the value before.
export function lostMarks(frame, range, { curve: c, part, column }, theme) {
  const lost = part.head.lost?.[column];
  if (!lost?.count || !range) return [];
  const at = heights(frame, range);
  let y = frame.height - frame.bottom;
  return lost.rows.map((row) => {
    const bucket = Math.min(Math.floor((row - part.head.from) / part.head.size), c.pixels.length - 1);
    for (let k = bucket; k >= 0; k--)
      if (c.count[k] && Number.isFinite(c.smoothed[k])) {
        y = at(c.smoothed[k]);
        break;
      }
    return { kind: "cross", x: c.pixels[bucket], y, colour: theme.red, clip: true };
  });
}
