"""The dashboard as its users have it: a server, a real Chromium.

server      the address of a running dashboard, its runs in a folder that is empty when a test begins
page        a tab of Chromium; after the test it is checked that nothing went wrong in it or in the server
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard import QUIET, Server, chromium, start_server, stop_server, wait_by_asking
from waiting import PATIENCE

from ddpm.errors import UserError
from ddpm.runs import launch, runs
from ddpm.runs.results import KINDS


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The dashboard that the tests have in turn: its start, and the first look at each page, take seconds."""
    folder = tmp_path_factory.mktemp("dashboard")
    log = folder / "server.log"
    for name in ("runs", "state"):
        (folder / name).mkdir()
    process, url = start_server(folder / "runs", log, folder, DDPM_STATE=str(folder / "state"))
    yield Server(url, folder / "runs", log)
    stop_server(process)


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """The dashboard, without runs, and without memory of the tests before; nothing that was started outlives a test."""
    empty(shared_server.runs_dir)
    empty(shared_server.runs_dir.with_name("state"))
    with open(shared_server.log, errors="replace") as log:
        log.read()
        yield shared_server
        end_all(shared_server.runs_dir)
        said = log.read()
    assert "Traceback" not in said, said


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def end_all(runs_dir: Path) -> None:
    """Ends what works in the runs and in their results."""
    for run in runs.list_runs(runs_dir):
        for job in (run, *(job for kind in KINDS for job in run.results(kind))):
            with contextlib.suppress(UserError):  # it has ended
                launch.kill(job)


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    executable = chromium()
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as tool:
        found = tool.chromium.launch(executable_path=executable, args=list(QUIET))
        yield found
        found.close()


@pytest.fixture(scope="session")
def profile(browser) -> object:  # type: ignore[no-untyped-def]
    """What the tabs of all tests share: the scripts that Chromium has loaded and compiled."""
    found = browser.new_context(viewport={"width": 1440, "height": 1000}, accept_downloads=True)
    found.set_default_timeout(PATIENCE * 1000)
    return found


@pytest.fixture
def page(profile, server: Server) -> Iterator[object]:  # type: ignore[no-untyped-def]
    """A tab of a browser that remembers nothing of the tests before.

    It fails the test on an exception in the page, and on any request that leaves this computer.
    """
    profile.clear_cookies()
    tab = profile.new_page()
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
    tab.evaluate("localStorage.clear()")
    yield tab
    red = tab.locator("[data-testid=stException]").all_inner_texts()
    for left in profile.pages:
        left.close()
    assert not red
    assert not wrong
    assert not abroad, "loaded from elsewhere"
