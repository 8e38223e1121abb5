// Draws a scene on a canvas, or writes it as SVG.

const CROSS = 4;
const FILLED = new Set(["band", "columns", "dot", "up"]);

export function paint(context, scene, frame, font, scale = 1) {
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, frame.width, frame.height);
  context.font = `12px ${font}`;
  context.textBaseline = "middle";
  context.lineJoin = "round";
  for (const part of scene) {
    context.save();
    if (part.clip) {
      context.beginPath();
      context.rect(frame.left, frame.top, frame.width - frame.left - frame.right, frame.height - frame.top - frame.bottom);
      context.clip();
    }
    context.globalAlpha = part.alpha ?? 1;
    context.strokeStyle = context.fillStyle = part.colour;
    context.lineWidth = part.width ?? 1;
    context.setLineDash(part.dash ?? []);
    if (part.kind === "text") {
      context.textAlign = part.align;
      context.fillText(part.text, part.x, part.y);
    } else if (part.kind === "columns") bars(part, (...bar) => context.fillRect(...bar));
    else {
      context.beginPath();
      trace(context, part);
      if (FILLED.has(part.kind)) context.fill();
      else context.stroke();
    }
    context.restore();
  }
}

// The outline of a part, with a pen that moves as a canvas does.
function trace(pen, part) {
  const { kind, x, y } = part;
  const through = (...points) => points.forEach(([px, py], k) => (k ? pen.lineTo(px, py) : pen.moveTo(px, py)));
  if (kind === "rule") {
    const crisp = (value) => Math.round(value) + 0.5;
    if (part.x1 === part.x2) through([crisp(part.x1), part.y1], [crisp(part.x1), part.y2]);
    else through([part.x1, crisp(part.y1)], [part.x2, crisp(part.y1)]);
  } else if (kind === "cross") {
    through([x - CROSS, y - CROSS], [x + CROSS, y + CROSS]);
    through([x - CROSS, y + CROSS], [x + CROSS, y - CROSS]);
  } else if (kind === "dot") {
    through(...Array.from({ length: 12 }, (_, k) => [x + 3 * Math.cos((k * Math.PI) / 6), y + 3 * Math.sin((k * Math.PI) / 6)]));
    pen.closePath();
  } else if (kind === "up") {
    through([x - 4, y + 7], [x, y], [x + 4, y + 7]);
    pen.closePath();
  } else if (kind === "band") band(pen, part);
  else if (kind === "columns") bars(part, (left, up, across, down) => {
    through([left, up], [left + across, up], [left + across, up + down], [left, up + down]);
    pen.closePath();
  });
  else line(pen, part.xs, part.ys);
}

// What covers columns of pixels, each as a bar: (x, y, width, height), as high as a line is thick at least.
function bars({ x, step, high, low, width = 0 }, draw) {
  for (let k = 0; k < high.length; k++)
    if (low[k] >= high[k]) draw(x + k * step, high[k] - width / 2, step, low[k] - high[k] + width);
}

function line(pen, xs, ys) {
  let drawing = false;
  for (let k = 0; k < xs.length; k++) {
    if (!Number.isFinite(ys[k]) || !Number.isFinite(xs[k])) drawing = false;
    else if (drawing) pen.lineTo(xs[k], ys[k]);
    else {
      pen.moveTo(xs[k], ys[k]);
      drawing = true;
    }
  }
}

// Between the lowest and the highest value, a piece for each stretch without a gap.
function band(pen, { xs, low, high }) {
  let from = 0;
  const whole = (k) => Number.isFinite(low[k]) && Number.isFinite(high[k]) && Number.isFinite(xs[k]);
  while (from < xs.length) {
    while (from < xs.length && !whole(from)) from++;
    let to = from;
    while (to < xs.length && whole(to)) to++;
    if (to > from) {
      for (let k = from; k < to; k++) k > from ? pen.lineTo(xs[k], high[k]) : pen.moveTo(xs[k], high[k]);
      for (let k = to - 1; k >= from; k--) pen.lineTo(xs[k], low[k]);
      pen.closePath();
    }
    from = to;
  }
}

// The same outline as the path of an SVG.
export function path(part) {
  let text = "";
  const place = (x, y) => `${Number(x.toFixed(1))} ${Number(y.toFixed(1))}`;
  trace({ moveTo: (x, y) => { text += `M${place(x, y)}`; }, lineTo: (x, y) => { text += `L${place(x, y)}`; }, closePath: () => { text += "Z"; } }, part);
  return text;
}

// An SVG document of several panels, one below the other.  panels: [{ scene, frame, title }]
export function svg(panels, font, background) {
  const text = (value) => value.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
  const head = 22;
  let y = 0;
  const parts = panels.map(({ scene, frame, title }, number) => {
    const inner = frame.width - frame.left - frame.right;
    const drawn = scene.map((part) => {
      if (part.kind === "text") {
        const anchor = { left: "start", center: "middle", right: "end" }[part.align];
        return `<text x="${part.x.toFixed(1)}" y="${(part.y + 4).toFixed(1)}" text-anchor="${anchor}" fill="${text(part.colour)}">${text(part.text)}</text>`;
      }
      const filled = FILLED.has(part.kind);
      const look = filled ? `fill="${text(part.colour)}"` : `fill="none" stroke="${text(part.colour)}" stroke-width="${part.width ?? 1}"`;
      const more = `${part.alpha ? ` opacity="${part.alpha}"` : ""}${part.dash?.length ? ` stroke-dasharray="${part.dash}"` : ""}`;
      return `<path d="${path(part)}" ${look}${more}${part.clip ? ` clip-path="url(#c${number})"` : ""}/>`;
    });
    const clip = `<clipPath id="c${number}"><rect x="${frame.left}" y="${frame.top}" width="${inner}" height="${frame.height - frame.top - frame.bottom}"/></clipPath>`;
    const whole = `<g transform="translate(0 ${y + head})">${clip}${drawn.join("")}</g><text x="${frame.left}" y="${y + 15}" font-weight="600" fill="${text(panels[0].colour)}">${text(title)}</text>`;
    y += head + frame.height;
    return whole;
  });
  const width = Math.max(...panels.map(({ frame }) => frame.width));
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y}" font-family="${text(font)}" font-size="12"><rect width="100%" height="100%" fill="${text(background)}"/>${parts.join("")}</svg>`;
}
