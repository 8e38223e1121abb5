// The grid of the table of runs: only the rows in sight are in the page.  Arrows move, space selects, Enter opens.

import { element } from "./dom.js";
import { fill, fillPreview } from "./runs_cells.js";
import { title } from "./runs_columns.js";

export const ROW = 48, HEAD = 36; // pixels
const BEYOND = 6; // rows drawn above and below what is in sight
const LEAD = [{ id: "select", label: "Select", width: 36 }, { id: "preview", label: "Preview", width: 52 }];
const TAIL = [{ id: "menu", label: "Actions", width: 44 }];

let grids = 0;

export class Grid {
  // onOpen(row, page, event), onSort(id), onMenu(row, anchor), onSelect(): what the user does.
  constructor(events) {
    this.events = events;
    this.id = `runs-${++grids}`;
    this.rows = [];
    this.columns = [];
    this.drawn = new Map(); // name -> { element, row, cells }
    this.selected = new Set();
    this.at = { row: 0, column: 0 }; // row -1 is the head
    this.head = element("div", { class: "head", role: "row", "aria-rowindex": "1" });
    this.body = element("div", { class: "body", role: "rowgroup" });
    this.element = element("div", { class: "grid", role: "grid", tabindex: "0", "aria-label": "Runs", "aria-multiselectable": "true" }, this.head, this.body);
    this.element.addEventListener("scroll", () => this.later());
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.element.addEventListener("click", (event) => this.click(event));
    this.element.addEventListener("dblclick", (event) => this.twice(event));
    this.element.addEventListener("focus", () => this.point());
    this.element.addEventListener("blur", () => this.point());
    this.sizes = new ResizeObserver(() => this.later());
    this.sizes.observe(this.element);
  }

  leave() {
    this.sizes.disconnect();
    cancelAnimationFrame(this.frame);
  }

  // Shows these rows in this order; changed: names whose rows differ, null for all.
  show(rows, columns, sort, changed) {
    const name = this.rows[this.at.row]?.name;
    const sameColumns = this.columns.map((c) => c.id).join() === columns.map((c) => c.id).join();
    this.rows = rows;
    this.columns = columns;
    this.sort = sort;
    if (name && this.rows[this.at.row]?.name !== name) {
      const moved = rows.findIndex((row) => row.name === name);
      if (moved >= 0) this.at.row = moved;
    }
    this.at.row = Math.min(this.at.row, rows.length - 1);
    const all = [...LEAD, ...columns, ...TAIL];
    this.all = all;
    this.at.column = Math.min(this.at.column, all.length - 1);
    this.element.style.setProperty("--template", all.map((c) => (c.id === "name" ? `minmax(${c.width}px, 1.6fr)` : LEAD.includes(c) || TAIL.includes(c) ? `${c.width}px` : `minmax(${c.width}px, 1fr)`)).join(" "));
    this.element.style.setProperty("--width", `${all.reduce((sum, c) => sum + c.width, 0)}px`);
    this.element.setAttribute("aria-rowcount", rows.length + 1);
    this.element.setAttribute("aria-colcount", all.length);
    this.body.style.height = `${rows.length * ROW}px`;
    this.drawHead();
    if (!sameColumns || changed === null) this.forget();
    else for (const one of changed) this.drawn.get(one)?.element.remove(), this.drawn.delete(one);
    this.draw();
  }

  forget() {
    for (const { element: gone } of this.drawn.values()) gone.remove();
    this.drawn.clear();
  }

  drawHead() {
    const key = JSON.stringify([this.all.map((c) => [c.id, c.label]), this.sort]);
    if (key === this.headKey) return this.markAll();
    this.headKey = key;
    this.box = element("input", { type: "checkbox", tabindex: "-1", "aria-label": "Select all runs shown" });
    this.head.replaceChildren(...this.all.map((column, k) => {
      const cell = element("div", { class: `cell ${column.kind ?? column.id}`, role: "columnheader", id: `${this.id}-head-${k}`, "aria-colindex": k + 1, "data-column": column.id });
      if (column.id === "select") cell.append(this.box);
      else if (!column.value) cell.append(element("span", { class: "hidden" }, column.label));
      else {
        const down = this.sort?.id === column.id ? this.sort.down : undefined;
        cell.setAttribute("aria-sort", down === undefined ? "none" : down ? "descending" : "ascending");
        cell.append(element("button", { type: "button", tabindex: "-1", "data-sort": column.id, title: column.help ?? "" }, column.label, element("span", { class: "arrow", "aria-hidden": "true" }, down === undefined ? "" : down ? "↓" : "↑")));
      }
      return cell;
    }));
    this.markAll();
  }

  later() {
    this.frame ??= requestAnimationFrame(() => { this.frame = undefined; this.draw(); });
  }

  draw() {
    const first = Math.max(0, Math.floor(this.element.scrollTop / ROW) - BEYOND);
    const last = Math.min(this.rows.length, Math.ceil((this.element.scrollTop + this.element.clientHeight) / ROW) + BEYOND);
    const wanted = new Map();
    for (let k = first; k < last; k++) wanted.set(this.rows[k].name, k);
    for (const [name, { element: gone }] of this.drawn) if (!wanted.has(name)) gone.remove(), this.drawn.delete(name);
    let before = null; // rows stand in the page in their order, as they are read aloud
    for (const [name, k] of wanted) {
      let one = this.drawn.get(name);
      if (!one) this.drawn.set(name, (one = this.make(this.rows[k])));
      const place = before ? before.nextSibling : this.body.firstChild;
      if (place !== one.element) this.body.insertBefore(one.element, place);
      before = one.element;
      one.element.style.transform = `translateY(${k * ROW}px)`;
      if (one.index !== k) {
        one.index = k;
        one.element.setAttribute("aria-rowindex", k + 2);
        one.element.querySelectorAll("[role=gridcell]").forEach((cell) => { cell.id = `${this.id}-${k}-${cell.dataset.place}`; });
      }
      this.mark(one.element, name);
    }
    this.point();
  }

  make(row) {
    const made = element("div", { class: row.problem ? "row broken" : "row", role: "row" });
    made.dataset.run = row.name;
    const columns = row.problem ? this.all.filter((c) => ["select", "preview", "name", "state", "menu"].includes(c.id)) : this.all;
    columns.forEach((column) => {
      const place = this.all.indexOf(column);
      const cell = element("div", { class: `cell ${column.kind ?? column.id}`, role: "gridcell", "aria-colindex": place + 1, "data-place": place, "data-column": column.id });
      cell.style.gridColumn = place + 1;
      if (column.id === "select") cell.append(element("input", { type: "checkbox", tabindex: "-1", "aria-label": `Select ${title(row)}` }));
      else if (column.id === "preview") fillPreview(cell, row);
      else if (column.id === "menu") cell.append(element("button", { type: "button", tabindex: "-1", class: "more", "aria-haspopup": "menu", "aria-label": `Actions of ${title(row)}` }, "⋯"));
      else fill(cell, column, row);
      made.append(cell);
    });
    if (row.problem) {
      const place = this.all.findIndex((c) => c.id === "state") + 1;
      const cell = element("div", { class: "cell problem", role: "gridcell", "data-place": place, "data-column": "problem", title: row.problem }, row.problem);
      cell.style.gridColumn = `${place + 1} / ${this.all.length}`;
      made.append(cell);
    }
    return { element: made, row };
  }

  mark(made, name) {
    const chosen = this.selected.has(name);
    made.setAttribute("aria-selected", chosen);
    made.querySelector("input").checked = chosen;
  }

  markAll() {
    const chosen = this.rows.filter((row) => this.selected.has(row.name)).length;
    this.box.checked = chosen > 0 && chosen === this.rows.length;
    this.box.indeterminate = chosen > 0 && chosen < this.rows.length;
  }

  // Says which cell the keyboard is at.
  point() {
    this.element.querySelectorAll(".at").forEach((cell) => cell.classList.remove("at"));
    const id = this.at.row < 0 ? `${this.id}-head-${this.at.column}` : `${this.id}-${this.at.row}-${this.at.column}`;
    const cell = [...this.head.children, ...this.body.querySelectorAll("[role=gridcell]")].find((one) => one.id === id);
    if (cell) this.element.setAttribute("aria-activedescendant", id);
    else this.element.removeAttribute("aria-activedescendant");
    cell?.classList.add("at");
  }

  goTo(row, column = this.at.column) {
    this.at = { row: Math.max(-1, Math.min(this.rows.length - 1, row)), column: Math.max(0, Math.min(this.all.length - 1, column)) };
    const view = this.element, top = this.at.row * ROW;
    if (this.at.row >= 0) {
      if (top < view.scrollTop) view.scrollTop = top;
      else if (top + ROW > view.scrollTop + view.clientHeight - HEAD) view.scrollTop = top + ROW - view.clientHeight + HEAD;
    }
    this.draw();
    const head = this.head.children[this.at.column], fixed = LEAD.reduce((sum, c) => sum + c.width, 0) + 210;
    if (this.at.column > LEAD.length) {
      if (head.offsetLeft < view.scrollLeft + fixed) view.scrollLeft = head.offsetLeft - fixed;
      else if (head.offsetLeft + head.offsetWidth > view.scrollLeft + view.clientWidth) view.scrollLeft = head.offsetLeft + head.offsetWidth - view.clientWidth;
    } else view.scrollLeft = 0;
  }

  select(names, how = "toggle") {
    if (how === "only") this.selected.clear();
    for (const name of names) how === "toggle" && this.selected.has(name) ? this.selected.delete(name) : this.selected.add(name);
    for (const [name, one] of this.drawn) this.mark(one.element, name);
    this.markAll();
    this.events.onSelect();
  }

  clear() {
    this.select([], "only");
  }

  chosen() {
    return this.rows.filter((row) => this.selected.has(row.name));
  }

  key(event) {
    if (event.target !== this.element) return;
    const { row, column } = this.at, page = Math.max(1, Math.floor(this.element.clientHeight / ROW) - 2);
    const to = { ArrowDown: [row + 1], ArrowUp: [row - 1], PageDown: [row + page], PageUp: [Math.max(0, row - page)], ArrowRight: [row, column + 1], ArrowLeft: [row, column - 1], Home: event.ctrlKey ? [0] : [row, 0], End: event.ctrlKey ? [this.rows.length - 1] : [row, this.all.length - 1] }[event.key];
    const here = this.rows[row];
    if (to) {
      this.goTo(...to);
      if (event.shiftKey && this.at.row >= 0 && this.at.row !== row) this.select([here, this.rows[this.at.row]].filter(Boolean).map((one) => one.name), "add");
    } else if (event.key === " " && here) this.select([here.name]);
    else if (event.key === "a" && (event.ctrlKey || event.metaKey)) this.select(this.rows.map((one) => one.name), "add");
    else if (event.key === "Escape" && this.selected.size) this.clear();
    else if (event.key === "Enter" && row < 0) this.headKeyed();
    else if (event.key === "Enter" && this.all[column].id === "menu" && here) this.openMenu(here);
    else if ((event.key === "ContextMenu" || (event.key === "F10" && event.shiftKey)) && here) this.openMenu(here);
    else if (event.key === "Enter" && here) this.events.onOpen(here, "monitor", event);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  openMenu(row) {
    this.goTo(this.at.row); // it may be out of sight, and is not drawn then
    this.events.onMenu(row, this.drawn.get(row.name).element.querySelector(".more"));
  }

  headKeyed() {
    const column = this.all[this.at.column];
    if (column.id === "select") this.selectAll();
    else if (column.value) this.events.onSort(column.id);
  }

  selectAll() {
    const all = this.chosen().length === this.rows.length;
    this.select(all ? [] : this.rows.map((row) => row.name), "only");
  }

  click(event) {
    const sort = event.target.closest("[data-sort]");
    if (sort) return this.events.onSort(sort.dataset.sort);
    if (event.target === this.box) return this.selectAll();
    const made = event.target.closest("[data-run]");
    if (!made) return;
    const index = this.rows.findIndex((row) => row.name === made.dataset.run), row = this.rows[index];
    const link = event.target.closest("[data-open]");
    if (link) {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return; // the browser's own: a new tab
      event.preventDefault();
      return this.events.onOpen(row, link.dataset.open, event);
    }
    if (event.target.closest(".more")) return this.events.onMenu(row, event.target.closest(".more"));
    const before = this.at.row;
    this.at = { row: index, column: Number(event.target.closest("[data-place]")?.dataset.place ?? 0) };
    this.point();
    if (event.shiftKey && before >= 0) this.select(this.rows.slice(Math.min(before, index), Math.max(before, index) + 1).map((one) => one.name), "add");
    else if (event.ctrlKey || event.metaKey || event.target.closest(".select")) this.select([row.name]);
  }

  twice(event) {
    const made = event.target.closest("[data-run]");
    if (made && !event.target.closest("a, button, input")) this.events.onOpen(this.rows.find((row) => row.name === made.dataset.run), "monitor", event);
  }
}

