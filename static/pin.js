// The step of a run that the whole page looks at: the pinned one, which the address keeps, or else the one pointed at.
//
// All parts of the page hear of it by the cursor of cursor.js: { run, step, pinned: false } points, with step null no
// more; { run, step, pinned: true } pins, with step null no more.

import { followCursor, sendCursor } from "./cursor.js";

const ARGUMENT = "step";
const state = { run: null, pinned: null, pointed: null };
const listeners = new Set();

// The step in a query string; null where there is none, or what is there is no step.
export function stepIn(search) {
  const text = new URLSearchParams(search).get(ARGUMENT) ?? "";
  return /^[0-9]{1,15}$/.test(text) ? Number(text) : null;
}

// The address with another step, or with none.
export function withStep(href, step) {
  const url = new URL(href);
  if (step === null) url.searchParams.delete(ARGUMENT); else url.searchParams.set(ARGUMENT, String(step));
  return url.href;
}

function keep(step) {
  const wanted = withStep(location.href, step);
  if (wanted !== location.href) history.replaceState(history.state, "", wanted);
}

// Another run: what was pinned in the one before leaves the address, a link's own step stays.
function turnTo(run) {
  if (run === state.run) return;
  const found = stepIn(location.search);
  const stale = state.run !== null && found === state.pinned;
  Object.assign(state, { run, pinned: stale ? null : found, pointed: null });
  if (stale) keep(null);
}

followCursor(({ run, step, pinned }) => {
  turnTo(run);
  if (pinned) { state.pinned = step; state.pointed = null; keep(step); } else state.pointed = step;
  for (const hear of listeners) hear(cursor());
});

function cursor() {
  return { run: state.run, step: state.pinned ?? state.pointed, pinned: state.pinned !== null };
}

// Calls `hear({ run, step, pinned })` now and whenever it changes; returns a function that ends it.
export function followStep(run, hear) {
  turnTo(run);
  listeners.add(hear);
  hear(cursor());
  return () => listeners.delete(hear);
}

export const point = (run, step) => sendCursor({ run, step, pinned: false });
export const pin = (run, step) => sendCursor({ run, step, pinned: true });
