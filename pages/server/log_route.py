"""The log of a run, line by line with the training steps that they name.

run/log?run=NAME&since=REVISION    the end of it: {"revision", "active", "end", "lines": [[step or null, text]]},
                                   or {"same", "active"} if nothing changed
run/log?run=NAME&step=STEP         the lines around a step
"""

from typing import Any

from starlette.routing import Route

from ddpm.runs.jobs import ACTIVE
from pages.server.asked import Asked, answering


def log(asked: Asked) -> Any:
    """The end of the log, or the lines around a step."""
    view, step, active = asked.glance, asked.number("step"), asked.glance.state() in ACTIVE
    found = view.log_lines(step)
    if step is None and found.revision == asked.text("since"):
        return {"same": True, "active": active}
    return {"revision": found.revision, "active": active, "end": found.end, "lines": found.lines}


ROUTES = [Route("/run/log", answering(log), methods=["GET"])]
