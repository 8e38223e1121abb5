"""Requests to the server's own routes, without a server: the endpoint is called as the server calls it."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import numpy as np
from app_page import AppTest, components
from starlette.requests import Request
from starlette.responses import Response

from pages.server import routes

OF_A_COLUMN = ("count", "least", "most", "mean", "first")


def ask(path: str, query: str = "", **arguments: object) -> Response:
    """The answer of the route at `path`.  query: as it stands in the address, instead of `arguments`."""
    route = next(route for route in routes.ROUTES if route.path == path)
    scope = dict(
        type="http",
        method="GET",
        path=path,
        headers=[],
        query_string=(query or urlencode(arguments)).encode(),
        path_params={},
    )
    with ThreadPoolExecutor(1) as threads:  # this thread may have a loop already, of a browser's tests
        return threads.submit(asyncio.run, route.endpoint(Request(scope))).result()


def unpack(body: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """An answer of run/metrics: its line, and the arrays, named as in step.first, and in loss.mean or loss."""
    line, _, rest = body.partition(b"\n")
    head = json.loads(line)
    assert (len(line) + 1) % 8 == 0
    count = -(-(head["stop"] - head["from"]) // head["size"])
    thin = head["size"] > 1
    names = [f"{axis}.{part}" for axis in head["axes"] for part in (("first", "last") if thin else ("first",))]
    names += [
        f"{name}.{part}" if thin else name for name in head["columns"] for part in (OF_A_COLUMN if thin else ("",))
    ]
    values = np.frombuffer(rest, "<f8").reshape(len(names), count)
    return head, dict(zip(names, values, strict=True))


def metrics_of(**arguments: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """What run/metrics answers."""
    answer = ask("/run/metrics", **arguments)
    assert answer.status_code == 200, answer.body
    return unpack(bytes(answer.body))


def charts(at: AppTest) -> list[dict[str, Any]]:
    """What the charts of training in a page are given."""
    return [data for data in components(at) if {"runs", "main"} <= {*data}]
