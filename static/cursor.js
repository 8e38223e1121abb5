// The cursor that the parts of a page share: a step of a run that is pointed at, or pinned by a click.

const NAME = "ddpm:cursor";
let newest = null;
window.addEventListener(NAME, ({ detail }) => { newest = detail; });

// What was last said; null before anything was.
export const lastCursor = () => newest;

// step: null where nothing is pointed at.  more: what else the sender knows, as the place on an axis: { axis, x }
export function sendCursor({ run, step, pinned = false, ...more }) {
  window.dispatchEvent(new CustomEvent(NAME, { detail: { ...more, run, step, pinned } }));
}

// Calls `follow({ run, step, pinned })` from now on; returns a function that ends it.
export function followCursor(follow) {
  const hear = ({ detail }) => follow(detail);
  window.addEventListener(NAME, hear);
  return () => window.removeEventListener(NAME, hear);
}
