"""Monitor in a real browser: what is looked at stays while the charts grow, and its link; the buttons reach the run."""

import random
import re
import shlex

import fake_run
import numpy as np
import pytest
from dashboard import drag_zoom, script_runs, wait_until_idle
from playwright.sync_api import Page, expect
from waiting import until

from ddpm.runs import progress_log
from ddpm.runs.worker import Worker
from pages.ui.components import browser_code

pytestmark = pytest.mark.browser

CHART = "[class*=st-key-curves-live] .chart"
UPDATES = f"Number(document.querySelector('{CHART}')?.dataset.updates || 0)"


def shown(page: Page, what: str) -> float:
    return page.evaluate(f"Number(document.querySelector('{CHART}').dataset.{what})")


def open_monitor(page: Page, server, run: str = "live", **look: str) -> None:  # type: ignore[no-untyped-def]
    page.goto(server.address("monitor", run=run, **look))
    page.wait_for_function(f"{UPDATES} > 0 && document.querySelector('{CHART} .panel')")


def wait_for_updates(page: Page, more: int) -> None:
    target = page.evaluate(UPDATES) + more
    page.wait_for_function(f"{UPDATES} >= {target}")


def values(page: Page, panel: str) -> str:
    return (
        page.locator(f"{CHART} .panel").filter(has=page.get_by_text(panel, exact=True)).locator(".values").inner_text()
    )


def test_zoom_pan_and_what_is_shown_stay_while_the_charts_grow(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    with fake_run.running(server.runs_dir, "live", rate=20):
        open_monitor(page, server)
        wait_for_updates(page, 2)
        page.evaluate(f"document.querySelector('{CHART}').mark = 'the same node'")
        reruns = page.evaluate("document.querySelectorAll('[data-testid=stApp]').length")
        assert reruns == 1

        drag_zoom(page, CHART)
        expect(page.locator(CHART)).to_have_attribute("data-zoomed", "true")
        zoomed = (shown(page, "from"), shown(page, "to"))
        rows = shown(page, "rows")
        wait_for_updates(page, 4)
        assert (shown(page, "from"), shown(page, "to")) == zoomed
        assert shown(page, "rows") > rows

        page.mouse.move(*middle(page))
        page.keyboard.down("Shift")  # a drag with Shift pans
        page.mouse.down()
        page.mouse.move(*middle(page, right=60), steps=5)
        page.mouse.up()
        page.keyboard.up("Shift")
        wait_for_updates(page, 1)
        panned = (shown(page, "from"), shown(page, "to"))
        assert panned[0] < zoomed[0]
        assert panned[1] - panned[0] == pytest.approx(zoomed[1] - zoomed[0])

        page.get_by_text("Panels", exact=True).click()
        page.get_by_role("checkbox", name="grad_norm").uncheck()
        page.get_by_label("lr", exact=True).check()
        page.keyboard.press("Escape")
        expect(page.locator(f"{CHART} .panel h3")).to_have_text(["loss = mse", "lr"])
        assert "columns=loss,lr" in page.url
        wait_for_updates(page, 4)
        assert (shown(page, "from"), shown(page, "to")) == panned
        assert page.evaluate(f"document.querySelector('{CHART}').mark") == "the same node"

        page.get_by_role("button", name="Show all").click()
        expect(page.locator(CHART)).to_have_attribute("data-zoomed", "false")
        expect(page.get_by_role("button", name="Show all")).to_be_hidden()


def middle(page: Page, right: float = 0) -> tuple[float, float]:
    box = page.locator(f"{CHART} .room").first.bounding_box()
    assert box
    return box["x"] + box["width"] / 2 + right, box["y"] + box["height"] / 2


def colour(page: Page) -> list[int]:
    """Of the numbers beside the first panel."""
    return page.evaluate(f"""() => {{
        const canvas = document.querySelector('{CHART} canvas');
        const [width, height] = [50, canvas.height];
        const pixels = canvas.getContext('2d').getImageData(0, 0, width, height).data;
        let most = [0, 0, 0, 0];
        for (let k = 0; k < pixels.length; k += 4) if (pixels[k + 3] > most[3]) most = [...pixels.slice(k, k + 4)];
        return most; }}""")


def test_how_it_is_looked_at_needs_no_server_and_is_in_the_link(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    fake_run.write(server.runs_dir, "live", steps=300)
    page.emulate_media(color_scheme="light")
    sent = script_runs(page)
    open_monitor(page, server, x="time", smooth="0.8", log="false")  # a link as there always were
    assert (shown(page, "from"), shown(page, "to")) == (0.1, 30)
    expect(page.get_by_label("Smoothing")).to_have_value("0.8")
    expect(page.get_by_label("Log scale")).not_to_be_checked()
    page.evaluate(f"document.querySelector('{CHART}').mark = 'the same node'")
    wait_until_idle(page)
    before = len(sent)
    asked = []  # for metrics; other parts of the page ask what was at the cursor
    page.on("request", lambda request: asked.append(request.url) if "run/metrics" in request.url else None)

    light, smoothed = colour(page), values(page, "grad_norm")
    page.get_by_label("Smoothing").fill("0.2")
    page.wait_for_function(f"document.querySelector('{CHART} .values').textContent !== '{smoothed}'")
    assert values(page, "grad_norm").split(" · ")[0] == smoothed.split(" · ")[0]  # what was logged
    page.get_by_label("images", exact=True).check()
    page.wait_for_function(f"document.querySelector('{CHART}').dataset.to === '4800'")
    page.get_by_label("Log scale").check()
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"document.querySelector('{CHART}').mark === 'the same node'")
    until(lambda: colour(page) != light)

    # The cursor: by mouse and by keys, on a step that was logged; a click pins it.
    page.mouse.move(*middle(page))
    page.wait_for_function(f"document.querySelector('{CHART}').dataset.step > 100")
    expect(page.locator(f"{CHART} .tip")).to_contain_text("smoothed")
    page.mouse.click(*middle(page))
    expect(page.locator(CHART)).to_have_attribute("data-pinned", "true")
    step = int(shown(page, "step"))
    assert f"step={step}" in page.url
    page.keyboard.press("ArrowRight")
    expect(page.locator(CHART)).to_have_attribute("data-step", str(step + 1))
    heard = page.evaluate("""() => new Promise((done) => {
        addEventListener('ddpm:cursor', ({ detail }) => done([detail.run, detail.step, detail.pinned]), { once: true });
        document.querySelector('.chart .room').dispatchEvent(
          new KeyboardEvent('keydown', { key: 'ArrowRight', bubbles: true, composed: true })); })""")
    assert heard == ["live", step + 2, True]
    page.evaluate("dispatchEvent(new CustomEvent('ddpm:cursor', { detail: { run: 'live', step: 25, pinned: true } }))")
    expect(page.locator(CHART)).to_have_attribute("data-step", "25")
    assert not asked
    assert len(sent) == before, "the script did not run for any of it"
    link = page.url
    assert {"x=images", "smooth=0.2", "step=25", "run=live"} <= {*link.partition("?")[2].split("&")}
    assert "log=" not in link
    page.reload()
    page.wait_for_function(f"{UPDATES} > 0")
    expect(page.locator(CHART)).to_have_attribute("data-step", "25")
    assert (page.url, shown(page, "to")) == (link, 4800)
    page.locator(f"{CHART} .room").first.focus()
    page.keyboard.press("Escape")
    expect(page.locator(CHART)).to_have_attribute("data-step", "")
    assert "step=" not in page.url

    with page.expect_download() as got:
        page.get_by_role("button", name="SVG").click()
    picture = got.value.path().read_text()
    assert picture.count("<path") > 10
    assert "grad_norm" in picture


def test_a_long_log_is_whole_when_zoomed_and_its_spike_is_listed(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    run = fake_run.write(server.runs_dir, "live", steps=1)
    rng = np.random.default_rng(0)
    loss = np.exp(rng.normal(-3, 0.3, 50_000))
    loss[29_999] = 55.5
    lines = [f"{value},{k + 1},{16 * (k + 1)},{k / 10}" for k, value in enumerate(loss.tolist())]
    run.progress_path.write_text("loss,step,samples,seconds\n" + "\n".join(lines) + "\n")
    open_monitor(page, server)
    spikes = page.locator(f"{CHART} .spikes")
    expect(spikes.locator("summary")).to_contain_text("1 spike ")
    assert values(page, "loss").startswith(f"{loss[-1]:.4g} · smoothed ")
    smoothed = float(values(page, "loss").split()[-1])
    assert smoothed == pytest.approx(np.exp(np.log(loss).mean()), rel=0.1)

    spikes.locator("summary").click()
    spikes.get_by_role("button", name="step 30,000: 55.5").click()
    expect(page.locator(CHART)).to_have_attribute("data-step", "30000")
    page.locator(f"{CHART} .room").first.focus()
    for _ in range(12):
        page.keyboard.press("+")
    page.wait_for_function(f"Number(document.querySelector('{CHART}').dataset.to) < 30100")
    expect(page.locator(CHART)).to_have_attribute("data-size", "1")  # rows, where before there were buckets of many
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(CHART)).to_have_attribute("data-step", "30000")
    expect(page.locator(f"{CHART} .tip")).to_contain_text("step 30,000")
    page.keyboard.press("ArrowRight")
    expect(page.locator(f"{CHART} .tip")).to_contain_text(f"{loss[30_000]:.4g}")


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


def test_a_run_that_is_resumed_elsewhere_is_seen_to_train(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    run = fake_run.write(server.runs_dir, "live", steps=40, total=100, state="stopped")
    open_monitor(page, server)
    expect(page.get_by_role("button", name="Resume")).to_be_enabled()
    rows = shown(page, "rows")
    with Worker(run.folder, 100) as worker:
        worker.beat(state="running", step=40, now=True)
        expect(page.locator(".stMarkdownBadge", has_text="running").first).to_be_visible()
        writer = progress_log.MetricWriter(run.progress_path)
        writer.write(fake_run.row(41, random.Random(0)))
        writer.close()
        page.wait_for_function(f"Number(document.querySelector('{CHART}').dataset.rows) > {rows}")


def test_one_that_does_not_stop_can_be_killed(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    with fake_run.running(server.runs_dir, "live", 2000, 10, "--stop_slowly") as run:
        open_monitor(page, server)
        page.locator(".st-key-stop button").first.click()  # a stale twin may stand there for an instant
        page.get_by_role("button", name="Kill …").click()
        page.get_by_role("dialog").get_by_role("button", name="Kill").click()
        expect(page.get_by_text("The process ended without reporting why")).to_be_visible()
        assert run.state() == "lost"


def test_progress_csv_comes_down_as_it_is_and_commands_are_copied(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    run = fake_run.write(server.runs_dir, "live", steps=30)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_monitor(page, server)
    wait_until_idle(page)
    assert not [url for url in asked if "Highlighter" in url or "plotly" in url], "megabytes that nothing here needs"
    with page.expect_download() as download:
        page.get_by_role("button", name="progress.csv").click()
    assert download.value.suggested_filename == "live-progress.csv"
    assert download.value.path().read_bytes() == run.progress_path.read_bytes()

    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_text("Shell commands").click()
    page.get_by_role("button", name="Copy", exact=True).nth(1).click()
    expect(page.get_by_role("button", name="Copied")).to_have_count(1)
    copied = shlex.split(page.evaluate("navigator.clipboard.readText()"))
    assert copied == ["ddpm", "train", "--resume", "live", "--total_steps", "60", "--runs_dir", str(server.runs_dir)]


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
    sent = script_runs(page)
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


def test_a_live_log_can_be_read_and_selected(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    """By keyboard, while lines are added; scrolled down again it goes on, with what came meanwhile."""
    run = fake_run.write(server.runs_dir, "one", steps=200)
    with open(run.log_path, "a") as log:
        log.writelines(f"12:00:00  line {k}\n" for k in range(200))
    page.goto(server.address("monitor", run="one"))
    lines = page.locator(".lines")
    last = lines.locator("> *").last
    expect(last).to_have_text(re.compile("line 199"))
    at = "box => box.scrollTop + box.clientHeight >= box.scrollHeight - 30"
    assert lines.evaluate(at)

    def add(text: str) -> None:
        with open(run.log_path, "a") as log:
            log.write(f"12:00:01  {text}\n")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # asks at once

    lines.focus()
    page.keyboard.press("Home")
    page.wait_for_function("box => box.scrollTop === 0", arg=lines.element_handle())
    with page.expect_response(lambda answer: "/run/log" in answer.url):
        add("while it is read")
    wait_until_idle(page)
    assert lines.evaluate("box => box.scrollTop") == 0
    expect(last).to_have_text(re.compile("line 199"))
    lines.evaluate("box => { box.scrollTop = box.scrollHeight; }")
    expect(last).to_have_text(re.compile("while it is read"))

    # With nothing to scroll away from, a key that scrolls stops nothing.
    page.keyboard.press("PageDown")
    add("after the end")
    expect(last).to_have_text(re.compile("after the end"))

    expect(lines.locator("> *").nth(-2)).to_have_text(re.compile("while it is read"))
    last.evaluate("line => getSelection().selectAllChildren(line)")
    with page.expect_response(lambda answer: "/run/log" in answer.url):
        add("while it is selected")
    wait_until_idle(page)
    expect(last).to_have_text(re.compile("after the end"))
    page.evaluate("getSelection().removeAllRanges()")
    expect(last).to_have_text(re.compile("while it is selected"))
