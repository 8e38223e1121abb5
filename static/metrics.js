// Metrics of a run as run/metrics sends them: a line of JSON, then arrays of numbers; see pages/server/metrics_route.py.

const OF_A_COLUMN = ["count", "least", "most", "mean", "first"];

// ArrayBuffer -> { head, axes: { step: { first, last } }, columns: { loss: { count, least, most, mean, first } } }
export function decode(buffer) {
  const bytes = new Uint8Array(buffer);
  const end = bytes.indexOf(10);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
  const n = Math.ceil((head.stop - head.from) / head.size);
  let at = end + 1;
  const next = () => {
    const array = new Float64Array(buffer, at, n);
    at += 8 * n;
    return array;
  };
  const [axes, columns] = [{}, {}];
  for (const name of head.axes) {
    const first = next();
    axes[name] = { first, last: head.size > 1 ? next() : first };
  }
  for (const name of head.columns) {
    if (head.size > 1) columns[name] = Object.fromEntries(OF_A_COLUMN.map((part) => [part, next()]));
    else {
      const values = next();
      const count = values.map((value) => (Number.isNaN(value) ? 0 : 1));
      columns[name] = { count, least: values, most: values, mean: values, first: values };
    }
  }
  return { head, axes, columns };
}

// The buckets of `old` before those of `news`, which follow them; `news` itself where it is complete.
export function merge(old, news) {
  const kept = old ? (news.head.from - news.head.start) / news.head.size : 0;
  if (!kept) return news;
  const join = (before, after) => {
    const whole = new Float64Array(kept + after.length);
    whole.set(before.subarray(0, kept));
    whole.set(after, kept);
    return whole;
  };
  const all = (before, after) =>
    Object.fromEntries(Object.keys(after).map((name) => [
      name,
      Object.fromEntries(Object.keys(after[name]).map((part) => [part, join(before[name][part], after[name][part])])),
    ]));
  const spikes = Object.fromEntries(Object.entries(news.head.spikes).map(([name, found]) => {
    const before = old.head.spikes[name] ?? { highest: [], more: 0 };
    const highest = [...before.highest.filter(([row]) => row < found.from), ...found.highest];
    return [name, { from: news.head.start, highest, more: before.more + found.more }];
  }));
  return {
    head: { ...news.head, from: news.head.start, spikes },
    axes: all(old.axes, news.axes),
    columns: all(old.columns, news.columns),
  };
}

export function address(run, { columns, width, axis = "step", range = null, known = null }) {
  const query = new URLSearchParams({ run, columns: columns.join(","), width: String(Math.round(width)), x: axis });
  if (range) {
    query.set("from", plain(range[0]));
    query.set("to", plain(range[1]));
  }
  if (known) {
    const { name, stop, size } = known.head;
    query.set("have", name);
    query.set("size", String(size));
    query.set("since", String(Math.max(0, Math.floor((stop - 1) / size) * size)));
  }
  return `run/metrics?${query}`;
}

// Digits as the server reads them.
function plain(value) {
  return Number(value.toPrecision(15)).toString().replace(/^(-?)\./, "$10.");
}

// Bucket that holds x, or the nearest one, of an axis { first, last }; -1 where there is none.
export function bucketAt(axis, x) {
  const n = axis.first.length;
  let [low, high] = [0, n - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (axis.first[middle] <= x) low = middle;
    else high = middle - 1;
  }
  if (low + 1 < n && x > axis.last[low] && axis.first[low + 1] - x < x - axis.last[low]) return low + 1;
  return n ? low : -1;
}

// Whether two columns hold the same values, as loss and mse do under the simple loss.
export function same(part, one, other) {
  const [a, b] = [part.columns[one]?.mean, part.columns[other]?.mean];
  if (!a || !b || a.length !== b.length || !a.length) return false;
  for (let k = 0; k < a.length; k++) if (a[k] !== b[k] && !(Number.isNaN(a[k]) && Number.isNaN(b[k]))) return false;
  return true;
}
