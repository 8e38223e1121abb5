"""A few rounds of each race; `python tests/faults/races.py` has many."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "faults"))

import races

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not races.processes.LINUX, reason="signals")]


def test_no_race_is_lost() -> None:
    assert [row for row in races.rows(10) if row.lost] == []
