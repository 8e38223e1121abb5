"""Monitor in a real browser: zoom, pan and legend stay while the charts grow; the buttons reach the run."""

import re

import fake_run
import pytest
from dashboard import drag_zoom
from playwright.sync_api import Page, expect
from waiting import until

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
        expect(page.get_by_alt_text("Preview grid of live at step")).to_be_visible()
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
