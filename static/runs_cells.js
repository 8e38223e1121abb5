// What stands in the cells of the table of runs.

import { drawing, element, query } from "./dom.js";
import { count, percent } from "./formatting.js";
import { isActive, title } from "./runs_columns.js";

export const PREVIEW = 40; // pixels of a preview in a row

// Fills the cell of a column for a row.
export function fill(cell, column, row) {
  (FILL[column.kind] ?? plain)(cell, column, row);
}

function plain(cell, column, row) {
  cell.textContent = column.text(row);
  const hint = column.hint?.(row) ?? "";
  if (hint || cell.title) cell.title = hint;
}

const FILL = {
  text: plain,
  number: plain,
  setting: plain,
  name(cell, column, row) {
    const star = row.star ? element("span", { class: "star", role: "img", "aria-label": "starred" }, "★") : null;
    const link = element("a", { href: `monitor?${query({ run: row.name })}`, tabindex: "-1", "data-open": "monitor", class: "name" }, title(row));
    const below = row.title ? element("span", { class: "below" }, row.shown) : null;
    link.title = row.title ? `${row.title}\n${row.shown}` : row.shown;
    cell.replaceChildren(...[star, element("span", { class: "names" }, link, ...(below ? [below] : []))].filter(Boolean));
  },
  state(cell, column, row) {
    const hint = row.message || row.warning || row.computed || "";
    cell.replaceChildren(element("span", { class: `badge ${row.state.replace(" ", "-")}` }, row.state), ...(row.warning ? [element("span", { class: "warning", role: "img", "aria-label": row.warning }, "!")] : []));
    cell.title = [row.message, row.warning, row.computed].filter(Boolean).join("\n") || hint;
  },
  progress(cell, column, row) {
    const share = row.total ? Math.min(1, (row.step ?? 0) / row.total) : 0;
    const words = !row.total ? "–" : share >= 1 ? `${count(row.total)} steps` : `${percent(row.step ?? 0, row.total)} of ${count(row.total)}`;
    const bar = element("span", { class: "bar", "aria-hidden": "true" });
    const done = element("span", { class: isActive(row) ? "done live" : "done" });
    done.style.width = `${100 * share}%`;
    bar.append(done);
    cell.replaceChildren(element("span", { class: "share" }, words), bar);
    cell.title = column.text(row);
  },
  curve(cell, column, row) {
    const heights = row.curve ?? [];
    cell.replaceChildren();
    cell.title = heights.length ? `${row.curve_of} over the training, logarithmic` : "";
    if (heights.length < 2) return;
    const points = heights.map((height, k) => `${((100 * k) / (heights.length - 1)).toFixed(1)},${(25 - height / 4.2).toFixed(1)}`).join(" ");
    cell.append(
      drawing("svg", { viewBox: "0 0 100 27", preserveAspectRatio: "none", role: "img", "aria-label": `Curve of ${row.curve_of}` },
        drawing("polyline", { points, fill: "none", "vector-effect": "non-scaling-stroke" })),
    );
  },
  tags(cell, column, row) {
    cell.replaceChildren(...(row.tags ?? []).map((tag) => element("span", { class: "tag" }, tag)));
    cell.title = column.text(row);
  },
};

// The newest preview, fetched once it comes into sight.
export function fillPreview(cell, row) {
  const address = row.preview ? `data/preview?${query({ run: row.name, step: row.preview[0], at: row.preview[1], side: 2 * PREVIEW })}` : "";
  if (cell.dataset.shows === address) return;
  cell.dataset.shows = address;
  cell.title = "";
  if (!address) {
    cell.replaceChildren();
    return;
  }
  const image = element("img", { src: new URL(address, document.baseURI).href, alt: `Preview of ${title(row)} at step ${count(row.preview[0])}`, loading: "lazy", decoding: "async", width: PREVIEW, height: PREVIEW });
  image.addEventListener("error", async () => {
    const answer = await fetch(image.src).catch(() => null);
    const sentence = answer && !answer.ok ? (await answer.text()).trim() : "";
    if (cell.dataset.shows !== address || !sentence) return;
    cell.replaceChildren(element("span", { class: "warning", role: "img", "aria-label": sentence }, "!"));
    cell.title = sentence;
  }, { once: true });
  cell.replaceChildren(image);
}
