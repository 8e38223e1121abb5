"""A download from a server that misbehaves."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import portalocker
import pytest
from raising import raises_error

from ddpm.data import download
from ddpm.data.download import fetch_cifar10
from ddpm.data.sources import cifar10_path
from ddpm.storage import files

CONTENT = np.random.default_rng(0).bytes(100_000)


@pytest.fixture(autouse=True)
def only_this_machine(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class Server(ThreadingHTTPServer):
    """Serves `content`, from the place asked for if it knows `ranges`; each answer ends after the next of `cuts`."""

    daemon_threads = True

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.ranges = True
        self.status = 200
        self.cuts: list[int] = []
        self.asked: list[str | None] = []  # the Range headers that came

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/cifar-10-python.tar.gz"

    @property
    def md5(self) -> str:
        return hashlib.md5(self.content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked, content = self.headers["Range"], self.server.content
        self.server.asked.append(asked)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(CONTENT) as server:
        threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()
        yield server
        server.shutdown()


def fetch(server: Server, **options: Any) -> Path:
    return fetch_cifar10(url=server.url, md5=options.pop("md5", server.md5), pause=0, **options)


def whole(archive: Path) -> bool:
    return archive.read_bytes() == CONTENT and not part().exists()


def part() -> Path:
    return cifar10_path().with_name("cifar-10-python.tar.gz.part")


def test_a_download(server: Server) -> None:
    calls: list[tuple[int, int]] = []
    archive = fetch(server, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (len(server.content),) * 2
    assert whole(archive)
    assert fetch(server) == archive
    assert server.asked == [None], "what is there is not downloaded again"


def test_a_broken_connection_is_taken_up_where_it_broke(server: Server) -> None:
    server.cuts = [1000, 1, 0, 5000]
    assert whole(fetch(server))
    assert server.asked == [None, "bytes=1000-", "bytes=1001-", "bytes=1001-", "bytes=6001-"]


def test_a_later_attempt_goes_on(server: Server) -> None:
    server.cuts = [3000, 0, 0, 0]
    with raises_error("download-failed", "--archive FILE"):
        fetch(server)
    assert part().read_bytes() == server.content[:3000]
    server.cuts = []
    assert whole(fetch(server))
    assert server.asked[-1] == "bytes=3000-"


def test_a_server_that_always_begins_at_the_beginning(server: Server) -> None:
    server.ranges = False
    server.cuts = [3000]
    assert whole(fetch(server))


def test_a_part_that_was_whole_already(server: Server) -> None:
    files.write_bytes(part(), server.content)
    assert whole(fetch(server))
    assert server.asked == [f"bytes={len(server.content)}-"]


def test_a_wrong_checksum_deletes_the_part(server: Server) -> None:
    with raises_error("wrong-checksum", "md5", server.md5, 123):
        fetch(server, md5="123")
    assert not part().exists()
    files.write_bytes(part(), b"of something else")
    with raises_error("wrong-checksum"):
        fetch(server)
    assert whole(fetch(server))


def test_a_refusal_is_not_repeated_and_a_failure_is(server: Server) -> None:
    server.status = 404
    with raises_error("download-failed"):
        fetch(server)
    assert len(server.asked) == 1
    server.status = 503
    with raises_error("download-failed"):
        fetch(server)
    assert len(server.asked) == 4


def test_no_network(server: Server) -> None:
    server.shutdown()
    server.server_close()
    with raises_error("download-failed"):
        fetch(server)


def test_a_full_disk(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_continue", full)
    with pytest.raises(files.DiskFull):
        fetch(server)


@pytest.mark.slow
def test_two_downloads_at_once(server: Server) -> None:
    part().parent.mkdir(parents=True)
    with open(part().parent / ".lock", "ab") as lock:
        portalocker.lock(lock, portalocker.LockFlags.EXCLUSIVE)
        with raises_error("busy"):
            fetch(server)
