// The previews of a run: one large, all in a strip below it, a slider that plays, and the same on the full screen.
// New ones are asked for here; the page's script does not run for them.

import { query } from "./dom.js";
import { followStep, pin, point } from "./pin.js";
import { poll, urlOf } from "./poll.js";

const THUMB = 120, PAGE = 768, SCREEN = 1536; // longer side of an image in pixels, as the server makes them
const CELL = 68; // width of a place in the strip, in CSS pixels
const FRAME = 150; // milliseconds that a preview is shown when they are played
const MOST_FRAMES = 100; // of one play: with more previews some are left out

// Which preview shows a step: the last one up to it, else the first.  steps: increasing.
export function indexAt(steps, step) {
  let low = 0, high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle + 1; else high = middle;
  }
  return Math.max(0, low - 1);
}

// First place of a strip that is seen, and the one after the last, with some beside them.
export function placesSeen(scrolled, width, count, beside = 6) {
  const first = Math.max(0, Math.floor(scrolled / CELL) - beside);
  return [first, Math.min(count, Math.ceil((scrolled + width) / CELL) + beside)];
}

// The preview after `index` in a play of `count`; the last one comes at the end of it.
export function nextFrame(index, count) {
  return Math.min(count - 1, index + Math.max(1, Math.round(count / MOST_FRAMES)));
}

export function mount({ parentElement, data }) {
  const find = (name) => parentElement.querySelector(name);
  const [home, view, picture, note, film, inner, slider, said, dialog] =
    [".home", ".view", ".stage img", ".note", ".film", ".inner", ".at", ".said", "dialog"].map(find);
  const [play, newest, full, take] = [".play", ".newest", ".full", ".take"].map(find);
  let run = data.run, empty = data.empty, steps = [], labels = [], index = -1, cursor = { step: null }, timer = 0;
  const broken = new Set(); // steps without an image that could be shown

  const address = (step, side) => urlOf(`run/preview?${query({ run })}&step=${step}&side=${side}`);
  const turn = (step, sure) => {
    const last = step === steps.at(-1);
    if (!sure) point(run, step); else pin(run, last ? null : step); // at the newest one it goes with the newest
  };

  function draw() {
    view.classList.toggle("none", !steps.length);
    if (!steps.length) { say(empty); return; }
    index = cursor.step === null ? steps.length - 1 : indexAt(steps, cursor.step);
    const step = steps[index];
    slider.max = steps.length - 1;
    slider.value = index;
    slider.disabled = play.disabled = steps.length < 2;
    slider.setAttribute("aria-valuetext", `Step ${labels[index]}`);
    slider.style.setProperty("--share", `${(100 * index) / Math.max(1, steps.length - 1)}%`);
    said.textContent = `Step ${labels[index]}`;
    newest.hidden = cursor.step === null;
    take.href = address(step, 0);
    take.download = `${run}-${String(step).padStart(6, "0")}.png`;
    show(step);
    reveal();
    drawFilm();
  }

  function say(sentence) {
    note.textContent = sentence;
    note.hidden = !sentence;
  }

  // The large image changes once the next one is decoded, so that nothing blinks.
  async function show(step) {
    const url = address(step, dialog.open ? SCREEN : PAGE);
    if (show.wanted === url) return;
    show.wanted = url;
    const next = new Image();
    next.src = url;
    try {
      await next.decode();
    } catch {
      const sentence = await fetch(url).then((answer) => (answer.ok ? "It could not be decoded." : answer.text()), () => "");
      if (show.wanted !== url) return;
      picture.hidden = true;
      say(sentence.trim() || "The server does not answer.");
      if (!sentence) show.wanted = "";
      return;
    }
    if (show.wanted !== url) return;
    picture.src = url;
    picture.alt = `Preview grid of ${run} at step ${step}`;
    picture.hidden = false;
    say("");
  }

  // Only what is seen of the strip is in the page.
  function drawFilm() {
    inner.style.width = `${steps.length * CELL}px`;
    film.hidden = steps.length < 2;
    const [first, end] = placesSeen(film.scrollLeft, film.clientWidth, steps.length);
    const there = new Map([...inner.children].map((place) => [Number(place.dataset.step), place]));
    for (let k = first; k < end; k++) {
      const place = there.get(steps[k]) ?? inner.appendChild(made(steps[k], labels[k]));
      there.delete(steps[k]);
      place.style.left = `${k * CELL}px`;
      place.setAttribute("aria-selected", String(k === index));
      place.classList.toggle("pinned", k === index && cursor.pinned === true);
    }
    for (const place of there.values()) place.remove();
    film.setAttribute("aria-activedescendant", `step-${steps[index]}`);
  }

  function made(step, label) {
    const place = document.createElement("div"), image = document.createElement("img"), under = document.createElement("span");
    Object.assign(place, { className: "place", id: `step-${step}`, title: `Step ${label}` });
    Object.assign(place.dataset, { step });
    place.setAttribute("role", "option");
    place.setAttribute("aria-label", `Step ${label}`);
    under.textContent = label;
    image.alt = "";
    image.draggable = false;
    image.onerror = () => { broken.add(step); place.classList.add("broken"); };
    if (broken.has(step)) image.onerror(); else image.src = address(step, THUMB);
    place.append(image, under);
    return place;
  }

  // Scrolls the strip so that the preview that is shown is in sight.
  function reveal() {
    const left = index * CELL, right = left + CELL;
    if (film.matches(":hover")) return;
    if (left < film.scrollLeft) film.scrollLeft = left - CELL;
    else if (right > film.scrollLeft + film.clientWidth) film.scrollLeft = right + CELL - film.clientWidth;
  }

  function stop() {
    if (!timer) return;
    clearInterval(timer);
    timer = 0;
    mark(false);
    turn(steps[index], true);
  }

  function name(button, label, title) {
    button.setAttribute("aria-label", label);
    button.title = title;
  }

  function mark(playing) {
    if (playing) name(play, "Pause", "Pause (space)"); else name(play, "Play", "Play (space)");
    play.classList.toggle("playing", playing);
  }

  function start() {
    if (steps.length < 2) return;
    if (cursor.pinned) pin(run, null);
    turn(steps[index === steps.length - 1 ? 0 : index], false);
    mark(true);
    timer = setInterval(() => {
      if (picture.hidden || picture.src === show.wanted) turn(steps[nextFrame(index, steps.length)], false);
      if (index === steps.length - 1) stop();
    }, FRAME);
  }

  async function enlarge() {
    await document.documentElement.requestFullscreen?.().catch(() => {}); // where it may not, it fills the window
    dialog.append(view);
    dialog.showModal();
    name(full, "Leave the full screen", "Leave the full screen (Esc)");
    draw();
    film.focus();
  }

  function fold() {
    home.append(view);
    name(full, "Full screen", "Full screen (f)");
    if (document.fullscreenElement) document.exitFullscreen();
    full.focus();
    draw();
  }

  play.onclick = () => (timer ? stop() : start());
  newest.onclick = () => pin(run, null);
  full.onclick = () => (dialog.open ? dialog.close() : enlarge());
  dialog.onclose = fold;
  const left = () => { if (!document.fullscreenElement && dialog.open) dialog.close(); };
  document.addEventListener("fullscreenchange", left);

  slider.oninput = () => { if (cursor.pinned) pin(run, null); turn(steps[slider.valueAsNumber], false); };
  slider.onchange = () => turn(steps[slider.valueAsNumber], true);

  film.onscroll = drawFilm;
  const size = new ResizeObserver(() => { if (steps.length) { drawFilm(); reveal(); } });
  size.observe(film);
  const stepUnder = (event) => { const place = event.target.closest(".place"); return place ? Number(place.dataset.step) : null; };
  film.onpointerover = (event) => { const step = stepUnder(event); if (step !== null && !timer) point(run, step); };
  film.onpointerleave = () => { if (!timer) point(run, null); };
  film.onclick = (event) => {
    const step = stepUnder(event);
    if (step !== null) { if (timer) stop(); pin(run, cursor.pinned && cursor.step === step ? null : step); }
  };

  const KEYS = {
    ArrowLeft: () => go(index - 1), ArrowRight: () => go(index + 1), Home: () => go(0), End: () => go(steps.length - 1),
    " ": () => play.click(), Enter: () => pin(run, cursor.pinned ? null : steps[index]), f: () => full.click(),
  };
  const go = (k) => {
    if (timer) stop();
    const step = steps[Math.max(0, Math.min(steps.length - 1, k))];
    if (cursor.pinned) pin(run, step); else point(run, step);
  };
  view.onkeydown = (event) => {
    const own = event.target.closest("button, a") && (event.key === " " || event.key === "Enter");
    const slides = event.target === slider && event.key !== " " && event.key !== "f";
    if (own || slides || !KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    KEYS[event.key]();
  };

  let asked = null, unfollow = null;
  function attend() {
    asked?.end();
    unfollow?.();
    clearInterval(timer);
    timer = 0;
    mark(false);
    [steps, labels, show.wanted] = [[], [], ""];
    broken.clear();
    inner.replaceChildren();
    say("");
    unfollow = followStep(run, (now) => { if (now.run === run) { cursor = now; if (steps.length) draw(); } });
    asked = poll(`run/previews?${query({ run })}`, (answer) => {
      if (answer.error) { if (!steps.length) say(answer.error); return; }
      ({ steps, labels } = answer);
      draw();
    });
  }
  attend();

  return {
    update: ({ data: now }) => {
      empty = now.empty;
      if (now.run !== run) { run = now.run; attend(); } else asked.ask();
    },
    leave: () => {
      asked.end();
      unfollow();
      clearInterval(timer);
      size.disconnect();
      document.removeEventListener("fullscreenchange", left);
      if (dialog.open) dialog.close();
    },
  };
}
