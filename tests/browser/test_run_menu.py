"""The menu of a run in a real browser: from a click to the folders, and back by Undo."""

import io

import fake_run
import openpyxl
import pytest
from dashboard import wait_until_idle
from playwright.sync_api import Page, expect
from waiting import until

from ddpm.runs import runs, trash

pytestmark = pytest.mark.browser


def choose(page: Page, action: str) -> None:
    """Opens the menu of the run on the page, and chooses an action in it."""
    page.get_by_role("button", name="More", exact=True).click()
    page.get_by_role("menuitem", name=action).click()


def test_a_run_is_named_copied_deleted_and_restored(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    run = fake_run.write(server.runs_dir, "one", steps=40)
    page.goto(server.address("monitor", run="one"))
    choose(page, "Title, tags, notes")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Title, tags, notes")
    dialog.get_by_label("Title").fill("猫 & <b>dogs</b>")
    dialog.get_by_label("Notes").fill("two\nlines")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    assert (run.about().title, run.about().notes) == ("猫 & <b>dogs</b>", "two\nlines")

    wait_until_idle(page)
    choose(page, "Rename")
    dialog.get_by_label("Name of the folder").fill("new")
    dialog.get_by_label("Name of the folder").press("Enter")
    dialog.get_by_role("button", name="Rename", exact=True).click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("combobox", name="Run")).to_have_value("猫 & <b>dogs</b> · new")  # its title first
    page.wait_for_function("new URL(location).searchParams.get('run') === 'new'")
    assert [found.name for found in runs.list_runs(server.runs_dir)] == ["new"]

    wait_until_idle(page)
    choose(page, "Duplicate")
    dialog.get_by_role("button", name="Duplicate", exact=True).click()
    expect(dialog).to_have_count(0)
    copy = runs.find_run(server.runs_dir, "new-copy")
    assert copy.title == "猫 & <b>dogs</b> (copy)"
    trash.trash_run(copy)

    wait_until_idle(page)
    choose(page, "Delete")
    dialog.get_by_role("button", name="Delete", exact=True).click()
    page.wait_for_function("location.pathname === '/'")
    expect(dialog).to_have_count(0)
    assert runs.list_runs(server.runs_dir) == []
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("button", name="Undo")).to_have_count(0)
    assert [found.title for found in runs.list_runs(server.runs_dir)] == ["猫 & <b>dogs</b>"]


def test_several_runs_at_once_and_what_goes_on_from_one(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    found = [fake_run.write(server.runs_dir, name, steps=40) for name in "abcd"]
    for step in (10, 20, 30):
        for run in found[:2]:
            fake_run.save_checkpoint(run, step, 100)
    page.goto(server.address())
    grid, dialog = page.get_by_role("grid", name="Runs"), page.get_by_role("dialog")
    several = page.get_by_role("toolbar", name="Selected runs")
    for run in found[:2]:
        grid.get_by_role("checkbox", name=f"Select {run.name}", exact=True).check()

    several.get_by_role("button", name="Star", exact=True).click()
    until(lambda: [run.about().star for run in found] == [True, True, False, False])
    several.get_by_role("button", name="Tags …").click()
    dialog.get_by_role("combobox", name="Add").fill("cosine")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")  # closes the list alone
    dialog.get_by_role("button", name="Save").click()
    until(lambda: [run.about().tags for run in found] == [("cosine",), ("cosine",), (), ()])
    expect(dialog).to_have_count(0)
    expect(grid.locator("[data-run=a] .star")).to_have_count(1)

    several.get_by_role("button", name="Remove old checkpoints …").click()
    dialog.get_by_role("button", name="Remove 2 checkpoints, free").click()
    until(lambda: [[c.step for c in run.checkpoints()] for run in found[:2]] == [[20, 30, 40]] * 2)
    expect(dialog).to_have_count(0)

    several.get_by_role("button", name="Download …").click()
    with page.expect_download() as download:
        dialog.get_by_role("button", name="runs.xlsx").click()
    sheet = openpyxl.load_workbook(io.BytesIO(download.value.path().read_bytes())).worksheets[0]
    assert {"a", "b"} <= {cell.value for cell in sheet["A"]}
    dialog.get_by_role("button", name="Close", exact=True).last.click()
    expect(dialog).to_have_count(0)

    several.get_by_role("button", name="Delete …").click()
    dialog.get_by_role("button", name="Delete", exact=True).click()
    until(lambda: {run.name for run in runs.list_runs(server.runs_dir)} == {"c", "d"})
    page.get_by_role("button", name="Undo").click()
    until(lambda: {run.name for run in runs.list_runs(server.runs_dir)} == {*"abcd"})

    # On from one of them: more steps, from a checkpoint, and with other settings.
    page.goto(server.address("monitor", run="a"))
    wait_until_idle(page)
    choose(page, "Train more steps")
    field = dialog.get_by_label("Steps more")
    field.fill("60")
    field.press("Enter")
    expect(dialog.get_by_label("Shell command")).to_contain_text("--total_steps 100")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    choose(page, "Continue from a checkpoint")
    expect(dialog.get_by_label("Train up to step")).to_have_value("80")
    dialog.get_by_role("combobox", name="Checkpoint").click()
    page.get_by_role("option", name="step 20 ·").click()
    wait_until_idle(page)  # until then the fields of the checkpoint before are still beside those of this one
    expect(dialog.get_by_label("Name of the new run")).to_have_value("a-20")
    expect(dialog.get_by_label("Train up to step")).to_have_value("40")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    choose(page, "Change and start again")
    page.wait_for_function("location.pathname === '/train' && new URL(location).searchParams.get('like') === 'a'")
    field = page.get_by_label("Learning rate", exact=True)
    field.fill("0.5")
    field.press("Enter")
    changes = page.locator(".st-key-train_changes")
    expect(changes.get_by_role("button", name="Learning rate")).to_have_count(1)
