"""Whatever call of the system fails, at whatever file: a sentence or a box, no traceback, and nothing saved is lost."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from faults import harness
from faults.harness import SCENARIOS, Case, Server
from faults.table import Row

EXAMPLES = 5
ALIKE = 2  # calls of one kind at files of one role that fail in turn, each with each error
GOOD = ("well", "sentence", "box")


def lost(server: Server, cases: Iterator[Case], seconds: float) -> tuple[int, list[str]]:
    """How many cases were tried in that time, and what each that is not good ended in."""
    began, tried, found = time.monotonic(), 0, []
    for case in cases:
        outcome = server.run(case)
        tried += outcome.fired
        if outcome.kind not in GOOD:
            found.append(f"{case.call} {case.k} {case.error}: {outcome.kind}\n{outcome.said.strip()[-1500:]}")
        if time.monotonic() - began > seconds:
            break
    return tried, found


def rows(seconds: float) -> Iterator[Row]:
    """Yields a row for each thing that a user does; nothing where the shim cannot be built."""
    with tempfile.TemporaryDirectory() as place:
        library = harness.shim(Path(place))
        if library is None:
            return
        server = Server(library, Path(place) / "server")
        for scenario in SCENARIOS:
            cases = harness.every(server.calls(scenario), scenario, ALIKE)
            tried, found = lost(server, cases, seconds / len(SCENARIOS))
            promise = f"A call of the system fails during {scenario}: a sentence or a box, and nothing is lost"
            yield Row(promise, tried, len(found), tuple(found[:EXAMPLES]))
        server.close()
