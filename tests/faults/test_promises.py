"""The table of promises in short: a few points of each."""

import pytest

from faults import promise_saves
from faults.harness import Point, Server


@pytest.mark.slow
def test_what_is_saved_stays_saved() -> None:
    rows = list(promise_saves.rows(seconds=20))
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
