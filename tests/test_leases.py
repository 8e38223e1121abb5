"""Leases: one holder at a time, on disks where nothing but creating a file can be relied on."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from waiting import PATIENCE

from ddpm.storage import leases, processes
from ddpm.storage.leases import Lease, Pulse

ROOT = Path(leases.__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run.lease"


def take(folder: Path, patience: float = 0.5) -> Lease:
    lease = leases.take(folder, patience)
    assert lease
    return lease


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def elsewhere(folder: Path, **changes: object) -> None:
    """Makes the newest lease one of a process on another machine, which lives or not."""
    path = folder / names(folder)[-1]
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "b", "host": "another", **changes}))


def test_one_holder_at_a_time(folder: Path) -> None:
    assert leases.read(folder) is None
    first = take(folder)
    record = leases.read(folder)
    assert record
    assert record.owner == processes.Owner.this()
    assert leases.is_held(folder, record)
    assert leases.take(folder) is None
    first.close()
    assert not leases.is_held(folder, leases.read(folder))
    second = take(folder)
    assert names(folder) == ["000002.json"]
    assert first.renew() == "taken"
    assert second.renew() == "held"
    second.close()


def test_renewals_count_and_take_no_room(folder: Path) -> None:
    lease = take(folder)
    for number in range(2, 6):
        assert lease.renew() == "held"
        record = leases.read(folder)
        assert record
        assert record.beat == number
        assert 0 <= record.silent < PATIENCE
    assert (folder / "000001.json").stat().st_size == leases.RECORD_BYTES
    lease.close()


def test_a_holder_that_was_killed(folder: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from ddpm.storage import leases\n"
        "assert leases.take(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=False)
    record = leases.read(folder)
    assert record
    assert not record.released
    assert not leases.is_held(folder, record)
    take(folder, patience=PATIENCE).close()  # nobody waits for a process of this machine that is gone


@pytest.mark.slow
def test_a_holder_on_another_machine(folder: Path) -> None:
    """It is judged by whether it renews, whatever the clocks say."""
    take(folder)
    elsewhere(folder, renewed=-1e9, time=-1e9)
    end = threading.Event()

    def renew() -> None:
        beat = 1
        while not end.wait(0.05):
            beat += 1
            elsewhere(folder, beat=beat)

    other = threading.Thread(target=renew)
    other.start()
    try:
        assert leases.take(folder, patience=30) is None
    finally:
        end.set()
        other.join()
    elsewhere(folder, renewed=1e9, time=1e9)
    began = time.monotonic()
    lease = take(folder, patience=0.5)
    assert time.monotonic() - began >= 0.5, "it had its chance"
    lease.close()


def test_a_reader_times_another_machine_by_its_own_clock(folder: Path) -> None:
    clock = [0.0]
    pulse = Pulse(lambda: clock[0])
    take(folder)
    elsewhere(folder)

    def held() -> bool:
        return leases.is_held(folder, leases.read(folder), pulse)

    assert held()
    for _ in range(int(leases.EXPIRY) - 1):
        clock[0] += 1
        assert held()
    clock[0] += 3600  # the reader was asleep: one look proves nothing
    elsewhere(folder, beat=2)
    assert held()
    clock[0] += 3600
    assert held()
    for _ in range(int(leases.EXPIRY)):
        clock[0] += 1
        last = held()
    assert not last


@pytest.mark.slow
def test_many_take_the_place_of_one_that_ended(folder: Path) -> None:
    for _ in range(20):
        take(folder)
        elsewhere(folder)
        with ThreadPoolExecutor(4) as takers:
            (winner,) = filter(None, takers.map(leases.take, [folder] * 4, [0.1] * 4))
        assert winner.renew() == "held"
        assert len(names(folder)) == 1
        winner.close()


@pytest.mark.slow
def test_one_who_comes_late_finds_a_higher_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has judged number 1, and waits before it creates number 2; meanwhile 2 and 3 came and went."""
    take(folder)
    elsewhere(folder)
    create = leases.files.create

    def late(path: Path) -> None:
        monkeypatch.setattr(leases.files, "create", create)
        for _ in range(2):
            take(folder, 0.1)
            elsewhere(folder)
        assert names(folder) == ["000003.json"]
        create(path)

    monkeypatch.setattr(leases.files, "create", late)
    lease = take(folder, 0.1)
    assert lease.number == 4
    assert names(folder) == ["000004.json"]
    lease.close()


def test_what_was_removed_does_not_come_back(folder: Path) -> None:
    lease = take(folder)
    (folder / "000001.json").unlink()
    assert lease.renew() == "removed"
    shutil.rmtree(folder)
    assert lease.renew() == "removed"
    lease.close()
    assert not folder.exists()


@pytest.mark.skipif(not leases.BY_HANDLE, reason="a folder in use cannot be moved there")
def test_a_folder_that_was_moved(folder: Path) -> None:
    lease = take(folder)
    moved = folder.with_name("moved")
    folder.rename(moved)
    assert lease.renew() == "held"
    record = leases.read(moved)
    assert record
    assert record.beat == 2
    lease.close()
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"[" * 100_000, b'{"host": 1}', b"\xff" * 2000, json.dumps({"pid": 10**400}).encode()]
)
def test_what_is_no_lease_is_given_time(folder: Path, content: bytes) -> None:
    """It may just be being created."""
    folder.mkdir()
    (folder / "000001.json").write_bytes(content)
    (folder / "notes.json").write_bytes(b"")
    record = leases.read(folder)
    assert record
    assert leases.is_held(folder, record, Pulse())
    began = time.monotonic()
    take(folder, 0.3).close()
    assert time.monotonic() - began >= 0.3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="none there")
def test_what_a_stranger_put_there(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "000001.json")
    record = leases.read(folder)
    assert record
    assert record.content == b""
    (folder / "000002.json").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="000002"):
        leases.read(folder)
    (tmp_path / "own").mkdir()
    (tmp_path / "linked.lease").symlink_to(tmp_path / "own")
    with pytest.raises(NotADirectoryError):
        leases.take(tmp_path / "linked.lease")
    assert names(tmp_path / "own") == []


def test_a_number_that_no_program_gives(folder: Path) -> None:
    folder.mkdir()
    (folder / "99999999999.json").write_text('{"released": true}')
    with pytest.raises(OSError, match="numbers"):
        leases.take(folder)
    assert names(folder) == ["99999999999.json"]


def test_time_stands_still_for_one_who_does_not_look() -> None:
    clock = iter([0, 1, 2, 3, 1000, 1001, 1002])
    pulse = Pulse(lambda: next(clock))
    assert [pulse.still("a", 1) for _ in range(4)] == [0, 1, 2, 3]
    assert [pulse.still("a", 1), pulse.still("a", 2), pulse.still("a", 2)] == [3 + leases.LOOK_GAP, 0, 1]


def test_one_look_says_when_another_machine_was_heard_of(folder: Path) -> None:
    assert leases.unseen(folder, leases.read(folder)) is None
    with contextlib.closing(take(folder)):
        assert leases.unseen(folder, leases.read(folder)) is None, "a process here is looked at"
        elsewhere(folder)
        os.utime(folder / names(folder)[-1], (time.time() - 100,) * 2)
        seconds = leases.unseen(folder, leases.read(folder))
        assert seconds is not None
        assert 99 < seconds < 160
        elsewhere(folder, released=True)
        assert leases.unseen(folder, leases.read(folder)) is None
