// How the table is looked at: filter and sort in the address, which can be sent to others, and, with the columns, in the
// browser's storage, where they are found again after a visit elsewhere.

const KEY = "ddpm-runs";

export function readView() {
  const kept = stored(), asked = new URLSearchParams(window.location.search);
  const filter = asked.get("filter") ?? text(kept.filter);
  const sort = asked.has("sort") ? readSort(asked.get("sort")) : readSort(text(kept.sort));
  return { filter, sort, added: ids(kept.added), removed: ids(kept.removed) };
}

export function writeView(view) {
  const sort = view.sort ? `${view.sort.down ? "-" : ""}${view.sort.id}` : "";
  try {
    localStorage.setItem(KEY, JSON.stringify({ filter: view.filter, sort, added: view.added, removed: view.removed }));
  } catch { /* a browser that keeps nothing still has the address */ }
  const address = new URL(window.location.href);
  for (const [name, value] of [["filter", view.filter], ["sort", sort]]) value ? address.searchParams.set(name, value) : address.searchParams.delete(name);
  window.history.replaceState(window.history.state, "", address);
}

function readSort(text) {
  return text ? { id: text.replace(/^-/, ""), down: text.startsWith("-") } : null;
}

function stored() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return found && typeof found === "object" ? found : {};
  } catch {
    return {};
  }
}

const text = (value) => (typeof value === "string" ? value : "");
const ids = (value) => (Array.isArray(value) ? value.filter((one) => typeof one === "string") : []);
