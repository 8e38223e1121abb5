"""Sample quality on the Evaluate page: from the form through live progress to a result with its rows."""

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from ddpm.runs import runs

SHAPES = Path(__file__).parents[1] / "shapes_run"

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def fill(page: Page, key: str, value: object) -> None:
    field = page.locator(f".st-key-{key} input")
    field.fill(str(value))
    field.press("Enter")


def test_from_start_to_figures(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(SHAPES, server.runs_dir / "shapes")  # its data are always there
    page.goto(server.address("evaluate", run="shapes"))
    page.get_by_text("Sample quality").click()
    expect(page.get_by_text("How near samples are to real images")).to_be_visible()
    fill(page, "quality-num_samples", 256)
    fill(page, "quality-steps", 2)
    expect(page.locator("code").filter(has_text="--num_samples 256 --steps 2")).to_be_attached()
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    expect(page.get_by_role("button", name="Workbook (xlsx)")).to_be_visible()
    expect(page.locator("[data-testid=stMetricLabel]").get_by_text("FD-c10v1", exact=True)).to_be_visible()
    expect(page.get_by_alt_text("Grid of the first samples")).to_be_visible()
    expect(page.locator(".chart .main-svg").first).to_be_visible()

    [run] = runs.list_runs(server.runs_dir)
    [job] = run.results("qualities")
    assert job.state() == "finished", job.log_tail()
    assert [row["n"] for row in job.result["rows"]] == [256] * 4
