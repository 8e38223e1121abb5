"""Previews of a run: which there are, and each as an image.

run/previews?run=NAME&since=REVISION    {"revision", "active", "steps", "labels"}, or {"same", "active"} if nothing
                                        changed
run/preview?run=NAME&step=STEP&side=N   a PNG whose longer side has N pixels, one of SIDES; 0: as many as it has
"""

import hashlib
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from ddpm.errors import UserError
from ddpm.runs.jobs import ACTIVE
from pages.server.asked import Asked, answering

SIDES = (120, 768, 1536, 0)  # in the strip, in the page, on the full screen, as a file


def previews(asked: Asked) -> Any:
    """The steps of which there are previews, increasing."""
    view = asked.glance
    steps, active = [step for step, _ in view.previews()], view.state() in ACTIVE
    revision = hashlib.sha256(repr(steps).encode()).hexdigest()[:16]
    if revision == asked.text("since"):
        return {"same": True, "active": active}
    return {"revision": revision, "active": active, "steps": steps, "labels": [f"{n:,}" for n in steps]}


def preview(asked: Asked) -> Response:
    """The preview of a step.  Raises UserError if there is none, or it is no image, or too large a one."""
    from pages.ui.components import thumbnails  # its cache wants the server to be there

    view, step, side = asked.glance, asked.number("step"), asked.number("side", SIDES)
    path = dict(view.previews()).get(-1 if step is None else step)
    if path is None:
        raise UserError(f"{view.run.name} has no preview of step {step}.", code="unknown-step")
    tag = f'"{view.run.changed_at(path):x}-{side}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if asked.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    if side:
        image = thumbnails.shown(view.run, path, side, enlarge=side > SIDES[0])
    else:
        image = thumbnails.png(thumbnails.load(view.run, path))
    if image is None:
        raise UserError(f"{view.run.name} has no preview of step {step}.", code="unknown-step")
    return Response(image, media_type="image/png", headers=headers)


ROUTES = [
    Route("/run/previews", answering(previews), methods=["GET"]),
    Route("/run/preview", answering(preview), methods=["GET"]),
]
