"""The dashboard as its users have it: a server of its own, a real Chromium.

server      the address of a running dashboard, its runs in a folder of the test
page        a tab of Chromium; after the test it is checked that nothing went wrong in it or in the server
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard import QUIET, Server, chromium, start_server, stop_server, wait_by_asking
from waiting import PATIENCE


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    runs_dir, log = tmp_path / "runs", tmp_path / "server.log"
    runs_dir.mkdir()
    process, url = start_server(runs_dir, log, tmp_path)
    try:
        yield Server(url, runs_dir, log)
    finally:
        stop_server(process)
    assert "Traceback" not in log.read_text(errors="replace"), log.read_text(errors="replace")


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    executable = chromium()
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as tool:
        found = tool.chromium.launch(executable_path=executable, args=list(QUIET))
        yield found
        found.close()


@pytest.fixture
def page(browser, server: Server) -> Iterator[object]:  # type: ignore[no-untyped-def]
    """A tab.  It fails the test on an exception in the page, and on any request that leaves this computer."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, accept_downloads=True)
    context.set_default_timeout(PATIENCE * 1000)
    tab = context.new_page()
    wait_by_asking(tab)
    abroad: list[str] = []
    wrong: list[str] = []
    tab.on(
        "request",
        lambda r: (
            None
            if r.url.startswith((server.url, "data:", "blob:", "file:", "ws://127.0.0.1"))
            else abroad.append(r.url)
        ),
    )
    tab.on("pageerror", lambda error: wrong.append(f"{tab.url}: {error}"))
    tab.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    server.enter(tab)
    yield tab
    red = tab.locator("[data-testid=stException]").all_inner_texts()
    context.close()
    assert not red
    assert not wrong
    assert not abroad, "loaded from elsewhere"
