"""Compare in a real browser: from a link, through all that is looked at, and back by the link that it has become."""

import io
import random
import re
from typing import Any

import fake_run
import numpy as np
import pytest
from dashboard import drag_zoom, wait_until_idle
from PIL import Image
from playwright.sync_api import Page, expect

from ddpm.formatting import duration
from ddpm.runs import progress_log, runs
from ddpm.runs.runs import Run

pytestmark = pytest.mark.browser

CHART, PREVIEWS = ".st-key-compared-curves .chart", ".st-key-compared-previews .previews"


def trained(server: Any, name: str, steps: int, previews: tuple[int, ...], rate: float, **settings: Any) -> Run:
    """A run with a row for each step, `rate` of which it does in a second.  name: any that a folder can have."""
    made = runs.create_run(server.runs_dir, "made", fake_run.config(steps, **settings))
    run = Run(made.folder.rename(made.folder.with_name(name)))
    writer, rng = progress_log.MetricWriter(run.progress_path), random.Random(name)
    for step in range(1, steps + 1):
        writer.write(fake_run.row(step, rng, rate, run.config.train.batch_size))
    writer.close()
    for step in previews:
        fake_run.save_preview(run, step, steps)
    return run


def shown(page: Page, what: str) -> str:
    return page.locator(CHART).get_attribute(f"data-{what}") or ""


def table(page: Page) -> list[list[str]]:
    return [row.locator("th, td").all_inner_texts() for row in page.locator(f"{CHART} tbody tr").all()]


def everything(page: Page) -> dict[str, Any]:
    """What is looked at."""
    expect(page.locator(CHART)).to_have_attribute("data-step", re.compile("[0-9]"))
    expect(page.locator(PREVIEWS)).to_have_attribute("data-steps", re.compile("[0-9],"))
    return {
        "chart": [shown(page, what) for what in ("step", "pinned", "zoomed")],
        "range": [round(float(shown(page, what)), 3) for what in ("from", "to")],
        "runs": [button.get_attribute("aria-pressed") for button in page.locator(f"{CHART} .legend button").all()],
        "table": table(page),
        "previews": [page.locator(PREVIEWS).get_attribute(f"data-{what}") for what in ("mode", "steps")],
        "controls": page.locator(f"{CHART} .controls input").evaluate_all("all => all.map(i => [i.value, i.checked])"),
    }


def test_from_a_link_and_back_to_it(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    slow = trained(server, "slow", 400, (100, 200, 400), 10)
    fast = trained(server, "fast, 2", 300, (50, 100, 300), 5, batch_size=32, lr=5e-4)
    trained(server, "third", 40, (), 10)
    refused: list[str] = []
    page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
    page.goto(server.address("compare", runs="slow,fast%252C%202", x="time", smooth="0.5", log="false"))
    expect(page.locator(f"{CHART} tbody tr")).to_have_count(2)
    expect(page.get_by_role("radio", name="time")).to_be_checked()
    expect(page.locator(f"{CHART} .legend button")).to_have_text(["slow", "fast, 2"])
    wait_until_idle(page)
    settings = page.get_by_test_id("stTable").first.locator("tr > :first-child").all_inner_texts()
    assert [text.strip() for text in settings] == ["Setting", "Training steps", "Batch size", "Learning rate"]

    # The cursor: each run at the same time, with the values of its own step, and its preview.
    room = page.locator(f"{CHART} .room").first
    box = room.bounding_box()
    assert box
    place = (box["x"] + 56 + (box["width"] - 56 - 66) * 0.4, box["y"] + 90)  # of 60 s
    page.mouse.move(*place)
    page.mouse.click(*place)
    expect(page.locator(CHART)).to_have_attribute("data-pinned", "true")
    page.mouse.move(5, 5)
    one, other = table(page)
    steps = [int(row[1].replace(",", "")) for row in (one, other)]
    assert steps[0] / 10 == pytest.approx(24, abs=0.4)
    assert steps[1] / 5 == pytest.approx(steps[0] / 10, abs=0.21)
    for run, row, step in ((slow, one, steps[0]), (fast, other, steps[1])):
        logged = run.metrics.set_index("step").loc[step]
        assert row[2:5] == [duration(logged["seconds"]), f"{logged['samples']:,.0f}", f"{logged['loss']:.4g}"]
    expect(page.locator(PREVIEWS)).to_have_attribute("data-steps", "200,100")
    page.get_by_role("radio", name="images").check()
    page.wait_for_function(f"() => document.querySelector('{CHART}').dataset.to === '9600'")
    at = [int(row[3].replace(",", "")) for row in table(page)]
    assert at[0] == pytest.approx(at[1], abs=32)
    page.get_by_role("radio", name="step").check()
    page.wait_for_function(f"() => document.querySelector('{CHART}').dataset.to === '400'")
    pinned = int(shown(page, "step"))  # of the run whose line was nearest
    assert pinned in steps
    assert [row[1] for row in table(page)] == [str(pinned)] * 2
    first = 100 if pinned < 200 else 200
    expect(page.locator(PREVIEWS)).to_have_attribute("data-steps", f"{first},100")

    # Previews in turn and subtracted, each by one key.
    page.keyboard.press("b")
    figures = page.locator(f"{PREVIEWS} .blinking > figure")
    expect(figures).to_have_count(2)
    for which in (1, 0, 1):
        expect(figures.nth(which)).to_be_visible()
        expect(figures.filter(visible=True)).to_have_count(1)
    page.keyboard.press("d")
    difference = page.locator(f"{PREVIEWS} figure[data-mean]")
    expect(difference).to_have_count(1)
    images = [np.asarray(Image.open(io.BytesIO(fake_run.image(*at))), dtype=float) for at in ((first, 400), (100, 300))]
    mean = float(np.abs(images[0] - images[1]).mean())
    assert float(difference.get_attribute("data-mean") or "nan") == pytest.approx(mean, rel=0.02)

    # A part of it, and one run less: the address keeps all, through a change of the runs, too.
    drag_zoom(page, CHART)
    expect(page.locator(CHART)).to_have_attribute("data-zoomed", "true")
    page.locator(f"{CHART} .legend button", has_text="fast, 2").click()
    expect(page.locator(f"{CHART} tbody tr")).to_have_count(1)
    page.mouse.move(5, 5)
    looked_at = everything(page)
    assert looked_at["previews"] == ["difference", f"{first},100"]
    page.reload()
    assert everything(page) == looked_at
    page.get_by_role("combobox", name="Runs").click()
    page.get_by_role("option", name="third").click()
    expect(page.locator(f"{CHART} .legend button")).to_have_text(["slow", "fast, 2", "third"])
    assert {"previews=difference", f"step={pinned}", "smooth=0.5"} <= {*page.url.partition("?")[2].split("&")}
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Side by side").click()
    expect(page.locator(PREVIEWS)).to_have_attribute("data-mode", "side")
    expect(page.locator(f"{PREVIEWS} figure")).to_have_count(3)
    assert not refused, "the browser asked for what is not there"


def test_runs_that_are_hidden_or_lack_the_axis_are_said(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    trained(server, "one", 40, (), 10)
    theirs = trained(server, "theirs", 40, (), 10)
    rows = theirs.progress_path.read_text().splitlines()
    at = rows[0].split(",").index("seconds")
    gone = [",".join("" if k == at else value for k, value in enumerate(row.split(","))) for row in rows[1:]]
    theirs.progress_path.write_text("\n".join([rows[0], *gone, ""]))
    note = page.locator(f"{CHART} .note")
    page.goto(server.address("compare", runs="one,theirs", x="time"))
    expect(note).to_contain_text("theirs")
    expect(page.locator(f"{CHART} .panels > *")).not_to_have_count(0)
    page.locator(f"{CHART} .legend button", has_text="one").click()
    expect(page.locator(f"{CHART} .panels > *")).to_have_count(0)
    page.get_by_role("radio", name="step").check()
    expect(page.locator(f"{CHART} .panels > *")).not_to_have_count(0)
    expect(note).to_be_hidden()
    page.locator(f"{CHART} .legend button", has_text="theirs").click()
    expect(note).to_be_visible()
    expect(page.locator(f"{CHART} .panels > *")).to_have_count(0)

    page.goto(server.address("compare", runs="one", hide="one"))  # a single one has no legend to show it again
    expect(page.locator(f"{CHART} .panels > *")).not_to_have_count(0)
