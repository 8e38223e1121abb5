// How the charts of a page are looked at, in its address:
//     ?x=time&smooth=0.8&log=false&columns=loss,lr&step=1200&of=one&zoom=100,2500&hide=other&previews=blink&pair=0,2
// of: the run of which it is the step, unless it is the first; zoom: a range of the axis; hide: names of runs; previews: how they are compared; pair: numbers of two runs.

const DEFAULTS = { x: "step", smooth: 0.6, log: true, columns: null, step: null, of: null, zoom: null, hide: null, previews: "side", pair: null };
const NAMES = ["of", "hide"]; // are names of runs
const PREVIEWS = ["side", "blink", "difference"];
const AXES = { step: "step", time: "seconds", images: "samples" }; // name in the address -> column

export function parse(search) {
  const query = new URLSearchParams(search);
  const smooth = Number(query.get("smooth") ?? NaN);
  const step = Number(query.get("step") ?? NaN);
  const part = query.get("part"); // of links to the chart of a loss by quarters of the timesteps, as there once was
  const list = (name) => (query.get(name) ?? "").split(",").filter(Boolean);
  const columns = list("columns");
  const numbers = (name, wanted) => {
    const found = list(name).map(Number);
    return found.length === 2 && found.every(Number.isFinite) && wanted(...found) ? found : null;
  };
  return {
    x: Object.hasOwn(AXES, query.get("x")) ? query.get("x") : DEFAULTS.x,
    smooth: query.has("smooth") && smooth >= 0 && smooth <= 0.99 ? smooth : DEFAULTS.smooth,
    log: query.get("log") === "false" ? false : DEFAULTS.log,
    columns: columns.length ? columns : null,
    more: part && /^\w{1,32}$/.test(part) ? [`${part}_q`] : [],
    step: query.has("step") && step >= 0 ? step : null,
    of: list("of").map(decoded)[0] ?? null,
    zoom: numbers("zoom", (low, high) => low < high),
    hide: list("hide").map(decoded),
    previews: PREVIEWS.includes(query.get("previews")) ? query.get("previews") : DEFAULTS.previews,
    pair: numbers("pair", (one, other) => [one, other].every((k) => Number.isInteger(k) && k >= 0)),
  };
}

// Names with a comma in them stay whole.
const encoded = (name) => encodeURIComponent(name.toWellFormed());

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // as somebody typed it
  }
}

// The query with `view` in it; what is as by default is left out.
export function write(search, view) {
  const query = new URLSearchParams(search);
  for (const name of Object.keys(DEFAULTS)) {
    const value = NAMES.includes(name) && view[name] ? [view[name]].flat().map(encoded) : view[name];
    if (value === null || value === undefined || value.length === 0 || value === DEFAULTS[name]) query.delete(name);
    else query.set(name, Array.isArray(value) ? value.join(",") : String(value));
  }
  query.delete("part");
  const text = query.toString().replace(/%2C/g, ",");
  return text ? `?${text}` : "";
}

export function axisColumn(x) {
  return AXES[x];
}

const listeners = new Set();
let current = null;
let page = "";

// again: read the address anew, as it is when a chart appears.
export function view(again = false) {
  if (again || !current || page !== location.pathname) [current, page] = [parse(location.search), location.pathname];
  return current;
}

// kept: whether it goes into the address at once; while something is dragged, a browser takes offence at that.
export function changeView(changed, kept = true) {
  current = { ...view(), ...changed };
  if (kept) history.replaceState(history.state, "", location.pathname + write(location.search, current) + location.hash);
  for (const listen of [...listeners]) listen(current);
}

// Calls `listen(view)` after each change; returns a function that ends it.
export function followView(listen) {
  listeners.add(listen);
  return () => listeners.delete(listen);
}
