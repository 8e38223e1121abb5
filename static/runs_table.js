// The table of runs on Home: filter, columns, selection, and the grid.  What changes something is sent to the page.

import { element } from "./dom.js";
import { plural } from "./formatting.js";
import "./runs_cells.js"; // named here so that the browser fetches all modules at once
import { RunsClient } from "./runs_client.js";
import { FIXED, allColumns, ordered, shownColumns } from "./runs_columns.js";
import { parseFilter } from "./runs_filter.js";
import { Grid, HEAD, ROW } from "./runs_grid.js";
import { columnChooser, fits, openPanel, runMenu, whyNot } from "./runs_panels.js";
import { STYLE } from "./runs_style.js";
import { readView, writeView } from "./runs_view.js";

export function mount(component) {
  const table = new Table(component);
  return { update: (now) => table.update(now), leave: () => table.leave() };
}

class Table {
  constructor(component) {
    this.component = component;
    this.view = readView();
    this.grid = new Grid({
      onOpen: (row, page, event) => this.open(row, page, event),
      onSort: (id) => this.sortBy(id),
      onMenu: (row, anchor) => this.menu(row, anchor),
      onSelect: () => this.drawSelection(),
    });
    this.filter = element("input", {
      type: "search", class: "filter", value: this.view.filter, spellcheck: "false", autocomplete: "off", "aria-label": "Filter runs", "aria-describedby": "wrong",
      placeholder: "Filter: words, lr>1e-4, state:finished, tag:cosine", title: "Words of the name or title. lr>1e-4, loss<0.05, lowest.loss<0.05, state:finished, tag:cosine, is:active, created>2d; -tag:x leaves out; a,b is either. The key / comes here.",
    });
    this.filter.addEventListener("input", () => this.filtered());
    this.filter.addEventListener("keydown", (event) => this.filterKey(event));
    this.wrong = element("div", { class: "wrong", id: "wrong", role: "alert" });
    this.said = element("span", { class: "said", role: "status" });
    this.columnsButton = element("button", { type: "button", "aria-haspopup": "dialog", onclick: () => this.choose() }, "Columns");
    this.selection = element("div", { class: "selection", role: "toolbar", "aria-label": "Selected runs", hidden: true });
    this.trouble = element("div", { class: "trouble", role: "alert", hidden: true });
    this.nothing = element("div", { class: "nothing", hidden: true });
    this.room = element("div", { class: "room" },
      element("div", { class: "tools" }, this.filter, this.said, this.columnsButton), this.wrong, this.selection, this.trouble, this.grid.element, this.nothing);
    const style = element("style", {}, STYLE);
    component.parentElement.querySelector(".table").replaceChildren(style, this.room);
    this.slash = (event) => this.slashKey(event);
    this.fit = () => this.fitHeight();
    window.addEventListener("keydown", this.slash);
    window.addEventListener("resize", this.fit);
    this.client = new RunsClient({ onChange: (changed) => this.draw(changed), onTrouble: (sentence) => this.showTrouble(sentence) });
    this.draw(null);
  }

  update(component) {
    this.component = component;
    this.client.ask();
    this.drawSelection();
  }

  leave() {
    this.client.leave();
    this.grid.leave();
    window.removeEventListener("keydown", this.slash);
    window.removeEventListener("resize", this.fit);
  }

  // --- what is shown

  draw(changed) {
    const rows = [...this.client.rows.values()], { legend } = this.client;
    this.columns = allColumns(rows, legend);
    const parsed = this.client.loaded ? parseFilter(this.view.filter, this.columns) : { test: () => true };
    this.wrong.textContent = parsed.error ?? "";
    this.filter.setAttribute("aria-invalid", Boolean(parsed.error));
    const { test, archived = false } = parsed; // what is wrong is left out
    this.archived = archived;
    const found = rows.filter((row) => (archived || !row.archived) && test(row));
    const shown = shownColumns(this.columns, found, legend, this.view);
    this.shown = shown;
    this.grid.show(ordered(found, this.columns, this.view.sort), shown, this.view.sort, changed);
    for (const name of this.grid.selected) if (!this.client.rows.has(name)) this.grid.selected.delete(name);
    this.say(found.length, rows);
    this.drawSelection();
    this.fitHeight();
    this.room.dataset.loaded = this.client.loaded;
  }

  say(found, rows) {
    const hidden = rows.filter((row) => row.archived).length;
    const all = rows.length - (this.archived ? 0 : hidden);
    const text = found === all ? plural(all, "run") : `${found.toLocaleString("en")} of ${plural(all, "run")}`;
    this.said.textContent = this.client.loaded ? text + (hidden && !this.archived ? ` · ${hidden} archived` : "") : "Reading the runs …";
    this.nothing.hidden = found > 0 || !this.client.loaded;
    const away = hidden > 0 && hidden === rows.length && !this.view.filter.trim();
    this.nothing.textContent = found > 0 ? "" : away ? "All runs are archived: filter by is:archived." : "No run matches the filter.";
  }

  showTrouble(sentence) {
    this.trouble.textContent = sentence;
    this.trouble.hidden = !sentence;
  }

  fitHeight() {
    const view = this.grid.element, top = view.getBoundingClientRect().top + (this.scroller()?.scrollTop ?? 0);
    const room = Math.max(6 * ROW + HEAD, window.innerHeight - top - 28);
    view.style.height = `${Math.min(room, this.grid.rows.length * ROW + HEAD + 14)}px`;
  }

  scroller() {
    return document.querySelector("[data-testid=stMain]");
  }

  drawSelection() {
    const chosen = this.grid.chosen();
    this.selection.hidden = chosen.length === 0;
    const actions = chosen.length ? this.component.data.actions.filter((action) => fits(action, chosen)) : [];
    const said = JSON.stringify([chosen.map((row) => row.name), actions.map((action) => [action.what, action.label, whyNot(action, chosen)])]);
    if (said === this.drawnSelection) return; // a button that is drawn anew loses focus, and a click on it
    this.drawnSelection = said;
    const buttons = actions.map((action) => {
      const why = whyNot(action, chosen);
      return element("button", { type: "button", "aria-disabled": why ? "true" : null, title: why || null, onclick: () => { if (!why) this.act(action.what, this.grid.chosen()); } }, action.label);
    });
    this.selection.replaceChildren(element("span", { class: "how-many" }, `${plural(chosen.length, "run")} selected`), ...buttons,
      element("button", { type: "button", class: "plain", onclick: () => { this.grid.clear(); this.grid.element.focus(); } }, "Select none"));
  }

  // --- what the user does

  send(what, rows, more = {}) {
    this.component.setTriggerValue("act", { what, runs: rows.map((row) => row.name), ...more });
  }

  act(what, rows) {
    this.send(what, rows);
  }

  open(row, page, event) {
    if (row.problem) return;
    if (event?.ctrlKey || event?.metaKey) window.open(`${page}?run=${encodeURIComponent(row.name)}`, "_blank", "noopener");
    else this.send("open", [row], { page });
  }

  menu(row, anchor) {
    const { pages, actions } = this.component.data;
    const menu = runMenu(row, pages, actions, { onPage: (page) => this.open(row, page), onAction: (what) => this.act(what, [row]) });
    openPanel(this.room, anchor, menu);
    menu.querySelector("[role=menuitem]")?.focus();
  }

  sortBy(id) {
    const { sort } = this.view;
    const first = !["name", "state", "tags"].includes(id) && !id.startsWith("lowest:") && !id.startsWith("last:"); // largest first
    this.change({ sort: sort?.id !== id ? { id, down: first } : sort.down === first ? { id, down: !first } : null });
  }

  filtered() {
    this.change({ filter: this.filter.value });
    this.grid.element.scrollTop = 0;
  }

  change(what) {
    Object.assign(this.view, what);
    writeView(this.view);
    this.draw(new Set());
  }

  choose() {
    const columns = [...this.columns.values()], of = (kind) => columns.filter((column) => column.id.startsWith(`${kind}:`));
    const chooser = columnChooser(
      [["Run", FIXED], ["Metrics, last value", of("last")], ["Metrics, lowest value", of("lowest")], ["Settings", of("set")]],
      new Set(this.shown.map((column) => column.id)),
      { onChange: (id, wanted) => this.column(id, wanted), onReset: () => { this.change({ added: [], removed: [] }); this.choose(); } },
    );
    openPanel(this.room, this.columnsButton, chooser);
    chooser.querySelector("input").focus();
  }

  column(id, wanted) {
    const without = (ids) => ids.filter((one) => one !== id);
    this.change({ added: wanted ? [...without(this.view.added), id] : without(this.view.added), removed: wanted ? without(this.view.removed) : [...without(this.view.removed), id] });
  }

  filterKey(event) {
    if (event.key === "Escape" && this.filter.value) {
      this.filter.value = "";
      this.filtered();
    } else if (event.key === "ArrowDown" || event.key === "Enter") {
      this.grid.element.focus();
      this.grid.goTo(Math.max(0, this.grid.at.row));
    } else return;
    event.preventDefault();
  }

  slashKey(event) {
    const typing = event.composedPath()[0];
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || typing?.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(typing?.tagName ?? "")) return;
    if (document.querySelector("[role=dialog]")) return;
    event.preventDefault();
    this.filter.focus();
    this.filter.select();
  }
}
