// Numbers as text, and round places on an axis.

// Four significant digits; whole numbers with separators.
export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e7) return grouped(value);
  if (size < 1e-4 || size >= 1e7) return value.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
  if (size >= 1e4) return grouped(Math.round(value));
  const text = value.toPrecision(4);
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

// 1234567 as 1,234,567
export function grouped(value) {
  return Math.round(value).toString().replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

// Seconds as 45 s, 12 min 5 s, 3 h 20 min, 2 d 4 h.
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// Unit of a time axis that reaches to `longest` seconds.
export function timeUnit(longest) {
  if (longest < 300) return { name: "seconds", seconds: 1 };
  if (longest < 3 * 3600) return { name: "minutes", seconds: 60 };
  if (longest < 4 * 86400) return { name: "hours", seconds: 3600 };
  return { name: "days", seconds: 86400 };
}

// Round values in [low, high], about `wanted` of them.
export function ticks(low, high, wanted = 6) {
  if (!(high > low)) return Number.isFinite(low) ? [low] : [];
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((size) => size >= rough * 0.999);
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
