"""The Train page in a real browser: the rail, the links to fields, the form after a reload, a data set downloaded."""

import dataclasses
import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from dashboard import Server, start_server, stop_server, wait_until_idle
from playwright.sync_api import Page, expect
from test_cifar10 import packed, parts

from ddpm.data.sources import cifar10_path
from ddpm.runs import launch
from ddpm.runs.jobs import Status
from ddpm.storage import files, processes

pytestmark = [pytest.mark.browser, pytest.mark.slow]

IN_SIGHT = """name => {
  const part = document.querySelector(name);
  if (!part) return false;
  const box = part.getBoundingClientRect();
  const over = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
  return box.top >= 0 && box.bottom <= innerHeight && box.left >= 0 && box.right <= innerWidth
    && part.contains(over);
}"""


class Archive(ThreadingHTTPServer):
    """Serves a small archive of CIFAR-10, the second half of it only once `released`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = packed(parts())
        self.released = threading.Event()
        self.asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Archive

    def do_GET(self) -> None:
        content, asked = self.server.content, self.headers["Range"]
        self.server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        half, end = len(content) // 2, len(content) - 1000
        self.wfile.write(content[start:half])
        try:
            for at in range(max(start, half), end, 10):  # a slow connection
                if self.server.released.is_set():
                    self.wfile.write(content[at:])
                    return
                self.wfile.write(content[at : at + 10])
                time.sleep(0.02)
        except ConnectionError:
            pass  # given up

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def archive(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    with Archive() as served:
        threading.Thread(target=served.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()
        monkeypatch.setenv("DDPM_CIFAR10_URL", f"http://127.0.0.1:{served.server_address[1]}/cifar-10-python.tar.gz")
        monkeypatch.setenv("DDPM_CIFAR10_MD5", hashlib.md5(served.content).hexdigest())
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield served
        served.released.set()
        served.shutdown()


@pytest.fixture
def server(archive: Archive, tmp_path: Path) -> Iterator[Server]:
    """A dashboard of the test's own: it has to know where the archive is."""
    runs_dir, log = tmp_path / "runs", tmp_path / "server.log"
    runs_dir.mkdir()
    process, url = start_server(runs_dir, log, tmp_path, DDPM_STATE=str(tmp_path / "state"))
    yield Server(url, runs_dir, log)
    stop_server(process)
    assert "Traceback" not in log.read_text(errors="replace"), log.read_text(errors="replace")


def type_into(page: Page, name: str, text: str) -> None:
    field = page.locator(f".st-key-train-{name} input")
    field.fill(text)
    field.press("Enter")
    wait_until_idle(page)


def test_the_form(archive: Archive, page: Page, server) -> None:  # type: ignore[no-untyped-def]
    page.goto(server.address("train"))
    start = page.locator(".st-key-train_start button").first  # a disabled one has a twin, for its tooltip
    expect(start).to_be_enabled()
    wait_until_idle(page)

    # Name, Start and cost are in sight wherever the page is scrolled, at every size
    main = page.locator("[data-testid=stMain]")
    for width, height in ((1440, 900), (1440, 420), (820, 1100), (420, 800), (420, 480)):
        page.set_viewport_size({"width": width, "height": height})
        cost = ".st-key-train_cost_line p" if width < 1000 else ".st-key-train_cost_figures [data-testid=stMetric]"
        for share in (0, 0.5, 1):
            main.evaluate("(part, share) => part.scrollTo(0, share * part.scrollHeight)", share)
            for part in ("[data-testid=stTextInput]", "button"):
                page.wait_for_function(IN_SIGHT, arg=f".st-key-train_start {part}")
            page.wait_for_function(IN_SIGHT, arg=cost)
    page.set_viewport_size({"width": 1440, "height": 900})

    # The speed measures itself, and then every figure of the cost is known
    expect(page.locator(".st-key-train_cost_figures")).not_to_contain_text("–")

    # A problem inside a fold opens it, and the link in the rail leads to the field; corrected, it stays open
    page.locator("summary").filter(has_text="Layers").click()
    type_into(page, "dropout", "7")
    expect(start).to_be_disabled()
    page.locator("summary").filter(has_text="Layers").click()
    dropout = page.locator(".st-key-train-dropout input")
    expect(dropout).not_to_be_visible()
    main.evaluate("part => part.scrollTo(0, 0)")
    page.locator(".st-key-train_problems").get_by_role("button", name="Dropout").click()
    expect(dropout).to_be_focused()
    expect(dropout).to_be_in_viewport()
    page.locator(".st-key-train-field-dropout-0-0 button").click()
    expect(start).to_be_enabled()
    expect(dropout).to_be_visible()
    expect(dropout).to_have_value("0.95")

    # A fold that is closed opens for what is wrong in it, and stays open once that is corrected
    rate = page.locator(".st-key-train-ema_rate input")
    expect(rate).not_to_be_visible()
    type_into(page, "total_steps", "100")
    expect(rate).to_be_visible()
    expect(start).to_be_disabled()
    type_into(page, "total_steps", "1000")
    expect(start).to_be_enabled()
    expect(rate).to_be_visible()

    # An emptied number is no 0: it is missing, or stands for a word
    type_into(page, "batch_size", "")
    expect(page.locator(".st-key-train-batch_size input")).to_have_value("")
    expect(start).to_be_disabled()
    page.locator(".st-key-train-field-batch_size-0-0 button").click()
    expect(page.locator(".st-key-train-batch_size input")).to_have_value("16")
    expect(start).to_be_enabled()

    # What was typed is there after a visit elsewhere and after a reload, and can be put back
    type_into(page, "batch_size", "24")
    page.get_by_role("link", name="Sample").first.click()
    page.wait_for_url("**/sample*")
    page.get_by_role("link", name="Train").first.click()
    batch_size = page.locator(".st-key-train-batch_size input")
    expect(batch_size).to_have_value("24")
    page.reload()
    expect(batch_size).to_have_value("24")
    expect(page.locator(".st-key-train-dropout input")).to_have_value("0.95")
    page.locator(".st-key-train-back-batch_size button").first.click()
    expect(batch_size).to_have_value("16")

    # A data set is downloaded: its cost is there before, it can be cancelled, and goes on where it was
    page.locator(".st-key-choose_cifar10-cpu button").click()
    expect(page.locator(".st-key-train_cost_figures")).to_contain_text("4.8")  # epochs of 50,000 images
    expect(start).to_be_disabled()
    page.locator(".st-key-download button").click()
    panel = page.locator(".st-key-obtain_data")
    expect(panel).to_contain_text("Downloading")
    panel.get_by_role("button", name="Cancel").click()
    again = page.get_by_role("button", name="Resume download")
    expect(again).to_be_visible()
    assert not cifar10_path().exists()

    # One that comes up after it was given up is followed all the same
    status = launch.data_job("cifar10").folder / "status.json"
    files.write_json(status, dataclasses.asdict(Status("failed", message="It did not start.")))
    page.reload()
    expect(panel).to_contain_text("It did not start.")
    late = Status("starting", boot=processes.boot(), updated_at=time.time(), monotonic=time.monotonic())
    files.write_json(status, dataclasses.asdict(late))
    expect(panel.get_by_role("button", name="Cancel")).to_be_visible()
    files.write_json(status, dataclasses.asdict(Status("stopped")))
    expect(again).to_be_visible()
    archive.released.set()
    again.click()
    expect(start).to_be_enabled()
    assert cifar10_path().exists()
    assert archive.asked[0] is None
    assert archive.asked[-1] is not None, "it went on where it was"
