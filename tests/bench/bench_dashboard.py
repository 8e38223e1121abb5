"""How quick the dashboard is, in a real Chromium:  python tests/bench/bench_dashboard.py

latency    from a metrics line written to its point on screen, while another process keeps a core busy (95 % in 1.5 s)
million    a finished run with 1,000,000 log lines: from the address to its chart (3 s)
start      from starting the server to a Home that answers a click (4 s)
home       Home with --runs runs: rows after the page's shell (1 s; with 2,000 runs 3 s), sorting, scrolling, idle (2 %)
idle       the share of a core that the server takes for one open Monitor
"""

import argparse
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
import home_of_many  # noqa: E402
from dashboard import QUIET, Server, chromium, start_server, stop_server, wait_by_asking  # noqa: E402
from playwright.sync_api import Page, sync_playwright  # noqa: E402

DRAWN = "Number(document.querySelector('.chart')?.dataset.updates || 0) > 0"
RECORD = """
() => {
  const chart = document.querySelector('.st-key-curves-live .chart');
  window.seen = [];
  chart.on('plotly_afterplot', () => requestAnimationFrame(() => setTimeout(() => {
    const newest = Math.max(...chart.data.map((trace) => trace.x[trace.x.length - 1]));
    window.seen.push([newest, Date.now() / 1000]);
  })));
}
"""


@contextmanager
def dashboard(folder: Path) -> Iterator[tuple[Server, psutil.Process]]:
    (folder / "runs").mkdir(exist_ok=True, parents=True)
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


def latency(page: Page, folder: Path, seconds: float) -> None:
    """Every line's age when the first frame that shows it was drawn."""
    stamps = folder / "stamps"
    with (
        dashboard(folder) as (server, process),
        busy(),
        fake_run.running(server.runs_dir, "live", 100_000, 5.0, "--stamps", str(stamps)),
    ):
        server.enter(page)
        page.goto(server.address("monitor", run="live"))
        page.wait_for_function(DRAWN, timeout=60_000)
        time.sleep(5)
        page.evaluate(RECORD)
        begin, used = time.time(), process.cpu_times()
        time.sleep(seconds)
        end = process.cpu_times()
        seen = page.evaluate("window.seen")
        page.goto("about:blank")
    ages = []
    for step, written in np.loadtxt(stamps, ndmin=2):
        shown = next((at for newest, at in seen if newest >= step), None)
        if written > begin and shown:
            ages.append(shown - written)
    share = (end.user + end.system - used.user - used.system) / seconds
    p50, p95, most = np.percentile(ages, [50, 95, 100])
    print(
        f"latency   median {p50:.2f} s, 95 % within {p95:.2f} s, worst {most:.2f} s, of {len(ages)} lines (asked: 95 %"
        " in 1.5 s)"
    )
    print(f"watching  takes {100 * share:.0f} % of a core in the server, with one Monitor open and a line every 0.2 s")


def million(page: Page, folder: Path, lines: int) -> None:
    """The first time that this server reads it, and the second."""
    (folder / "runs").mkdir(exist_ok=True)
    fake_run.big(folder / "runs", "million", lines)
    with dashboard(folder) as (server, process):
        server.enter(page)
        page.goto(server.address("train"))
        page.get_by_role("link", name="Monitor").first.wait_for()
        for which in ("first", "second"):
            begin = time.monotonic()
            page.goto(server.address("monitor", run="million"))
            page.wait_for_function(DRAWN, timeout=120_000)
            taken = time.monotonic() - begin
            points = page.evaluate("Math.max(...document.querySelector('.chart').data.map((t) => t.x.length))")
            print(
                f"million   {which} chart of {lines:,} lines in {taken:.2f} s, at most {points} points a trace (asked:"
                " 3 s, 2,000)"
            )
        print(f"million   the server's memory is {process.memory_info().rss / 1e6:.0f} MB then")


def start(page: Page, folder: Path) -> None:
    (folder / "runs").mkdir(exist_ok=True)
    for k in range(5):
        fake_run.write(folder / "runs", f"run{k}", steps=200)
    for which in ("first", "second"):
        begin = time.monotonic()
        with dashboard(folder) as (server, _):
            answered = time.monotonic() - begin
            server.enter(page)
            page.goto(server.address())
            page.get_by_role("button", name="New training").wait_for()
            page.get_by_text("200 steps").first.wait_for()
            taken = time.monotonic() - begin
            page.goto("about:blank")
        print(
            f"start     {which} time: server answers after {answered:.2f} s, Home is there after {taken:.2f} s (asked:"
            " 4 s)"
        )


def home(page: Page, folder: Path, count: int) -> None:
    home_of_many.make(folder / "runs", count)
    with dashboard(folder) as (server, process):
        server.enter(page)
        for line in home_of_many.measure(page, server, process, count):
            print(f"home      {count:,} runs: {line}")
        page.goto("about:blank")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["start", "home", "latency", "million"])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, nargs="+", default=[205, 2000])
    options = parser.parse_args()
    executable = chromium()
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=executable, args=list(QUIET))
        for what in options.what:
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            wait_by_asking(page)
            with tempfile.TemporaryDirectory() as name:
                if what == "latency":
                    latency(page, Path(name), options.seconds)
                elif what == "home":
                    for count in options.runs:
                        home(page, Path(name) / str(count), count)
                elif what == "million":
                    million(page, Path(name), options.lines)
                else:
                    start(page, Path(name))
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
