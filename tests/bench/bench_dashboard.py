"""How quick the dashboard is, in a real Chromium:  python tests/bench/bench_dashboard.py

start      from starting the server to a Home that is drawn
home       Home with 205 runs and with 2,000: first rows, idle, and from there to the other pages
pages      the first load of every page
compare    ten runs of 1,000,000 lines each in one chart, the first time that the server reads them, and the second
million    Monitor on a finished run with 1,000,000 lines
latency    from a line in progress.csv to its point on the screen, while another process keeps a core busy; and what a
           Monitor that is open takes of a core

Shares of a core are those of the server, and of Chromium with all its processes.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "browser")]

import fake_run  # noqa: E402
from dashboard import QUIET, Server, chromium, start_server, stop_server, wait_by_asking  # noqa: E402
from playwright.sync_api import Page, sync_playwright  # noqa: E402

CHART = "[class*=st-key-{}] [data-updates]"
DRAWN = "() => Number(document.querySelector('{}')?.dataset.updates || 0) > 0"
ROWS = (
    "() => [...document.querySelectorAll('.st-key-runs *')].some("
    "(part) => (part.shadowRoot?.querySelectorAll('[role=row]').length ?? 0) > 5)"
)
NODES = (
    "() => [document, ...[...document.querySelectorAll('*')].map((part) => part.shadowRoot).filter(Boolean)]"
    ".reduce((sum, root) => sum + root.querySelectorAll('*').length, 0)"
)
AT_REST = (
    "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
    " && document.querySelector('h1') && !document.querySelector('[data-testid=stSkeleton]')"
)
RECORD = """
(selector) => {
  const chart = document.querySelector(selector);
  window.seen = [];
  new MutationObserver(() => requestAnimationFrame(() => setTimeout(
    () => window.seen.push([Number(chart.dataset.to), Date.now() / 1000])
  ))).observe(chart, { attributes: true, attributeFilter: ["data-updates"] });
}
"""


@contextmanager
def dashboard(folder: Path) -> Iterator[tuple[Server, psutil.Process]]:
    (folder / "runs").mkdir(exist_ok=True)
    process, url = start_server(folder / "runs", folder / "server.log", folder)
    try:
        yield Server(url, folder / "runs", folder / "server.log"), psutil.Process(process.pid)
    finally:
        stop_server(process)


@contextmanager
def busy(cores: int = 1) -> Iterator[None]:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def browsers() -> list[psutil.Process]:
    """The processes of Chromium that this one has started."""
    return [child for child in psutil.Process().children(recursive=True) if "chrom" in child.name().lower()]


def used(processes: list[psutil.Process]) -> float:
    """Seconds of processor that these have taken."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


@contextmanager
def shares(what: str, server: psutil.Process, seconds: float) -> Iterator[None]:
    """Prints what the server and Chromium take of a core for as long as the block lasts, `seconds` at least."""
    tabs = browsers()
    begin, before = time.monotonic(), (used([server]), used(tabs))
    yield
    time.sleep(max(0.0, begin + seconds - time.monotonic()))
    taken, after = time.monotonic() - begin, (used([server]), used(tabs))
    own, theirs = (100 * (b - a) / taken for a, b in zip(before, after, strict=True))
    print(f"{what:<11}takes {own:.2f} % of a core in the server, {theirs:.1f} % in the browser", flush=True)


def until(page: Page, condition: str, begin: float, what: str) -> None:
    """Prints how long it took until a condition was true in the browser."""
    page.wait_for_function(condition, timeout=180_000)
    print(f"{what} after {time.monotonic() - begin:.2f} s", flush=True)


def start(page: Page, folder: Path, seconds: float) -> None:
    (folder / "runs").mkdir(exist_ok=True)
    for k in range(5):
        fake_run.write(folder / "runs", f"run{k}", steps=200)
    for which in ("first", "second"):
        begin = time.monotonic()
        with dashboard(folder) as (server, _):
            print(f"start     {which} time: the server answers after {time.monotonic() - begin:.2f} s")
            server.enter(page)
            page.goto(server.address())
            until(page, ROWS, begin, "start     Home is drawn")
            page.goto("about:blank")


WORK = """
async () => {
  const room = [...document.querySelectorAll('*')].map((e) => e.shadowRoot?.querySelector('.room')).find(Boolean);
  const grid = room.querySelector('.grid'), took = { sort: 0, jump: 0 };
  const time = async (what, act) => {
    const began = performance.now();
    act();
    for (let k = 0; k < 2; k++) await new Promise(requestAnimationFrame);
    took[what] = Math.max(took[what], performance.now() - began);
  };
  for (const column of ['last:loss', 'name', 'last:loss', 'state'])
    await time('sort', () => room.querySelector(`[data-sort="${column}"]`).click());
  for (let k = 0; k < 60; k++) await time('jump', () => { grid.scrollTop = (k * 997) % grid.scrollHeight; });
  return took;
}
"""


def many(runs_dir: Path, count: int) -> None:
    """Runs with some settings that differ, most of them copies."""
    runs_dir.mkdir(exist_ok=True)
    templates = [fake_run.write(runs_dir, f"run-{k:04d}", steps=400, log_interval=4) for k in range(4)]
    for k in range(4, count):
        copy = runs_dir / f"run-{k:04d}"
        shutil.copytree(templates[k % 4].folder, copy)
        config = (copy / "config.json").read_text(encoding="utf-8")
        (copy / "config.json").write_text(config.replace('"lr": 0.001', f'"lr": {(1 + k % 7) * 1e-4:g}'), "utf-8")


def home(page: Page, folder: Path, seconds: float) -> None:
    for count in (205, 2000):
        runs_dir = folder / "runs"
        shutil.rmtree(runs_dir, ignore_errors=True)
        many(runs_dir, count)
        with dashboard(folder) as (server, process):
            server.enter(page)
            for which in ("first", "second", "third"):
                begin = time.monotonic()
                page.goto(server.address())
                page.wait_for_selector("[data-testid=stSidebar] a")
                shell = time.monotonic()
                page.wait_for_function(ROWS, timeout=180_000)
                now = time.monotonic()
                nodes = page.evaluate(NODES)
                print(
                    f"home      {count:,} runs, {which} time: rows {now - shell:.2f} s after the shell of the page,"
                    f" {now - begin:.2f} s after the address; {nodes:,} nodes",
                    flush=True,
                )
            time.sleep(10)
            asked: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))  # type: ignore[misc]
            took = page.evaluate(WORK)
            others = [url for url in asked if "data/preview" not in url and "data/runs" not in url]
            print(
                f"home      {count:,} runs: sorting {took['sort']:.0f} ms, a jump in the list {took['jump']:.0f} ms at"
                f" worst; {len(others)} requests but for previews and changes"
            )
            time.sleep(5)
            with shares(f"idle {count:,}", process, seconds):
                pass
            for name in ("Train", "Monitor", "Sample", "Evaluate", "Explore", "Home"):
                begin = time.monotonic()
                page.get_by_test_id("stSidebar").get_by_role("link", name=name, exact=True).click()
                title = "Runs" if name == "Home" else name
                page.wait_for_function(f"() => document.querySelector('h1')?.innerText === '{title}'")
                until(page, AT_REST, begin, f"home      from {count:,} runs on to {name}")
            print(f"home      the server's memory is {process.memory_info().rss / 1e6:.0f} MB then")
            page.goto("about:blank")


def pages(page: Page, folder: Path, seconds: float) -> None:
    """With an empty cache of the browser's each time."""
    (folder / "runs").mkdir(exist_ok=True)
    fake_run.write(folder / "runs", "run", steps=2000)
    with dashboard(folder) as (server, _):
        for name in ("", "train", "monitor", "sample", "evaluate", "explore", "compare"):
            context = page.context.browser.new_context(viewport={"width": 1440, "height": 1000})  # type: ignore[union-attr]
            tab = context.new_page()
            wait_by_asking(tab)
            server.enter(tab)
            begin = time.monotonic()
            tab.goto(server.address(name, **({"run": "run"} if name not in ("", "train", "compare") else {})))
            until(tab, AT_REST, begin, f"pages     first load of {name or 'home'}")
            context.close()


# How long the page is busy after something is changed at the chart: until the second frame after it.
REDRAW = """
async () => {
  const root = document.querySelector('[class*=st-key-compared-curves]');
  const slider = root.querySelector('.smoothing input'), log = root.querySelector('.log input'), took = {};
  const time = async (what, act) => {
    const began = performance.now();
    act();
    for (let k = 0; k < 2; k++) await new Promise(requestAnimationFrame);
    took[what] = Math.max(took[what] ?? 0, performance.now() - began);
  };
  for (const value of [0.3, 0.9, 0.6])
    await time('smoothing', () => { slider.value = value; slider.dispatchEvent(new Event('input')); });
  for (let k = 0; k < 2; k++) await time('log scale', () => log.click());
  for (const run of root.querySelectorAll('button.run')) await time('a run hidden', () => run.click());
  for (const run of root.querySelectorAll('button.run')) await time('a run shown', () => run.click());
  return took;
}
"""


def compare(page: Page, folder: Path, lines: int) -> None:
    runs_dir = folder / "runs"
    runs_dir.mkdir(exist_ok=True)
    first = fake_run.big(runs_dir, "million-0", lines)
    for k in range(1, 10):
        shutil.copytree(first.folder, runs_dir / f"million-{k}")
    with dashboard(folder) as (server, process):
        server.enter(page)
        for which in ("first", "second"):
            page.goto("about:blank")
            begin = time.monotonic()
            page.goto(server.address("compare", runs=",".join(f"million-{k}" for k in range(10))))
            until(page, DRAWN.format(CHART.format("compared-curves")), begin, f"compare   {which} time: a chart")
            chart = CHART.format("compared-curves")
            whole = f"() => document.querySelector('{chart}')?.dataset.whole === 'true'"
            until(page, whole, begin, f"compare   {which} time: all of ten runs of {lines:,} lines")
        redrawn = ", ".join(f"{what} {took:.0f} ms" for what, took in page.evaluate(REDRAW).items())
        print(f"compare   at worst, until the chart is drawn again: {redrawn}")
        print(f"compare   the server's memory is {process.memory_info().rss / 1e6:.0f} MB then")


def million(page: Page, folder: Path, lines: int) -> None:
    """The first time that this server reads it, and the second."""
    (folder / "runs").mkdir(exist_ok=True)
    fake_run.big(folder / "runs", "million", lines)
    with dashboard(folder) as (server, process):
        server.enter(page)
        for which in ("first", "second"):
            begin = time.monotonic()
            page.goto(server.address("monitor", run="million"))
            until(
                page, DRAWN.format(CHART.format("curves-")), begin, f"million   {which} time: chart of {lines:,} lines"
            )
        print(f"million   the server's memory is {process.memory_info().rss / 1e6:.0f} MB then")


def latency(page: Page, folder: Path, seconds: float) -> None:
    """Every line's age when the first frame that shows it was drawn; then the same without other work."""
    stamps = folder / "stamps"
    chart = CHART.format("curves-live")
    with (
        dashboard(folder) as (server, process),
        fake_run.running(server.runs_dir, "live", 100_000, 5.0, "--stamps", str(stamps)),
    ):
        server.enter(page)
        page.goto(server.address("monitor", run="live"))
        page.wait_for_function(DRAWN.format(chart), timeout=60_000)
        time.sleep(5)
        with shares("live", process, seconds):
            pass
        with busy():
            page.evaluate(RECORD, chart)
            begin = time.time()
            time.sleep(seconds)
            seen = page.evaluate("window.seen")
        page.goto("about:blank")
        time.sleep(3)
        with shares("no tab", process, seconds):
            pass
    ages = []
    for step, written in np.loadtxt(stamps, ndmin=2):
        shown = next((at for newest, at in seen if newest >= step), None)
        if written > begin and shown:
            ages.append(shown - written)
    p50, p95, most = np.percentile(ages, [50, 95, 100])
    print(f"latency   median {p50:.2f} s, 95 % within {p95:.2f} s, worst {most:.2f} s, of {len(ages)} lines")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("start", "home", "pages", "compare", "million", "latency")
    parser.add_argument("what", nargs="*", default=list(parts), help=", ".join(parts))
    parser.add_argument("--seconds", type=float, default=30.0, help="for how long shares and ages are measured")
    parser.add_argument("--lines", type=int, default=1_000_000)
    options = parser.parse_args()
    executable = chromium()
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=executable, args=list(QUIET))
        for what in options.what:
            page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
            wait_by_asking(page)
            with tempfile.TemporaryDirectory() as name:
                if what in ("compare", "million"):
                    {"compare": compare, "million": million}[what](page, Path(name), options.lines)
                else:
                    {"start": start, "home": home, "pages": pages, "latency": latency}[what](
                        page, Path(name), options.seconds
                    )
            page.context.close()
        browser.close()


if __name__ == "__main__":
    main()
