// Controls above the charts: axis, smoothing, scale, and which panels there are.

import { element } from "./chart_panel.js";
import { changeView, followView, view } from "./view.js";

const AXES = ["step", "time", "images"];

export function controls(place, chart) {
  const axis = element("div", "choice");
  axis.setAttribute("role", "radiogroup");
  axis.setAttribute("aria-label", "Horizontal axis");
  const name = `x-${Math.random().toString(36).slice(2)}`;
  for (const value of AXES) {
    const label = element("label");
    const input = Object.assign(element("input"), { type: "radio", name, value });
    input.onchange = () => changeView({ x: value });
    label.append(input, element("span", "", value));
    axis.append(label);
  }

  const smoothing = element("label", "smoothing");
  const slider = Object.assign(element("input"), { type: "range", min: 0, max: 0.99, step: 0.01 });
  const shown = element("output");
  smoothing.append(element("span", "", "Smoothing"), slider, shown);
  smoothing.title = "How much of the screen's width the bold line averages over. The faint line shows the logged values.";
  slider.oninput = () => changeView({ smooth: Number(slider.value) }, false);
  slider.onchange = () => changeView({ smooth: Number(slider.value) });

  const log = element("label", "log");
  const box = Object.assign(element("input"), { type: "checkbox" });
  log.append(box, element("span", "", "Log scale"));
  box.onchange = () => changeView({ log: box.checked });

  const menu = element("details", "menu");
  const list = element("div", "list");
  list.setAttribute("role", "group");
  list.setAttribute("aria-label", "Panels");
  menu.append(element("summary", "", "Panels"), list);
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  const closeOutside = (event) => { if (!event.composedPath().includes(menu)) menu.open = false; };
  document.addEventListener("pointerdown", closeOutside);

  const all = Object.assign(element("button", "reset", "Show all"), { type: "button", hidden: true });
  all.onclick = () => chart.showAll();
  const save = Object.assign(element("button", "save", "SVG"), { type: "button", title: "Download the charts as an image" });
  save.onclick = () => {
    if (!chart.shown) return; // no curve is drawn
    const link = Object.assign(document.createElement("a"), { download: "training.svg" });
    link.href = URL.createObjectURL(new Blob([chart.picture()], { type: "image/svg+xml" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  place.append(axis, smoothing, log, menu, all, save);

  const show = () => {
    const v = view();
    for (const input of axis.querySelectorAll("input")) input.checked = input.value === v.x;
    slider.value = v.smooth;
    shown.textContent = v.smooth.toFixed(2);
    box.checked = v.log;
  };
  show();
  chart.sizesLeft = followView(show);

  let listed = "";
  return {
    leave() {
      chart.sizesLeft();
      document.removeEventListener("pointerdown", closeOutside);
    },
    draw({ keys, possible, help, alike, zoomed }) {
      all.hidden = !zoomed;
      const now = JSON.stringify([keys, possible, alike]);
      if (now === listed) return;
      listed = now;
      list.replaceChildren(...possible.filter((key) => !(alike && key === "mse")).map((key) => {
        const label = element("label");
        const input = Object.assign(element("input"), { type: "checkbox", value: key, checked: keys.includes(key) });
        input.onchange = () => {
          const kept = [...list.querySelectorAll("input")].filter((other) => other.checked).map((other) => other.value);
          changeView({ columns: kept.length ? kept : null, more: [] });
        };
        const text = key.endsWith("_q") ? `${key.slice(0, -2)} by quarter of the timesteps` : alike && key === "loss" ? "loss = mse" : key === "eval_mse" ? "held-out loss" : key;
        label.append(input, element("span", "", text));
        label.title = help[key] ?? help[`${key}0`] ?? "";
        return label;
      }));
    },
  };
}
