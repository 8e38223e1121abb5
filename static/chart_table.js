// The metrics of each run at the place of the cursor, or at its end, as a table below the charts.

import { element } from "./chart_panel.js";
import { count, duration, general } from "./formatting.js";
import { lastOf, lastValue } from "./scene.js";

export class Table {
  constructor(place) {
    this.place = place;
    this.caption = element("caption");
    this.head = element("tr");
    this.body = element("tbody");
    const [table, head] = [element("table"), element("thead")];
    head.append(this.head);
    table.append(this.caption, head, this.body);
    place.append(table);
  }

  draw(chart) {
    const panels = [...chart.panels.values()];
    const x = chart.cursor?.x;
    const columns = panels.flatMap((panel) => [...new Set(panel.drawn.map((line) => line.column))].map((column) => ({ panel, column })));
    const where = x === undefined ? "at the end of each run" : chart.axis === "seconds" ? `after ${duration(x)}` : chart.axis === "samples" ? `after ${count(x)} images` : `at step ${count(x)}`;
    this.caption.textContent = `Metrics ${where}${chart.cursor?.pinned ? " (pinned)" : ""}`;
    const smoothed = panels[0]?.look.reach > 0;
    const titles = columns.flatMap(({ column }) => (smoothed ? [column, `${column}, smoothed`] : [column]));
    fill(this.head, ["Run", "Step", "Trained for", "Images", ...titles], () => "th");
    for (const cell of this.head.children) cell.scope = "col";
    const runs = chart.shownRuns();
    while (this.body.children.length > runs.length) this.body.lastChild.remove();
    while (this.body.children.length < runs.length) this.body.append(element("tr"));
    runs.forEach((run, number) => {
      const cells = columns.map(({ panel, column }) => found(panel, run.name, column, x));
      const at = cells.find(Boolean);
      const axis = (key) => at?.part.axes[key]?.[at.end ? "last" : "first"][at.bucket] ?? NaN;
      const values = cells.flatMap((cell) => (smoothed ? [general(cell?.value), general(cell?.smoothed)] : [general(cell?.value)]));
      const row = this.body.children[number];
      fill(row, [run.label, count(axis("step")), duration(axis("seconds")), count(axis("samples")), ...values], (k) => (k ? "td" : "th"));
      row.firstChild.scope = "row";
      row.firstChild.style.setProperty("--line", chart.colour(run.colour));
    });
  }
}

// Texts in the cells of a row; those that stay as they are are left alone, as this is done while the pointer moves.
function fill(row, texts, tag) {
  if (row.children.length !== texts.length) row.replaceChildren(...texts.map((_, k) => element(tag(k))));
  texts.forEach((text, k) => {
    const cell = row.children[k];
    if (cell.textContent !== text) cell.textContent = text;
  });
}

// Value of a column of a run at x, or its last one; null where the run has none there.
function found(panel, run, column, x) {
  if (x !== undefined) {
    const one = panel.at(x).find(({ line }) => line.run === run && line.column === column);
    return one ? { part: one.line.part, bucket: one.bucket, value: one.value, smoothed: one.smoothed } : null;
  }
  const line = panel.drawn.find((drawn) => drawn.run === run && drawn.column === column);
  const k = line ? lastOf(line.curve) : -1;
  if (k < 0) return null;
  const { part, curve: c } = line;
  const end = part.head.stop === part.head.rows && k === c.count.length - 1;
  return { part, bucket: k, value: lastValue(part, column, c, k), smoothed: c.smoothed[k], end };
}
