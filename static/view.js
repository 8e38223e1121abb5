// How the charts of a page are looked at, in its address: ?x=time&smooth=0.8&log=false&columns=loss,lr&step=1200

const DEFAULTS = { x: "step", smooth: 0.6, log: true, columns: null, step: null };
const AXES = { step: "step", time: "seconds", images: "samples" }; // name in the address -> column

export function parse(search) {
  const query = new URLSearchParams(search);
  const smooth = Number(query.get("smooth") ?? NaN);
  const step = Number(query.get("step") ?? NaN);
  const part = query.get("part"); // of links to the chart of a loss by quarters of the timesteps, as there once was
  const columns = (query.get("columns") ?? "").split(",").filter(Boolean);
  return {
    x: Object.hasOwn(AXES, query.get("x")) ? query.get("x") : DEFAULTS.x,
    smooth: query.has("smooth") && smooth >= 0 && smooth <= 0.99 ? smooth : DEFAULTS.smooth,
    log: query.get("log") === "false" ? false : DEFAULTS.log,
    columns: columns.length ? columns : null,
    more: part && /^\w{1,32}$/.test(part) ? [`${part}_q`] : [],
    step: query.has("step") && step >= 0 ? step : null,
  };
}

// The query with `view` in it; what is as by default is left out.
export function write(search, view) {
  const query = new URLSearchParams(search);
  for (const name of Object.keys(DEFAULTS)) {
    const value = view[name];
    if (value === null || value === DEFAULTS[name]) query.delete(name);
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

export function changeView(changed) {
  current = { ...view(), ...changed };
  history.replaceState(history.state, "", location.pathname + write(location.search, current) + location.hash);
  for (const listen of [...listeners]) listen(current);
}

// Calls `listen(view)` after each change; returns a function that ends it.
export function followView(listen) {
  listeners.add(listen);
  return () => listeners.delete(listen);
}
