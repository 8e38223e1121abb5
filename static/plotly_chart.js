// A Plotly figure that keeps zoom, pan and legend while its data change: Plotly.react on the same node.
//
// data: { figure, library }.  The figure comes as text, without colours: those are the page's theme, read from its CSS
// variables.  The library is the address of Plotly's script.

const AXIS = /^[xy]axis\d*$/;

function theme(node) {
  const style = getComputedStyle(node);
  const read = (name, other) => style.getPropertyValue(name).trim() || other;
  return {
    text: read("--st-text-color", "#333"),
    page: read("--st-background-color", "#fff"),
    grid: read("--st-border-color", "#ddd"),
    red: read("--st-red-color", "#d33"),
    font: read("--st-font", "sans-serif"),
    palette: read("--st-chart-categorical-colors", "#3b5bdb").split(/,(?![^(]*\))/).map((c) => c.trim()),
  };
}

// Ticks of a logarithmic axis: Plotly's own mix large and small digits.
function logTicks([low, high]) {
  const span = high - low;
  if (span > 0.35) {
    const digits = span > 4 ? [1] : span > 2 ? [1, 3] : span > 0.9 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 6, 8];
    const every = Math.max(1, Math.ceil(span / 7));
    const ticks = [];
    for (let e = Math.floor(low); e <= high; e += every) for (const d of digits) ticks.push(Number(`${d}e${e}`));
    return ticks;
  }
  const [from, to] = [10 ** low, 10 ** high];
  const rough = (to - from) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((d) => d * power).find((d) => d >= rough);
  const ticks = [];
  for (let k = Math.ceil(from / step); k * step <= to; k++) ticks.push(Number((k * step).toPrecision(6)));
  return ticks;
}

// What an axis shows: where the viewer zoomed to, else all of its data.
function visible(axis, zoomed, data) {
  if (zoomed && zoomed.autorange === false && zoomed.type === "log") return zoomed.range;
  let [low, high] = [Infinity, -Infinity];
  for (const trace of data) {
    if ((trace.yaxis || "y") !== axis) continue;
    for (const y of trace.y) if (y > 0) { if (y < low) low = y; if (y > high) high = y; }
  }
  return low < high ? [Math.log10(low), Math.log10(high)] : null;
}

// Plotly selects by ".cb" + uid: a name such as "DPM-Solver++ 2M, logsnr" would be no selector.
const identifier = (name) => name?.replace(/[^a-zA-Z0-9-]/g, (c) => `_${c.charCodeAt(0).toString(16)}_`);

function dress(figure, t, shown) {
  const colour = (item) => t.palette[item.palette % t.palette.length];
  const data = figure.data.map((trace) => {
    const { role, palette, ...plain } = { ...trace, uid: identifier(trace.uid) };
    if (role === "nan") return { ...plain, marker: { symbol: "x", size: 8, color: t.red } };
    if (role === "limit") return { ...plain, line: { color: t.text, width: 1, dash: "dash" } };
    const faint = role === "raw";
    return { ...plain, line: { color: colour(trace), width: faint ? 1 : 2 }, opacity: faint ? 0.25 : 1 };
  });
  const axis = { gridcolor: t.grid, zerolinecolor: t.grid, linecolor: t.grid, tickcolor: t.grid, automargin: false };
  const layout = {
    ...figure.layout,
    autosize: true,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: t.font, size: 13, color: t.text },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: t.grid, activecolor: t.text, orientation: "v" },
    hoverlabel: { bgcolor: t.page, bordercolor: t.grid, font: { color: t.text } },
    annotations: (figure.layout.annotations || []).map(({ role, palette, ...plain }) =>
      role === "last" ? { ...plain, font: { color: colour({ palette }), size: 13 } } : plain),
  };
  for (const key of Object.keys(layout)) {
    if (!AXIS.test(key)) continue;
    layout[key] = { ...axis, ...layout[key] };
    const range = layout[key].type === "log" && visible(key.replace("axis", ""), shown && shown[key], data);
    if (range) Object.assign(layout[key], { tickmode: "array", tickvals: logTicks(range), ticktext: logTicks(range).map(String) });
  }
  layout.xaxis = { ...layout.xaxis, spikecolor: t.text, spikethickness: -1 };
  return { data, layout };
}

const CONFIG = {
  responsive: true,
  displaylogo: false,
  showTips: false,
  scrollZoom: false,
  doubleClick: "reset",
  showSendToCloud: false, // nothing is sent anywhere
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  toImageButtonOptions: { format: "svg", filename: "training" },
};

// Plotly from this server, once for all charts of a tab: a promise of it.
const libraries = (window.__ddpmPlotly ??= {});

function plotly(path) {
  const url = new URL(path, document.baseURI).href;
  return (libraries[url] ??= new Promise((resolve, reject) => {
    if (window.Plotly) return resolve(window.Plotly);
    const script = document.createElement("script");
    script.src = url;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => { delete libraries[url]; reject(new Error(url)); };
    document.head.appendChild(script);
  }));
}

export function mount({ parentElement: parent, data }) {
  const root = parent.querySelector(".chart");
  const reset = parent.querySelector(".reset");
  const note = parent.querySelector(".note");
  const state = { root, text: null, drawn: null, held: false, Plotly: null, drawing: null, ready: false };

  state.draw = () => {
    if (!state.Plotly || state.held || state.text === null) return;
    const colours = theme(root);
    const drawn = state.text + JSON.stringify(colours);
    if (drawn === state.drawn) return;
    state.drawn = drawn;
    const figure = dress(JSON.parse(state.text), colours, root.layout);
    root.style.height = figure.layout.height + "px";
    state.drawing = state.Plotly.react(root, figure.data, figure.layout, CONFIG);
    root.dataset.updates = Number(root.dataset.updates || 0) + 1;
    if (state.ready) return;
    state.ready = true;
    note.hidden = true;
    root.on("plotly_relayout", () => {
      const axes = Object.keys(root.layout).filter((key) => AXIS.test(key));
      reset.hidden = axes.every((key) => root.layout[key].autorange !== false);
      state.drawn = null; // other ticks
      setTimeout(state.draw);
    });
  };

  // A redraw under the pointer would break off the drag.
  const hold = () => { state.held = true; };
  const release = () => setTimeout(() => { state.held = false; state.draw(); }, 50);
  root.addEventListener("pointerdown", hold);
  window.addEventListener("pointerup", release);
  window.addEventListener("pointercancel", release);

  reset.onclick = () => {
    const whole = {};
    for (const key of Object.keys(root.layout)) if (AXIS.test(key)) whole[key + ".autorange"] = true;
    state.drawing = state.Plotly.relayout(root, whole);
  };

  // Light and dark are switched without a call from Streamlit: a colour that follows the theme tells of it.
  const retheme = () => setTimeout(state.draw, 30);
  parent.querySelector(".probe").addEventListener("transitionend", retheme);

  const update = (now) => {
    state.text = now.data.figure;
    state.draw();
  };
  update({ data });
  plotly(data.library).then(
    (Plotly) => { state.Plotly = Plotly; state.draw(); },
    () => { note.textContent = "The chart library could not be loaded: reload the page."; },
  );
  return {
    update,
    leave() {
      window.removeEventListener("pointerup", release);
      window.removeEventListener("pointercancel", release);
      const { Plotly, drawing } = state;
      state.Plotly = null; // nothing is drawn from here on
      // Plotly draws in several turns, and a later one would fail on what purge has removed.
      drawing?.finally(() => Plotly.purge(root));
    },
  };
}
