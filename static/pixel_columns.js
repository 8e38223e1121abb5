// Curves with many points to a pixel, as what they cover of each column of pixels: a canvas draws a thousand upright
// bars at once, and takes long for a path of thousands of points that goes up and down within a pixel.

const DENSE = 0.7; // points a column from which on a path is not drawn as such

// A frame's columns: as many as the screen has pixels between its left and its right edge.
function columnsOf(frame) {
  const scale = frame.scale ?? 1;
  const first = Math.floor(frame.left * scale);
  return { scale, first, count: Math.ceil((frame.width - frame.right) * scale) - first };
}

export function isDense(points, frame) {
  return points > DENSE * columnsOf(frame).count;
}

// Lowest and highest place of a line through points in each column that it crosses; NaN where it does not.
// xs: increasing; ys: NaN where there is a gap.  -> { kind: "columns", x, step, high, low }, to be drawn `width` thick.
export function covered(xs, ys, frame) {
  const { scale, first, count } = columnsOf(frame);
  const high = new Float64Array(count).fill(NaN), low = new Float64Array(count).fill(NaN);
  const take = (k, y) => {
    if (k < 0 || k >= count) return;
    if (!(high[k] <= y)) high[k] = y;
    if (!(low[k] >= y)) low[k] = y;
  };
  let before = -1; // the point that a line comes from
  for (let k = 0; k < xs.length; k++) {
    if (!Number.isFinite(ys[k]) || !Number.isFinite(xs[k])) {
      before = -1;
      continue;
    }
    const at = xs[k] * scale - first, here = Math.floor(at);
    if (before >= 0) {
      const from = xs[before] * scale - first;
      const slope = (ys[k] - ys[before]) / (at - from);
      for (let edge = Math.max(Math.floor(from) + 1, 0); edge <= Math.min(here, count); edge++) {
        const y = ys[before] + (edge - from) * slope; // where it goes from one column into the next
        take(edge - 1, y);
        take(edge, y);
      }
    }
    take(here, ys[k]);
    before = k;
  }
  return { kind: "columns", x: first / scale, step: 1 / scale, high, low };
}

// The band between two such curves: from the highest place of one to the lowest of the other.
export function between(xs, highs, lows, frame) {
  const [above, below] = [covered(xs, highs, frame), covered(xs, lows, frame)];
  return { ...above, low: below.low };
}

// The points of a smooth curve that are at least `apart` pixels from one another, and those at gaps.
export function thinned(xs, ys, apart) {
  const [keptX, keptY] = [[], []];
  const known = (k) => Number.isFinite(ys[k]);
  for (let k = 0; k < xs.length; k++) {
    if (keptX.length && known(k) && known(k - 1) && known(k + 1) && xs[k] - keptX[keptX.length - 1] < apart) continue;
    keptX.push(xs[k]);
    keptY.push(ys[k]);
  }
  return [keptX, keptY];
}
