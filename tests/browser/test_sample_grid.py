"""Images first: the grid of samples fills its column, and an image opens large, from which other tasks begin."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from dashboard import wait_until_idle
from playwright.sync_api import Page, Route, expect

from ddpm.config.tasks import SampleConfig
from ddpm.runs.jobs import Status
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.storage import files, images

pytestmark = pytest.mark.browser

BUTTON = ".st-key-rail-foot button[kind=primary]"
TILES = ".st-key-samples .tile"
COUNT = 16
SHAPES = Path(__file__).parents[1] / "shapes_run"


@pytest.fixture
def run(server) -> Run:  # type: ignore[no-untyped-def]
    """A trained run, whose data are always there, with 16 samples, as `ddpm sample` leaves them."""
    shutil.copytree(SHAPES, server.runs_dir / "shapes")
    found = Run(server.runs_dir / "shapes")
    job = SampleJob(found.folder / "samples" / "20260102-030405")
    sample = SampleConfig(num_samples=COUNT, sampler="unipc-2", steps=10, seed=3)
    files.write_json(job.folder / "settings.json", {"sample": dataclasses.asdict(sample), "command": "ddpm sample"})
    for k in range(COUNT):
        one = dataclasses.replace(sample, num_samples=1, seed=3 + k, classes=str(k % 8))
        image = np.full((32, 32, 3), 15 * k, np.uint8)
        made_by = {"sample": dataclasses.asdict(one), "checkpoint": {"step": 3000, "weights": "ema_0.995"}}
        images.save_png(job.folder / "images" / f"{k:05d}.png", image, made_by)
    files.write_json(job.folder / "status.json", dataclasses.asdict(Status("finished", pid=1)))
    return found


def laid_out(page: Page) -> tuple[float, float, float]:
    """What share of its column the grid fills, the side of an image and the top of the grid, once they stand still."""
    page.wait_for_function(
        """() => {
            const host = [...document.querySelectorAll(".st-key-samples *")].find((node) => node.shadowRoot);
            const grid = (host?.shadowRoot ?? document).querySelector(".grid");
            const now = `${grid?.getBoundingClientRect().width} ${grid?.style.gridTemplateColumns} ${innerWidth}`;
            const same = window.laidOut === now;
            window.laidOut = now;
            return same;
        }"""
    )
    boxes = [page.locator(TILES).nth(k).bounding_box() for k in range(COUNT)]
    column = page.locator(".st-key-samples").bounding_box()
    assert column
    right = max(box["x"] + box["width"] for box in boxes if box)
    assert boxes[0]
    return (right - column["x"]) / column["width"], boxes[0]["width"], boxes[0]["y"]


def test_images_first(page: Page, server, run: Run) -> None:  # type: ignore[no-untyped-def]
    # It asks again where the server does not answer, also once the job has ended.
    failed: list[str] = []

    def fail_twice(route: Route) -> None:
        if len(failed) < 2 and "since" in route.request.url:
            failed.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    page.route("**/samples/**", fail_twice)
    page.goto(server.address("sample", run=run.name))
    expect(page.locator(TILES)).to_have_count(COUNT)
    expect(page.locator(".st-key-samples .note")).to_be_hidden()
    assert len(failed) == 2
    page.unroute("**/samples/**")
    wait_until_idle(page)

    # The grid fills its column at any width, in whole multiples; form, button and result are in sight together.
    for width in (1440, 1100, 820):
        page.set_viewport_size({"width": width, "height": 900})
        share, side, top = laid_out(page)
        assert share > 0.85, width
        assert side % 32 == 0, width
        assert top < 400
        button = page.locator(BUTTON).bounding_box()
        assert button
        assert button["y"] + button["height"] < 900, width
    page.set_viewport_size({"width": 1440, "height": 900})

    # Keys lead from image to image; one opens large, with its seed and class.
    page.locator(TILES).first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(f"{TILES}[data-number='1']")).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.locator(".st-key-samples dialog")
    expect(dialog).to_be_visible()
    expect(dialog.locator(".title")).to_have_text(re.compile(r"Image 1 · seed 4 · \w+"))
    page.keyboard.press("ArrowRight")
    expect(dialog.locator(".title")).to_have_text(re.compile(r"Image 2 · seed 5 · \w+"))
    page.keyboard.press("Escape")
    expect(dialog).not_to_be_visible()

    # The training images that are nearest to one.
    page.locator(TILES).nth(5).click()
    dialog.get_by_role("button", name="Nearest training images").click()
    expect(page.get_by_text("The nearest of 5,000 training images")).to_be_visible()

    # A click opens one, from which a task begins, within its class.
    page.locator(TILES).nth(3).click()
    dialog.get_by_role("button", name="Vary").click()
    expect(page.get_by_text("Add noise to an image and denoise it again")).to_be_visible()
    expect(page.locator(".st-key-number_3 button[kind=primary]")).to_be_visible()
    expect(page.get_by_placeholder(f"As the input image: {run.config.class_names[3]}")).to_be_visible()
    expect(page.locator(BUTTON)).to_be_enabled()
    seed = page.locator(".st-key-sample-seed input")
    expect(seed).to_have_value(str(3 + COUNT))  # none of those that are there

    # So do the other tasks, and the trajectory, on its page.
    for number, name, text in ((6, "Inpaint", "Sample new content where you paint"), (7, "Invert", "Map an image to")):
        page.locator(TILES).nth(number).click()
        dialog.get_by_role("button", name=name).click()
        expect(page.get_by_text(text)).to_be_visible()
        expect(page.locator(f".st-key-number_{number} button[kind=primary]")).to_be_visible()
    page.locator(TILES).nth(9).click()
    dialog.get_by_role("button", name="Trajectory").click()
    page.wait_for_url("**/explore*")
    expect(page.locator(".st-key-microscope-number input")).to_have_value("9")
    expect(page.get_by_alt_text("Image 9", exact=True)).to_be_visible()
