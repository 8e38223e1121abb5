// A short tour of a page, in a corner of the window: each step points at a part of the page, and says what it is for.

import { element } from "./dom.js";

const KEY = "ddpm-tour", SEEN = "seen";
const STYLE = `
.tour { position: fixed; right: 1.5rem; bottom: 1.5rem; z-index: 1000; width: min(22rem, calc(100vw - 3rem));
  box-sizing: border-box; padding: 1rem 1.1rem; font-family: var(--st-font); color: var(--st-text-color);
  background: var(--st-background-color); border: 1px solid var(--st-primary-color);
  border-radius: var(--st-base-radius); box-shadow: 0 8px 30px rgb(0 0 0 / 0.28); line-height: 1.5; }
.tour h2 { font-size: 1rem; margin: 0 0 0.3rem; }
.tour p { margin: 0 0 0.8rem; font-size: 0.9rem; }
.tour .row { display: flex; gap: 0.5rem; align-items: center; }
.tour .count { flex: 1; font-size: 0.85rem; }
.tour button { font: inherit; font-size: 0.9rem; color: inherit; cursor: pointer; min-height: 2rem; padding: 0 0.75rem;
  background: var(--st-background-color); border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius); }
.tour button:hover { border-color: var(--st-primary-color); }
.tour button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
`;

// data: [{ title, text, selectors }]: a step points at the first of its selectors that the page has.
export function mount(component) {
  const steps = component.data;
  let at = 0, pointed = null, now = component;
  const room = element("div", { class: "tour", role: "region", "aria-label": "Tour of this page" });
  const title = element("h2", {}), text = element("p", { "aria-live": "polite" }), place = element("span", { class: "count" });
  const back = element("button", { type: "button", onclick: () => show(at - 1) }, "Back");
  const next = element("button", { type: "button", onclick: () => (at + 1 < steps.length ? show(at + 1) : end()) });
  const skip = element("button", { type: "button", onclick: () => end() }, "Skip");
  const keyed = (event) => { if (event.key === "Escape") end(); };
  room.addEventListener("keydown", keyed);
  room.append(title, text, element("div", { class: "row" }, place, skip, back, next));

  function point(target) {
    if (pointed) pointed.style.outline = pointed.style.outlineOffset = "";
    pointed = target;
    if (!target) return;
    target.style.outline = "3px solid var(--st-primary-color, #5c7cfa)";
    target.style.outlineOffset = "4px";
    target.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }

  function show(step) {
    at = step;
    title.textContent = steps[at].title;
    text.textContent = steps[at].text;
    place.textContent = `${at + 1} of ${steps.length}`;
    back.hidden = at === 0;
    next.textContent = at + 1 < steps.length ? "Next" : "Done";
    skip.hidden = at + 1 === steps.length;
    point(steps[at].selectors.map((selector) => document.querySelector(selector)).find(Boolean) ?? null);
  }

  function end() {
    try {
      localStorage.setItem(KEY, SEEN);
    } catch { /* it is over for this visit, at least */ }
    point(null);
    room.remove();
    now.setTriggerValue("over", true);
  }

  let seen = false;
  try {
    seen = localStorage.getItem(KEY) === SEEN;
  } catch { /* a browser that keeps nothing is shown it again */ }
  if (seen) now.setTriggerValue("over", true);
  else {
    component.parentElement.append(element("style", {}, STYLE), room);
    show(0);
  }
  return { update: (component) => { now = component; }, leave: () => { point(null); room.remove(); } };
}
