// What opens over the table of runs: the actions of a run, and the choice of columns.

import { element, query } from "./dom.js";
import { ACTIVE, title } from "./runs_columns.js";

// A panel below its anchor, inside `room`.  Escape, a click elsewhere and leaving it by Tab close it.
export function openPanel(room, anchor, content, onClose = () => {}) {
  room.querySelector(".panel")?.close();
  const panel = element("div", { class: "panel" }, content);
  const root = room.getRootNode();
  const home = anchor.closest("[role=grid]") ?? anchor; // the row itself may be drawn anew meanwhile
  const close = (back = false) => {
    window.removeEventListener("pointerdown", outside, true);
    if (!panel.isConnected) return;
    panel.remove();
    onClose();
    if (back) home.focus();
  };
  const outside = (event) => { if (!event.composedPath().includes(panel) && !event.composedPath().includes(anchor)) close(); };
  panel.close = close;
  panel.addEventListener("keydown", (event) => {
    if (event.key === "Escape" || (event.key === "Tab" && panel.firstChild.getAttribute("role") === "menu")) {
      event.stopPropagation();
      event.preventDefault();
      close(true);
    }
  });
  panel.addEventListener("focusout", (event) => { if (event.relatedTarget && !panel.contains(event.relatedTarget) && root.contains(event.relatedTarget)) close(); });
  window.addEventListener("pointerdown", outside, true);
  room.append(panel);
  const [frame, from] = [room.getBoundingClientRect(), anchor.getBoundingClientRect()];
  const below = from.bottom - frame.top + 4, height = panel.offsetHeight;
  panel.style.left = `${Math.max(0, Math.min(from.left - frame.left, frame.width - panel.offsetWidth))}px`;
  panel.style.top = `${from.bottom + 4 + height > window.innerHeight && from.top - height > 0 ? from.top - frame.top - height - 4 : below}px`;
  return panel;
}

// pages: [[address, label]]; actions: [{ what, label, idle, many }]; onPage(page), onAction(what).
export function runMenu(row, pages, actions, { onPage, onAction }) {
  const items = [];
  if (!row.problem) {
    for (const [page, label] of pages) {
      items.push(element("a", { role: "menuitem", tabindex: "-1", href: `${page}?${query({ run: row.name })}`, "data-page": page }, label));
    }
    items.push(element("hr", { role: "separator" }));
  }
  for (const action of actions) {
    if ((row.problem && !action.broken) || !fits(action, [row])) continue;
    const why = whyNot(action, [row]);
    items.push(element("button", { type: "button", role: "menuitem", tabindex: "-1", "data-what": action.what, "aria-disabled": why ? "true" : null, title: why || null }, action.label));
  }
  const menu = element("div", { role: "menu", "aria-label": `Actions of ${title(row)}` }, ...items);
  const places = () => [...menu.querySelectorAll("[role=menuitem]")];
  menu.addEventListener("keydown", (event) => {
    const all = places(), at = all.indexOf(event.target);
    const to = { ArrowDown: (at + 1) % all.length, ArrowUp: (at + all.length - 1) % all.length, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    all[to].focus();
  });
  menu.addEventListener("click", (event) => {
    const item = event.target.closest("[role=menuitem]");
    if (!item || item.getAttribute("aria-disabled")) return;
    if (item.dataset.page) {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      onPage(item.dataset.page);
    } else onAction(item.dataset.what);
    menu.parentElement?.close();
  });
  return menu;
}

// Whether an action makes sense for these runs: only what has a star loses it.
export function fits(action, rows) {
  if (rows.length > 1 ? !action.many : action.together) return false;
  if (rows.length === 1 && action.what === "tag") return false; // "Title, tags, notes" has it
  return rows.some((row) => (action.only ? row[action.only] : action.unless ? !row[action.unless] : true));
}

// Why an action cannot be done on these runs; "" if it can.
export function whyNot(action, rows) {
  const busy = action.idle ? rows.find((row) => ACTIVE.includes(row.state)) : undefined;
  if (busy) return rows.length > 1 ? `${title(busy)} is ${busy.state}: stop it first.` : `It is ${busy.state}: stop it first.`;
  if (action.needs && !rows.some((row) => row.last && Object.keys(row.last).length)) return "There are no metrics yet.";
  return "";
}

// groups: [[label, [column]]]; shown: ids.  onChange(id, wanted), onReset().
export function columnChooser(groups, shown, { onChange, onReset }) {
  const find = element("input", { type: "search", placeholder: "Find a column", "aria-label": "Find a column" });
  const lists = groups.filter(([, columns]) => columns.length).map(([label, columns]) => {
    const boxes = columns.map((column) => {
      const box = element("input", { type: "checkbox", "data-column": column.id, onchange: (event) => onChange(column.id, event.target.checked) });
      box.checked = shown.has(column.id);
      box.disabled = column.id === "name";
      return element("label", { title: column.help ?? null, "data-words": `${column.label} ${column.id}`.toLowerCase() }, box, element("span", {}, column.label));
    });
    return element("fieldset", {}, element("legend", {}, label), ...boxes);
  });
  find.addEventListener("input", () => {
    const words = find.value.trim().toLowerCase();
    for (const list of lists) {
      const labels = [...list.querySelectorAll("label")];
      for (const label of labels) label.hidden = !label.dataset.words.includes(words);
      list.hidden = labels.every((label) => label.hidden);
    }
  });
  const reset = element("button", { type: "button", onclick: onReset }, "As at first");
  return element("div", { role: "dialog", "aria-label": "Columns", class: "chooser" }, element("div", { class: "find" }, find, reset), ...lists);
}
