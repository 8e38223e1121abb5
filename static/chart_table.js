// The metrics of each run at the place of the cursor, or at its end, as a table below the charts.

import { element } from "./chart_panel.js";
import { duration, grouped, short } from "./numbers.js";
import { lastOf } from "./scene.js";

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
    const where = x === undefined ? "at the end of each run" : chart.axis === "seconds" ? `after ${duration(x)}` : chart.axis === "samples" ? `after ${grouped(x)} images` : `at step ${grouped(x)}`;
    this.caption.textContent = `Metrics ${where}${chart.cursor?.pinned ? " (pinned)" : ""}`;
    const smoothed = panels[0]?.look.reach > 0;
    this.head.replaceChildren(...["Run", "Step", "Trained for", "Images", ...columns.flatMap(({ column }) => (smoothed ? [column, `${column}, smoothed`] : [column]))].map((text) => Object.assign(element("th", "", text), { scope: "col" })));
    this.body.replaceChildren(...chart.shownRuns().map((run) => {
      const cells = columns.map(({ panel, column }) => found(panel, run.name, column, x));
      const at = cells.find(Boolean);
      const row = element("tr");
      const name = Object.assign(element("th", "", run.label), { scope: "row" });
      name.style.setProperty("--line", chart.colour(run.colour));
      const axis = (key) => at?.part.axes[key]?.first[at.bucket];
      row.append(name, element("td", "", at ? grouped(axis("step")) : "–"), element("td", "", duration(axis("seconds"))), element("td", "", Number.isFinite(axis("samples")) ? grouped(axis("samples")) : "–"));
      for (const cell of cells) {
        row.append(element("td", "", short(cell?.value)));
        if (smoothed) row.append(element("td", "", short(cell?.smoothed)));
      }
      return row;
    }));
  }
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
  const last = part.head.stop === part.head.rows && k === c.count.length - 1;
  return { part, bucket: k, value: last ? part.head.newest[column] : c.first[k], smoothed: c.smoothed[k] };
}
