"""Nobody else gets in: every Host, Origin, Sec-Fetch-Site and token at a real server; and pages that open, without end.

A visitor is a tab without a browser, which speaks HTTP and the WebSocket as Streamlit's page does.
"""

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fake_run
import psutil
import requests_to
from dashboard import TOKEN, start_server, stop_server
from requests_to import Address, Visitor, ask, server_at
from waiting import PATIENCE

from faults.table import Row
from pages.server.access import Access
from pages.server.guard import Guard, Request

SITES = (None, "same-origin", "none", "same-site", "cross-site")
SCREENS = ("", "train", "monitor", "sample", "evaluate", "explore")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
LOADS, TABS, REQUESTS = 500, 200, 5000
MOST_MS = 2.0
LEFT = {"file handles": 8, "threads": 8, "MB of memory": 40}  # what may be left after all tabs are closed


class Site(NamedTuple):
    """A dashboard, its process and what it prints."""

    url: str
    process: psutil.Process
    log: Path

    @property
    def server(self) -> Address:
        return server_at(self.url)

    def size(self) -> dict[str, float]:
        """How much of the system it holds."""
        with self.process.oneshot():
            handles = self.process.num_handles() if hasattr(self.process, "num_handles") else self.process.num_fds()
            rss = self.process.memory_info().rss / 2**20
            return dict(zip(LEFT, (handles, self.process.num_threads(), rss), strict=True))


@contextlib.contextmanager
def dashboard(folder: Path, *options: str, **environment: str) -> Iterator[Site]:
    """A dashboard with one run, which forgets the sessions of closed tabs at once."""
    (folder / "runs").mkdir(parents=True)
    fake_run.write(folder / "runs", "one", steps=40)
    log = folder / "log"
    forget = ("--server.disconnectedSessionTTL", "1")
    process, url = start_server(folder / "runs", log, folder, options=(*forget, *options), **environment)
    try:
        yield Site(url, psutil.Process(process.pid), log)
    finally:
        stop_server(process)


def matrix(server: Address, until: float, token: bool = True) -> tuple[int, list[str]]:
    """Every pair of Host and Origin with every Sec-Fetch-Site and way to knock: how many, and what went wrong."""
    tried, wrong = 0, []
    # The right token comes first: where time is short, it is seen that what should come in does.
    for knock, site in itertools.product(reversed(requests_to.KNOCKS) if token else ("none",), SITES):
        headers = requests_to.keys(server, knock) if token else {}
        found = requests_to.try_all(server, **headers, Sec_Fetch_Site=site)
        admitted = (knock == "right" or not token) and site in (None, "same-origin", "none")
        expected = requests_to.may_enter(server) if admitted else requests_to.Tried(0, set(), set())
        tried += found.count
        for way in ("http", "websocket"):
            for pair in getattr(found, way) ^ getattr(expected, way):
                wrong.append(f"{way}, {knock}, Sec-Fetch-Site {site}, Host {pair[0]}, Origin {pair[1]}")
        if time.monotonic() > until:
            break
    return tried, wrong


def elsewhere(server: Address) -> tuple[int, list[str]]:
    """Every path and method without the token, and with it from a page of another server."""
    tried, wrong = 0, []
    own = requests_to.cookie(server)
    ways: tuple[dict[str, str | None], ...] = (
        {},
        {"Cookie": own, "Origin": "http://evil.example"},
        {"Cookie": own, "Host": "evil.example"},
        {"Cookie": own, "Sec_Fetch_Site": "cross-site"},
    )
    with Visitor(f"http://{server[0]}:{server[1]}") as tab:
        tab.open()
        paths = [*requests_to.PATHS, tab.place("a")]
        for path, method, headers in itertools.product(paths, METHODS, ways):
            tried += 1
            status, answered, body = ask(server, path, method, **headers)
            if status != 403 or b"stApp" in body or "access-control-allow-origin" in answered:
                wrong.append(f"{method} {path} with {headers}: {status}")
    return tried, wrong


def page_loads(site: Site, until: float) -> tuple[int, list[str]]:
    """Pages opened by their addresses, in turns, ten in each tab: how many, and those with an error."""
    tried, wrong = 0, []
    screens = itertools.cycle(SCREENS)
    while tried < LOADS and time.monotonic() < until:
        with Visitor(site.url) as tab:
            for screen in itertools.islice(screens, 10):
                tried += 1
                query = f"run=one&n={tried}" if screen not in ("", "train") else ""
                try:
                    kinds = tab.open(screen, query)
                except AssertionError as error:
                    wrong.append(f"{screen}: {error}")
                else:
                    if "button" not in kinds:
                        wrong.append(f"{screen} shows no more than {kinds}")
    said = site.log.read_text(errors="replace")
    return tried, wrong + ([said[-2000:]] if "Traceback" in said else [])


def leaks(site: Site, until: float) -> tuple[int, list[str]]:
    """Tabs opened and closed, and what is left of them when Streamlit has let their sessions go."""

    def visit() -> None:
        with Visitor(site.url) as tab:
            tab.open("monitor", "run=one")

    for _ in range(20):
        visit()
    before, tried = settled(site), 20
    while tried < TABS and time.monotonic() < until:
        visit()
        tried += 1
    after = settled(site)
    grown = {what: after[what] - before[what] for what in LEFT}
    return tried, [f"{grown[what]:.0f} {what} more" for what in LEFT if grown[what] > LEFT[what]]


def settled(site: Site) -> dict[str, float]:
    """How much the server holds once it lets go of nothing more."""
    end, found = time.monotonic() + PATIENCE, site.size()
    while time.monotonic() < end:
        time.sleep(1.5)  # longer than sessions of closed tabs are kept
        now = site.size()
        if all(now[what] >= found[what] for what in ("file handles", "threads")):
            return now
        found = now
    return found


def milliseconds(server: Address) -> list[float]:
    """What the guard takes for each of many requests that come in."""
    guard = Guard(lambda *_: None, Access(TOKEN, "127.0.0.1"))  # type: ignore[arg-type, return-value]
    own = f"127.0.0.1:{server[1]}".encode()
    scope: dict[str, Any] = {
        "type": "http",
        "scheme": "http",
        "method": "GET",
        "server": server,
        "query_string": b"run=a",
        "raw_path": b"/monitor",
        "headers": [
            (b"host", own),
            *((f"x-{k}".encode(), b"value") for k in range(20)),
            (b"origin", b"http://" + own),
            (b"sec-fetch-site", b"same-origin"),
            (b"cookie", f"_streamlit_xsrf=2|x; {requests_to.cookie(server)}".encode()),
        ],
    }
    taken = []
    for _ in range(REQUESTS):
        begin = time.perf_counter()
        refused = guard.judge(Request(scope))
        taken.append(1000 * (time.perf_counter() - begin))
        assert refused is None
    return taken


def rows(seconds: float) -> Iterator[Row]:
    """The promises about who gets in, and about what a dashboard holds that is looked at for long."""

    def row(promise: str, found: tuple[int, list[str]]) -> Row:
        tried, wrong = found
        return Row(promise, tried, len(wrong), tuple(wrong[:10]))

    def by(share: float) -> float:
        return time.monotonic() + share * seconds

    with tempfile.TemporaryDirectory() as folder:
        with dashboard(Path(folder) / "token") as site:
            yield row(
                "Host, Origin, Sec-Fetch-Site, token: in comes the owner's page alone", matrix(site.server, by(0.3))
            )
            yield row("No path and no method answers anybody else", elsewhere(site.server))
            yield row("Pages open by their addresses without a traceback", page_loads(site, by(0.3)))
            yield row("Tabs that were closed leave no handles, threads or memory", leaks(site, by(0.2)))
            taken = milliseconds(site.server)
            median = statistics.median(taken)
            slow = [f"{median:.2f} ms"] if median > MOST_MS else []
            yield row(
                f"The guard takes {median:.3f} ms a request in the median, of {MOST_MS:g} at most", (len(taken), slow)
            )
        with dashboard(Path(folder) / "open", "--", "--no-token", DDPM_TOKEN="") as site:
            yield row("Without a token: no page of another server comes in", matrix(site.server, by(0.1), token=False))
