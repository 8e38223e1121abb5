// The columns of the table of runs: what each says of a run, and which are shown.
// A column: { id, label, kind, width, value(row), text(row), help }.  value: what is sorted and filtered by.

import { clock, count, general, percent, setting } from "./formatting.js";

export const ACTIVE = ["queued", "starting", "running", "stopping", "not responding"];
const STATES = [...ACTIVE, "failed", "lost", "unreadable", "stopped", "finished"];
const MOST_SETTINGS = 8; // columns of settings that are chosen by themselves

export const isActive = (row) => ACTIVE.includes(row.state);
export const title = (row) => row.title || row.shown;

const known = (value) => (value === null || value === undefined ? undefined : value);

export const FIXED = [
  { id: "name", label: "Run", kind: "name", width: 210, value: title, text: title },
  { id: "state", label: "State", kind: "state", width: 116, value: (row) => STATES.indexOf(row.state), text: (row) => row.state },
  {
    id: "progress", label: "Progress", kind: "progress", width: 118,
    value: (row) => (row.total ? row.step / row.total || 0 : undefined),
    text: (row) => (row.total ? `step ${count(row.step ?? 0)} of ${count(row.total)} · ${percent(row.step ?? 0, row.total)}` : "–"),
  },
  { id: "curve", label: "Loss curve", kind: "curve", width: 112, value: (row) => known(row.last?.[row.curve_of]), text: (row) => row.curve_of ?? "" },
  timed("trained", "Trained for"),
  timed("left", "Time left"),
  timed("speed", "Speed", 86),
  { id: "disk", label: "Disk", kind: "number", width: 80, value: (row) => row.disk, text: (row) => row.disk_text ?? "–" },
  { id: "created", label: "Created", kind: "text", width: 138, value: (row) => row.created || undefined, text: (row) => clock(row.created) },
  { id: "updated", label: "Last update", kind: "text", width: 138, value: (row) => known(row.updated), text: (row) => clock(row.updated) },
  { id: "step", label: "Step", kind: "number", width: 86, value: (row) => row.step, text: (row) => (row.step === undefined ? "–" : count(row.step)) },
  { id: "total", label: "Steps in all", kind: "number", width: 96, value: (row) => row.total || undefined, text: (row) => (row.total ? count(row.total) : "–") },
  { id: "tags", label: "Tags", kind: "tags", width: 130, value: (row) => row.tags?.join(" ") || undefined, text: (row) => row.tags?.join(", ") ?? "" },
];

function timed(id, label, width = 104) {
  return { id, label, kind: "number", width, value: (row) => known(row[id]), text: (row) => (known(row[id]) === undefined ? "–" : row.texts[id]) };
}

const USUAL = ["name", "state", "progress", "curve", "last:loss"];
const AFTER = ["trained", "left", "speed", "disk", "created"]; // stand after the settings that differ
const COUNTERS = ["step", "samples", "seconds"];

function metricColumn(kind, name, help) {
  const last = kind === "last";
  return {
    id: `${kind}:${name}`, label: last ? name : `lowest ${name}`, kind: "number", width: Math.max(84, 18 + 7.4 * (last ? name : `lowest ${name}`).length), help,
    value: (row) => known(last ? row.last?.[name] : row.lowest?.[name]?.[0]),
    text: (row) => general(last ? row.last?.[name] : row.lowest?.[name]?.[0]),
    hint: (row) => (!last && row.lowest?.[name] ? `${name} ${general(row.lowest[name][0], 6)} at step ${count(row.lowest[name][1])}` : ""),
  };
}

function settingColumn(name, label, standard) {
  const value = (row) => (row.settings ? (name in row.settings ? row.settings[name] : standard) : undefined);
  return {
    id: `set:${name}`, label, kind: typeof standard === "number" ? "number" : "setting", width: Math.min(170, Math.max(84, 18 + 7.4 * label.length)), value: (row) => known(value(row)),
    text: (row) => (row.settings ? setting(value(row)) : "–"), help: name,
  };
}

// All columns that there can be, by id: those above, two of each metric that a run has, one of each setting.
export function allColumns(rows, legend) {
  const found = new Map(FIXED.map((column) => [column.id, column]));
  const metrics = new Set();
  for (const row of rows) for (const name in row.last ?? {}) metrics.add(name);
  for (const kind of ["last", "lowest"]) {
    for (const name of metrics) {
      if (kind === "lowest" && COUNTERS.includes(name)) continue;
      const column = metricColumn(kind, name, legend.metrics[name]);
      found.set(column.id, column);
    }
  }
  for (const [name, label, standard] of legend.settings) found.set(`set:${name}`, settingColumn(name, label, standard));
  return found;
}

// Ids of the settings that differ among these runs: those that are asked for first come first.
export function differing(rows, legend) {
  const whole = rows.filter((row) => row.settings);
  const names = new Set();
  for (const row of whole) for (const name in row.settings) names.add(name);
  const found = [];
  for (const [name, , standard, basic] of legend.settings) {
    if (!names.has(name)) continue;
    const values = new Set(whole.map((row) => (name in row.settings ? row.settings[name] : standard)));
    if (values.size > 1) found.push([basic ? 0 : 1, `set:${name}`]);
  }
  return found.sort((a, b) => a[0] - b[0]).map(([, id]) => id);
}

// Which columns are shown, in order.  choice: { added, removed }, ids that the user chose.
export function shownColumns(columns, rows, legend, choice) {
  const chosen = [...USUAL, ...differing(rows, legend).slice(0, MOST_SETTINGS), ...AFTER];
  const extra = choice.added.filter((id) => !chosen.includes(id));
  const place = chosen.indexOf(AFTER[0]);
  const ids = [...chosen.slice(0, place), ...extra, ...chosen.slice(place)];
  return ids.filter((id) => columns.has(id) && (id === "name" || !choice.removed.includes(id))).map((id) => columns.get(id));
}

// Rows in order.  sort: { id, down }; without one, active runs first, then the newest.
export function ordered(rows, columns, sort) {
  const newest = (a, b) => b.created - a.created || (a.name < b.name ? -1 : 1);
  const column = sort && columns.get(sort.id);
  if (!column) return [...rows].sort((a, b) => isActive(b) - isActive(a) || newest(a, b));
  const values = new Map(rows.map((row) => [row, column.value(row)]));
  const sign = sort.down ? -1 : 1;
  return [...rows].sort((a, b) => compare(values.get(a), values.get(b), sign) || newest(a, b));
}

// What is not known comes last, whichever way round.
function compare(a, b, sign) {
  if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
  if (typeof a === "string" || typeof b === "string") return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
  return sign * (a - b);
}
