"""The way in, in a real browser: the token, what other pages can do, and what a name in a file can do."""

import http.server
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import fake_run
import pytest
from dashboard import TOKEN, start_server, stop_server
from playwright.sync_api import Page, expect
from waiting import PATIENCE, until

from ddpm.config import codec
from ddpm.runs.runs import Run
from ddpm.storage import files
from pages.ui.components import browser_code

pytestmark = pytest.mark.browser

CONNECTED = "[data-testid=stApp][data-test-connection-state=CONNECTED]"
SCREENS = ("", "train", "monitor", "sample", "evaluate", "explore")


def forget(page: Page) -> None:
    page.context.clear_cookies()


def test_the_token_leaves_the_address(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    forget(page)
    page.goto(server.address("train", token=TOKEN, x="1"))
    expect(page.get_by_role("button", name="Start")).to_be_visible()
    assert page.url == server.address("train", x="1")
    (own,) = [c for c in page.context.cookies() if c["name"].startswith("ddpm-")]
    assert own["httpOnly"]
    assert own["sameSite"] == "Strict"
    assert page.evaluate("document.cookie.includes('ddpm-')") is False


def test_the_token_can_be_typed(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    forget(page)
    page.goto(server.address("train", x="1"))
    page.get_by_label("Token").fill("not the token")
    page.get_by_role("button", name="Open").click()
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("button", name="Start")).to_be_visible()
    assert page.url == server.address("train", x="1")


def test_a_file_leads_in(page: Page, server, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """As the one does with which the server opens a browser."""
    forget(page)
    leading = tmp_path / "open.html"
    leading.write_text(f'<meta http-equiv="refresh" content="0; url={server.url}/?token={TOKEN}">')
    page.goto(leading.as_uri())
    expect(page.get_by_role("button", name="Quick start")).to_be_visible()
    assert page.url.rstrip("/") == server.url


@pytest.fixture
def neighbour(tmp_path: Path) -> Iterator[str]:
    """Another server of this computer, which browsers send the same cookies to."""
    folder = tmp_path / "neighbour"
    folder.mkdir()
    (folder / "index.html").write_text("<!DOCTYPE html><title>Neighbour</title><body></body>")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object, **named: object):
            super().__init__(*arguments, directory=str(folder), **named)  # type: ignore[arg-type]

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{other.server_address[1]}"
        other.shutdown()


ATTACKS = {
    "WebSocket": """url => new Promise(done => {
        const line = new WebSocket(url.replace("http", "ws") + "/_stcore/stream", ["streamlit"]);
        line.onopen = () => done("in"); line.onerror = () => done("out"); })""",
    "fetch": "url => fetch(url + '/_stcore/host-config', {credentials: 'include'}).then(() => 'in', () => 'out')",
    "picture": """url => new Promise(done => { const image = new Image();
        image.onload = () => done("in"); image.onerror = () => done("out"); image.src = url + "/favicon.png"; })""",
    "script": """url => new Promise(done => { const script = document.createElement("script");
        script.onload = () => done("in"); script.onerror = () => done("out");
        script.src = url + "/LIBRARY"; document.body.append(script); })""".replace("LIBRARY", browser_code.LIBRARY),
    "frame": """url => new Promise(done => { const frame = document.createElement("iframe");
        frame.onload = () => setTimeout(() => { try { done(frame.contentWindow.length >= 0 &&
          frame.contentDocument ? "out" : window.frames[0].location.href && "in"); } catch { done("out"); } }, 300);
        frame.src = url; document.body.append(frame); })""",
}


def test_another_page_does_not_come_in(browser, server, neighbour: str) -> None:  # type: ignore[no-untyped-def]
    """One whose browser has the cookie."""
    context = browser.new_context()
    tab = context.new_page()
    server.enter(tab)
    tab.goto(server.address())
    expect(tab.locator(CONNECTED)).to_be_visible()
    tab.goto(neighbour)
    for name, attack in ATTACKS.items():
        assert tab.evaluate(attack, server.url) == "out", name
    for frame in tab.frames[1:]:
        assert not frame.url.startswith(server.url) or "stApp" not in frame.content()
    tab.evaluate(f"""() => {{ document.body.innerHTML = '<a href="{server.url}/train">there</a>' }}""")
    tab.get_by_text("there").click()
    expect(tab.get_by_role("link", name="Open the dashboard")).to_be_visible()
    tab.get_by_role("link", name="Open the dashboard").click()
    expect(tab.get_by_role("button", name="Start")).to_be_visible()
    context.close()


def test_tabs_connect_again_when_the_server_is_back(browser, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """With the cookie they have; after a start with another token they are outside until it is given."""
    context = browser.new_context()
    tabs = [context.new_page() for _ in range(2)]
    (tmp_path / "again").mkdir()
    log = tmp_path / "again.log"
    process, url = start_server(tmp_path / "again", log, tmp_path)

    def restart(**environment: str) -> None:
        nonlocal process
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)  # Ctrl+C ends it although browsers are connected
        for tab in tabs:
            expect(tab.locator(CONNECTED)).to_have_count(0)
        process, _ = start_server(tmp_path / "again", log, tmp_path, port=int(url.rpartition(":")[2]), **environment)

    try:
        for tab, address in zip(tabs, (f"{url}/?token={TOKEN}", f"{url}/train"), strict=True):
            tab.goto(address)
            expect(tab.locator(CONNECTED)).to_be_visible()
        restart()
        for tab, button in zip(tabs, ("Quick start", "Start"), strict=True):
            expect(tab.locator(CONNECTED)).to_be_visible()
            expect(tab.get_by_role("button", name=button)).to_be_visible()
        restart(DDPM_TOKEN=(other := TOKEN[::-1]))
        for tab in tabs:
            expect(tab.get_by_role("dialog")).to_contain_text("403")
            tab.reload()
            expect(tab.get_by_label("Token")).to_be_visible()
        tabs[1].get_by_label("Token").fill(other)
        tabs[1].get_by_role("button", name="Open").click()
        tabs[0].reload()
        for tab in tabs:
            expect(tab.locator(CONNECTED)).to_be_visible()
        context.close()
    finally:
        stop_server(process)
    assert "Traceback" not in log.read_text()


HOSTILE = '![x](http://192.0.2.1/x.png)<img src="http://192.0.2.1/y.png">'


def test_a_name_in_a_file_makes_the_browser_fetch_nothing(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    """What leaves this computer, or is kept from leaving it, fails the test in the fixture."""
    run = fake_run.write(server.runs_dir, "hostile", steps=40, state="failed", total=100)
    names = tuple(f"{HOSTILE}{k}" for k in range(2))
    run.save_config(codec.replace(run.config, {"class_names": names, "data_dir": f"/{HOSTILE}"}))
    status = files.read_json(run.folder / "status.json")
    files.write_json(run.folder / "status.json", {**status, "message": HOSTILE, "warning": HOSTILE})
    (run.folder / "log.txt").write_text(HOSTILE)
    for screen in SCREENS:
        page.goto(server.address(screen, **({"run": "hostile"} if screen not in ("", "train") else {})))
        expect(page.locator(CONNECTED)).to_be_visible()
        until(lambda: page.locator("[data-test-script-state=notRunning]").count())
        assert page.locator("img[src*='192.0.2.1']").count() == 0
    page.goto(server.address("monitor", run="hostile"))
    expect(page.locator("[data-testid=stAlert]").first).to_contain_text(HOSTILE)


def test_every_page_loads_what_it_needs(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    """A policy that forbids something a page does would be reported in the console, which the fixture checks."""
    run = Run(fake_run.write(server.runs_dir, "one", steps=40).folder)
    for screen in SCREENS:
        page.goto(server.address(screen, **({"run": run.name} if screen not in ("", "train") else {})))
        expect(page.locator(CONNECTED)).to_be_visible()
        page.wait_for_load_state("load")
        until(lambda: page.locator("[data-test-script-state=notRunning]").count())
    page.goto(server.address("monitor", run=run.name))
    page.wait_for_function("Number(document.querySelector('.chart')?.dataset.updates || 0) > 0")
