"""Files: whole or not at all, whatever happens to the writer or the disk."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from raising import raises_error

from ddpm.storage import files, flushing, folders
from ddpm.storage.files import DiskFull
from ddpm.storage.line_log import LineLog
from ddpm.storage.untrusted import HANDLES, Folder

MEGABYTE = 10**6


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(f"{files.TEMPORARY}*")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB: a real one where the tests may mount it, else a limit on the size of a file."""
    resource = pytest.importorskip("resource")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        sys.platform == "linux"
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True
        ).returncode
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MEGABYTE, limits[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if mounted:
        subprocess.run(["umount", folder], check=True)


def test_write_replaces_and_describes(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "a.bin"
    files.write_bytes(path, b"old")
    written = files.write(path, lambda file: [file.write(b"new "), file.write(memoryview(b"content"))])
    assert path.read_bytes() == b"new content"
    assert written == (11, files.sha256(path))
    assert not leftovers(tmp_path)


def test_an_error_of_the_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"new": float("nan")})

    def half(file: io.BytesIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write(path, half)
    assert files.read_json(path) == {"old": 1}
    assert not leftovers(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="folders are not flushed there")
def test_flushed_before_and_after_the_new_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut would leave cannot be tried here; the order of the calls can be read."""
    calls = []
    real = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda handle: [calls.append("flush"), real[0](handle)])
    monkeypatch.setattr(files.os, "replace", lambda a, b, **at: [calls.append("rename"), real[1](a, b, **at)])
    files.write_bytes(tmp_path / "a", b"1")
    assert calls == ["flush", "rename", "flush"]


@pytest.mark.skipif(os.name == "nt", reason="folders are not flushed there")
@pytest.mark.parametrize("kept", [False, True])
def test_new_folders_are_flushed_before_what_is_in_them(
    kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    mkdir, flush, replace = os.mkdir, flushing.flush, os.replace

    def flushed(handle: int) -> None:
        found = next(
            path for path in (tmp_path, *tmp_path.rglob("*")) if os.path.samestat(path.stat(), os.fstat(handle))
        )
        calls.extend([f"flush {found.name}"] if found.is_dir() else [])
        flush(handle)

    def made(path: str | Path, *rest: int, **at: int) -> None:
        mkdir(path, *rest, **at)
        calls.append(f"make {os.path.basename(path)}")

    def replaced(old: str | Path, new: str | Path, **at: int) -> None:
        replace(old, new, **at)
        calls.append(f"rename {os.path.basename(new)}")

    monkeypatch.setattr(os, "mkdir", made)
    monkeypatch.setattr(flushing, "flush", flushed)
    monkeypatch.setattr(files.os, "replace", replaced)
    with folders.kept(Folder(tmp_path)) if kept else contextlib.nullcontext():
        files.write_bytes(tmp_path / "a" / "b" / "c", b"1")
    assert calls == ["make a", f"flush {tmp_path.name}", "make b", "flush a", "rename c", "flush b"]


def test_json(tmp_path: Path) -> None:
    assert files.read_json(tmp_path / "none.json") is None
    (tmp_path / "torn.json").write_text('{"a": 1')
    with raises_error("damaged-json", "torn.json"):
        files.read_json(tmp_path / "torn.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{}")
    with raises_error("damaged-json"):
        files.read_json(tmp_path / "bytes.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_as_editors_save_it(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_text('{"name": "猫"}\r\n', encoding=encoding)
    assert files.read_json(tmp_path / "a.json") == {"name": "猫"}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_kill_at_any_instant_leaves_a_whole_file(tmp_path: Path) -> None:
    """A process that rewrites a file without pause is killed at 25 different moments."""
    path = tmp_path / "a.bin"
    writer = (
        "import sys; from pathlib import Path; from ddpm.storage import files\n"
        "path, number = Path(sys.argv[1]), int(sys.argv[2])\n"
        "while True:\n"
        "    number += 1\n"
        "    files.write(path, lambda f: [f.write(bytes([number % 251]) * 100_000) for _ in range(20)])\n"
        "    print(number, flush=True)\n"
    )
    number = 0
    torn = 0
    for attempt in range(25):
        process = subprocess.Popen(
            [sys.executable, "-c", writer, path, str(number)],
            stdout=subprocess.PIPE,
            cwd=Path(files.__file__).parents[2],
        )
        assert process.stdout
        number = int(process.stdout.readline())
        time.sleep(attempt * 0.0007)
        process.kill()
        number = max([number, *map(int, process.stdout.read().split())])
        process.wait()
        content = path.read_bytes()
        assert len(content) == 2_000_000
        assert len(set(content)) == 1
        assert content[0] in (number % 251, (number + 1) % 251)  # renamed, but not yet told
        number += content[0] != number % 251
        torn += bool(leftovers(tmp_path))
    assert torn, "no kill hit a write: the test does not test what it says"
    for name in leftovers(tmp_path):
        os.utime(tmp_path / name, (1, 1))
    files.write_bytes(tmp_path / f"{files.TEMPORARY}young", b"somebody is writing this")
    files.sweep(tmp_path)
    assert leftovers(tmp_path) == [f"{files.TEMPORARY}young"]


def test_full_disk_leaves_the_old_file(small_disk: Path) -> None:
    path = small_disk / "a.bin"
    files.write_bytes(path, b"old")
    with pytest.raises(DiskFull, match=r"No room to write a\.bin in .*MB free.*free some space.*intact"):
        files.write(path, lambda file: [file.write(bytes(MEGABYTE)) for _ in range(3)])
    assert path.read_bytes() == b"old"
    assert not leftovers(small_disk)
    assert files.write_bytes(path, b"new").bytes == 3


def test_full_disk_in_torch_save(small_disk: Path) -> None:
    """torch reports it as a RuntimeError that does not name the cause."""
    torch = pytest.importorskip("torch")
    path = small_disk / "model.pt"
    files.write(path, lambda file: torch.save({"w": torch.zeros(10)}, file))
    with pytest.raises(DiskFull):
        files.write(path, lambda file: torch.save({"w": torch.zeros(MEGABYTE)}, file))
    assert torch.load(path, weights_only=True)["w"].shape == (10,)
    assert not leftovers(small_disk)


def test_other_errors_are_not_called_a_full_disk(tmp_path: Path) -> None:
    def broken(file: io.BytesIO) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        files.write(tmp_path / "a", broken)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        files.write_bytes(tmp_path / "file" / "below", b"")


def test_a_short_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some disks lose bytes without an error; the size tells."""
    real = os.fstat

    class Shorter:
        def __init__(self, handle: int):
            self.st_size = real(handle).st_size - 1

    monkeypatch.setattr(files.os, "fstat", Shorter)
    with pytest.raises(DiskFull):
        files.write_bytes(tmp_path / "a", b"12345")
    assert not (tmp_path / "a").exists()


# --- LineLog


def test_lines_are_appended_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = LineLog(path, "a,b")
    assert log.append("1,2")
    assert log.sync() == path.stat().st_size == len("a,b\n1,2\n")
    log.close()
    again = LineLog(path, "other header")
    again.append("3,4")
    assert path.read_text() == "a,b\n1,2\n3,4\n"
    assert again.header == "a,b"
    again.close()


@pytest.mark.parametrize("torn", [b"5,6", b"5" * 200_000, b"a"])
def test_a_torn_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log.csv"
    whole = b"" if torn == b"a" else b"a,b\n1,2\n"
    path.write_bytes(whole + torn)
    LineLog(path, "a,b").close()
    assert path.read_bytes() == (whole or b"a,b\n")


def test_lines_wait_while_the_disk_is_full(small_disk: Path) -> None:
    if files.free_bytes(small_disk) > 10 * MEGABYTE:
        pytest.skip("only the size of a file is limited here, not the disk")
    path = small_disk / "log.csv"
    log = LineLog(path, "header")
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(MEGABYTE))
    line = "x" * 3000
    results = [log.append(line) for _ in range(3)]
    assert not results[-1]
    with pytest.raises(DiskFull):
        log.sync()
    content = path.read_text()
    assert content.endswith("\n")
    assert set(content.splitlines()[1:]) <= {line}
    filler.unlink()
    assert log.append("last")
    assert path.read_text().splitlines() == ["header", line, line, line, "last"]
    assert log.sync() == path.stat().st_size
    log.close()


def test_half_a_line_is_taken_back(tmp_path: Path) -> None:
    """A full disk may take a part of a line, without an error."""
    path = tmp_path / "log.csv"
    log = LineLog(path, "header")
    whole = log._file

    class Short:
        room = 3

        def write(self, data: bytes) -> int:
            return whole.write(data[: self.room])

        def __getattr__(self, name: str) -> object:
            return getattr(whole, name)

    short = Short()
    log._file = short  # type: ignore[assignment]
    assert not log.append("1,2,3")
    assert path.read_text() == "header\n"
    with pytest.raises(DiskFull):
        log.sync()
    short.room = 1000
    assert log.append("4,5,6")
    assert path.read_text() == "header\n1,2,3\n4,5,6\n"
    log.close()


def test_free_bytes_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert files.free_bytes(tmp_path / "not" / "yet") == pytest.approx(files.free_bytes(tmp_path), rel=0.05)


def test_a_checksum_of_all_lines_so_far(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("a,b\n1,2\ntorn")
    log = LineLog(path, "a,b")
    for number in range(3):
        assert log.append(f"3,{number}")
        assert log.sha256() == files.sha256(path) == files.sha256(path, log.sync())
    log.cut(lambda line: line != "1,2")
    assert log.sha256() == files.sha256(path)
    assert log.append("4,4")
    assert log.sha256() == files.sha256(path)
    log.close()


def test_temporary_files_of_this_process_stay(tmp_path: Path) -> None:
    mine, gone, foreign, old = (tmp_path / name for name in ("mine", "gone", "foreign", "old"))
    mine = files.temporary_path(mine)
    gone = mine.with_name(mine.name.replace(f"{os.getpid():08x}", f"{2**31 - 1:08x}"))
    foreign, old = tmp_path / ".tmp-of-a-person", tmp_path / f"{files.TEMPORARY}0123abcd-old"
    for path in (mine, gone, foreign, old):
        path.write_bytes(b"half")
        os.utime(path, (1, 1))
    gone.touch()
    files.sweep(tmp_path)
    assert set(tmp_path.iterdir()) == {mine, foreign}


# --- what does not take the place of something else


def test_files_of_one_name_and_other_content_get_the_same_number(tmp_path: Path) -> None:
    def result(name: str, first: bytes, second: bytes) -> list[Path]:
        folder = tmp_path / name
        return [files.write_bytes(folder / f, data) and folder / f for f, data in (("a.npz", first), ("b.npz", second))]

    home = tmp_path / "home"
    one, two, three = result("one", b"1", b"2"), result("two", b"1", b"3"), result("three", b"4", b"2")
    assert files.copy_all(one, home) == [home / "a.npz", home / "b.npz"]
    assert files.copy_all(one, home) == [home / "a.npz", home / "b.npz"]
    assert files.copy_all(two, home) == [home / "a-2.npz", home / "b-2.npz"]
    assert files.copy_all(three, home) == [home / "a-3.npz", home / "b-3.npz"]
    assert files.copy_all(two, home) == [home / "a-2.npz", home / "b-2.npz"]
    assert [(home / f"a{n}.npz").read_bytes() for n in ("", "-2", "-3")] == [b"1", b"1", b"4"]
    assert len([*home.iterdir()]) == 6
    (home / "b.npz").unlink()  # an interrupted copy goes on
    assert files.copy_all(one, home) == [home / "a.npz", home / "b.npz"]
    assert files.copy_all([], home) == []


# Folders that are replaced while something is written in them


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that nothing may be written to, with a file that nothing may remove."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "a.pt").write_bytes(b"precious")
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda path: files.write_bytes(path, b"new"),
        lambda path: files.appending(path).close(),
        lambda path: files.create(path.with_name("c")),
        lambda path: files.remove(path),
        lambda path: files.remove_all([path]),
        lambda path: files.rename(path, path.with_name("b.pt")),
    ],
)
def test_nothing_changes_behind_a_link_in_the_folder_of_a_job(
    change: Callable[[Path], object], tmp_path: Path, outside: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "saves").symlink_to(outside)
    with folders.kept(Folder(run)), raises_error("not-a-folder"):
        change(run / "saves" / "a.pt")
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"a.pt": b"precious"}


@pytest.mark.skipif(not HANDLES, reason="the system has no handles of folders")
@pytest.mark.parametrize("kept", [True, False])
def test_a_folder_replaced_during_a_write_keeps_what_was_written(kept: bool, tmp_path: Path, outside: Path) -> None:
    run = tmp_path / "run"
    (run / "saves").mkdir(parents=True)

    def replace(file: BinaryIO) -> None:
        file.write(b"half ")
        (run / "saves").rename(run / "moved")
        (run / "saves").symlink_to(outside)
        file.write(b"and half")

    with folders.kept(Folder(run)) if kept else contextlib.nullcontext():
        files.write(run / "saves" / "a.pt", replace)
    assert (run / "moved" / "a.pt").read_bytes() == b"half and half"
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"a.pt": b"precious"}
    assert not leftovers(tmp_path)


def test_the_folder_of_a_job_is_not_made_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with folders.kept(Folder(run)):
        files.write_bytes(run / "saves" / "a.pt", b"made as needed")
        shutil.rmtree(run)
        with pytest.raises(FileNotFoundError):
            files.write_bytes(run / "saves" / "a.pt", b"not again")
    assert not run.exists()


def test_a_cache_keeps_what_was_written_last(tmp_path: Path) -> None:
    for k, name in enumerate("abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text("{}")
        os.utime(tmp_path / name, (k, k))
    (tmp_path / "e.json").write_text("{}")
    (tmp_path / ".lock").touch()
    files.keep_newest(tmp_path, 5)
    assert len(os.listdir(tmp_path)) == 6
    files.keep_newest(tmp_path, 2)
    assert sorted(os.listdir(tmp_path)) == [".lock", "d", "e.json"]
    files.keep_newest(tmp_path / "none", 2)
