"""The whole way in a real browser: quick start, watch, stop, resume, draw, take everything home."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from dashboard import drag_zoom
from PIL import Image
from playwright.sync_api import Page, expect
from waiting import until

from ddpm.config.tasks import FEW_STEPS
from ddpm.runs import runs
from ddpm.runs.runs import Run

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CHART = "[class*=st-key-curves-] .chart"
UPDATES = f"Number(document.querySelector('{CHART}')?.dataset.updates || 0)"


def done(run: Run) -> int:
    """Training steps that the run tells of."""
    status = run.status()
    return status.step if status else 0


def zoom(page: Page) -> list[str]:
    """Zoom into the first panel; returns the range it leaves."""
    drag_zoom(page, CHART)
    page.wait_for_function(f"document.querySelector('{CHART}').dataset.zoomed === 'true'")
    return x_range(page)


def x_range(page: Page) -> list[str]:
    return page.evaluate(
        f"[document.querySelector('{CHART}').dataset.from, document.querySelector('{CHART}').dataset.to]"
    )


def download(page: Page, label: str) -> bytes:
    with page.expect_download() as got:
        page.get_by_role("button", name=label).click()
    return Path(got.value.path()).read_bytes()


def test_from_quick_start_to_downloads(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    page.goto(server.url)
    page.get_by_role("button", name="Quick start").click()
    page.wait_for_function(f"{UPDATES} > 1")  # Monitor, with a chart that grows
    [run] = runs.list_runs(server.runs_dir)

    zoomed, updates = zoom(page), page.evaluate(UPDATES)
    page.wait_for_function(f"{UPDATES} >= {updates + 3}")
    assert x_range(page) == zoomed

    page.locator(".st-key-stop button").first.click()  # a stale twin may stand there for an instant
    expect(page.get_by_role("button", name="Resume")).to_be_enabled()
    stopped_at = done(run)
    assert run.state() == "stopped"
    assert run.checkpoint().step == stopped_at
    page.get_by_role("button", name="Resume").click()
    until(lambda: run.state() == "running" and done(run) > stopped_at)

    page.goto(server.address("sample", run=run.name))  # while it trains
    slider = page.locator(".st-key-sample-steps input")
    slider.focus()
    for _ in range(2):
        slider.press("ArrowLeft")
    expect(page.locator(".st-key-sample-steps [data-testid=stSliderThumbValue]")).to_have_text("6")
    images = page.locator(".st-key-sample-num_samples input")
    images.fill("4")
    images.press("Enter")
    page.get_by_test_id("stBaseButton-primary").click()
    expect(page.get_by_role("button", name="Grid (PNG)")).to_be_visible()

    with Image.open(io.BytesIO(download(page, "Grid (PNG)"))) as grid:
        grid.load()
        assert grid.format == "PNG"
        assert grid.size == (66, 66)  # two by two of 32 pixels, with a gap of 2
    with np.load(io.BytesIO(download(page, "Arrays (npz)"))) as arrays:
        pixels = arrays["arr_0"]
        assert pixels.shape == (4, 32, 32, 3)
        assert pixels.dtype == np.uint8
    with zipfile.ZipFile(io.BytesIO(download(page, "Images (zip)"))) as archive:
        assert archive.namelist() == [f"{k:05d}.png" for k in range(4)]
        for k, name in enumerate(archive.namelist()):
            assert np.array_equal(np.asarray(Image.open(archive.open(name))), pixels[k])
    sampled_with = json.loads(download(page, "Settings (JSON)"))["sample"]
    assert (sampled_with["sampler"], sampled_with["steps"], sampled_with["num_samples"]) == (FEW_STEPS, 6, 4)

    page.goto(server.address("monitor", run=run.name))
    book = openpyxl.load_workbook(io.BytesIO(download(page, "results.xlsx")))
    assert {"Summary", "Config", "Metrics", "Checkpoints", "Charts"} <= set(book.sheetnames)
    assert book["Metrics"].max_row > 2
    assert len(book["Charts"]._charts) == 3
