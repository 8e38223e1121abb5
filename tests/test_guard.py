"""The guard in front of the dashboard: who comes in, over HTTP and over the WebSocket, at a real server."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests_to
from dashboard import ROOT, TOKEN, free_port, start_server, stop_server
from faults import promise_entrance
from raising import raises_error
from requests_to import KNOCKS, PATHS, Address, Visitor, ask, cookie, origins, server_at, upgrade
from waiting import PATIENCE, until

from pages.server import access, guard, start
from pages.server.access import Access
from pages.ui.components import browser_code


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    folder = tmp_path_factory.mktemp("guard")
    (folder / "runs").mkdir()
    process, url = start_server(folder / "runs", folder / "server.log", folder)
    try:
        yield server_at(url)
    finally:
        stop_server(process)
    assert "Traceback" not in (folder / "server.log").read_text()


@pytest.mark.parametrize("knock", KNOCKS)
def test_no_host_and_no_origin_comes_in_but_its_own_with_the_token(server: Address, knock: str) -> None:
    """Every Host with every Origin: 16 x 17 pairs a way to knock, over HTTP and over the WebSocket."""
    tried = requests_to.try_all(server, **requests_to.keys(server, knock))
    assert tried.count >= 2 * 272
    assert tried[1:] == (requests_to.may_enter(server)[1:] if knock == "right" else (set(), set()))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_answers_without_the_token(server: Address, path: str, method: str) -> None:
    assert ask(server, path, method)[0] == 403


@pytest.mark.parametrize(
    ("site", "status"), [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)]
)
def test_what_another_page_asks_for_is_refused(server: Address, site: str, status: int) -> None:
    for mode, destination in (
        ("no-cors", "script"),
        ("cors", "empty"),
        ("navigate", "iframe"),
        ("navigate", "document"),
    ):
        headers = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": mode, "Sec_Fetch_Dest": destination}
        assert ask(server, "/", Cookie=cookie(server), **headers)[0] == status
        assert upgrade(server, Cookie=cookie(server), Origin=f"http://{server[0]}:{server[1]}", **headers) == (
            101 if status == 200 else 403
        )


def test_the_token_is_exchanged_for_a_cookie(server: Address) -> None:
    status, headers, body = ask(server, f"/monitor?run=a%20b&token={TOKEN}&x=1")
    assert (status, headers["location"]) == (303, "/monitor?run=a+b&x=1")
    value, *attributes = [part.strip() for part in headers["set-cookie"].split(";")]
    assert set(attributes) == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert TOKEN not in value
    assert TOKEN.encode() not in body
    assert headers["cache-control"] == "no-store"
    assert ask(server, "/monitor?run=a", Cookie=f"other=1; {value}")[0] == 200
    assert ask(server, Authorization=f"token {TOKEN}")[0] == ask(server, Authorization=f"Bearer {TOKEN}")[0] == 200


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "///evil.example/%0d%0aX:1"])
def test_the_exchange_leads_nowhere_else(server: Address, path: str) -> None:
    _, headers, _ = ask(server, f"{path}?token={TOKEN}")
    assert re.match(r"/[^/\\]", headers["location"])


def test_a_link_from_elsewhere_goes_on_by_itself_with_the_token_alone(server: Address) -> None:
    """A browser would not send the cookie along a redirect that another page began."""
    led = {
        "Sec_Fetch_Site": "cross-site",
        "Sec_Fetch_Mode": "navigate",
        "Sec_Fetch_Dest": "document",
        "Accept": "text/html",
    }
    status, headers, body = ask(server, f"/train?token={TOKEN}", **led)
    assert status == 200
    assert "set-cookie" in headers
    assert b'http-equiv="refresh" content="0; url=/train"' in body
    status, headers, body = ask(server, "/train", Cookie=cookie(server), **led)
    assert status == 403
    assert "set-cookie" not in headers
    assert b"refresh" not in body
    assert b'href="/train"' in body


@pytest.mark.parametrize(
    "query", ["token=", "token=0", f"token={TOKEN[:-1]}", f"token={TOKEN}x", f"Token={TOKEN}", "token=%00"]
)
def test_a_wrong_token_asks_again(server: Address, query: str) -> None:
    status, headers, body = ask(server, f"/sample?run=%3Cb%3E&{query}", Accept="text/html")
    assert status == 403
    assert "set-cookie" not in headers
    assert b'<form method="get">' in body
    assert b'value="&lt;b&gt;"' in body, "it goes on to where it was asked for"


def test_every_answer_says_what_a_page_may_load(server: Address) -> None:
    for headers in (
        ask(server)[1],
        ask(server, Cookie=cookie(server))[1],
        ask(server, "/nowhere/x", Cookie=cookie(server))[1],
    ):
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["frame-ancestors"] == "'none'"
        assert policy["img-src"] == "'self' data: blob:"
        assert policy["default-src"] == policy["connect-src"] == "'self'"
        assert "unsafe-inline" not in policy["script-src"]
        assert not [word for rule in policy.values() for word in rule.split() if "*" in word or word.startswith("http")]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


@pytest.fixture(scope="module")
def tab(server: Address) -> Iterator[Visitor]:
    with Visitor(f"http://{server[0]}:{server[1]}") as visitor:
        visitor.open()
        yield visitor


def test_files_are_uploaded_and_removed_by_who_is_in(tab: Visitor) -> None:
    assert tab.put("a", b"content") == 204
    assert tab.put("../../b", b"content") in (400, 404), "it has no path"
    assert tab.put("a", b"", size=64 * 2**20 + 1) == 413, "judged before it is sent"
    own: dict[str, str | None] = {"Cookie": f"{tab.cookie}; _streamlit_xsrf={tab.xsrf}", "X-Xsrftoken": tab.xsrf}
    status, headers, _ = ask(tab.server, tab.place("a"), "OPTIONS", **own)
    assert status == 204
    assert not [name for name in headers if name.startswith("access-control")]
    assert ask(tab.server, tab.place("a"), "DELETE", **own)[0] == 204


def test_nobody_else_uploads(tab: Visitor) -> None:
    """Not without the token, not from another page, and not without Streamlit's own proof that its page asks."""
    own = {"Cookie": f"{tab.cookie}; _streamlit_xsrf={tab.xsrf}", "X_Xsrftoken": tab.xsrf}
    wrong: list[dict[str, str | None]] = [
        {"Cookie": None},
        {"Cookie": f"_streamlit_xsrf={tab.xsrf}"},
        {"Cookie": f"ddpm-{tab.server[1]}={TOKEN}; _streamlit_xsrf={tab.xsrf}"},
        {"Cookie": tab.cookie},
        {"X_Xsrftoken": None},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Host": "evil.example"},
        *({"Origin": origin} for origin in origins(tab.server[1])[1:] if origin != f"http://127.0.0.1:{tab.server[1]}"),
    ]
    for headers in wrong:
        assert tab.put("a", b"content", **{**own, **headers}) == 403, headers
        assert ask(tab.server, tab.place("a"), "DELETE", **{**own, **headers})[0] == 403, headers


def test_an_address_of_an_image_is_of_no_use_to_others(server: Address, tab: Visitor) -> None:
    """Streamlit names images and downloads after their content, for any session."""
    for path in ("/media/0", "/media/0123456789abcdef.png"):
        assert ask(server, path)[0] == 403
        assert ask(server, path, Cookie=tab.cookie, Origin="http://evil.example")[0] == 403
        assert ask(server, path, Cookie=tab.cookie)[0] == 404


def test_modules_are_served_under_their_version_alone(server: Address) -> None:
    key = {"Cookie": cookie(server)}
    for name, source in browser_code.modules().items():
        status, headers, body = ask(server, f"/{browser_code.address(name)}", **key)
        assert (status, body) == (200, source)
        assert headers["content-type"] == "text/javascript; charset=utf-8"
        assert headers["cache-control"] == "private, max-age=31536000, immutable"
    folder = f"/code/{browser_code.version()}"
    for path in ("/code/0123456789abcdef/cursor.js", f"{folder}/nothing.js", f"{folder}/..%2fapp.py", f"{folder}/%00"):
        status, headers, _ = ask(server, path, **key)
        assert status in (400, 404)
        assert "immutable" not in headers.get("cache-control", "")
    assert ask(server, f"/{browser_code.address('cursor.js')}")[0] == 403


def test_twice_said_is_not_said(server: Address) -> None:
    own = f"{server[0]}:{server[1]}"
    with socket.create_connection(server, timeout=PATIENCE) as line:
        line.sendall(
            f"GET /_stcore/health HTTP/1.1\r\nHost: {own}\r\nOrigin: http://{own}\r\nOrigin: http://evil.example\r\n"
            f"Cookie: {cookie(server)}\r\nConnection: close\r\n\r\n".encode()
        )
        assert line.recv(64).split()[1] == b"403"


@pytest.mark.slow
def test_the_agent_api_stays_off_and_errors_lead_nowhere(server: Address) -> None:
    own = {"Authorization": f"token {TOKEN}"}
    status, _, body = ask(server, "/_stcore/agent/interact", "POST", b"{}", Content_Type="application/json", **own)
    assert status >= 400, body
    assert ask(server, "/_stcore/agent/mcp", "POST", b"{}", Content_Type="application/json", **own)[0] >= 400
    options = settings()
    assert options["server.enableAgentApi"] is False
    assert options["client.showErrorLinks"] == "false"
    assert options["browser.gatherUsageStats"] is False
    assert options["server.enableXsrfProtection"] is True


def settings() -> dict[str, Any]:
    """Streamlit's settings as the server has them."""
    import json

    program = f"""
import json
from streamlit import config
config._main_script_path = {str(ROOT / "app.py")!r}
names = ("server.enableAgentApi", "client.showErrorLinks", "browser.gatherUsageStats", "server.enableXsrfProtection")
print(json.dumps({{name: config.get_option(name) for name in names}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_request_takes_no_time(server: Address) -> None:
    """At most 2 ms: what the guard itself does with a request that comes in."""
    own = f"127.0.0.1:{server[1]}"
    door = Access(TOKEN, "127.0.0.1")
    asked = guard.Guard(lambda *_: None, door)  # type: ignore[arg-type, return-value]
    scope = {
        "type": "http",
        "scheme": "http",
        "method": "GET",
        "server": ("127.0.0.1", server[1]),
        "query_string": b"run=a",
        "raw_path": b"/monitor",
        "headers": [
            (b"host", own.encode()),
            *((f"x-{k}".encode(), b"value") for k in range(20)),
            (b"origin", f"http://{own}".encode()),
            (b"sec-fetch-site", b"same-origin"),
            (b"cookie", f"_streamlit_xsrf=2|x; {cookie(server)}".encode()),
        ],
    }
    times = []
    for _ in range(300):
        begin = time.perf_counter()
        assert asked.judge(guard.Request(scope)) is None
        times.append(time.perf_counter() - begin)
    assert sorted(times)[len(times) // 2] < 0.002


# --- settings


def test_without_a_token_it_is_for_this_computer_alone() -> None:
    for address in ("0.0.0.0", "::", "192.168.1.5", "example.org", None):
        with raises_error("conflicting-settings"):
            access.read(True, {}, address)
        with raises_error("conflicting-settings"):
            access.read(False, {"DDPM_NO_TOKEN": "1"}, address)
        assert access.read(True, {"DDPM_PROXY": "https://ml.example.org"}, address).token == ""
        assert access.read(False, {"DDPM_TOKEN": TOKEN}, address).token == TOKEN
    for address in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert access.read(True, {}, address).token == ""


def test_settings_that_are_none() -> None:
    for text in ("short", "with space 0123456789", "x" * 300):
        with raises_error("bad-value"):
            access.read(False, {"DDPM_TOKEN": text}, "127.0.0.1")
    for text in ("ftp://a", "https://", "https://a/path", "https://user@a"):
        with raises_error("bad-value"):
            access.read(False, {"DDPM_TOKEN": TOKEN, "DDPM_PROXY": text}, "127.0.0.1")


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("https://ml.example.org:443", "https://ml.example.org"),
        ("ML.example.org:443/", "https://ml.example.org"),
        ("http://ml.example.org:80", "http://ml.example.org"),
        ("http://ml.example.org:443", "http://ml.example.org:443"),
        ("https://[::443]", "https://[::443]"),
    ],
)
def test_a_proxy_is_what_a_browser_says_it_is(given: str, sent: str) -> None:
    assert access.read(False, {"DDPM_TOKEN": TOKEN, "DDPM_PROXY": given}, "127.0.0.1").proxy == sent


def test_the_token_is_kept_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDPM_STATE", str(tmp_path / "state"))
    first = access.read(False, {}, "127.0.0.1").token
    path = tmp_path / "state" / "token"
    assert len(first) == 43
    assert access.read(False, {}, "127.0.0.1").token == first
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

        path.chmod(0o644)
        second = access.read(False, {}, "127.0.0.1").token
        assert second != first, "others may have read it"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

        (tmp_path / "theirs").write_text(second)
        path.unlink()
        path.symlink_to(tmp_path / "theirs")
        assert access.read(False, {}, "127.0.0.1").token != second
        assert not path.is_symlink()
        assert (tmp_path / "theirs").read_text() == second

        path.unlink()
        os.mkfifo(path)
        assert len(access.read(False, {}, "127.0.0.1").token) == 43

    path.unlink()
    path.mkdir()
    assert len(access.read(False, {}, "127.0.0.1").token) == 43, "it is told, not kept"


@pytest.mark.slow
@pytest.mark.parametrize("proxy", ["https://ml.example.org", "http://localhost:9000"])
def test_behind_a_proxy_of_ones_own(tmp_path: Path, proxy: str) -> None:
    process, url = start_server(tmp_path, tmp_path / "log", tmp_path, DDPM_PROXY=proxy)
    try:
        server = server_at(url)
        name = proxy.partition("//")[2]
        assert f"{proxy}/?token={TOKEN}" in (tmp_path / "log").read_text()
        for host in (name, f"127.0.0.1:{server[1]}"):
            _, headers, _ = ask(server, f"/?token={TOKEN}", Host=host)
            assert ("Secure" in headers["set-cookie"]) == proxy.startswith("https")
            own = headers["set-cookie"].partition(";")[0]
            assert upgrade(server, Host=host, Origin=proxy, Cookie=own) == 101
            assert upgrade(server, Host=host, Origin="https://evil.example", Cookie=own) == 403
            assert upgrade(server, Host=host, Origin=proxy) == 403
    finally:
        stop_server(process)


@pytest.mark.slow
def test_a_server_for_everyone_does_not_start(tmp_path: Path) -> None:
    words = ["--server.address", "0.0.0.0"]
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(ROOT / "app.py"),
        "--server.port",
        str(free_port()),
        *words,
    ]
    done = subprocess.run(
        [*command, "--", "--no-token"], capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "--no-token" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_without_a_token_anyone_on_this_computer_comes_in_but_no_web_page(tmp_path: Path) -> None:
    process, url = start_server(tmp_path, tmp_path / "log", tmp_path, options=["--", "--no-token"], DDPM_TOKEN="")
    try:
        server = server_at(url)
        assert url in (tmp_path / "log").read_text()
        assert "token" not in (tmp_path / "log").read_text()
        assert requests_to.try_all(server)[1:] == requests_to.may_enter(server)[1:]
        assert ask(server, "/?token=0")[0] == 303
    finally:
        stop_server(process)


# --- the start


def test_what_is_printed_leads_in() -> None:
    """The names in it are among those that the guard knows."""
    own = f"http://{socket.gethostname().lower()}:8501/?token={TOKEN}"
    everywhere, here = Access(TOKEN, "0.0.0.0"), Access(TOKEN, "127.0.0.1")
    assert socket.gethostname().lower() in everywhere.names
    assert own in "".join(start.announcement(everywhere, 8501))
    assert f"http://127.0.0.1:8501/?token={TOKEN}" in (text := "".join(start.announcement(here, 8501)))
    assert own not in text
    assert len(start.announcement(here, 8502)) == len(start.announcement(here, 8501)) + 1, "8501 is taken"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a stand-in for xdg-open")
def test_the_browser_is_opened_without_the_token_in_its_arguments(tmp_path: Path) -> None:
    """Every user of a computer sees the arguments of every program."""
    (tmp_path / "bin").mkdir()
    opener = tmp_path / "bin" / "xdg-open"
    opener.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/new\nmv {tmp_path}/new {tmp_path}/opened\n')
    opener.chmod(0o755)
    process, _ = start_server(
        tmp_path,
        tmp_path / "log",
        tmp_path,
        options=["--server.headless", "false"],
        PATH=f"{tmp_path}/bin:{os.environ['PATH']}",
    )
    try:
        until((tmp_path / "opened").exists)
        opened = (tmp_path / "opened").read_text().strip()
        assert TOKEN not in opened
        path = Path(opened.removeprefix("file://"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert f"?token={TOKEN}" in path.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
    assert not path.exists()
    assert "Traceback" not in (tmp_path / "log").read_text()


# --- nothing is sent anywhere

HOOK = """
import os, sys

def look(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        asked = arguments[0] if event.startswith("socket.get") else arguments[1]
        host = asked[0] if isinstance(asked, tuple) else asked
        if host not in (None, "", b"", "127.0.0.1", "::1", "localhost", "0.0.0.0", "::") and os.environ.get("SEEN"):
            with open(os.environ["SEEN"], "a") as file:
                file.write(f"{event} {host}\\n")

sys.addaudithook(look)
"""


@pytest.mark.slow
def test_no_connection_leaves_this_computer(tmp_path: Path) -> None:
    """Neither at the start, on any address, nor for any origin: Streamlit would ask a public service where it is."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    seen = tmp_path / "seen"
    environment = {"PYTHONPATH": os.pathsep.join((str(tmp_path / "hook"), str(ROOT))), "SEEN": str(seen)}
    probe = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 1))"
    subprocess.run([sys.executable, "-c", probe], env={**os.environ, **environment}, check=False, capture_output=True)
    assert seen.read_text() == "socket.connect 192.0.2.1\n", "the hook sees a connection"
    seen.unlink()
    for options in ((), ("--server.address", "0.0.0.0")):
        process, url = start_server(tmp_path, tmp_path / "log", tmp_path, options=options, **environment)
        try:
            server = server_at(url)
            own = cookie(server)
            for origin in origins(server[1]):
                upgrade(server, Origin=origin, Cookie=own)
                ask(server, "/_stcore/host-config", Origin=origin, Cookie=own)
                ask(server, "/_stcore/health", Origin=origin, Cookie=own)
            for path in PATHS:
                ask(server, path, Cookie=own)
        finally:
            stop_server(process)
    assert not seen.exists(), seen.read_text()


ALONE = """
import fcntl, socket, struct, subprocess, sys
from pathlib import Path

with socket.socket() as line:  # loopback is up, and there is nothing else
    flags = struct.pack("16sh", b"lo", 1 | 64)
    fcntl.ioctl(line, 0x8914, flags)
folder = Path(sys.argv[1])
from requests_to import ask, cookie, server_at, upgrade
from dashboard import start_server, stop_server

process, url = start_server(folder / "runs", folder / "log", folder)
try:
    server = server_at(url)
    own = cookie(server)
    assert ask(server, "/train", Cookie=own)[0] == 200
    assert upgrade(server, Origin=url, Cookie=own) == 101
    assert upgrade(server, Origin="http://evil.example", Cookie=own) == 403
finally:
    stop_server(process)
command = [sys.executable, "-m", "ddpm", "train", "--preset", "quick-start", "--total_steps", "2", "--batch_size", "2"]
subprocess.run([*command, "--runs_dir", str(folder / "runs"), "--run", "alone"], check=True)
subprocess.run(
    [sys.executable, "-m", "ddpm", "sample", "--run", "alone", "--runs_dir", str(folder / "runs"), "--num_samples", "1",
     "--steps", "2"],
    check=True,
)
print("well")
"""


def can_be_alone() -> bool:
    """Whether this system gives a process a network of its own."""
    try:
        return not subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not can_be_alone(), reason="needs `unshare -rn`")
def test_all_works_where_there_is_no_network(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (ROOT, here, here / "browser")))
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", ALONE, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("well\n")


@pytest.mark.slow
def test_the_promises_about_the_entrance_in_short() -> None:
    rows = list(promise_entrance.rows(seconds=3))
    assert [row.examples for row in rows if row.lost] == []
    assert all(row.tried for row in rows)
