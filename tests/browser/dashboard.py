"""A dashboard on a port of its own, and where a Chromium is."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import ensure_tools
import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from waiting import PATIENCE, until

if TYPE_CHECKING:
    from playwright.sync_api import FloatRect, Page

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a-token-of-the-tests-0123456789"
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Server(NamedTuple):
    url: str
    runs_dir: Path
    log: Path

    def enter(self, page: "Page") -> None:
        """Exchanges the token for the cookie, as the address does that a user opens, without opening a page."""
        page.goto(f"{self.url}/_stcore/health?token={TOKEN}")

    def address(self, page: str = "", **query: str) -> str:
        return f"{self.url}/{page}" + ("?" + "&".join(f"{k}={v}" for k, v in query.items()) if query else "")


def chromium() -> str:
    """Where a Chromium is.  Without one the tests fail with a sentence."""
    found = ensure_tools.find()
    if not found:
        pytest.fail(ensure_tools.MISSING, pytrace=False)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_server(
    runs_dir: Path,
    log: Path,
    cwd: Path,
    script: Path = ROOT / "app.py",
    options: Sequence[str] = (),
    port: int = 0,
    **environment: str,
) -> tuple[subprocess.Popen[bytes], str]:
    """A dashboard on a free port, started from another folder than its own; returns when it answers.

    script: another one shows parts of the pages by themselves.  What it starts computes with one thread: with more,
    which come and go with other work on the machine, sums are rounded otherwise.
    """
    port = port or free_port()
    with open(log, "ab") as out:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "streamlit",
                "run",
                str(script),
                "--server.port",
                str(port),
                "--server.headless",
                "true",
                *options,
            ],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "DDPM_RUNS": str(runs_dir),
                "DDPM_TOKEN": TOKEN,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                **environment,
            },
        )
    url = f"http://127.0.0.1:{port}"
    health = urllib.request.Request(
        f"{url}/_stcore/health", headers={"Authorization": f"token {environment.get('DDPM_TOKEN') or TOKEN}"}
    )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(health, timeout=2) as answer:
                if answer.read() == b"ok":
                    return process, url
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    process.kill()
    raise AssertionError(f"the server did not answer:\n{log.read_text()}")


def drag_zoom(page: "Page", chart: str) -> None:
    """Draw a zoom box over the middle of the first panel of the chart that the selector names, once it stands still."""
    room = page.locator(f"{chart} .room").first

    def standing() -> "FloatRect | None":
        before = room.bounding_box()
        page.wait_for_timeout(100)  # in which what is above it would push it down
        return before if before == room.bounding_box() else None

    box = until(standing)
    left, top = box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.25
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + box["width"] * 0.4, top + box["height"] * 0.5, steps=8)
    page.mouse.up()


def wait_by_asking(page: "Page") -> None:
    """Lets wait_for_function ask again and again: as Playwright has it, it needs `eval`, which the pages forbid."""

    def wait(expression: str, *, arg: object = None, timeout: float = PATIENCE * 1000) -> None:
        end = time.monotonic() + timeout / 1000
        while not page.evaluate(expression, arg):
            assert time.monotonic() < end, f"it never came true: {expression}"
            page.wait_for_timeout(50)

    page.wait_for_function = wait  # type: ignore[method-assign, assignment]


def wait_until_idle(page: "Page") -> None:
    """Returns once nothing that was typed or clicked is on its way, and the page's script has been at rest a while."""
    page.evaluate("delete window.idleSince")
    page.wait_for_function(
        """() => {
            const idle = document.querySelector("[data-testid=stApp]")?.dataset.testScriptState === "notRunning";
            const now = performance.now();
            window.idleSince = idle ? (window.idleSince ?? now) : undefined;
            return idle && now - window.idleSince > 300;
        }"""
    )


def script_runs(page: "Page") -> list[object]:
    """What a page that is opened from here on asks of its script; a list that grows.  Those of a timer are left out."""
    found: list[object] = []

    def sent(frame: object) -> None:
        if not (isinstance(frame, bytes) and BackMsg.FromString(frame).rerun_script.is_auto_rerun):
            found.append(frame)

    page.on("websocket", lambda opened: opened.on("framesent", sent))
    return found


def stop_server(process: subprocess.Popen[bytes]) -> None:
    """End it; the web server sometimes waits for a connection that a browser has left."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
