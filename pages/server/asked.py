"""What a request for data of a run asks for, judged as strictly as the names of runs are, and how it is answered.

    ROUTES = [Route("/run/log", asked.answering(read_log), methods=["GET"])]

`read_log(asked)` returns a document, which is sent as JSON, or a Response.  It runs in a thread.  A UserError becomes
a sentence with status 400, and 404 where there is no such run, step or file.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ddpm.errors import UserError, as_user_error
from ddpm.runs import runs
from ddpm.runs.runs import Run
from pages.ui.frame import layout, run_store
from pages.ui.frame.run_store import RunView, Store

MOST_NAME = 255  # characters of a name or a revision
NUMBER = re.compile(r"[0-9]{1,15}")
MISSING = ("unknown-run", "bad-name", "not-found", "unknown-step")
NO_STORE = {"cache-control": "no-store"}


class Asked:
    """The arguments of a request."""

    def __init__(self, query: Mapping[str, str], headers: Mapping[str, str]):
        self._query = query
        self.headers = headers

    @property
    def store(self) -> Store:
        """The runs of this server."""
        return run_store.store(layout.runs_dir())

    @property
    def run(self) -> Run:
        """The run that `run` names.  Raises UserError if there is none."""
        return runs.find_run(layout.runs_dir(), self.text("run"))

    @property
    def glance(self) -> RunView:
        """What is cached of that run, without its metrics."""
        return self.store.glance(self.run)

    def text(self, name: str, other: str = "", most: int = MOST_NAME) -> str:
        """A short text, or `other` if it is not given.  Raises UserError for a long one."""
        value = self._query.get(name, other)
        if len(value) > most:
            raise UserError(f"{name} has {len(value):,} characters: give at most {most}.", code="bad-value")
        return value

    def number(self, name: str, choices: tuple[int, ...] = ()) -> int | None:
        """A whole number from 0, one of `choices` if there are any; None if it is not given.  Raises UserError."""
        value = self.text(name)
        if not value:
            return None
        if not (value.isascii() and NUMBER.fullmatch(value)) or (choices and int(value) not in choices):
            among = f" among {', '.join(map(str, choices))}" if choices else ""
            raise UserError(f"{name} is {value[:40]!r}: give a whole number{among}.", code="bad-value")
        return int(value)


def answering(read: Callable[[Asked], Any]) -> Callable[[Request], Any]:
    """The endpoint of a route that answers with what `read` returns."""

    async def endpoint(request: Request) -> Response:
        text = request.scope["query_string"].decode("latin-1")
        query = dict(parse_qsl(text, keep_blank_values=True, errors="surrogateescape"))  # a name may be no text
        return await run_in_threadpool(_answer, read, Asked(query, request.headers))

    return endpoint


def _answer(read: Callable[[Asked], Any], asked: Asked) -> Response:
    try:
        found = read(asked)
    except UserError as error:
        return sentence(error)
    except FileNotFoundError as error:
        return sentence(UserError(f"{Path(str(error.filename)).name} is not there any more.", code="not-found"))
    except OSError as error:
        return sentence(as_user_error(error))
    if isinstance(found, Response):
        return found
    text = json.dumps(found, allow_nan=False, separators=(",", ":"))
    return Response(text.encode("utf-8", "backslashreplace"), media_type="application/json", headers=NO_STORE)


def sentence(error: UserError) -> Response:
    """Answers with what is wrong."""
    return PlainTextResponse(f"{error}\n", 404 if error.code in MISSING else 400, headers=NO_STORE)
