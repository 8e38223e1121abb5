// How images of one size are laid out in a grid: columns, and the whole number of device pixels that a pixel takes.

const LEAST = 28; // CSS pixels of an image, where the images themselves are not smaller
const BY_CLASS = 0.3; // what a column for each class counts for, next to filling the room

// count images, each `wide` x `high` pixels, in a column of `width` CSS pixels of a window that shows `height` of it.
// columns: 0, or the number that a grid with one class a column has.  dense: device pixels of a CSS pixel.
// Returns {columns, times, wide, high, gap}: wide and high in CSS pixels, gap the room between two images.
export function arrange({ count, wide, high, columns = 0, width, height, dense = 1, gap = 4 }) {
  const least = Math.min(LEAST, wide / dense);
  const most = Math.max(1, Math.min(count, Math.floor((width + gap) / (least + gap))));
  let best = null;
  for (let across = 1; across <= most; across++) {
    const down = Math.ceil(count / across);
    const byWidth = Math.floor(((width - gap * (across - 1)) * dense) / (across * wide));
    const byHeight = Math.floor(((height - gap * (down - 1)) * dense) / (down * high));
    for (const times of new Set([byWidth, Math.min(byWidth, byHeight)])) {
      if (times < 1) continue;
      const [tile, tall] = [(wide * times) / dense, (high * times) / dense];
      const filled = (across * tile + gap * (across - 1)) / width;
      const beyond = Math.max(0, (down * tall + gap * (down - 1)) / height - 1);
      const area = Math.min(1, (count * tile * tall) / (width * height));
      const score = filled + 0.3 * (count / (across * down)) + 0.5 * area - beyond
        + (across === columns ? BY_CLASS : 0);
      if (!best || score > best.score + 1e-9) best = { score, columns: across, times, wide: tile, high: tall };
    }
  }
  if (!best) { // one image is wider than the column: the only case in which it is shrunk
    const tile = Math.min(width, wide / dense);
    return { columns: 1, times: 0, wide: tile, high: (tile * high) / wide, gap };
  }
  const left = width - best.columns * best.wide;
  const spread = best.columns > 1 ? Math.max(gap, Math.min(left / (best.columns - 1), Math.max(3 * gap, best.wide / 4))) : gap;
  return { columns: best.columns, times: best.times, wide: best.wide, high: best.high, gap: Math.floor(spread * dense) / dense };
}

// The largest whole multiple at which an image of `wide` x `high` pixels fits into `width` x `height` CSS pixels.
export function enlarged({ wide, high, width, height, dense = 1 }) {
  const times = Math.floor(Math.min((width * dense) / wide, (height * dense) / high));
  if (times >= 1) return { times, wide: (wide * times) / dense, high: (high * times) / dense };
  const share = Math.min(width / wide, height / high);
  return { times: 0, wide: wide * share, high: high * share };
}

// Where an arrow key leads from image `from`, or -1 for another key.
export function moved(key, from, count, columns) {
  const to = { ArrowLeft: from - 1, ArrowRight: from + 1, ArrowUp: from - columns, ArrowDown: from + columns,
    Home: 0, End: count - 1 }[key];
  if (to === undefined) return -1;
  return to >= 0 && to < count ? to : from;
}
