// Samples of one job as a grid of images; an image opens large, with what can be done with it.
//
// data: {address, name, active, actions: [[kind, label], ...]}.  The images, and what is known of them, come from
// `address` of this server; it is asked again only while the job works, or until it has answered.

import { arrange, enlarged, moved } from "./tile_layout.js";

const EVERY = 700; // milliseconds between two looks at a job that works
const MOST = 256; // images that are shown
const PATIENCE = 10; // failures in a row until it is not asked any more

export function mount(component) {
  const parent = component.parentElement;
  const find = (name) => parent.querySelector(name);
  const [room, names, grid, note, preview] = [".room", ".names", ".grid", ".note", ".preview"].map(find);
  const large = openLarge(find("dialog"), (kind, number) => {
    state.now.setTriggerValue("action", { kind, number, job: state.now.data.name, stamp: Date.now() });
  });
  const state = { now: component, about: null, revision: "", columns: 1, focus: 0, timer: 0, asking: null,
    failures: 0 };

  const url = (part, more = {}) => {
    const found = new URL(`${state.now.data.address}${part}`, document.baseURI);
    for (const [name, value] of Object.entries(more)) found.searchParams.set(name, value);
    return found.href;
  };
  const image = (part, number) => url(`/${part}/${number}`, { v: state.about.version });

  const ask = async () => {
    clearTimeout(state.timer);
    state.asking?.abort();
    const asking = (state.asking = new AbortController());
    try {
      const answer = await fetch(url("", { since: state.revision }), { signal: asking.signal });
      if (!answer.ok) throw new Error(await answer.text());
      const found = await answer.json();
      if (asking.signal.aborted) return;
      if (state.failures && found.same) show(); // in the place of the error
      state.failures = 0;
      if (!found.same) {
        state.revision = found.revision;
        state.about = found;
        show();
      }
      if (state.about?.active) state.timer = setTimeout(ask, EVERY);
    } catch (error) {
      if (asking.signal.aborted) return;
      state.failures += 1;
      if (state.failures < PATIENCE) state.timer = setTimeout(ask, pause(state.failures));
      if (!state.now.data.active && grid.hidden) {
        say(error instanceof TypeError ? "The server does not answer." : error.message);
      }
    }
  };

  const say = (text) => {
    note.textContent = text;
    note.hidden = !text;
  };

  const show = () => {
    const { about } = state;
    const ready = about.count > 0 && !about.active;
    grid.hidden = !ready;
    names.hidden = !ready || !about.names.length;
    preview.hidden = ready || !about.preview;
    say(ready || about.preview ? "" : about.active ? "Loading the weights …" : about.error || "No image was completed.");
    if (!preview.hidden) preview.src = url("/preview/0", { v: about.preview });
    if (!ready) return;
    const count = Math.min(about.count, MOST);
    grid.replaceChildren(...Array.from({ length: count }, (_, number) => tile(number)));
    names.replaceChildren(...about.names.map((name) => {
      const cell = document.createElement("span");
      cell.textContent = name;
      cell.title = name;
      return cell;
    }));
    room.style.setProperty("--count", String(count));
    state.focus = Math.min(state.focus, count - 1);
    grid.children[state.focus].tabIndex = 0;
    size();
  };

  const tile = (number) => {
    const { about } = state;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "tile";
    button.tabIndex = -1;
    button.dataset.number = String(number);
    button.setAttribute("aria-label", facts(about, number).join(", "));
    button.title = facts(about, number).join(" · ");
    if (about.beside) button.append(picture(image(about.beside, number % about.besides)));
    button.append(picture(image("images", number)));
    button.onclick = () => large.open(about, number, image);
    return button;
  };

  // Whole multiples of the images' pixels, whatever the width.
  const size = () => {
    const { about } = state;
    const dense = window.devicePixelRatio || 1;
    const width = room.clientWidth;
    if (!about || !width) return;
    if (!preview.hidden && preview.naturalWidth) {
      const [wide, high] = [preview.naturalWidth, preview.naturalHeight];
      const fit = enlarged({ wide, high, width, height: Math.max(width, window.innerHeight - 220), dense });
      preview.style.width = `${fit.wide}px`;
    }
    if (grid.hidden) return;
    const wide = about.width * (about.beside ? 2 : 1);
    const fit = arrange({ count: grid.children.length, wide, high: about.height, columns: about.names.length, width,
      height: Math.max(240, window.innerHeight - 220), dense });
    state.columns = fit.columns;
    room.dataset.times = String(fit.times);
    for (const place of [grid, names]) {
      place.style.gridTemplateColumns = `repeat(${fit.columns}, ${fit.wide}px)`;
      place.style.columnGap = `${fit.gap}px`;
    }
    grid.style.rowGap = `${fit.gap}px`;
    grid.style.setProperty("--wide", `${fit.wide / (about.beside ? 2 : 1)}px`);
    grid.style.setProperty("--high", `${fit.high}px`);
    names.hidden = about.names.length !== fit.columns;
  };

  grid.onkeydown = (event) => {
    const from = Number(event.target.closest(".tile")?.dataset.number ?? -1);
    const to = from < 0 || event.ctrlKey || event.metaKey || event.altKey
      ? -1 : moved(event.key, from, grid.children.length, state.columns);
    if (to < 0) return;
    event.preventDefault();
    grid.children[from].tabIndex = -1;
    grid.children[to].tabIndex = 0;
    grid.children[to].focus();
    state.focus = to;
  };
  preview.onload = size;
  const watcher = new ResizeObserver(size);
  watcher.observe(room);
  large.actions(component.data.actions);
  ask();

  return {
    update(now) {
      const before = state.now.data;
      state.now = now;
      large.actions(now.data.actions);
      if (before.address === now.data.address && before.active === now.data.active) return;
      if (before.address !== now.data.address) Object.assign(state, { revision: "", focus: 0 });
      state.failures = 0;
      ask();
    },
    leave() {
      clearTimeout(state.timer);
      state.asking?.abort();
      watcher.disconnect();
    },
  };
}

// Milliseconds until it is asked again after so many failures in a row: longer and longer, up to half a minute.
export function pause(failures) {
  return Math.min(30000, EVERY * 2 ** failures);
}

function picture(address) {
  const img = document.createElement("img");
  img.src = address;
  img.alt = "";
  img.draggable = false;
  return img;
}

// What is known of an image: its number, seed and class.
function facts(about, number) {
  const found = [`Image ${number}`];
  if (about.seeds[number] !== undefined) found.push(`seed ${about.seeds[number]}`);
  if (about.classes[number]) found.push(about.classes[number]);
  return found;
}

// One image as large as it fits, in a dialog; arrow keys lead to its neighbours.
function openLarge(dialog, act) {
  const find = (name) => dialog.querySelector(name);
  const [pictures, title, settings, buttons] = [".pictures", ".title", ".settings", ".actions"].map(find);
  const now = { about: null, number: 0, image: null };

  const show = () => {
    const { about, number, image } = now;
    const parts = [...(about.beside ? [[about.beside, number % about.besides, "Input image"]] : []),
      ["images", number, facts(about, number).join(", ")]];
    const fit = enlarged({ wide: about.width * parts.length, high: about.height, dense: window.devicePixelRatio || 1,
      width: Math.min(window.innerWidth - 96, 1100), height: window.innerHeight - 250 });
    pictures.replaceChildren(...parts.map(([part, which, alt]) => {
      const img = picture(image(part, which));
      img.alt = alt;
      img.style.width = `${fit.wide / parts.length}px`;
      img.style.height = `${fit.high}px`;
      return img;
    }));
    dialog.dataset.number = String(number);
    title.textContent = facts(about, number).join(" · ");
    settings.textContent = about.settings;
    find(".save").href = image("images", number);
    find(".save").download = `${about.stem}-${String(number).padStart(5, "0")}.png`;
    find(".before").disabled = number === 0;
    find(".after").disabled = number === about.count - 1;
  };
  const go = (by) => {
    const to = now.number + by;
    if (to < 0 || to >= now.about.count) return;
    now.number = to;
    show();
  };

  find(".before").onclick = () => go(-1);
  find(".after").onclick = () => go(1);
  find(".shut").onclick = () => dialog.close();
  dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };
  dialog.onkeydown = (event) => {
    if (event.key === "ArrowLeft") go(-1);
    else if (event.key === "ArrowRight") go(1);
    else return;
    event.preventDefault();
  };

  return {
    actions(kinds) {
      buttons.replaceChildren(...kinds.map(([kind, label]) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = label;
        button.dataset.kind = kind;
        button.onclick = () => {
          dialog.close();
          act(kind, now.number);
        };
        return button;
      }));
    },
    open(about, number, image) {
      Object.assign(now, { about, number, image });
      show();
      dialog.showModal();
    },
  };
}
