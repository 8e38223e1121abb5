// Smoothing by the width of the screen: the same setting looks the same for a thousand rows and for a million.

const PIXELS = 8;

// Setting between 0 and 1 as the distance, in pixels, at which a value counts 1 / e of the one in the middle.
export function reach(setting) {
  return setting <= 0 ? 0 : (PIXELS * setting) / (1 - Math.min(setting, 0.995));
}

// Mean of the values around each place, weighted by count * exp(-distance / reach), from both sides.
// log: mean of the logarithms, for a logarithmic axis.  Values that cannot be used are skipped, and stay NaN.
// pixels: increasing places; counts: how many rows each value stands for.
export function smooth(pixels, values, counts, distance, log = false) {
  const n = values.length;
  const out = new Float64Array(n).fill(NaN);
  const usable = (k) => counts[k] > 0 && Number.isFinite(pixels[k]) && Number.isFinite(values[k]) && (!log || values[k] > 0);
  if (distance <= 0) {
    for (let k = 0; k < n; k++) if (usable(k)) out[k] = values[k];
    return out;
  }
  const sums = new Float64Array(n);
  const weights = new Float64Array(n);
  const pass = (from, to, by) => {
    let [sum, weight, at] = [0, 0, 0];
    for (let k = from; k !== to; k += by) {
      if (!usable(k)) continue;
      const fade = weight ? Math.exp(-Math.abs(pixels[k] - at) / distance) : 0;
      sum *= fade;
      weight *= fade;
      at = pixels[k];
      sums[k] += sum; // without the value itself, which is added once below
      weights[k] += weight;
      sum += counts[k] * (log ? Math.log(values[k]) : values[k]);
      weight += counts[k];
    }
  };
  pass(0, n, 1);
  pass(n - 1, -1, -1);
  for (let k = 0; k < n; k++) {
    if (!usable(k)) continue;
    const own = log ? Math.log(values[k]) : values[k];
    const mean = (sums[k] + counts[k] * own) / (weights[k] + counts[k]);
    out[k] = log ? Math.exp(mean) : mean;
  }
  return out;
}
