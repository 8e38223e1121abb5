"""What the table on Home asks for: the rows of all runs that have changed, and their newest previews as images.

Both only read.  The rows are plain values; an image is decoded from a run's file and encoded again, so nothing that
lies in a folder is ever passed on as it is.
"""

import re
from collections.abc import Callable
from functools import wraps

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ddpm.errors import UserError, user_errors
from ddpm.runs import run_names
from ddpm.runs.runs import Run
from pages.ui.components import thumbnails
from pages.ui.frame import layout, run_store

SINCE = re.compile(r"([0-9a-f]{8}\.[0-9]{1,15})?", re.ASCII)
STEP = re.compile(r"[0-9]{1,15}", re.ASCII)
STAMP = re.compile(r"[0-9]{1,20}", re.ASCII)
SIDES = ("80", "208")  # pixels of an image
NEVER = {"cache-control": "no-store"}
FOR_EVER = {"cache-control": "private, max-age=31536000, immutable"}  # the address has the time of the file's change

Arguments = dict[str, str]


def answers(*names: str) -> Callable[[Callable[[Arguments], Response]], Callable[[Request], Response]]:
    """Has a function answer requests with exactly these arguments, each of them once; a UserError becomes a line."""

    def decorate(answer: Callable[[Arguments], Response]) -> Callable[[Request], Response]:
        @wraps(answer)
        def checked(request: Request) -> Response:
            given = request.query_params.multi_items()
            if sorted(name for name, _ in given) != sorted(names):
                return refusal(f"The arguments are {', '.join(names)}.", 400)
            try:
                with user_errors():
                    return answer(dict(given))
            except UserError as error:
                return refusal(str(error), 404)

        return checked

    return decorate


def refusal(sentence: str, status: int) -> Response:
    """An answer of one line."""
    return PlainTextResponse(f"{sentence}\n", status, headers=NEVER)


@answers("since")
def rows(given: Arguments) -> Response:
    """The rows that have changed since a revision, as JSON: see RunIndex.answer."""
    if not SINCE.fullmatch(given["since"]):
        return refusal("since is no revision of an earlier answer.", 400)
    found = run_store.store(layout.runs_dir()).index.answer(given["since"])
    return Response(found, media_type="application/json", headers=NEVER)


@answers("run", "step", "at", "side")
def preview(given: Arguments) -> Response:
    """The preview grid of a run at a step, as a PNG of that size."""
    name, step = given["run"], given["step"]
    if not (
        run_names.is_name(name) and STEP.fullmatch(step) and STAMP.fullmatch(given["at"]) and given["side"] in SIDES
    ):
        return refusal("There is no such preview.", 400)
    run = Run(layout.runs_dir() / name)
    run.check_files()
    path = next((path for number, path in run.previews() if number == int(step)), None)
    image = thumbnails.shown(run, path, int(given["side"])) if path else None
    if image is None:
        return refusal("There is no such preview.", 404)
    return Response(image, media_type="image/png", headers=FOR_EVER)


ROUTES = [Route("/data/runs", rows, methods=["GET"]), Route("/data/preview", preview, methods=["GET"])]
