"""The modules that draw the charts, function by function: each result against numpy, or against a figure known before.

No server is needed: the browser gets the modules from ./static.
"""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from asking import OF_A_COLUMN

from ddpm import formatting
from ddpm.runs import curves
from pages.server import metrics_route
from pages.ui.components import browser_code

pytestmark = pytest.mark.browser

FRAME = dict(
    width=1122, height=200, left=56, right=66, top=8, bottom=40, x=[0, 1000], log=False, reach=0, unit=1, scale=1
)
PLOTLY = "plotly.min.js"
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run(browser) -> Iterator[Run]:  # type: ignore[no-untyped-def]
    """Runs JavaScript with modules of ./static: run("scene smoothing", "return smoothing.reach(a)", 0.5)."""
    tab = browser.new_page()

    def answer(route: Any) -> None:
        name = route.request.url.rpartition("/")[2]
        source = browser_code.library().read_bytes() if name == PLOTLY else browser_code.modules().get(name, b"")
        route.fulfill(body=source, content_type="text/javascript" if source else "text/html")

    tab.route("**/*", answer)
    tab.goto("http://static.test/")

    def evaluate(modules: str, body: str, argument: object = None) -> Any:
        names = modules.split()
        imports = ", ".join(f"import('/{name}.js')" for name in names)
        return tab.evaluate(
            f"async (a) => {{ const [{', '.join(names)}] = await Promise.all([{imports}]); {HELP} {body} }}", argument
        )

    yield evaluate
    tab.close()


# part(rows) as `decode` makes it; plain(x): typed arrays and maps as JSON has them.
HELP = """
  const plain = (x) => ArrayBuffer.isView(x) ? Array.from(x) : x instanceof Map ? [...x]
    : Array.isArray(x) ? x.map(plain) : x && typeof x === 'object' ?
    Object.fromEntries(Object.entries(x).map(([k, v]) => [k, plain(v)])) : x;
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
"""


def sent(steps: np.ndarray, loss: np.ndarray, size: int, start: int = 0, **head: object) -> str:
    """An answer of run/metrics in base64: rows from `start` on in buckets of `size`."""
    import base64

    count = len(steps)
    found = curves.spikes(loss, curves.buckets(loss, size).most, size)
    highest = [[int(row), float(steps[row]), float(loss[row])] for row in found]
    bad = np.flatnonzero(~np.isfinite(loss))
    about = {
        "name": "1.1", "whole": True, "live": False, "rows": count, "from": start, "start": 0, "stop": count,
        "size": size, "axes": ["step"], "columns": ["loss"], "all": ["loss"],
        "newest": {"loss": float(loss[np.isfinite(loss)][-1])},
        "spikes": {"loss": {"from": 0, "more": 0, "highest": highest}},
        "lost": {"loss": {"count": len(bad), "rows": bad.tolist(), "steps": steps[bad].tolist()}}, **head,
    }  # fmt: skip
    x, y = steps[start:], loss[start:]
    last = x[np.minimum(np.arange(size - 1, len(x) + size - 1, size), len(x) - 1)]
    buckets = curves.buckets(y, size)
    arrays = [x[::size], last, *buckets] if size > 1 else [x, buckets.mean]
    return base64.b64encode(metrics_route.packed(about, arrays)).decode()


def panel(body: str) -> str:
    """Code with a panel that has drawn the loss of one run: a = { sent, frame }."""
    return f"""
      const part = metrics.decode(bytes(a.sent));
      const panel = new chart_panel.Panel("loss");
      const theme = {{ text: "#111", small: "#222", grid: "#333", red: "#f00", accent: "#00f" }};
      const look = {{ ...a.frame, unit: 1, axis: "step", oneRun: true, title: "step", theme, scale: 1,
        font: "sans-serif", last: true, alone: false }};
      const line = {{ feed: {{ best: () => part }}, run: "one", column: "loss", label: "loss", colour: "#0a0", dash: [],
        sparse: false }};
      panel.draw({{ title: "loss" }}, [line], look);
      {body}"""


PANEL = "chart_panel metrics scene"


def test_smoothing_is_a_mean_over_a_width_of_the_screen(run: Run) -> None:
    rng = np.random.default_rng(0)
    pixels = np.sort(rng.uniform(0, 300, 200))
    values = np.exp(rng.normal(size=200))
    values[[3, 50, 51]] = math.nan
    counts = np.where(np.isnan(values), 0, rng.integers(1, 9, 200)).astype(float)
    for distance, log in ((0.5, False), (12.0, False), (12.0, True)):
        found = run(
            "smoothing", "return plain(smoothing.smooth(...a))", [*map(list, (pixels, values, counts)), distance, log]
        )
        weights = counts * np.exp(-np.abs(pixels[:, None] - pixels) / distance)
        known = np.isfinite(values)
        means = weights[:, known] @ (np.log(values[known]) if log else values[known]) / weights[:, known].sum(axis=1)
        expected = np.where(known, np.exp(means) if log else means, np.nan)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    same = run(
        "smoothing",
        "const { reach, smooth } = smoothing;"
        "return [reach(0), reach(0.6), plain(smooth([0, 1, 2], [4, NaN, 5], [1, 0, 1], 0))]",
    )
    assert same[:2] == [0, pytest.approx(12)]
    np.testing.assert_array_equal(same[2], [4, math.nan, 5])


def test_many_rows_are_a_line_as_few_are(run: Run) -> None:
    """The default setting over 1,000 pixels: 200,000 rows, which vary by 30 %, make a line that hardly does."""
    rng = np.random.default_rng(1)
    spreads = {}
    for rows in (2_000, 200_000):
        size = curves.bucket_size(rows, 1000)
        noise = curves.buckets(rng.normal(1, 0.3, rows), size)
        pixels = (np.arange(len(noise.mean)) + 0.5) * 1000 / len(noise.mean)
        reach = run("smoothing", "return smoothing.reach(0.6)")
        line = run(
            "smoothing",
            "return plain(smoothing.smooth(...a))",
            [list(pixels), list(noise.mean), list(noise.values), reach],
        )
        assert len(line) <= 2_000
        spreads[rows] = np.std(line[100:-100])
    assert spreads[2_000] < 0.3 / 4
    assert spreads[200_000] < 0.3 / 40


def test_a_bucket_tells_what_is_true_of_its_rows(run: Run) -> None:
    rng = np.random.default_rng(2)
    steps, loss = np.arange(10, 40_010, 10.0), np.exp(rng.normal(-3, 0.3, 4000))
    size = 8
    found = run(
        PANEL,
        panel("return panel.at(20_005).map(({ line, ...rest }) => rest)[0]"),
        dict(sent=sent(steps, loss, size), frame={**FRAME, "x": [10, 40_000]}),
    )
    k = int(np.searchsorted(steps, 20_005, side="right") - 1) // size
    rows = loss[k * size : (k + 1) * size]
    assert (found["step"], found["until"]) == (steps[k * size], steps[k * size + size - 1])
    assert (found["value"], found["least"], found["most"]) == (rows[0], rows.min(), rows.max())
    assert found["smoothed"] == pytest.approx(rows.mean())
    zoomed = run(
        PANEL,
        panel("return panel.at(20_012).map(({ step, until, value }) => [step, until, value])[0]"),
        dict(sent=sent(steps[1900:2100], loss[1900:2100], 1), frame={**FRAME, "x": [19_500, 20_500]}),
    )
    assert zoomed == [20_010, 20_010, loss[2000]]


def test_the_end_of_the_line_and_the_figure_agree(run: Run) -> None:
    steps, loss = np.arange(1, 1001.0), np.exp(np.random.default_rng(3).normal(-3, 0.3, 1000))
    for size in (1, 8):
        body = """const end = panel.scene.filter((one) => one.kind === "text" && one.align === "left");
            return [panel.values.textContent, end.map((one) => one.text)];"""
        said, ends = run(PANEL, panel(body), dict(sent=sent(steps, loss, size), frame={**FRAME, "reach": 12}))
        raw, smoothed = said.split(" · smoothed ")
        assert raw == f"{loss[-1]:.4g}"
        assert ends == [smoothed]


def table(body: str) -> str:
    """Code with the table of the run of `panel`."""
    return panel(f"""
      const place = document.createElement("div");
      const shown = [{{ name: "one", label: "one" }}];
      const chart = {{ panels: new Map([["loss", panel]]), cursor: null, axis: "step", shownRuns: () => shown,
        colour: () => "#000" }};
      new chart_table.Table(place).draw(chart);
      {body}""")


def test_a_value_now_and_then_is_told_where_many_rows_are_a_bucket(run: Run) -> None:
    steps, loss = np.arange(1, 1001.0), np.full(1000, math.nan)
    loss[499::250] = [0.5, 0.25, 0.125]
    loss[950] = 0.0625  # within a bucket, as the others are, and not in the last one
    body = """const cells = [...place.querySelector("tbody tr").children].map((cell) => cell.textContent);
        return [panel.values.textContent, cells[4], panel.at(500)[0].value];"""
    answer = dict(sent=sent(steps, loss, 8), frame=FRAME)
    assert run(f"{PANEL} chart_table", table(body), answer) == ["0.125", "0.125", 0.5]
    assert run(f"{PANEL} chart_table", table(body), dict(sent=sent(steps[:996], loss[:996], 8), frame=FRAME)) == [
        "0.0625",
        "0.0625",
        0.5,
    ]


def test_the_table_tells_the_end_of_a_run(run: Run) -> None:
    steps, loss = np.arange(1, 1001.0), np.exp(np.random.default_rng(7).normal(-3, 0.3, 1000))
    body = "return [...place.querySelector('tbody tr').children].map((cell) => cell.textContent)"
    for size in (1, 8):
        cells = run(f"{PANEL} chart_table", table(body), dict(sent=sent(steps, loss, size), frame=FRAME))
        assert (cells[1], cells[4]) == ("1,000", f"{loss[-1]:.4g}")


def test_a_spike_leaves_the_axis_and_not_the_data(run: Run) -> None:
    steps, loss = np.arange(1, 1001.0), np.exp(np.random.default_rng(4).normal(-3, 0.3, 1000))
    loss[600] = 55.0
    for size, reach in ((1, 12), (4, 12), (1, 0)):
        body = """const marks = panel.scene.filter((one) => one.kind === "up").length;
            return { range: panel.range, at: panel.at(601)[0].most, marks,
            listed: plain(panel.drawn[0].curve.spiked) };"""
        found = run(
            PANEL, panel(body), dict(sent=sent(steps, loss, size), frame={**FRAME, "log": True, "reach": reach})
        )
        rest = np.delete(loss, slice(600 // size * size, 600 // size * size + size))
        assert rest.max() <= found["range"][1] < 2 * rest.max()
        assert (found["at"], found["marks"]) == (55.0, 1)
        assert found["listed"] == [[600 // size, {"step": 601, "value": 55.0}]]
        assert found["range"][0] <= loss.min()


def test_zeros_and_negative_values_on_a_log_axis_are_gaps(run: Run) -> None:
    steps, values = np.arange(1, 13.0), np.array([1, 10, 0, 100, -5, 10, 10, math.nan, 1, 1, 1, 1.0])
    body = """const bold = panel.scene.find((one) => one.kind === "line" && one.width === 2);
        const crosses = panel.scene.filter((one) => one.kind === "cross").map((one) => one.x);
        return { range: panel.range, ys: plain(bold.ys), crosses, notes: panel.notes.textContent };"""
    frame = {**FRAME, "x": [1, 12]}
    found = run(PANEL, panel(body), dict(sent=sent(steps, values, 1), frame={**frame, "log": True}))
    assert 0 < found["range"][0] <= 1
    assert found["range"][1] >= 100
    assert np.isnan(found["ys"]).tolist() == [not value > 0 for value in values.tolist()]
    assert len(found["crosses"]) == 1  # what is not a number is marked; what is zero is a number
    assert "1 row" in found["notes"]
    linear = run(PANEL, panel(body), dict(sent=sent(steps, values, 1), frame=frame))
    assert linear["range"][0] <= -5
    assert np.isnan(linear["ys"]).tolist() == np.isnan(values).tolist()
    nothing = run(
        PANEL,
        panel("return [panel.range, panel.notes.textContent !== '']"),
        dict(sent=sent(steps, -np.ones(12), 1), frame={**frame, "log": True}),
    )
    assert nothing == [None, True]
    band = run(
        PANEL,
        panel(
            "return [panel.scene.find((one) => one.kind === 'band').low[0], panel.frame.height - panel.frame.bottom]"
        ),
        dict(sent=sent(steps, values, 4), frame={**frame, "log": True}),
    )
    assert band[0] == band[1], "down to the edge, where a bucket holds a zero"


def test_what_follows_is_put_behind_what_is_there(run: Run) -> None:
    steps, loss = np.arange(1, 1001.0), np.exp(np.random.default_rng(5).normal(-3, 0.3, 1000))
    loss[900] = 55.0
    for size in (1, 4):
        old, news, whole = (
            sent(steps[:802], loss[:802], size),
            sent(steps, loss, size, start=800),
            sent(steps, loss, size),
        )
        body = "const [old, news, whole] = a.map((one) => metrics.decode(bytes(one)));"
        body += "return [plain(metrics.merge(old, news)), plain(whole)];"
        joined, expected = run("metrics", body, [old, news, whole])
        assert json.dumps(joined["columns"]) == json.dumps(expected["columns"])
        assert joined["axes"] == expected["axes"]
        assert joined["head"]["spikes"] == expected["head"]["spikes"]
    # A resumed run wrote steps again: the answer is complete, and what was there goes.
    assert run(
        "metrics",
        "const [old, news] = a.map((one) => metrics.decode(bytes(one))); return metrics.merge(old, news) === news",
        [whole, old],
    )
    names = run("metrics", "return Object.keys(metrics.decode(bytes(a)).columns.loss)", whole)
    assert names == [*OF_A_COLUMN]


def test_a_dense_line_covers_the_pixels_that_it_goes_through(run: Run) -> None:
    rng = np.random.default_rng(6)
    for count, scale in ((4000, 1), (700, 2)):
        xs, ys = np.sort(rng.uniform(50, 1060, count)), rng.uniform(0, 180, count)
        ys[[5, count // 2]] = math.nan
        found = run(
            "pixel_columns",
            "return plain(pixel_columns.covered(...a))",
            [list(xs), list(ys), {**FRAME, "scale": scale}],
        )
        high, low = np.array(found["high"]), np.array(found["low"])
        assert (found["step"], found["x"], len(high)) == (1 / scale, 56, 1000 * scale)
        edges = 56 + np.arange(1000 * scale + 1) / scale
        inner = np.interp(edges, xs, ys)  # NaN beside a gap
        for k in range(1000 * scale):
            inside = ys[(xs >= edges[k]) & (xs < edges[k + 1])]
            through = np.concatenate([inside, inner[k : k + 2]])
            through = through[np.isfinite(through)]
            assert (
                (high[k], low[k]) == (pytest.approx(through.min()), pytest.approx(through.max()))
                if len(through)
                else math.isnan(high[k])
            )
    kept = run(
        "pixel_columns",
        "return plain(pixel_columns.thinned(...a))",
        [[0, 0.4, 1.1, 1.5, 1.9, 2.3, 2.4], [1, 2, 3, math.nan, 5, 6, 7], 1],
    )
    assert kept[0] == [0, 1.1, 1.5, 1.9, 2.4]


def test_how_it_is_looked_at_goes_into_the_address_and_back(run: Run) -> None:
    look = dict(x="images", smooth=0.25, log=False, columns=["loss", "lr"], step=1200, of="b,c", zoom=[0.5, 300])
    look |= dict(hide=["a,b", "100 %"], previews="blink", pair=[0, 2])
    query = run("view", "return view.write('?run=a%20b', a)", look)
    assert query.startswith(
        "?run=a+b&x=images&smooth=0.25&log=false&columns=loss,lr&step=1200&of=b%252Cc&zoom=0.5,300&hide="
    )
    assert query.endswith("&previews=blink&pair=0,2")
    assert run("view", "return view.parse(a)", query) == {**look, "more": []}
    usual = dict(
        x="step", smooth=0.6, log=True, columns=None, step=None, of=None, zoom=None, hide=[], previews="side", pair=None
    )
    assert run("view", "return view.write(a[0], a[1])", [query, usual]) == "?run=a+b"
    for odd in (
        "?x=loss&smooth=7&step=-1&columns=",
        "?smooth=fast&step=soon&part=%3Cb%3E",
        "?x=toString&zoom=9,1&pair=0&hide=",
    ):
        assert run("view", "return view.parse(a)", odd) == {**usual, "more": []}
    assert run("view", "return view.parse('?part=loss')")["more"] == ["loss_q"]


def test_numbers_read_as_python_writes_them(run: Run) -> None:
    numbers = [0, 1, -1, 0.5, 1e-3, 0.012345678, 1.5e-5, 1e10, -2.5e-7, 12.0, 0.0001, 9.9996, 1234.5678]
    numbers += [123456.7, 1234567, 5e6, None]
    found = run("formatting", "return a.map((x) => formatting.general(x))", numbers)
    assert found == [formatting.number(x) for x in numbers]
    seconds = [0, 0.04, 0.456, 4.52, 9.99, 45, 59.7, 65, 3599, 3600, 7500, 86399, 86400, 90_000, 3 * 86400 + 7, -1]
    assert run("formatting", "return a.map((x) => formatting.duration(x))", seconds) == [
        formatting.duration(s) for s in seconds
    ]


def test_axes_have_round_places(run: Run) -> None:
    assert run("scales", "return scales.ticks(0, 1000)") == [0, 200, 400, 600, 800, 1000]
    assert run("scales", "return scales.ticks(0.013, 0.0171, 5)") == [0.013, 0.014, 0.015, 0.016, 0.017]
    assert run("scales", "return scales.ticks(3, 3)") == [3]
    assert run("scales", "return scales.ticks(1, 3, 9, 1)") == [1, 2, 3]
    assert run("scales", "return scales.logTicks(0.02, 1.2)") == [0.02, 0.05, 0.1, 0.2, 0.5, 1]
    assert run("scales", "return scales.logTicks(1e-6, 1e6)") == [1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6]
    assert run("scales", "return scales.logTicks(0, 1)") == []
    assert [run("scales", "return scales.timeUnit(a).name", s) for s in (60, 3600, 86400, 9e5)] == [
        "seconds",
        "minutes",
        "hours",
        "days",
    ]


@pytest.mark.parametrize("live", [False, True])
def test_what_is_wanted_while_an_answer_is_under_way_comes_too(run: Run, live: bool) -> None:
    """The answer has the columns of the question; a later one, of a run that trains, brings all of them."""
    body = """
      const part = (columns, rows) => {
        const values = new Float64Array(rows), axis = { first: values, last: values };
        const one = { count: values, least: values, most: values, mean: values, first: values };
        return {
          head: { name: "1", whole: true, live: a, from: 0, start: 0, stop: rows, rows, size: 1, spikes: {} },
          axes: { step: axis }, columns: Object.fromEntries(columns.map((name) => [name, one])),
        };
      };
      const asked = [];
      let release, rows = 3;
      const it = new feed.Feed("one", () => {});
      it.fetch = async ({ columns, known }) => {
        asked.push([columns, Boolean(known)]);
        await new Promise((resolve) => { release = resolve; });
        return known && !a ? null : part(columns, rows);
      };
      const turn = () => new Promise((resolve) => setTimeout(resolve));
      it.want({ columns: ["loss"], width: 900, range: null, axis: "step" });
      it.want({ columns: ["loss", "lr"], width: 900, range: null, axis: "step" });
      release();
      await turn();
      release();
      await turn();
      if (a) {
        rows = 5;
        it.ask();
        it.want({ columns: ["loss", "lr", "mse"], width: 900, range: null, axis: "step" });
        release();
        await turn();
        release();
        await turn();
      }
      it.leave();
      return { asked, columns: Object.keys(it.whole.columns), rows: it.whole.head.rows, wrong: it.wrong };"""
    found = run("feed", body, live)
    columns = ["loss", "lr", "mse"][: 3 if live else 2]
    assert (found["columns"], found["rows"], found["wrong"]) == (columns, 5 if live else 3, "")
    assert found["asked"][:2] == [[["loss"], False], [["loss", "lr"], False]]


def test_what_was_wrong_is_no_longer_said_once_there_is_an_answer(run: Run) -> None:
    body = """
      const answers = [[500, "The disk is away."], [204, null]], said = [], real = window.fetch;
      window.fetch = async () => { const [status, text] = answers.shift(); return new Response(text, { status }); };
      const it = new feed.Feed("one", () => said.push(it.wrong));
      it.columns = ["loss"];
      await it.ask();
      await it.ask();
      it.leave();
      window.fetch = real;
      return said;"""
    assert run("feed", body) == ["The disk is away.", ""]


def test_a_chart_is_taken_away_while_it_is_drawn(run: Run) -> None:
    """Plotly draws in several turns, and a page may be left between two of them; what it draws may have any name."""
    line = {"uid": "DPM-Solver++ 2M, logsnr", "x": [1, 2], "y": [0.1, 0.2], "palette": 0}
    figure = {"data": [line], "layout": {"height": 300, "xaxis": {}}}
    body = """
      const faults = [];
      window.addEventListener("error", (event) => faults.push(event.message));
      window.addEventListener("unhandledrejection", (event) => faults.push(String(event.reason)));
      const frame = () => new Promise(requestAnimationFrame);
      const turns = [() => frame(), () => null, () => Promise.resolve(), () => new Promise(queueMicrotask)];
      const drawn = [];
      for (const turn of turns) {
        const parent = document.createElement("div");
        parent.innerHTML =
          '<span class="probe"></span><button class="reset"></button><div class="chart"></div><div class="note"></div>';
        document.body.append(parent);
        const chart = parent.querySelector(".chart");
        const part = plotly_chart.mount({ parentElement: parent, data: a });
        while (!chart.dataset.updates) await (drawn.length ? null : frame());  // the library is loaded but once
        drawn.push(chart._fullData.length);
        await turn();
        part.leave();
        for (let tries = 0; chart._fullLayout && tries < 600; tries++) await frame();
        await frame();
      }
      return { drawn, faults };"""
    found = run("plotly_chart", body, dict(figure=json.dumps(figure), library=PLOTLY))
    assert found == {"drawn": [1] * 4, "faults": []}
