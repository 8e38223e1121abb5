// The spikes of a panel as a list: step, value, and the previews before and after.

import { element } from "./chart_panel.js";
import { count, general, plural } from "./formatting.js";

const SHOWN = 50;

export class Spikes {
  constructor(chart) {
    this.chart = chart;
    this.previews = new Map(); // run -> promise of the steps that have one
  }

  draw(panel) {
    const spikes = panel.drawn.flatMap((line) => {
      const found = line.feed.whole?.head.spikes[line.column] ?? { highest: [], more: 0 };
      return found.highest.map(([, step, value]) => ({ line, step, value }));
    });
    const more = panel.drawn.reduce((sum, line) => sum + (line.feed.whole?.head.spikes[line.column]?.more ?? 0), 0);
    const all = spikes.length + more;
    const now = JSON.stringify(spikes.map(({ line, step, value }) => [line.run, line.column, step, value]));
    if (panel.spiked === now) return;
    panel.spiked = now;
    panel.spikes?.remove();
    if (!all) return;
    const list = element("details", "spikes");
    list.append(element("summary", "", `${plural(all, "spike")} beyond the axis ▲`));
    list.addEventListener("toggle", () => { if (list.open && !list.querySelector("ol")) list.append(this.list(spikes, all)); });
    panel.spikes = list;
    panel.heading.append(list);
  }

  list(spikes, all) {
    const rows = element("ol");
    const highest = [...spikes].sort((a, b) => b.value - a.value).slice(0, SHOWN);
    for (const { line, step, value } of highest) {
      const row = element("li");
      const button = Object.assign(element("button", "", `step ${count(step)}: ${general(value)}`), { type: "button" });
      const who = this.chart.several || line.label !== line.column ? ` ${line.label}` : "";
      button.onclick = () => this.chart.pin({ run: line.run, step, x: this.chart.placeOf(line.run, step) });
      const images = element("span", "around");
      row.append(button, who, images);
      rows.append(row);
      this.around(line.run, step).then((steps) => images.append(...steps.map((at) => image(line.run, at))));
    }
    if (all > highest.length) rows.append(element("li", "", `and ${count(all - highest.length)} lower ones`));
    return rows;
  }

  // Steps of the previews before and after a step.
  async around(run, step) {
    if (!this.previews.has(run))
      this.previews.set(run, fetch(new URL(`run/previews?${new URLSearchParams({ run })}`, document.baseURI))
        .then((answer) => (answer.ok ? answer.json() : {}))
        .then((found) => found.steps ?? [], () => []));
    const steps = await this.previews.get(run);
    return [steps.findLast((at) => at < step), steps.find((at) => at >= step)].filter((at) => at !== undefined);
  }
}

function image(run, step) {
  const made = element("img");
  made.src = new URL(`run/preview?${new URLSearchParams({ run, step: String(step), side: "120" })}`, document.baseURI).href;
  made.loading = "lazy";
  made.alt = made.title = `Preview at step ${count(step)}`;
  return made;
}
