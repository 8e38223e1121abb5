"""Files of strangers, mutated: each reader gives a result or a UserError, in 2 s and 300 MB, whatever they hold.

`make faults PARTS=foreign` tries more of them, and `make fuzz` is guided by coverage.
"""

from collections.abc import Iterator

import pytest
from faults.fuzz import INTERESTING, Child, Edit, apply
from faults.readers import READERS, mended
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = 30  # of each reader; a file takes some milliseconds
EDITS = st.lists(
    st.builds(
        Edit,
        st.sampled_from(["flip", "set", "insert", "delete", "cut", "copy", "splice"]),
        st.floats(0, 1),
        st.sampled_from(INTERESTING) | st.binary(min_size=1, max_size=8),
        st.integers(1, 64),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.close()


@pytest.mark.parametrize("name", READERS)
def test_whole_files_are_read(name: str, child: Child) -> None:
    outcomes = [child.read(name, seed) for seed in READERS[name].seeds()]
    assert any(outcome.result == "read" for outcome in outcomes), outcomes
    assert all(outcome.is_good for outcome in outcomes), outcomes


@pytest.mark.parametrize("name", READERS)
def test_mutated_files_are_read_or_refused(name: str, child: Child) -> None:
    seeds, inside = READERS[name].seeds(), READERS[name].inside

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.sampled_from(seeds), EDITS, st.sampled_from(seeds), st.booleans())
    def try_one(seed: bytes, edits: list[Edit], other: bytes, mend: bool) -> None:
        content = apply(seed, edits, other)
        outcome = child.read(name, mended(content, inside) if mend else content)
        assert outcome.is_good, outcome

    try_one()
