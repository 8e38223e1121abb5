"""The table of runs in a real browser: looked through, filtered, sorted and selected without the server."""

import json
import math
import time

import fake_run
import pytest
from dashboard import Server
from playwright.sync_api import Page, expect
from waiting import until

from ddpm import formatting
from ddpm.config import codec
from ddpm.runs import runs
from pages.ui.components import browser_code

pytestmark = pytest.mark.browser

COUNT = 40


@pytest.fixture
def many(server: Server) -> Server:
    for k in range(COUNT):
        run = runs.create_run(server.runs_dir, f"run-{k:02d}", fake_run.config(100))
        run.save_config(codec.replace(run.config, {"lr": (1e-4, 1e-3)[k % 2]}))
    fake_run.write(server.runs_dir, "drawn", steps=40, total=100, state="stopped")
    broken = fake_run.write(server.runs_dir, "broken", steps=4)
    (broken.folder / "status.json").write_text('{"half')
    return server


def pure(page: Page, module: str, body: str, argument: object = None) -> object:
    """What a function of a module returns; `m` is the module."""
    address = f"/{browser_code.address(module)}"
    return page.evaluate(f"async (a) => {{ const m = await import('{address}'); {body} }}", argument)


def test_forty_runs_at_a_glance(page: Page, many: Server) -> None:
    page.goto(many.address())
    grid, filter_box = page.get_by_role("grid", name="Runs"), page.get_by_role("searchbox", name="Filter runs")
    said = page.locator(".said")
    expect(said).to_have_text(f"{COUNT + 2} runs")
    expect(grid).to_have_attribute("aria-rowcount", str(COUNT + 3))
    # Only what is in sight is in the page, and the settings that differ are columns by themselves.
    rows = grid.locator("[data-run]")
    until(lambda: 8 < rows.count() < 36)
    head = grid.get_by_role("columnheader")
    expect(head.get_by_role("button", name="Learning rate")).to_have_count(1)
    expect(head.get_by_role("button", name="Batch size")).to_have_count(0)
    expect(grid.locator("[data-run=broken] .problem")).to_contain_text("status.json")
    drawn = grid.locator("[data-run=drawn]")
    expect(drawn.get_by_role("img", name="Preview of drawn at step 40")).to_have_js_property("naturalWidth", 80)
    expect(drawn.locator("polyline")).to_have_count(1)
    expect(drawn.locator("[data-column=state]")).to_have_text("stopped")
    expect(drawn.locator("[data-column=progress]")).to_contain_text("40 % of 100")

    # Nothing from here on asks the server for anything but previews and what has changed.
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.keyboard.press("/")
    expect(filter_box).to_be_focused()
    filter_box.fill("lr>2e-4 -run-01 state:stopped")
    expect(said).to_have_text(f"{COUNT // 2} of {COUNT + 2} runs")  # those of 1e-3, one fewer, and drawn
    filter_box.fill("lrr>1")
    expect(page.locator(".wrong")).to_have_text("No column is called lrr: did you mean lr?")
    expect(filter_box).to_have_attribute("aria-invalid", "true")
    filter_box.fill("run-0 run-03,")
    expect(page.locator(".wrong")).to_be_empty()
    filter_box.fill("run-")
    expect(said).to_have_text(f"{COUNT} of {COUNT + 2} runs")
    by_name = head.get_by_role("button", name="Run", exact=True)
    by_name.click()
    expect(rows.nth(0)).to_have_attribute("data-run", "run-00")
    expect(grid.locator("[role=columnheader][aria-sort=ascending]")).to_have_text("Run↑")
    by_name.click()
    expect(rows.nth(0)).to_have_attribute("data-run", f"run-{COUNT - 1}")

    # The keyboard goes through it: two are selected, and the last row is reached.
    grid.focus()
    for key in ("ArrowDown", "Space", "ArrowDown", "Space"):
        page.keyboard.press(key)
    expect(page.locator(".how-many")).to_have_text("2 runs selected")
    expect(grid.locator("[aria-selected=true]")).to_have_count(2)
    page.keyboard.press("Control+End")
    expect(grid.locator("[data-run=run-00]")).to_have_count(1)
    place = page.evaluate("(id) => id", grid.get_attribute("aria-activedescendant"))
    expect(grid.locator(f"[id='{place}']")).to_have_count(1)
    assert [url for url in asked if "/data/preview" not in url and "since=" not in url] == []

    # Several at once: archived, and taken out again.
    toolbar = page.get_by_role("toolbar", name="Selected runs")
    newest = [runs.find_run(many.runs_dir, f"run-{COUNT - k}") for k in (1, 2)]
    toolbar.get_by_role("button", name="Archive").click()
    until(lambda: all(run.about().archived for run in newest))
    filter_box.fill("run- is:archived")
    expect(said).to_have_text(f"2 of {COUNT + 2} runs")
    toolbar.get_by_role("button", name="Take out of the archive").click()
    until(lambda: not any(run.about().archived for run in newest))
    filter_box.fill("run-")
    expect(said).to_have_text(f"{COUNT} of {COUNT + 2} runs")

    # It is the same after a reload, by the address, and in a new tab of this browser, by its storage.
    address = page.url
    assert "filter=run-" in address
    assert "sort=-name" in address
    page.goto(many.address("train"))
    page.goto(many.address())
    expect(said).to_have_text(f"{COUNT} of {COUNT + 2} runs")
    expect(rows.nth(0)).to_have_attribute("data-run", f"run-{COUNT - 1}")

    # Columns are added and removed.
    page.get_by_role("button", name="Columns").click()
    page.get_by_role("checkbox", name="Batch size").check()
    page.get_by_role("checkbox", name="Loss curve").uncheck()
    page.keyboard.press("Escape")
    expect(head.get_by_role("button", name="Batch size")).to_have_count(1)
    expect(head.get_by_role("button", name="Loss curve")).to_have_count(0)

    # A run that comes is there, and one that goes is not, without a reload; what asks first asks in a dialog.
    page.get_by_role("searchbox", name="Filter runs").fill("run-")
    runs.create_run(many.runs_dir, "run-new", fake_run.config(100))
    expect(said).to_have_text(f"{COUNT + 1} of {COUNT + 3} runs")
    filter_box.fill("run-new")
    grid.locator("[data-run=run-new] .more").click()
    expect(page.get_by_role("menuitem", name="Monitor")).to_be_focused()
    page.get_by_role("menuitem", name="Delete …").click()
    page.locator(".st-key-dialog_sure button").click()
    expect(said).to_have_text(f"0 of {COUNT + 2} runs")
    assert not (many.runs_dir / "run-new").exists()
    filter_box.fill("drawn")
    grid.locator("[data-run=drawn] a.name").click()
    page.wait_for_url("**/monitor?run=drawn")


def test_a_table_of_archived_runs_says_where_they_are(page: Page, server: Server) -> None:
    for k in range(5):
        runs.create_run(server.runs_dir, f"run-{k}", fake_run.config(100)).describe(archived=True)
    page.goto(server.address())
    expect(page.locator(".nothing")).to_have_text("All runs are archived: filter by is:archived.")
    filter_box = page.get_by_role("searchbox", name="Filter runs")
    filter_box.fill("other")
    expect(page.locator(".nothing")).to_have_text("No run matches the filter.")
    filter_box.fill("is:archived")
    expect(page.locator(".said")).to_have_text("5 runs")
    expect(page.locator(".nothing")).to_be_hidden()


def test_what_filters_mean_and_how_numbers_read(page: Page, server: Server) -> None:
    page.goto(server.address("_stcore/health"))
    now = time.time()
    rows = [
        dict(
            name="a",
            shown="a",
            title="Cosine run",
            state="finished",
            created=now - 60,
            tags=["Cosine"],
            star=True,
            settings={"lr": 1e-3, "noise_schedule": "cosine", "class_cond": True},
            last={"loss": 0.05},
            lowest={"loss": [0.04, 7]},
            step=10,
            total=10,
            trained=7200,
            disk=3e9,
        ),
        dict(
            name="b-two",
            shown="b-two",
            state="running",
            created=now - 10 * 86400,
            settings={"lr": 1e-4},
            last={"loss": 0.5},
            step=1,
            total=4,
            left=90,
        ),
        dict(name="c", shown="c", state="lost", created=now, problem="It is damaged.", archived=True),
    ]
    legend = {
        "settings": [["lr", "Learning rate", 1e-4, True], ["noise_schedule", "Noise", "linear", True],
                     ["class_cond", "Classes", False, False]],
        "metrics": {},
    }  # fmt: skip
    cases = {
        "": "abc",
        "lr>1e-4": "a",
        "lr=1e-4": "b",
        "lr>=1e-4 lr<=0.001": "ab",
        "state:finished": "a",
        "state:active,lost": "bc",
        "-state:finished": "bc",
        "state!=finished,lost": "b",
        "tag:cosine": "a",
        "cosine": "a",
        '"cosine run"': "a",
        "noise_schedule:Linear": "b",
        "class_cond:yes": "a",
        "class_cond:no": "b",
        "loss<0.1": "a",
        "lowest.loss<=0.04 best.loss>0.03": "a",
        "progress<50%": "b",
        "trained>1h": "a",
        "left<2min": "b",
        "disk>2GB": "a",
        "created>2d": "ac",
        "is:archived": "c",
        "is:damaged": "c",
        "is:starred": "a",
        "-two": "ac",
    }
    body = """
        const columns = await import('%s'), all = columns.allColumns(a.rows, a.legend);
        return a.texts.map((text) => {
          const { test, error } = m.parseFilter(text, all);
          return error || a.rows.filter(test).map((row) => row.name[0]).join('');
        });
    """
    body %= f"/{browser_code.address('runs_columns.js')}"
    argument = {"rows": rows, "legend": legend, "texts": list(cases)}
    found = pure(page, "runs_filter.js", body, argument)
    assert dict(zip(cases, found, strict=True)) == cases  # type: ignore[call-overload]
    wrong = ["lr>fast", "lr>", "colour:red", "state:happy", "tag>x", "is:odd", "lr>1,2"]
    answers = pure(page, "runs_filter.js", body, {**argument, "texts": wrong})
    assert all(len(answer) > 10 for answer in answers), answers  # type: ignore[attr-defined]
    differing = "return m.differing(a.rows, a.legend)"
    assert pure(page, "runs_columns.js", differing, argument) == ["set:lr", "set:noise_schedule", "set:class_cond"]

    numbers = [0, 1, -1, 0.5, 1e-3, 0.012345678, 1.5e-5, 123456, 99999.5, 1e10, -2.5e-7, 12.0, 0.0001, 9.9996]
    shown = pure(page, "formatting.js", "return a.map((x) => [m.general(x), m.count(x)])", numbers)
    for number, (general, count) in zip(numbers, json.loads(json.dumps(shown)), strict=True):
        assert general == formatting.number(number), number
        assert count == f"{math.floor(number + 0.5):,}", number
    times = [now, now - 86400, now - 40 * 86400, now - 800 * 86400]
    clocks = pure(page, "formatting.js", "return a.map((x) => m.clock(x))", times)
    assert clocks == [formatting.clock(when) for when in times]
