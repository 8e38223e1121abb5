"""A few rounds of each race; `make faults PARTS=races` has many."""

import pytest
from faults import promise_races

from ddpm.storage import processes

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not processes.LINUX, reason="signals")]


def test_no_race_is_lost() -> None:
    assert [row for row in promise_races.raced(3) if row.lost] == []
