// What a panel of curves consists of, as a list of lines, bands, marks and texts that paint.js draws.
// A frame is { width, height, left, right, top, bottom, x: [low, high], log, reach, unit }, in pixels but for x.

import { logTicks, short, ticks } from "./numbers.js";
import { smooth } from "./smoothing.js";

const LINE_HEIGHT = 14; // of the numbers at the ends of lines
const MOST_BANDS = 4; // curves of a panel that have a band each

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
  const x = part?.axes[axis] ?? part?.axes.step;
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
      take(c.smoothed[k]);
      take(c.least[k]);
      if (!c.spiked.has(k)) take(c.most[k]);
    }
  if (low > high) return null;
  if (log) {
    const room = Math.max((Math.log10(high) - Math.log10(low)) * 0.05, 0.01);
    return [low / 10 ** room, high * 10 ** room];
  }
  const room = (high - low || Math.abs(high) || 1) * 0.05;
  return [low - room, high + room];
}

export function heightOf(frame, range, value) {
  const [low, high] = frame.log ? range.map(Math.log10) : range;
  const place = frame.log ? Math.log10(value) : value;
  return frame.height - frame.bottom - ((place - low) / (high - low || 1)) * (frame.height - frame.top - frame.bottom);
}

// Lines of a grid, and their numbers: of the horizontal axis only where `last` is true.
export function grid(frame, range, theme, last, title) {
  const found = [];
  const bottom = frame.height - frame.bottom;
  const places = range ? (frame.log ? logTicks : ticks)(range[0], range[1], Math.max(2, Math.round((bottom - frame.top) / 32))) : [];
  for (const value of places) {
    const y = heightOf(frame, range, value);
    if (y < frame.top - 1 || y > bottom + 1) continue;
    found.push({ kind: "rule", x1: frame.left, x2: frame.width - frame.right, y1: y, y2: y, colour: theme.grid });
    found.push({ kind: "text", x: frame.left - 6, y, text: short(value), align: "right", colour: theme.small });
  }
  const unit = frame.unit;
  for (const value of ticks(frame.x[0] / unit, frame.x[1] / unit, Math.max(2, Math.round((frame.width - frame.left) / 110)))) {
    const x = toPixel(frame, value * unit);
    if (x < frame.left - 1 || x > frame.width - frame.right + 1) continue;
    found.push({ kind: "rule", x1: x, x2: x, y1: frame.top, y2: bottom, colour: theme.grid });
    if (last) found.push({ kind: "text", x, y: bottom + 12, text: short(value), align: "center", colour: theme.small });
  }
  if (last)
    found.push({ kind: "text", x: (frame.left + frame.width - frame.right) / 2, y: bottom + 30, text: title, align: "center", colour: theme.text });
  return found;
}

// The curves of a panel: band and mean where rows are put together, the rows where they are not, the smoothed line.
// Bands of many curves hide each other, and take long to fill.
export function lines(frame, range, drawn, theme) {
  if (!range) return [];
  const found = [];
  const at = (value) => (Number.isFinite(value) && (!frame.log || value > 0) ? heightOf(frame, range, value) : NaN);
  for (const { curve: c, colour, dash, sparse } of drawn) {
    const kept = indices(c, sparse);
    const xs = kept.map((k) => c.pixels[k]);
    const faint = { colour, clip: true };
    if (c.size > 1 && drawn.length <= MOST_BANDS)
      found.push({
        ...faint,
        kind: "band",
        xs,
        high: kept.map((k) => at(c.most[k])),
        low: kept.map((k) => (frame.log && !(c.least[k] > 0) && c.count[k] ? frame.height - frame.bottom : at(c.least[k]))),
        alpha: 0.16,
      });
    if (frame.reach > 0)
      found.push({ ...faint, kind: "line", xs, ys: kept.map((k) => at(c.mean[k])), width: 1, alpha: c.size > 1 ? 0.45 : 0.3 });
  }
  for (const { curve: c, colour, dash, sparse } of drawn) {
    const kept = indices(c, sparse);
    const ys = kept.map((k) => at(c.smoothed[k]));
    found.push({ kind: "line", xs: kept.map((k) => c.pixels[k]), ys, colour, dash, width: 2, alpha: 1, clip: true });
    for (const k of lonely(c)) found.push({ kind: "dot", x: c.pixels[k], y: at(c.smoothed[k]), colour });
    for (const [k, spike] of c.spiked)
      if (k >= c.inside[0] && k < c.inside[1] && (at(spike.value) < frame.top))
        found.push({ kind: "up", x: c.pixels[k], y: frame.top + 1, colour: theme.red });
  }
  return found;
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
  for (const { curve: c, colour } of drawn) {
    const k = lastOf(c);
    if (k < 0) continue;
    const y = Math.min(Math.max(heightOf(frame, range, c.smoothed[k]), frame.top), frame.height - frame.bottom);
    if (Number.isFinite(y)) found.push({ kind: "text", x: frame.width - frame.right + 6, y, text: short(c.smoothed[k]), align: "left", colour });
  }
  found.sort((a, b) => a.y - b.y);
  for (let k = 1; k < found.length; k++) found[k].y = Math.max(found[k].y, found[k - 1].y + LINE_HEIGHT);
  const over = found.length ? found[found.length - 1].y - (frame.height - frame.bottom + 8) : 0;
  if (over > 0)
    for (let k = found.length - 1, most = frame.height - frame.bottom + 8; k >= 0; k--, most -= LINE_HEIGHT) found[k].y = Math.min(found[k].y, most);
  return found;
}

// The last bucket in view that has a value; -1 where there is none.
export function lastOf(c) {
  for (let k = c.inside[1] - 1; k >= c.inside[0]; k--) if (c.count[k] && Number.isFinite(c.smoothed[k])) return k;
  return -1;
}

// Crosses where a metric was not a number, at the height of the value before.
export function lostMarks(frame, range, part, column, axis, theme) {
  const lost = part?.head.lost?.[column];
  if (!lost?.count || !range) return [];
  const c = curve(part, column, axis, frame);
  let y = frame.height - frame.bottom;
  return lost.rows.map((row) => {
    const bucket = Math.min(Math.floor((row - part.head.from) / part.head.size), c.pixels.length - 1);
    for (let k = bucket; k >= 0; k--)
      if (c.count[k] && Number.isFinite(c.smoothed[k])) {
        y = heightOf(frame, range, c.smoothed[k]);
        break;
      }
    return { kind: "cross", x: c.pixels[bucket], y, colour: theme.red, clip: true };
  });
}
