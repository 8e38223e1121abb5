// Previews of several runs where the cursor is: side by side, or two of them in turn, or the difference of the two.
//
// data: { runs: [{ name, label, colour }] }; B switches to blinking and D to the difference, and again back.

import { element } from "./chart_panel.js";
import { followCursor, lastCursor } from "./cursor.js";
import { count } from "./formatting.js";
import { isTyping } from "./keys.js";
import { changeView, view } from "./view.js";

const BLINK = 600; // milliseconds for each of the two
const SIDE = "768";
const STEPS_AGAIN = 5000;
const TIMES = 4; // how much a difference is enlarged, so that a small one can be seen

// The newest of increasing steps that is not after `step`, or else the first; undefined where there are none.
export function upTo(steps, step) {
  return steps.findLast((at) => at <= step) ?? steps[0];
}

export function mount({ parentElement, data }) {
  const root = parentElement.querySelector(".previews");
  const state = { data, steps: new Map(), at: lastCursor()?.steps ?? {}, mode: view().previews, pair: view().pair ?? [0, 1], first: true, left: false };
  const figures = element("div", "figures");
  const bar = element("div", "bar");
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", "How previews are compared");
  const buttons = [["side", "Side by side", ""], ["blink", "Blink", "B"], ["difference", "Difference", "D"]].map(([mode, text, key]) => {
    const button = Object.assign(element("button", "", text), { type: "button", title: key ? `Key ${key}` : "" });
    button.onclick = () => turn(mode);
    button.dataset.mode = mode;
    return button;
  });
  const choices = [0, 1].map((which) => {
    const select = element("select");
    select.setAttribute("aria-label", which ? "Second run" : "First run");
    select.onchange = () => { state.pair[which] = Number(select.value); changeView({ pair: [...state.pair] }); draw(); };
    return select;
  });
  bar.append(...buttons, ...choices);
  root.replaceChildren(bar, figures);

  const turn = (mode) => {
    state.mode = state.mode === mode ? "side" : mode;
    changeView({ previews: state.mode });
    draw();
  };
  const key = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.composedPath()[0])) return;
    if (event.key === "b" || event.key === "B") turn("blink");
    if (event.key === "d" || event.key === "D") turn("difference");
  };
  window.addEventListener("keydown", key);
  const unfollow = followCursor(({ steps }) => {
    if (!steps) return;
    state.at = steps;
    draw();
  });
  const timer = setInterval(() => {
    if (state.mode !== "blink" || document.hidden) return;
    state.first = !state.first;
    show();
  }, BLINK);

  const address = (path, query) => new URL(`${path}?${new URLSearchParams(query)}`, document.baseURI).href;

  async function look() {
    const changed = await Promise.all(state.data.runs.map(async ({ name }) => {
      try {
        const answer = await fetch(address("run/previews", { run: name }));
        const steps = answer.ok ? (await answer.json()).steps ?? [] : [];
        if (JSON.stringify(steps) === JSON.stringify(state.steps.get(name))) return false;
        state.steps.set(name, steps);
        return true;
      } catch {
        return false;
      }
    }));
    if (!state.left && changed.some(Boolean)) draw();
    if (!state.left && state.data.runs.some((run) => run.live)) state.again = setTimeout(look, STEPS_AGAIN);
  }

  // One preview a run: { label, step, source }, or without a source where there is none.
  const pictures = () => state.data.runs.map((run) => {
    const steps = state.steps.get(run.name) ?? [];
    const step = upTo(steps, state.at[run.name] ?? Infinity);
    return { run, step, source: step === undefined ? null : address("run/preview", { run: run.name, step: String(step), side: SIDE }) };
  });

  let drawn = "";
  function draw() {
    const found = pictures();
    state.pair = state.pair.map((k, which) => (k < found.length ? k : Math.min(which, found.length - 1)));
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.mode === state.mode));
    for (const select of choices) select.hidden = state.mode === "side" || found.length < 3;
    root.dataset.mode = state.mode;
    root.dataset.steps = found.map(({ step }) => step ?? "").join(",");
    const now = JSON.stringify([state.mode, state.pair, found]);
    if (now === drawn) return;
    drawn = now;
    choices.forEach((select, which) => {
      select.replaceChildren(...found.map(({ run }, k) => Object.assign(element("option", "", run.label), { value: k, selected: state.pair[which] === k })));
    });
    const pair = state.pair.map((k) => found[k]);
    if (state.mode === "side" || !pair[0] || !pair[1]) figures.replaceChildren(...found.map(figure));
    else if (state.mode === "blink") figures.replaceChildren(blinking(pair));
    else figures.replaceChildren(...pair.map(figure), difference(pair));
    show();
  }

  const caption = ({ run, step }) => `${run.label} · ${step === undefined ? "no preview" : `step ${count(step)}`}`;

  function figure(picture) {
    const made = element("figure");
    const text = element("figcaption", "", caption(picture));
    const palette = getComputedStyle(root).getPropertyValue("--st-chart-categorical-colors").split(/,(?![^(]*\))/);
    text.style.setProperty("--line", palette[picture.run.colour % palette.length]);
    if (picture.source) {
      const image = element("img");
      [image.src, image.alt] = [picture.source, `Preview grid of ${caption(picture)}`];
      made.append(image);
    }
    made.append(text);
    return made;
  }

  function blinking(pair) {
    const made = element("figure", "blinking");
    made.append(...pair.filter(({ source }) => source).map((picture) => figure(picture)));
    return made;
  }

  function show() {
    figures.querySelectorAll(".blinking > figure").forEach((one, k) => { one.hidden = (k === 0) !== state.first; });
  }

  function difference(pair) {
    const made = element("figure");
    const canvas = element("canvas");
    const text = element("figcaption", "", "Difference");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Difference of ${pair.map(caption).join(" and ")}`);
    made.append(canvas, text);
    Promise.all(pair.map(({ source }) => load(source))).then((images) => {
      const mean = subtract(canvas, images);
      text.textContent = mean === null ? "Grids of two sizes cannot be subtracted" : `Difference × ${TIMES} · mean ${mean.toFixed(2)} of 255`;
      made.dataset.mean = mean;
    }, () => { text.textContent = "There are no two previews to subtract"; });
    return made;
  }

  look();
  draw();
  return {
    update({ data: now }) {
      state.data = now;
      clearTimeout(state.again);
      look();
      draw();
    },
    leave() {
      state.left = true;
      clearInterval(timer);
      clearTimeout(state.again);
      unfollow();
      window.removeEventListener("keydown", key);
    },
  };
}

async function load(source) {
  const image = new Image();
  image.src = source ?? "";
  await image.decode();
  return image;
}

// Draws the difference of two images of one size; returns its mean, in levels, or null for two sizes.
export function subtract(canvas, [one, other]) {
  const [width, height] = [one.naturalWidth, one.naturalHeight];
  if (width !== other.naturalWidth || height !== other.naturalHeight) return null;
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const read = (image) => (context.drawImage(image, 0, 0), context.getImageData(0, 0, width, height));
  const [a, b] = [read(one), read(other)];
  let sum = 0;
  for (let k = 0; k < a.data.length; k++)
    if (k % 4 !== 3) {
      const size = Math.abs(a.data[k] - b.data[k]);
      sum += size;
      a.data[k] = Math.min(255, TIMES * size);
    }
  context.putImageData(a, 0, 0);
  return sum / (width * height * 3);
}
