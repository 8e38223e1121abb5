"""The table of promises in short: a few points of each."""

import random
from pathlib import Path

import pytest

from faults import promise_saves
from faults.harness import Point, Server
from faults.power import Call, Disk


@pytest.mark.slow
def test_what_is_saved_stays_saved() -> None:
    rows = list(promise_saves.rows(seconds=7, count=1))
    assert [row.examples for row in rows if row.lost] == []
    assert all(row.tried for row in rows)


@pytest.mark.slow
def test_the_points_are_met(server: Server) -> None:
    """A fault that no call meets would be survived by anything."""
    changes = server.changes()
    assert changes > 100
    assert server.point(Point("kill", 1)) == ""
    assert server.point(Point("kill", changes + 1)) == ""


def test_every_number_is_taken_once() -> None:
    for count in (1, 2, 10, 1000):
        assert sorted(promise_saves.spread(count)) == list(range(count))


def test_a_power_cut_leaves_what_was_flushed(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "old").write_bytes(b"first")
    flushed = {"names": (b"", b"longer"), "zeros": (bytes(6), b"longer"), "none": (b"first", b"first")}
    for how, (without, with_flush) in flushed.items():
        for flush in (False, True):
            disk, root = Disk(tmp_path / "before"), str(tmp_path / "before")
            disk.play(Call("open", f"{root}/new", "", -1, 1, b""))
            disk.play(Call("write", f"{root}/new", "", -1, 0, b"longer"))
            if flush:
                disk.play(Call("fsync", f"{root}/new", "", -1, 0, b""))
            disk.play(Call("rename", f"{root}/new", f"{root}/old", -1, 0, b""))
            after = tmp_path / f"{how} {flush}"
            disk.write(after, how, random.Random(0))
            assert (after / "old").read_bytes() == (with_flush if flush else without)
