// What was logged at the step that the page looks at, and keys that go from row to row.

import { query } from "./dom.js";
import { followStep, pin, point } from "./pin.js";
import { fetchJson } from "./poll.js";

const PAUSE = 100; // milliseconds between two questions while the cursor moves
const FIRST = 3000; // until the first row is asked for again, where there is none yet

export function mount({ parentElement, data }) {
  const find = (name) => parentElement.querySelector(name);
  const [bar, where, values, free, before, after] = [".bar", ".where", ".values", ".free", ".before", ".after"].map(find);
  let run = data.run, active = data.active, cursor = { step: null }, row = null, asking = false, again = false;
  let left = false, timer = 0;

  function draw() {
    bar.hidden = !row || row.step === null;
    if (bar.hidden) return;
    const rests = cursor.step === null;
    where.textContent = rests ? data.hint : `${cursor.pinned ? "Pinned: step" : "Step"} ${row.label}`;
    where.classList.toggle("hint", rests);
    free.hidden = !cursor.pinned;
    before.disabled = !rests && row.previous === null;
    after.disabled = rests || row.next === null;
    values.replaceChildren(...(rests ? [] : row.values).map(([label, text]) => {
      const pair = document.createElement("div"), term = document.createElement("dt"), value = document.createElement("dd");
      term.textContent = label;
      value.textContent = text;
      pair.append(term, value);
      return pair;
    }));
  }

  // One question at a time; what the cursor passed meanwhile is left out.
  async function follow() {
    clearTimeout(timer);
    again = true;
    if (asking) return;
    asking = true;
    while (again && !left) {
      again = false;
      const at = cursor.step === null ? "" : `&step=${cursor.step}`, of = run;
      try {
        const answer = await fetchJson(`run/row?${query({ run })}${at}`);
        if (of === run) { row = answer; draw(); }
      } catch { /* the server is away, and asked again below */ }
      await new Promise((done) => setTimeout(done, PAUSE));
    }
    asking = false;
    if (active && !left && bar.hidden) timer = setTimeout(follow, FIRST);
  }

  // From the newest row, which may be newer than the one that is known here.
  async function goBack() {
    if (cursor.step !== null) { go(row.previous); return; }
    const newest = await fetchJson(`run/row?${query({ run })}`).catch(() => row);
    if (cursor.step === null) go(newest.step);
  }

  const go = (step) => { if (step !== null) { if (cursor.pinned) pin(run, step); else point(run, step); } };
  before.onclick = goBack;
  after.onclick = () => go(row.next);
  free.onclick = () => { pin(run, null); before.focus(); };
  bar.onkeydown = (event) => {
    if (event.key === "ArrowLeft") goBack();
    else if (event.key === "ArrowRight") { if (cursor.step !== null) go(row.next); }
    else if (event.key === "Enter" && event.target === bar && cursor.step !== null) pin(run, cursor.pinned ? null : row.step);
    else if (event.key === "Escape" && cursor.step !== null) pin(run, null);
    else return;
    event.preventDefault();
  };

  const hear = (now) => { if (now.run === run) { cursor = now; draw(); follow(); } };
  let unfollow = followStep(run, hear);

  return {
    update: ({ data: now }) => {
      [data, active] = [now, now.active];
      if (now.run !== run) { run = now.run; row = null; unfollow(); unfollow = followStep(run, hear); } else follow();
    },
    leave: () => { left = true; clearTimeout(timer); unfollow(); },
  };
}
