// Numbers and times as text, in the form that ddpm/formatting.py gives them.

const DAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const NONE = "–";

// A number with `digits` significant digits: 0.03162, 12.5, 1,234, 3e-4.
export function general(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e7) return count(value);
  if (size < 1e-3 || size >= 1e7) {
    const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    return `${trimmed(mantissa)}e${Number(exponent)}`;
  }
  if (size >= 10 ** digits) return count(value);
  const [whole, decimals] = value.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(size)))).split(".");
  return trimmed(grouped(whole) + (decimals ? `.${decimals}` : ""));
}

// Without zeros at the end of the decimals.
function trimmed(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

function grouped(digits) {
  return digits.replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

// A whole number with separators: 12,000.
export function count(value) {
  if (!Number.isFinite(value)) return NONE;
  return grouped(Math.round(value).toString());
}

// 0.45 s, 4.5 s, 12 s, 3 min 05 s, 2 h 05 min, 4 days 3 h.
export function duration(seconds) {
  if (!(seconds >= 0 && seconds < Infinity)) return NONE;
  if (seconds < 10) return `${seconds < 1 ? general(seconds, 2) : seconds.toFixed(1)} s`;
  const whole = Math.round(seconds), two = (value) => String(Math.floor(value)).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two((whole % 3600) / 60)} min`;
  return `${plural(Math.floor(whole / 86400), "day")} ${Math.floor((whole % 86400) / 3600)} h`;
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

// Share of the steps done, rounded down, so that 100 % is the end.
export function percent(step, total) {
  return total ? `${Math.floor((100 * step) / total)} %` : "0 %";
}

// Local time, with the date unless it is today: 14:05, Tue 3 Nov, 14:05.
export function clock(seconds, now = Date.now() / 1000) {
  if (!seconds) return NONE;
  const then = new Date(seconds * 1000), today = new Date(now * 1000);
  const time = `${String(then.getHours()).padStart(2, "0")}:${String(then.getMinutes()).padStart(2, "0")}`;
  if (then.toDateString() === today.toDateString()) return time;
  const year = then.getFullYear() === today.getFullYear() ? "" : ` ${then.getFullYear()}`;
  return `${DAYS[then.getDay()]} ${then.getDate()} ${MONTHS[then.getMonth()]}${year}, ${time}`;
}

// A setting as text: numbers as they are, yes and no for switches.
export function setting(value) {
  if (value === null || value === undefined) return NONE;
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return Number.isInteger(value) ? count(value) : general(value, 6);
  return value === "" ? NONE : value;
}
