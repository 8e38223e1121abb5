"""Monitor in a real browser: zoom, pan and legend stay while the charts grow; the buttons reach the run."""

import re

import fake_run
import pytest
from dashboard import drag_zoom, wait_until_idle
from playwright.sync_api import Page, expect
from waiting import until

from pages.ui.components import browser_code

pytestmark = pytest.mark.browser

CHART = ".st-key-curves-live .chart"
UPDATES = f"Number(document.querySelector('{CHART}')?.dataset.updates || 0)"


def layout(page: Page, what: str) -> object:
    return page.evaluate(f"document.querySelector('{CHART}').layout.{what}")


def points(page: Page) -> int:
    return page.evaluate(f"Math.max(...document.querySelector('{CHART}').data[1].x)")


def open_monitor(page: Page, server, run: str = "live") -> None:  # type: ignore[no-untyped-def]
    page.goto(server.address("monitor", run=run))
    page.wait_for_function(f"{UPDATES} > 0")


def wait_for_updates(page: Page, more: int) -> None:
    target = page.evaluate(UPDATES) + more
    page.wait_for_function(f"{UPDATES} >= {target}")


def test_zoom_pan_and_legend_stay_while_the_charts_grow(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    with fake_run.running(server.runs_dir, "live", rate=20):
        open_monitor(page, server)
        wait_for_updates(page, 2)
        page.evaluate(f"document.querySelector('{CHART}').mark = 'the same node'")
        assert not page.get_by_text("Share chart").count()  # which would upload it
        assert not page.locator("[data-title^='Share']").count()

        drag_zoom(page, CHART)
        page.wait_for_function(f"document.querySelector('{CHART}').layout.xaxis.autorange === false")
        zoomed, height, before = layout(page, "xaxis.range"), layout(page, "yaxis.range"), points(page)
        wait_for_updates(page, 5)
        assert layout(page, "xaxis.range") == zoomed
        assert layout(page, "yaxis.range") == height
        assert points(page) > before

        page.mouse.move(*middle(page))
        page.keyboard.down("Shift")  # a drag with Shift pans
        page.mouse.down()
        page.mouse.move(*middle(page, right=60), steps=5)
        page.mouse.up()
        page.keyboard.up("Shift")
        wait_for_updates(page, 1)
        panned = layout(page, "xaxis.range")
        assert panned != zoomed

        page.locator(f"{CHART} .legendtoggle").nth(1).click()
        hidden = (
            f"document.querySelector('{CHART}').data.filter((t) => t.visible === 'legendonly').map((t) =>"
            " t.legendgroup)"
        )
        page.wait_for_function(f"{hidden}.length === 2")
        wait_for_updates(page, 5)
        assert page.evaluate(hidden) == ["loss", "loss"]
        assert layout(page, "xaxis.range") == panned
        assert page.evaluate(f"document.querySelector('{CHART}').mark") == "the same node"

        page.get_by_role("button", name="Show all").click()
        page.wait_for_function(f"document.querySelector('{CHART}').layout.xaxis.autorange !== false")
        expect(page.get_by_role("button", name="Show all")).to_be_hidden()


def middle(page: Page, right: float = 0) -> tuple[float, float]:
    box = page.locator(f"{CHART} .nsewdrag").first.bounding_box()
    assert box
    return box["x"] + box["width"] / 2 + right, box["y"] + box["height"] / 2


def test_scale_smoothing_and_theme_change_without_a_new_chart(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    with fake_run.running(server.runs_dir, "live", rate=10):
        page.emulate_media(color_scheme="light")
        open_monitor(page, server)
        page.evaluate(f"document.querySelector('{CHART}').mark = 'the same node'")
        page.locator(".st-key-log label").first.click()
        page.wait_for_function(f"document.querySelector('{CHART}').layout.yaxis.type === 'linear'")
        assert "log=false" in page.url
        light = layout(page, "font.color")
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(f"document.querySelector('{CHART}').layout.font.color !== '{light}'")
        assert page.evaluate(f"document.querySelector('{CHART}').mark") == "the same node"
        page.reload()
        page.wait_for_function(f"{UPDATES} > 0")
        assert layout(page, "yaxis.type") == "linear"


def test_save_preview_stop_and_the_tab_tells_the_progress(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    with fake_run.running(server.runs_dir, "live", 2000, 10) as run:
        open_monitor(page, server)
        expect(page).to_have_title(re.compile(r"\d+ % · live · DDPM Workbench"))
        page.get_by_role("button", name="Preview now").click()
        expect(page.get_by_alt_text("Preview grid of live at step")).to_be_visible()  # without a run of the script
        page.get_by_role("button", name="Save now").click()
        until(run.checkpoints)
        page.locator(".st-key-stop button").first.click()  # a stale twin may stand there for an instant
        expect(page.get_by_role("button", name="Resume")).to_be_enabled()
        expect(page.locator(".stMarkdownBadge", has_text="stopped").first).to_be_visible()
        assert run.state() == "stopped"


def test_one_that_does_not_stop_can_be_killed(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    with fake_run.running(server.runs_dir, "live", 2000, 10, "--stop_slowly") as run:
        open_monitor(page, server)
        page.locator(".st-key-stop button").first.click()  # a stale twin may stand there for an instant
        page.get_by_role("button", name="Kill …").click()
        page.get_by_role("dialog").get_by_role("button", name="Kill").click()
        expect(page.get_by_text("The process ended without reporting why")).to_be_visible()
        assert run.state() == "lost"


def test_progress_csv_comes_down_as_it_is(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    run = fake_run.write(server.runs_dir, "live", steps=30)
    open_monitor(page, server)
    with page.expect_download() as download:
        page.get_by_role("button", name="progress.csv").click()
    assert download.value.suggested_filename == "live-progress.csv"
    assert download.value.path().read_bytes() == run.progress_path.read_bytes()


PURE = """async ([strip, log, pin]) => {
    const { indexAt, placesSeen, nextFrame } = await import(strip);
    const { lineOf, covers } = await import(log);
    const { stepIn, withStep } = await import(pin);
    const lines = [[null, "a"], [5, "b"], [null, "c"], [10, "d"], [5, "again"], [7, "e"]];
    return {
        index: [0, 5, 7, 10, 99].map((step) => indexAt([5, 10, 20], step)),
        places: [placesSeen(0, 340, 1000), placesSeen(6800, 340, 1000), placesSeen(0, 340, 3)],
        frames: [nextFrame(0, 10), nextFrame(9, 10), nextFrame(0, 1000)],
        lines: [4, 5, 6, 8, 50].map((step) => lineOf(lines, step)),
        covers: [covers(lines, false, 6),
            covers(lines, false, 8), covers(lines, true, 8), covers([[null, ""]], true, 0)],
        steps: ["?step=7", "?step=-1", "?step=1e3", "?step=", "", "?step=1234567890123456"].map(stepIn),
        addresses: [withStep("http://a/m?run=b%20c#d", 7), withStep("http://a/m?step=7&run=b", null)],
    };
}"""


def test_one_cursor_goes_through_previews_log_and_values(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    run = fake_run.write(server.runs_dir, "one", steps=200)
    (run.folder / "samples" / "000150.png").write_bytes(b"no image")
    sent: list[object] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(frame)))
    page.goto(server.address("monitor", run="one"))
    places, picture = page.get_by_role("option"), page.get_by_alt_text("Preview grid of one")
    values = page.get_by_role("group", name="Values at a training step")
    line = page.locator(".line.at")
    expect(places).to_have_count(4)
    expect(page.get_by_alt_text("Preview grid of one at step 200")).to_be_visible()
    expect(page.locator(".where.hint")).to_be_visible()
    pure = page.evaluate(
        PURE, [f"{server.url}/{browser_code.address(name)}" for name in ("previews.js", "log_view.js", "pin.js")]
    )
    assert pure == {
        "index": [0, 0, 0, 1, 2],
        "places": [[0, 11], [94, 111], [0, 3]],
        "frames": [1, 9, 10],
        "lines": [-1, 4, 4, 5, 3],
        "covers": [True, False, True, False],
        "steps": [7, None, None, None, None, None],
        "addresses": ["http://a/m?run=b+c&step=7#d", "http://a/m?run=b"],
    }
    wait_until_idle(page)
    before = len(sent)

    places.nth(1).hover()  # of step 100
    expect(page.get_by_alt_text("Preview grid of one at step 100")).to_be_visible()
    expect(page.locator(".where")).to_have_text("Step 100")
    expect(line).to_have_text(re.compile("step 100:"))
    page.mouse.move(5, 5)
    expect(page.locator(".where.hint")).to_be_visible()
    page.locator(".line.named", has_text="step 60:").click()
    expect(page.locator(".where")).to_have_text("Pinned: step 60")
    assert page.url.endswith("step=60")
    page.mouse.move(5, 5)
    expect(page.get_by_alt_text("Preview grid of one at step 50")).to_be_visible()
    values.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".where")).to_have_text("Pinned: step 61")
    expect(values).to_contain_text("6.1 s")
    page.get_by_role("button", name="Unpin").click()
    expect(page.locator(".where.hint")).to_be_visible()
    assert "step=" not in page.url
    for step in (200, 199):
        page.keyboard.press("ArrowLeft")
        expect(page.locator(".where")).to_have_text(f"Step {step}")
    page.evaluate(
        "window.dispatchEvent(new CustomEvent('ddpm:cursor', {detail: {run: 'one', step: 120, pinned: false}}))"
    )  # as the chart does
    expect(page.locator(".where")).to_have_text("Step 120")
    expect(page.get_by_alt_text("Preview grid of one at step 100")).to_be_visible()
    expect(line).to_have_text(re.compile("step 120:"))

    places.nth(2).click()  # a file that is no image
    expect(page.locator(".note", has_text="000150.png")).to_be_visible()
    expect(picture).to_be_hidden()
    expect(page.locator(".place.broken")).to_have_count(1)
    page.get_by_role("button", name="Newest").click()
    fake_run.save_preview(run, 210, 200)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # asks at once
    expect(places).to_have_count(5)
    expect(page.get_by_alt_text("Preview grid of one at step 210")).to_be_visible()

    page.get_by_role("button", name="Full screen").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(picture).to_have_attribute("src", re.compile("step=210&side=1536"))
    image, bar = picture.bounding_box(), page.get_by_role("slider", name="Preview").bounding_box()
    assert image["y"] + image["height"] <= bar["y"]
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("dialog").locator(".note", has_text="000150.png")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(picture).to_have_attribute("src", re.compile("step=100&side=1536"))
    page.get_by_role("slider", name="Preview").focus()
    page.keyboard.press("Home")
    expect(picture).to_have_attribute("src", re.compile("step=50&side=1536"))
    page.get_by_role("button", name="Play").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(page.get_by_role("button", name="Play")).to_be_visible()  # at the end
    expect(picture).to_have_attribute("src", re.compile("step=210&side=1536"))
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert len(sent) == before, "the script did not run for any of it"

    places.nth(0).click()
    expect(page.locator(".where")).to_have_text("Pinned: step 50")
    page.reload()
    expect(page.locator(".where")).to_have_text("Pinned: step 50")
    expect(page.get_by_alt_text("Preview grid of one at step 50")).to_be_visible()
