"""Whatever call of the system fails: a sentence or a box, no traceback, and nothing that was saved is lost.

A part of the calls, the errors in turn; `make faults PARTS=calls` tries them all.
"""

from collections import Counter

import pytest

from faults import harness, promise_calls
from faults.harness import Case, Server

AT_MOST = 12  # cases of a scenario, spread evenly over its calls


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "without"),
    [
        ("resume", ("seek", "stat", "list")),
        ("sample", ("seek", "stat", "list")),
        ("Home", ("seek",)),
        ("Monitor", ("seek",)),
    ],
    ids=["resume", "sample", "Home", "Monitor"],
)
def test_every_call_may_fail(scenario: str, without: tuple[str, ...], server: Server) -> None:
    calls = server.calls(scenario)
    outcomes: dict[Case, harness.Outcome] = {}
    cases = list(harness.first_of_each(calls, scenario, without))
    for case in cases[:: -(-len(cases) // AT_MOST)]:
        outcomes[case] = server.run(case)
    bad = {case: outcome for case, outcome in outcomes.items() if outcome.kind not in promise_calls.GOOD}
    assert not bad
    met = Counter(outcome.fired for outcome in outcomes.values())
    assert met[True] > 10 * met[False], "calls fail as they were meant to"
    reported = Counter(outcome.kind for outcome in outcomes.values())
    assert reported["box" if scenario in ("Home", "Monitor") else "sentence"], "and some of it shows"


@pytest.mark.slow
def test_the_harness_sees_what_it_should(server: Server) -> None:
    calls = server.calls("resume")
    assert calls["open runs/r/saves/#.json"] >= 2
    assert calls["rename runs/r/saves/.tmp-#-#.json"] == 1
    outcome = server.run(Case("resume", "rename runs/r/saves/.tmp-#-#.json", 1, "EROFS"))
    assert (outcome.kind, outcome.fired) == ("well", True), outcome.said  # the last save is tried again
    outcome = server.run(Case("resume", "rename runs/r/nothing", 1, "EIO"))
    assert (outcome.kind, outcome.fired) == ("well", False)
