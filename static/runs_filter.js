// The filter of the table of runs: lr>1e-4 state:finished tag:cosine -star words "two words"
// Terms are joined by "and".  A value may be several, separated by commas: any of them.

import { ACTIVE, FIXED, title } from "./runs_columns.js";

const TERM = /^(-?)([A-Za-z_][\w.-]*)(>=|<=|!=|[:=<>])(.*)$/s;
const UNITS = {
  s: 1, sec: 1, min: 60, m: 60, h: 3600, d: 86400, day: 86400, days: 86400,
  k: 1e3, K: 1e3, M: 1e6, G: 1e9, kB: 1e3, KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12, "%": 0.01, "it/s": 1,
};
const STATES = [...ACTIVE, "failed", "lost", "unreadable", "stopped", "finished"];
const WORDS = ["state", "tag", "name", "title", "is"];
const IS = { active: (row) => ACTIVE.includes(row.state), starred: (row) => Boolean(row.star), archived: (row) => Boolean(row.archived), damaged: (row) => Boolean(row.problem) };

// Returns { test(row), archived, error }: the first thing that is wrong; what is wrong is left out of the test.
export function parseFilter(text, columns) {
  const tests = [];
  let archived = false, error = "";
  for (const term of split(text)) {
    const found = TERM.exec(term);
    const made = found ? comparison(found, columns) : word(term);
    if (made.error) {
      error ||= made.error;
      continue;
    }
    archived ||= /^-?is[:=]archived$/.test(term);
    tests.push(made);
  }
  return { test: (row) => tests.every((test) => test(row)), archived, error };
}

// Terms are separated by blanks outside of double quotes.
export function split(text) {
  return (text.match(/(?:[^\s"]|"[^"]*"?)+/g) ?? []).map((term) => term.replaceAll('"', "")).filter(Boolean);
}

function word(term) {
  const no = term.length > 1 && term.startsWith("-");
  const sought = (no ? term.slice(1) : term).toLowerCase();
  const has = (row) => row.shown.toLowerCase().includes(sought) || title(row).toLowerCase().includes(sought);
  return no ? (row) => !has(row) : has;
}

function comparison([, minus, key, sign, given], columns) {
  if (!given) return { error: `${key}${sign} needs a value, as in lr>1e-4 or state:finished.` };
  const test = testOf(key, sign, given.split(",").filter(Boolean), columns);
  if (test.error) return test;
  return minus ? (row) => !test(row) : test;
}

function testOf(key, sign, values, columns) {
  const equal = sign === ":" || sign === "=" || sign === "!=";
  const any = (make) => {
    const tests = values.map(make);
    const wrong = tests.find((test) => test.error);
    if (wrong) return wrong;
    return sign === "!=" ? (row) => !tests.some((test) => test(row)) : (row) => tests.some((test) => test(row));
  };
  if (WORDS.includes(key)) {
    if (!equal) return { error: `${key} is text: write ${key}:${values[0]}.` };
    return any((value) => wordTest(key, value.toLowerCase()));
  }
  const column = columnOf(key, columns);
  if (!column) return { error: unknown(key, columns) };
  if (values.length > 1 && !equal) return { error: `${key}${sign} takes one value.` };
  return any((value) => valueTest(column, key, equal ? "=" : sign, value));
}

function wordTest(key, value) {
  if (key === "tag") return (row) => (row.tags ?? []).some((tag) => tag.toLowerCase() === value);
  if (key === "name") return (row) => row.shown.toLowerCase().includes(value);
  if (key === "title") return (row) => (row.title ?? "").toLowerCase().includes(value);
  if (key === "is") return IS[value] ?? { error: `is:${value} is not known: write is:${Object.keys(IS).join(", is:")}.` };
  if (value === "active") return (row) => ACTIVE.includes(row.state);
  if (!STATES.some((state) => state.startsWith(value))) return { error: `No run is in a state ${value}: there are ${STATES.join(", ")}.` };
  return (row) => row.state.startsWith(value);
}

// A key names a fixed column, a setting, or a metric: loss and last.loss its last value, lowest.loss its lowest.
function columnOf(key, columns) {
  const [kind, ...rest] = key.split(".");
  if (kind === "last" || kind === "lowest" || kind === "best") return columns.get(`${kind === "best" ? "lowest" : kind}:${rest.join(".")}`);
  return columns.get(`set:${key}`) ?? columns.get(`last:${key}`) ?? (FIXED.some((column) => column.id === key) ? columns.get(key) : undefined);
}

function valueTest(column, key, sign, given) {
  const read = readNumber(given);
  const number = column.id === "created" || column.id === "updated" ? age(given) ?? read : read;
  const truth = { yes: true, true: true, on: true, no: false, false: false, off: false }[given.toLowerCase()];
  if (sign !== "=" && number === undefined) return { error: `${given} is no number, and ${key}${sign} needs one.` };
  const wanted = given.toLowerCase();
  return (row) => {
    const value = column.value(row);
    if (value === undefined) return false;
    if (typeof value === "boolean") return truth === value;
    if (typeof value === "string") return sign === "=" && value.toLowerCase() === wanted;
    if (number === undefined) return false;
    if (sign === "=") return Math.abs(value - number) <= 1e-9 * Math.max(Math.abs(value), Math.abs(number));
    return sign === ">" ? value > number : sign === "<" ? value < number : sign === ">=" ? value >= number : value <= number;
  };
}

export function readNumber(text) {
  const found = /^([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z/%]*)$/.exec(text);
  if (!found || (found[2] && !(found[2] in UNITS))) return undefined;
  return Number(found[1]) * (found[2] ? UNITS[found[2]] : 1);
}

// created>2026-11-03, or created>2d: in the last two days.
function age(text) {
  if (/^\d{4}-\d{2}-\d{2}$/.test(text)) return new Date(`${text}T00:00`).getTime() / 1000;
  const seconds = /[a-z]$/.test(text) ? readNumber(text) : undefined;
  return seconds === undefined ? undefined : Date.now() / 1000 - seconds;
}

function unknown(key, columns) {
  const names = [...WORDS, ...[...columns.keys()].map((id) => id.replace(/^(set|last):/, "").replace(":", "."))];
  const near = names.map((name) => [distance(key.toLowerCase(), name), name]).sort((a, b) => a[0] - b[0])[0];
  return `No column is called ${key}${near && near[0] <= Math.max(1, key.length / 3) ? `: did you mean ${near[1]}?` : "."}`;
}

function distance(a, b) {
  let before = Array.from({ length: b.length + 1 }, (_, k) => k);
  for (let i = 1; i <= a.length; i++) {
    const now = [i];
    for (let j = 1; j <= b.length; j++) now[j] = Math.min(before[j] + 1, now[j - 1] + 1, before[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    before = now;
  }
  return before[b.length];
}
