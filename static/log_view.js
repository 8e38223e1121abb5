// The log of a run: its end while nothing is pointed at, else what was logged around the step that the page looks at.

import { query } from "./dom.js";
import { followStep, pin, point } from "./pin.js";
import { fetchJson, poll } from "./poll.js";

const PAUSE = 150; // milliseconds between two questions for lines elsewhere, while the cursor moves

// Number of the last line that names `step`, or the nearest before it; -1 if none does.  lines: [[step or null, text]]
export function lineOf(lines, step) {
  let found = -1;
  lines.forEach(([named], k) => {
    if (named !== null && named <= step && (found < 0 || named >= lines[found][0])) found = k;
  });
  return found;
}

// Whether the lines say what was logged at `step`: it lies between the steps that they name.
export function covers(lines, end, step) {
  const named = lines.map(([one]) => one).filter((one) => one !== null);
  return named.length > 0 && named[0] <= step && (end || step <= named.at(-1));
}

export function mount({ parentElement, data }) {
  const box = parentElement.querySelector(".lines"), note = parentElement.querySelector(".note");
  let run = data.run, tail = null, shown = null, cursor = { step: null }, asking = false, wanted = null, left = false;
  let reading = false; // somebody has scrolled up by other means than the mouse, and reads

  const address = () => `run/log?${query({ run })}`;

  // Some of its text is selected: in Chrome the shadow root knows that, elsewhere the document.
  function chosen() {
    const found = (box.getRootNode().getSelection?.() ?? document.getSelection());
    return Boolean(found) && !found.isCollapsed && box.contains(found.anchorNode);
  }

  const later = () => chosen() || (reading && cursor.step === null);

  function draw(answer) {
    if (answer !== shown && shown !== null && later()) return; // see `again`
    if (answer !== shown) {
      const stays = shown === null || box.scrollTop + box.clientHeight >= box.scrollHeight - 30;
      shown = answer;
      box.replaceChildren(...answer.lines.map(([step, text]) => {
        const line = document.createElement("div");
        line.className = step === null ? "line" : "line named";
        if (step !== null) line.dataset.step = step;
        line.textContent = text;
        return line;
      }));
      note.textContent = data.empty;
      note.hidden = answer.lines.length > 0;
      if (stays && cursor.step === null) box.scrollTop = box.scrollHeight;
    }
    mark();
  }

  function mark() {
    const at = cursor.step === null ? -1 : lineOf(shown.lines, cursor.step);
    [...box.children].forEach((line, k) => {
      line.classList.toggle("at", k === at);
      line.classList.toggle("pinned", k === at && cursor.pinned === true);
    });
    if (cursor.step === null) { if (!box.matches(":hover") && !reading) box.scrollTop = box.scrollHeight; return; }
    const line = box.children[at];
    if (line && !box.matches(":hover")) {
      box.scrollTop += line.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 3;
    }
  }

  // The lines of the step that the page looks at, from what is there or from the server; one question at a time.
  async function follow() {
    const step = cursor.step;
    if (!tail) return;
    if (step === null || covers(tail.lines, tail.end, step)) { wanted = null; draw(tail); return; }
    if (shown && covers(shown.lines, shown.end, step)) { wanted = null; mark(); return; }
    wanted = step;
    if (asking) return;
    asking = true;
    try {
      while (wanted !== null && !left) {
        const step = wanted, of = run;
        wanted = null;
        const answer = await fetchJson(`${address()}&step=${step}`);
        if (of === run && cursor.step !== null) draw(answer);
        await new Promise((done) => setTimeout(done, PAUSE));
      }
    } catch { /* the server is away: the lines that are there stay, and the next step asks again */ }
    asking = false;
  }

  const stepUnder = (event) => {
    const line = event.target.closest(".named");
    return line ? Number(line.dataset.step) : null;
  };
  box.onpointerover = (event) => { const step = stepUnder(event); if (step !== null) point(run, step); };
  box.onpointerleave = () => point(run, null);
  box.onclick = (event) => {
    const step = stepUnder(event);
    if (step !== null && String(getSelection()) === "") pin(run, cursor.pinned && cursor.step === step ? null : step);
  };
  let top = 0;
  const again = () => { if (tail && shown !== tail && !later()) follow(); };
  box.onscroll = () => {
    const down = box.scrollTop > top;
    top = box.scrollTop;
    if (reading && down && box.scrollTop + box.clientHeight >= box.scrollHeight - 30) { reading = false; again(); }
  };
  const overflows = () => box.scrollHeight > box.clientHeight + 1;
  box.ontouchmove = () => { reading ||= overflows(); };
  document.addEventListener("selectionchange", again);
  box.onkeydown = (event) => {
    if (event.key === "PageUp" || event.key === "Home") { reading ||= overflows(); return; }
    const way = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const named = [...box.querySelectorAll(".named")], at = named.findIndex((line) => line.classList.contains("at"));
    if (event.key === "Enter" && cursor.step !== null) pin(run, cursor.pinned ? null : cursor.step);
    else if (way && named.length) {
      const step = Number(named[Math.max(0, Math.min(named.length - 1, (at < 0 ? named.length : at) + way))].dataset.step);
      if (cursor.pinned) pin(run, step); else point(run, step);
    } else return;
    event.preventDefault();
  };

  let asked = null, unfollow = null;
  function attend() {
    asked?.end();
    unfollow?.();
    tail = shown = null;
    box.replaceChildren();
    reading = false;
    unfollow = followStep(run, (now) => { if (now.run === run) { cursor = now; reading &&= now.step === null; follow(); } });
    asked = poll(address(), (answer) => {
      if (answer.error) { if (!tail) { note.textContent = answer.error; note.hidden = false; } return; }
      const atEnd = shown === tail;
      tail = answer;
      if (cursor.step === null || atEnd) follow();
    });
  }
  attend();

  return {
    update: ({ data: now }) => { data = now; if (now.run !== run) { run = now.run; attend(); } else asked.ask(); },
    leave: () => { left = true; asked.end(); unfollow(); document.removeEventListener("selectionchange", again); },
  };
}
