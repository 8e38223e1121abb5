"""CIFAR-10 from an archive of the official layout, and its download from a server that misbehaves."""

import hashlib
import io
import os
import pickle
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import portalocker
import pytest

from ddpm import data, download, files
from ddpm.config import DataConfig, ModelConfig
from ddpm.download import fetch_cifar10, import_cifar10
from ddpm.errors import UserError
from ddpm.sources import cifar10_path

NAMES = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)  # ten in each of the six batches
LABELS = [(7 * k) % 10 for k in range(60)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


def parts() -> dict[str, Any]:
    """What the seven members hold."""
    planes = PIXELS.transpose(0, 3, 1, 2).reshape(60, 3072)
    batches = {
        name: {b"batch_label": name.encode(), b"labels": LABELS[k : k + 10], b"data": planes[k : k + 10], b"filenames": [b"x.png"] * 10}
        for k, name in zip(range(0, 60, 10), (*download.TRAIN, download.TEST), strict=True)
    }  # fmt: skip
    return {**batches, download.META: {b"num_cases_per_batch": 10, b"label_names": NAMES, b"num_vis": 3072}}


def packed(contents: dict[str, Any], protocol: int = 2, mode: str = "w:gz") -> bytes:
    """A tar of these members, pickled (unless they are bytes already), among others that do not matter."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, value in {"readme.html": b"<html>", **contents}.items():
            content = value if isinstance(value, bytes) else pickle.dumps(value, protocol)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(packed(parts()))
    return path


# --- reading an archive


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_archive_becomes_the_data_set(archive: Path, protocol: int) -> None:
    archive.write_bytes(packed(parts(), protocol))
    calls: list[tuple[int, int]] = []
    assert import_cifar10(archive, lambda done, total: calls.append((done, total))) == cifar10_path()
    assert calls[-1] == (archive.stat().st_size,) * 2
    with np.load(cifar10_path()) as arrays:
        assert np.array_equal(arrays["train"], PIXELS[:50])
        assert np.array_equal(arrays["test"], PIXELS[50:])
        assert arrays["test_labels"].tolist() == LABELS[50:]
    dataset = data.open_dataset(DataConfig(data_dir="cifar10"), ModelConfig(image_size=32))
    assert np.array_equal(dataset.images, PIXELS[:50])
    assert dataset.labels is not None
    assert dataset.labels.tolist() == LABELS[:50]
    assert dataset.class_names == tuple(name.decode() for name in NAMES)


def test_pickles_of_python_2(archive: Path) -> None:
    """As the official archive has them: texts are byte strings, and the array's type is named by one."""
    planes = PIXELS[:10].transpose(0, 3, 1, 2).tobytes()
    string = b"T" + len(planes).to_bytes(4, "little") + planes
    batch = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\nM\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + string
        + b"tbU\x06labels]("
        + b"".join(b"K" + bytes([label]) for label in LABELS[:10])
        + b"eu."
    )
    archive.write_bytes(packed({**parts(), "data_batch_1": batch}))
    with np.load(import_cifar10(archive)) as arrays:
        assert np.array_equal(arrays["train"][:10], PIXELS[:10])
        assert arrays["train_labels"].tolist() == LABELS[:50]


def test_a_plain_tar_is_read_too(archive: Path) -> None:
    archive.write_bytes(packed(parts(), mode="w"))
    assert import_cifar10(archive).exists()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("evil",))


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in parts().items() if key != name}


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (
            {**parts(), "test_batch": {b"data": Evil()}},
            r"test_batch .* is no part of CIFAR-10 \(it asks for \w+\.mkdir",
        ),
        ({**parts(), "test_batch": b"noise"}, "is no part of CIFAR-10"),
        ({**parts(), "test_batch": [1, 2]}, "is no part of CIFAR-10"),
        ({**parts(), "test_batch": {b"data": PIXELS[:10], b"labels": LABELS[:10]}}, r"uint8 \[10, 32, 32, 3\] and 10"),
        ({**parts(), "test_batch": {b"data": PIXELS.reshape(60, 3072), b"labels": [3] * 59}}, "and 59 good labels"),
        ({**parts(), "test_batch": {b"data": PIXELS[:2].reshape(2, 3072), b"labels": [3, 10]}}, "and 1 good labels"),
        ({**parts(), "test_batch": {b"labels": [1]}}, r"\[0\] and 1 good labels"),
        ({**parts(), "batches.meta": {b"label_names": []}}, "names no classes"),
        (without("data_batch_4"), r"has no cifar-10-batches-py/data_batch_4 \(6 of 7 parts"),
        ({}, "0 of 7 parts are there"),
    ],
)
def test_other_archives_are_refused(archive: Path, contents: dict[str, Any], words: str) -> None:
    archive.write_bytes(packed(contents))
    with pytest.raises(UserError, match=words):
        import_cifar10(archive)
    assert not cifar10_path().exists()
    assert not Path("evil").exists()


@pytest.mark.parametrize("kept", [0, 10, 0.3, 0.9, -9])
def test_an_archive_cut_short(archive: Path, kept: float) -> None:
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(UserError, match=re.escape(f"{archive.name} is cut short, damaged or no tar")):
        import_cifar10(archive)


def test_a_flipped_bit(archive: Path) -> None:
    damaged = bytearray(archive.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    archive.write_bytes(damaged)
    with pytest.raises(UserError, match="damaged"):
        import_cifar10(archive)


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        import_cifar10(tmp_path / "none.tar.gz")
    with pytest.raises(UserError, match="name the cifar-10-python"):
        import_cifar10(tmp_path)


# --- downloading it


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
def server(archive: Path) -> Iterator[Server]:
    with Server(archive.read_bytes()) as server:
        threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()
        yield server
        server.shutdown()


def fetch(server: Server, **options: Any) -> Path:
    return fetch_cifar10(url=server.url, md5=options.pop("md5", server.md5), pause=0, **options)


def whole(archive: Path) -> bool:
    import_cifar10(archive)
    return data.describe("cifar10").count == 50 and not part().exists()


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
    with pytest.raises(UserError, match=r"the connection broke.*--archive FILE"):
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
    with pytest.raises(UserError, match=f"arrived damaged .md5 {server.md5}, not 123. and was deleted: try again"):
        fetch(server, md5="123")
    assert not part().exists()
    files.write_bytes(part(), b"of something else")
    with pytest.raises(UserError, match="arrived damaged"):
        fetch(server)
    assert whole(fetch(server))


def test_a_refusal_is_not_repeated_and_a_failure_is(server: Server) -> None:
    server.status = 404
    with pytest.raises(UserError, match="Not Found"):
        fetch(server)
    assert len(server.asked) == 1
    server.status = 503
    with pytest.raises(UserError, match="Service Unavailable"):
        fetch(server)
    assert len(server.asked) == 4


def test_no_network(server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"could not be downloaded \(.*refused.*check the connection"):
        fetch(server)


def test_a_full_disk(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_continue", full)
    with pytest.raises(files.DiskFull):
        fetch(server)


def test_two_downloads_at_once(server: Server) -> None:
    part().parent.mkdir(parents=True)
    with open(part().parent / ".lock", "ab") as lock:
        portalocker.lock(lock, portalocker.LockFlags.EXCLUSIVE)
        with pytest.raises(UserError, match="by another process"):
            fetch(server)
