// Round places on an axis.

// Unit of a time axis that reaches to `longest` seconds.
export function timeUnit(longest) {
  if (longest < 300) return { name: "seconds", seconds: 1 };
  if (longest < 3 * 3600) return { name: "minutes", seconds: 60 };
  if (longest < 4 * 86400) return { name: "hours", seconds: 3600 };
  return { name: "days", seconds: 86400 };
}

// Round values in [low, high], about `wanted` of them.  least: how far they are apart at least.
export function ticks(low, high, wanted = 6, least = 0) {
  if (!(high > low)) return Number.isFinite(low) ? [low] : [];
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(least, [1, 2, 5, 10].map((digit) => digit * power).find((size) => size >= rough * 0.999));
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

// The same for a logarithmic axis: powers of ten, and as many of their multiples as there is room for.
export function logTicks(low, high, wanted = 6) {
  if (!(low > 0 && high > low)) return [];
  const [from, to] = [Math.log10(low), Math.log10(high)];
  if (to - from < 0.4) return ticks(low, high, wanted).filter((value) => value > 0);
  const digits = to - from > 4 ? [1] : to - from > 2 ? [1, 3] : to - from > 0.9 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 6, 8];
  const every = Math.max(1, Math.ceil((to - from) / wanted));
  const found = [];
  for (let e = Math.floor(from); e <= to; e += every)
    for (const digit of digits) {
      const value = Number(`${digit}e${e}`);
      if (value >= low * 0.9999 && value <= high * 1.0001) found.push(value);
    }
  return found;
}
