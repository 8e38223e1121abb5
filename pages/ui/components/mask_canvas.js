// A mask painted over an image, in units of the image's pixels.
// mask: Uint8Array [height * width], 1 where painted.  A brush of size d covers a box of d x d pixels at (left, top), its disc.

const [SMALLEST, LARGEST] = [320, 460]; // the longer side on screen in CSS pixels, in whole multiples of the image's
const UNDOS = 100;
const LEAP = 8; // pixels that Shift and an arrow key go

// A bit a pixel, row by row, the highest bit first.
function pack(mask) {
  const bytes = new Uint8Array(Math.ceil(mask.length / 8));
  mask.forEach((on, i) => { if (on) bytes[i >> 3] |= 128 >> (i & 7); });
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

function unpack(text, count) {
  const bytes = atob(text);
  return Uint8Array.from({ length: count }, (_, i) => (bytes.charCodeAt(i >> 3) >> (7 - (i & 7))) & 1);
}

// Which pixels of its box a brush covers: those whose centre lies in the disc.
function disc(size) {
  const inside = new Uint8Array(size * size);
  const middle = (size - 1) / 2;
  for (let y = 0; y < size; y++) for (let x = 0; x < size; x++) {
    inside[y * size + x] = (x - middle) ** 2 + (y - middle) ** 2 <= size ** 2 / 4;
  }
  return inside;
}

// The border between pixels that are on and those that are not, as a path; `scale` is a pixel's side.
function outline(on, width, height, scale, left = 0, top = 0) {
  const path = new Path2D();
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && on[y * width + x];
  const line = (x0, y0, x1, y1) => {
    path.moveTo((left + x0) * scale, (top + y0) * scale);
    path.lineTo((left + x1) * scale, (top + y1) * scale);
  };
  for (let y = 0; y <= height; y++) for (let x = 0; x <= width; x++) {
    if (!at(x, y) !== !at(x - 1, y)) line(x, y, x, y + 1);
    if (!at(x, y) !== !at(x, y - 1)) line(x, y, x + 1, y);
  }
  return path;
}

function colour(node, name, other) {
  const dot = new OffscreenCanvas(1, 1).getContext("2d");
  dot.fillStyle = getComputedStyle(node).getPropertyValue(name).trim() || other;
  dot.fillRect(0, 0, 1, 1);
  return [...dot.getImageData(0, 0, 1, 1).data].slice(0, 3);
}

function mount(parent) {
  const find = (name) => parent.querySelector(name);
  const [room, tool, canvas, slider] = [".room", ".tool", "canvas", "input"].map(find);
  const state = {
    image: null, bitmap: null, width: 0, height: 0, scale: 1, send: null,
    mask: new Uint8Array(0), stamp: 0, past: [], erasing: false,
    stroke: null, // {by: pointer id or "keys", erasing, before: the mask, last: the box before}
    pointer: null, // where the mouse is, in pixels of the image
    cursor: { x: 0, y: 0 }, byKeys: false, due: 0,
  };
  const size = () => Number(slider.value);
  const box = ({ x, y }) => ({ left: Math.round(x - size() / 2), top: Math.round(y - size() / 2) });
  const middle = ({ x, y }) => ({ x: x + 0.5, y: y + 0.5 });

  // Drawing

  const draw = () => {
    state.due = 0;
    const { width, height, mask } = state;
    const pen = canvas.getContext("2d");
    const scale = canvas.width / width;
    const dense = window.devicePixelRatio || 1;
    const accent = colour(room, "--st-primary-color", "#3b5bdb");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingEnabled = scale < 1;
    if (state.bitmap) pen.drawImage(state.bitmap, 0, 0, canvas.width, canvas.height);

    const layer = new ImageData(width, height);
    mask.forEach((on, i) => { if (on) layer.data.set([...accent, 128], 4 * i); });
    const small = new OffscreenCanvas(width, height);
    small.getContext("2d").putImageData(layer, 0, 0);
    pen.drawImage(small, 0, 0, canvas.width, canvas.height);

    const trace = (path, wide, narrow, dark) => {
      for (const [thickness, style] of [[wide, "rgba(255,255,255,0.9)"], [narrow, dark]]) {
        pen.lineWidth = Math.max(1, thickness * dense);
        pen.lineCap = "square";
        pen.strokeStyle = style;
        pen.stroke(path);
      }
    };
    const thin = Math.min(1, scale / dense / 4); // pixels too small for thick lines
    trace(outline(mask, width, height, scale), 4 * thin, 2 * thin, `rgb(${accent})`);
    const where = state.byKeys ? middle(state.cursor) : state.pointer;
    if (where) {
      const { left, top } = box(where);
      trace(outline(disc(size()), size(), size(), scale, left, top), 3, 1.25, "rgba(20,20,24,0.95)");
    }
  };
  const redraw = () => { state.due ||= requestAnimationFrame(draw); };

  // As large as there is room for, in whole multiples of the image's pixels.
  const fit = () => {
    const longer = Math.max(state.width, state.height);
    const space = room.clientWidth;
    if (!space || !longer) return;
    let scale = Math.floor(Math.min(space, LARGEST) / longer);
    if (scale * longer < SMALLEST && (scale + 1) * longer <= space) scale += 1;
    scale ||= space / longer;
    const dense = window.devicePixelRatio || 1;
    canvas.style.width = `${state.width * scale}px`;
    canvas.style.height = `${state.height * scale}px`;
    tool.style.width = `${state.width * scale}px`;
    canvas.width = Math.round(state.width * scale * dense);
    canvas.height = Math.round(state.height * scale * dense);
    draw();
  };

  const tell = () => {
    const { mask, past } = state;
    const count = mask.reduce((sum, on) => sum + on, 0);
    const percent = Math.min(Math.max(Math.round((100 * count) / mask.length), 1), count < mask.length ? 99 : 100);
    find(".share").textContent = count ? `${percent} % painted` : "Nothing painted yet";
    for (const [name, off] of [[".undo", !past.length], [".clear", !count], [".fill", count === mask.length]]) {
      find(name).setAttribute("aria-disabled", off); // a disabled button would lose the focus
    }
    find(".paint").setAttribute("aria-pressed", !state.erasing);
    find(".erase").setAttribute("aria-pressed", state.erasing);
    find("output").textContent = `${size()} px`;
    const range = slider.max - slider.min;
    slider.style.setProperty("--share", `${range ? (100 * (size() - slider.min)) / range : 100}%`);
    redraw();
  };

  // Changing the mask

  const send = () => {
    state.stamp = Math.max(Date.now(), state.stamp + 1);
    state.send("painted", { image: state.image, stamp: state.stamp, mask: pack(state.mask) });
  };
  const commit = (before) => {
    if (before.some((on, i) => on !== state.mask[i])) {
      state.past = [...state.past, before].slice(-UNDOS);
      send();
    }
    tell();
  };
  const change = (make) => {
    finish();
    const before = state.mask;
    state.mask = before.map(make);
    commit(before);
  };
  const undo = () => {
    if (state.stroke) return drop();
    if (!state.past.length) return;
    state.mask = state.past.pop();
    send();
    tell();
  };

  // Strokes

  const begin = (by, where, erasing) => {
    finish();
    state.stroke = { by, erasing, before: state.mask.slice(), last: null };
    to(where);
  };
  const to = (where) => {
    const { width, height, mask, stroke } = state;
    const [now, covered, d] = [box(where), disc(size()), size()];
    const from = stroke.last || now;
    const steps = Math.max(Math.abs(now.left - from.left), Math.abs(now.top - from.top), 1);
    for (let k = 0; k <= steps; k++) {
      const left = Math.round(from.left + ((now.left - from.left) * k) / steps);
      const top = Math.round(from.top + ((now.top - from.top) * k) / steps);
      for (let y = Math.max(0, -top); y < Math.min(d, height - top); y++) {
        for (let x = Math.max(0, -left); x < Math.min(d, width - left); x++) {
          if (covered[y * d + x]) mask[(top + y) * width + left + x] = stroke.erasing ? 0 : 1;
        }
      }
    }
    stroke.last = now;
    redraw();
  };
  const finish = () => {
    const { stroke } = state;
    state.stroke = null;
    if (stroke) commit(stroke.before);
  };
  const drop = () => { // taken back while in hand, or taken over by the system, as a notification does
    if (state.stroke) state.mask = state.stroke.before;
    state.stroke = null;
    tell();
  };

  const resize = (by) => {
    slider.value = size() + by;
    if (state.stroke) state.stroke.last = null;
    tell();
  };

  // Mouse, pen, touch

  const place = ({ clientX, clientY }) => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    return { x: ((clientX - left) / width) * state.width, y: ((clientY - top) / height) * state.height };
  };
  canvas.addEventListener("pointerdown", (event) => {
    const eraser = event.pointerType === "pen" && (event.buttons & 32) > 0; // the other end of a pen
    if (state.stroke || (event.button !== 0 && !eraser)) return;
    event.preventDefault();
    canvas.focus({ preventScroll: true, focusVisible: false });
    canvas.setPointerCapture(event.pointerId);
    state.byKeys = false;
    state.pointer = place(event);
    begin(event.pointerId, state.pointer, state.erasing || eraser);
  });
  canvas.addEventListener("pointermove", (event) => {
    const mine = state.stroke?.by === event.pointerId;
    if (mine) {
      const events = event.getCoalescedEvents?.() || [];
      for (const each of events.length ? events : [event]) to(place(each));
    }
    if (mine || !state.stroke) {
      state.byKeys = false;
      state.pointer = event.pointerType === "touch" && !mine ? null : place(event);
      redraw();
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    if (state.stroke?.by !== event.pointerId) return;
    if (event.pointerType === "touch") state.pointer = null;
    finish();
  });
  canvas.addEventListener("pointercancel", (event) => {
    if (state.stroke?.by !== event.pointerId) return;
    state.pointer = null;
    drop();
  });
  // A stroke is no fling, after which browsers swallow the next tap, and no long press.
  canvas.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  canvas.addEventListener("pointerleave", () => {
    if (state.stroke) return;
    state.pointer = null;
    redraw();
  });

  // Keyboard

  const say = () => {
    const { x, y } = state.cursor;
    const painted = state.mask[y * state.width + x] ? "painted" : "not painted";
    find(".spoken").textContent = `Column ${x + 1}, row ${y + 1}, ${painted}`;
  };
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = ([x, y], by) => {
    state.cursor.x = Math.min(Math.max(state.cursor.x + x * by, 0), state.width - 1);
    state.cursor.y = Math.min(Math.max(state.cursor.y + y * by, 0), state.height - 1);
    if (state.stroke?.by === "keys") to(middle(state.cursor));
    say();
  };
  const pressed = (event) => {
    const { key } = event;
    if ((event.ctrlKey || event.metaKey) && !event.altKey) {
      if (key.toLowerCase() !== "z" || event.shiftKey) return false;
      undo();
    } else if (key === "[" || event.code === "BracketLeft") resize(-1);
    else if (key === "]" || event.code === "BracketRight") resize(1);
    else if (event.target !== canvas || event.altKey || event.metaKey) return false;
    else if (key.toLowerCase() === "e") {
      state.erasing = !state.erasing;
      tell();
    } else if (ARROWS[key] || key === " ") {
      state.byKeys = true;
      if (ARROWS[key]) move(ARROWS[key], event.shiftKey ? LEAP : 1);
      else if (!event.repeat && !state.stroke) begin("keys", middle(state.cursor), state.erasing);
      redraw();
    } else return false;
    return true;
  };
  room.addEventListener("keydown", (event) => {
    if (!state.image || !pressed(event)) return;
    event.preventDefault();
    event.stopPropagation();
  });
  canvas.addEventListener("keyup", (event) => {
    if (event.key !== " " || state.stroke?.by !== "keys") return;
    finish();
    say();
  });
  canvas.addEventListener("focus", () => {
    state.byKeys = canvas.matches(":focus-visible");
    redraw();
  });
  canvas.addEventListener("blur", () => {
    state.byKeys = false;
    if (state.stroke?.by === "keys") finish();
    redraw();
  });

  // Buttons and slider

  const mode = (erasing) => () => { state.erasing = erasing; tell(); };
  find(".paint").onclick = mode(false);
  find(".erase").onclick = mode(true);
  find(".undo").onclick = undo;
  find(".clear").onclick = () => change(() => 0);
  find(".invert").onclick = () => change((on) => 1 - on);
  find(".fill").onclick = () => change(() => 1);
  slider.oninput = tell;

  // Light and dark are switched without a call from Streamlit: a colour that follows the theme tells of it.
  find(".probe").addEventListener("transitionend", () => setTimeout(redraw, 30));
  const observer = new ResizeObserver(fit);
  observer.observe(room);

  // From Python.  What was painted since that run is newer, and stays.
  state.take = ({ image, painted }, setStateValue) => {
    state.send = setStateValue;
    const other = image.name !== state.image;
    if (!other && !(painted && painted.stamp > state.stamp)) return;
    const { width, height } = image;
    Object.assign(state, { image: image.name, width, height, past: [], stroke: null, stamp: painted?.stamp || 0 });
    state.mask = painted ? unpack(painted.mask, width * height) : new Uint8Array(width * height);
    if (other) {
      const largest = Math.max(1, Math.floor(Math.min(width, height) / 2));
      if (Number(slider.max) !== largest || !slider.dataset.set) {
        slider.max = largest;
        slider.value = Math.max(1, Math.round(largest / 4));
        slider.dataset.set = "yes";
      }
      Object.assign(state, { bitmap: null, cursor: { x: width >> 1, y: height >> 1 } });
      const bitmap = new Image();
      bitmap.onload = () => {
        if (state.image !== image.name) return;
        state.bitmap = bitmap;
        redraw();
      };
      bitmap.src = image.url;
      fit();
    }
    tell();
  };
  state.leave = () => {
    observer.disconnect();
    cancelAnimationFrame(state.due);
  };
  return state;
}

const mounted = new WeakMap();

export default function ({ parentElement, data, setStateValue }) {
  let state = mounted.get(parentElement);
  if (!state) {
    state = mount(parentElement);
    mounted.set(parentElement, state);
  }
  state.take(data, setStateValue);
  return () => { state.leave(); mounted.delete(parentElement); };
}
