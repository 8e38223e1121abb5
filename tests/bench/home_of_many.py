"""Home with many runs, in Chromium: first paint, sorting and scrolling, other pages afterwards, idle cost."""

import json
import random
import shutil
import time
from pathlib import Path

import fake_run
import psutil
from dashboard import Server
from playwright.sync_api import Page

from ddpm.config import codec
from ddpm.runs.runs import Run

ROOM = "[...document.querySelectorAll('*')].map((e) => e.shadowRoot?.querySelector('.room')).find(Boolean)"
PAINTED = f"(() => {{ const room = {ROOM}; return room?.querySelectorAll('[data-run]').length > 5; }})()"
SHELL = "document.querySelector('[data-testid=stAppViewContainer]') !== null"
WORK = """
async () => {
  const room = [...document.querySelectorAll('*')].map((e) => e.shadowRoot?.querySelector('.room')).find(Boolean);
  const grid = room.querySelector('.grid'), frame = () => new Promise(requestAnimationFrame);
  const took = { sort: 0, scroll: 0 };
  for (const column of ['last:loss', 'name', 'last:loss', 'state']) {
    const began = performance.now();
    room.querySelector(`[data-sort="${column}"]`).click();
    await frame();
    await frame();
    took.sort = Math.max(took.sort, performance.now() - began);
  }
  for (let k = 0; k < 60; k++) {
    const began = performance.now();
    grid.scrollTop = (k * 997) % grid.scrollHeight;
    await frame();
    await frame();
    took.scroll = Math.max(took.scroll, performance.now() - began);
  }
  return { ...took, nodes: document.querySelectorAll('*').length + room.querySelectorAll('*').length };
}
"""


def make(runs_dir: Path, count: int) -> None:
    """Folders of that many runs, of 400 steps each, which differ in a few settings."""
    rng = random.Random(1)
    runs_dir.mkdir(exist_ok=True, parents=True)
    kinds = [("finished", 400), ("finished", 400), ("stopped", 1000), ("failed", 1000)]
    first = [
        fake_run.write(runs_dir, f"run-{k:04d}", steps=400, state=state, total=total)
        for k, (state, total) in enumerate(kinds)
    ]
    for k in range(len(first), count):
        run = Run(shutil.copytree(first[k % len(first)].folder, runs_dir / f"run-{k:04d}"))
        chosen = {"lr": rng.choice([1e-4, 2e-4, 1e-3]), "batch_size": rng.choice([8, 16, 32])}
        run.save_config(codec.replace(run.config, chosen))


def measure(page: Page, server: Server, process: psutil.Process, count: int, seconds: float = 20.0) -> list[str]:
    """What was measured, as lines; the page has the token, and the server was not asked for its runs yet."""
    said = []
    for which in ("first", "second"):
        began = time.monotonic()
        page.goto(server.address(), wait_until="commit")
        page.wait_for_function(SHELL)
        shell = time.monotonic()
        page.wait_for_function(PAINTED)
        painted = time.monotonic()
        said.append(f"{which} look: rows {painted - shell:.2f} s after the shell, {painted - began:.2f} s in all")
    page.wait_for_function(f"{ROOM}.querySelector('.said').textContent === '{count:,} runs'", timeout=120_000)
    page.wait_for_timeout(8000)  # logs and sizes are read in the background
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    took = page.evaluate(WORK)
    of_server = [url for url in asked if "/data/preview" not in url and "since=" not in url]
    said.append(
        f"sorting {took['sort']:.0f} ms, a jump in the list {took['scroll']:.0f} ms at worst, {len(of_server)} requests"
        f" but for previews; {took['nodes']:,} nodes"
    )
    page.wait_for_timeout(4000)
    used, began = process.cpu_times(), time.monotonic()
    page.wait_for_timeout(1000 * seconds)
    now, took_idle = process.cpu_times(), time.monotonic() - began
    said.append(f"idle {100 * (now.user + now.system - used.user - used.system) / took_idle:.2f} % of a core")
    for name in ("Train", "Home"):
        began = time.monotonic()
        page.get_by_test_id("stSidebar").get_by_role("link", name=name, exact=True).click()
        if name == "Train":
            page.get_by_test_id("stMain").get_by_role("heading").first.wait_for()
            page.wait_for_function(f"!({PAINTED})")
        else:
            page.wait_for_function(PAINTED)
        said.append(f"{name} afterwards in {time.monotonic() - began:.2f} s")
    answer = page.evaluate("fetch('data/runs?since=').then((a) => a.text())")
    said.append(f"all rows are {len(answer) / 1e6:.2f} MB as JSON, {len(json.loads(answer)['rows']):,} of them")
    return said
