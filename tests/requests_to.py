"""Requests to a dashboard as whoever sends them: with any headers, or as a browser's tab, without a browser."""

import contextlib
import http.client
import itertools
import sys
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from waiting import PATIENCE
from websockets.sync.client import connect

sys.path.append(str(Path(__file__).parent / "browser"))

from dashboard import TOKEN
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

Address = tuple[str, int]
Answer = tuple[int, dict[str, str], bytes]


def ask(server: Address, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str | None) -> Answer:
    """One request with these headers and no others but Host, which may be replaced or, as None, left out."""
    connection = http.client.HTTPConnection(*server, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": f"{server[0]}:{server[1]}", **_named(headers)}.items():
            if value is not None:
                connection.putheader(name, value)
        if body:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def _named(headers: dict[str, str | None]) -> dict[str, str | None]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def upgrade(server: Address, **headers: str | None) -> int:
    """Status of the attempt to open the WebSocket: 101 if it opens."""
    return ask(
        server,
        "/_stcore/stream",
        Connection="Upgrade",
        Upgrade="websocket",
        Sec_WebSocket_Version="13",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
        Sec_WebSocket_Protocol="streamlit",
        **headers,
    )[0]


def server_at(url: str) -> Address:
    """Name and port in http://127.0.0.1:8501."""
    return "127.0.0.1", int(url.rpartition(":")[2])


def cookie(server: Address) -> str:
    _, headers, _ = ask(server, f"/?token={TOKEN}")
    return headers["set-cookie"].partition(";")[0]


def hosts(port: int) -> list[str | None]:
    names = ["127.0.0.1", "localhost", "[::1]", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example"]
    names += ["192.168.1.5", "0.0.0.0", "127.0.0.1@evil.example", "evil.example#127.0.0.1"]
    return [
        *(f"{name}:{port}" for name in names),
        f"127.0.0.1:{port + 1}",
        "127.0.0.1",
        "localhost",
        f"127.0.0.1:{port}:80",
        "",
        None,
    ]


def origins(port: int) -> list[str | None]:
    return [
        None,
        "null",
        f"http://127.0.0.1:{port}",
        f"http://localhost:{port}",
        f"http://[::1]:{port}",
        f"https://127.0.0.1:{port}",
        "http://127.0.0.1",
        f"http://127.0.0.1:{port + 1}",
        "http://localhost:3000",
        "http://evil.example",
        f"http://evil.example:{port}",
        f"http://127.0.0.1.evil.example:{port}",
        "https://share.streamlit.io",
        "file://",
        "chrome-extension://abcdefgh",
        f"http://127.0.0.1:{port}.evil.example",
        "http://0.0.0.0",
    ]


KNOCKS = ("none", "wrong cookie", "the token as cookie", "cookie of another port", "wrong header", "right")


def keys(server: Address, knock: str) -> dict[str, str | None]:
    """Headers of a way to knock: of these only the right one holds the token."""
    port, own = server[1], cookie(server)
    known: dict[str, dict[str, str | None]] = {
        "none": {},
        "wrong cookie": {"Cookie": f"ddpm-{port}={'0' * 64}"},
        "the token as cookie": {"Cookie": f"ddpm-{port}={TOKEN}"},
        "cookie of another port": {"Cookie": f"ddpm-{port + 1}={own.partition('=')[2]}"},
        "wrong header": {"Authorization": "token 0123456789abcdef"},
        "right": {"Cookie": own},
    }
    return known[knock]


class Tried(NamedTuple):
    """Requests that were made, and the Host and Origin of those that came in."""

    count: int
    http: set[tuple[str | None, str | None]]
    websocket: set[tuple[str | None, str | None]]


def try_all(server: Address, **headers: str | None) -> Tried:
    """Every Host with every Origin, over HTTP and over the WebSocket, with these headers."""
    pairs = list(itertools.product(hosts(server[1]), origins(server[1])))
    tried = Tried(2 * len(pairs), set(), set())
    for host, origin in pairs:
        status, _, _ = ask(server, "/_stcore/host-config", **{**headers, "Host": host, "Origin": origin})
        assert status in (200, 400, 403)
        if status == 200:
            tried.http.add((host, origin))
        status = upgrade(server, **{**headers, "Host": host, "Origin": origin})
        assert status in (101, 400, 403)
        if status == 101:
            tried.websocket.add((host, origin))
    return tried


def may_enter(server: Address) -> Tried:
    """The pairs that come in with the token: those of the server's own names."""
    names = [f"{name}:{server[1]}" for name in ("127.0.0.1", "localhost", "[::1]")]
    same = {(name, f"http://{name}") for name in names}
    return Tried(0, same | {(name, None) for name in names}, same)


PATHS = [
    "/",
    "/train",
    "/monitor?run=a",
    "/_stcore/health",
    "/_stcore/host-config",
    "/_stcore/metrics",
    "/_stcore/agent/openapi.json",
    "/media/0",
    "/static/index.html",
    "/app/static/app.py",
    f"/code/plotly-{metadata.version('plotly')}/plotly.min.js",
    "/code/0123456789abcdef/cursor.js",
    "/component/x",
    "/nowhere",
    "//evil.example",
    "/%2e%2e/app.py",
]


class Visitor:
    """A tab without a browser: it holds the cookie, and opens pages over the WebSocket."""

    def __init__(self, url: str, session: str = ""):
        """session: of an earlier tab that lost its connection, to go on with."""
        self.server = server_at(url)
        self.cookie = cookie(self.server)
        _, headers, _ = ask(self.server, "/_stcore/health", Cookie=self.cookie)
        self.xsrf = headers["set-cookie"].partition(";")[0].removeprefix("_streamlit_xsrf=")
        self.held = contextlib.ExitStack()
        self.line = self.held.enter_context(
            connect(
                f"{url.replace('http', 'ws')}/_stcore/stream",
                origin=url,  # type: ignore[arg-type]
                additional_headers={"Cookie": self.cookie},
                subprotocols=["streamlit", self.xsrf, *([session] if session else [])],  # type: ignore[list-item]
                max_size=None,
                open_timeout=PATIENCE,
            )
        )
        self.session = session

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.held.close()

    def open(self, page: str = "", query: str = "") -> list[str]:
        """Opens a page; returns the kinds of its elements, and raises AssertionError for an exception among them."""
        ask_for = BackMsg()
        ask_for.rerun_script.page_name, ask_for.rerun_script.query_string = page, query
        self.line.send(ask_for.SerializeToString())
        kinds: list[str] = []
        while True:
            said = ForwardMsg()
            said.ParseFromString(self.line.recv(timeout=PATIENCE))  # type: ignore[arg-type]
            match said.WhichOneof("type"):
                case "new_session":
                    self.session = said.new_session.initialize.session_id
                case "delta":
                    element = said.delta.new_element
                    kinds.append(element.WhichOneof("type") or "")
                    assert kinds[-1] != "exception", element.exception
                case "script_finished":
                    return kinds

    def put(self, name: str, content: bytes, size: int | None = None, **headers: str | None) -> int:
        """Uploads a file as st.file_uploader does; returns the status.  size: what the request says its size is."""
        edge = "0123456789abcdef"
        body = (
            f'--{edge}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        body += content + f"\r\n--{edge}--\r\n".encode()
        sent: dict[str, str | None] = {
            "Cookie": f"{self.cookie}; _streamlit_xsrf={self.xsrf}",
            "X-Xsrftoken": self.xsrf,
            "Origin": f"http://127.0.0.1:{self.server[1]}",
            "Content-Type": f"multipart/form-data; boundary={edge}",
        }
        if size is not None:
            sent["Content-Length"], body = str(size), b""
        return ask(self.server, self.place(name), "PUT", body, **{**sent, **_named(headers)})[0]

    def place(self, name: str) -> str:
        """Path of an uploaded file."""
        return f"/_stcore/upload_file/{self.session}/{name}"
