"""What a page shows of a run when another is chosen, and the way to the example beside runs of one's own."""

import shutil
from pathlib import Path

import pytest
from dashboard import wait_until_idle
from playwright.sync_api import Page, expect

from ddpm.runs import runs

pytestmark = pytest.mark.browser

SHAPES = Path(__file__).parents[1] / "shapes_run"


def test_labels_are_those_of_the_run_that_was_chosen(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(SHAPES, server.runs_dir / "shapes")
    page.goto(server.address("evaluate", run="shapes"))
    checkpoint, source = (page.locator(f".st-key-evaluate-{name} input") for name in ("step", "source"))
    expect(checkpoint).to_have_value("Newest (step 3,000)")
    expect(source).to_have_value("Training data: Shapes")
    page.get_by_role("button", name="Use the example model").click()
    expect(page.get_by_text("This is the included example model")).to_be_visible()
    (found,) = (run for run in runs.list_runs(server.runs_dir) if run.name == "example")
    expect(checkpoint).to_have_value(f"Newest (step {found.checkpoint().step:,})")
    expect(source).to_have_value("Training data: CIFAR-10")
    wait_until_idle(page)
    expect(page.get_by_role("button", name="Use the example model")).to_have_count(0)
