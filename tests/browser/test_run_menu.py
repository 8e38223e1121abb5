"""The menu of a run in a real browser: from a click to the folders, and back by Undo."""

import fake_run
import pytest
from dashboard import wait_until_idle
from playwright.sync_api import Page, expect

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
