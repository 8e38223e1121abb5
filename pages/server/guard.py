"""The guard in front of everything that the server answers: pages, files, uploads and the WebSocket.

A request comes in if it names this server as its host, if no other web page sent it, and if it carries the token, in
the cookie or in the header Authorization.  An address with ?token=... is exchanged for the cookie.
"""

import base64
import hashlib
import hmac
import html
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from pages.server import shell_route
from pages.server.access import DEFAULT_PORTS, Access, bracketed, is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?", re.ASCII)
FROM_HERE = ("same-origin", "none")  # none: typed, or opened by another program


class Answer(NamedTuple):
    """What the guard answers instead of the server."""

    sentence: str  # why it refuses; "" where the address is exchanged for the one without the token
    page: str = ""  # what a browser shows, where there is something to do
    cookie: str = ""


class Guard:
    """ASGI middleware: passes on what may come in, and answers everything else with 403."""

    def __init__(self, app: Application, door: Access):
        self.app = app
        self.door = door
        self.names = frozenset(door.names)
        self.proxy_host = door.proxy.partition("//")[2]
        self.secret = _of_cookie(door.token)
        self.headers = security_headers(inline_scripts())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        instead = self.judge(request)
        if instead and scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        elif instead:
            await self.answer(request, instead, send)
        else:
            # Origin has been judged: with it, Streamlit would ask a public service for this computer's address.
            inner = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"origin"]}
            await self.app(inner, receive, self.protected(send))

    def protected(self, send: Send) -> Send:
        """Adds the security headers to an answer, and takes out those that would let pages of others read it."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in self.headers}
                kept = [
                    (name, value)
                    for name, value in message.get("headers", ())
                    if name.lower() not in own and not name.lower().startswith(b"access-control-")
                ]
                message = {**message, "headers": [*kept, *self.headers]}
            await send(message)

        return with_headers

    def judge(self, request: "Request") -> Answer | None:
        """What to answer instead of the server; None if the request may come in."""
        if not self.is_own_host(request):
            own = self.door.proxy or f"http://{self.door.names[1]}:{request.port}"
            return Answer(
                f"This server answers as {own} only. Behind a proxy or a tunnel, its address belongs into DDPM_PROXY."
            )
        if not self.door.token and not self.door.proxy and not is_loopback(request.server):
            return Answer("Without a token this server answers on this computer only.")
        origin, scheme = request.one(b"origin"), "https" if request.scope["scheme"] in ("https", "wss") else "http"
        if origin is None and request.scope["type"] == "websocket":
            return Answer("A WebSocket needs an origin.")
        if origin is not None and origin not in (f"{scheme}://{request.host}", self.door.proxy or None):
            return Answer("This request was sent by a page of another server.")
        exchange = self.exchange(request)
        if request.site not in ("", *FROM_HERE):
            if not request.is_navigation:
                return Answer("This request was sent by a page of another server.")
            return exchange or Answer("Another page led here.", link_page(request))
        if exchange:
            return exchange
        if self.door.token and not self.has_token(request):
            return Answer("The token is missing.", token_page(request))
        return None

    def is_own_host(self, request: "Request") -> bool:
        """Whether the header Host is an address of this server."""
        if self.proxy_host and request.host == self.proxy_host:
            return True
        found = HOST.fullmatch(request.host or "")
        if not found:
            return False
        port = int(found[2]) if found[2] else DEFAULT_PORTS.get(request.scope["scheme"].replace("ws", "http"))
        name = found[1]
        return port == request.port and (name in self.names or name == bracketed(request.server))

    def has_token(self, request: "Request") -> bool:
        """Whether a request carries the token."""
        given = request.one(b"authorization") or ""
        kind, _, text = given.partition(" ")
        if kind.lower() in ("token", "bearer") and equal(text.strip(), self.door.token):
            return True
        return any(equal(value, self.secret) for value in request.cookies(self.door.cookie(request.port)))

    def exchange(self, request: "Request") -> Answer | None:
        """Answer to ?token=...: the same address without it, and the cookie; None where there is no token in it."""
        if request.scope["type"] != "http" or b"token=" not in request.scope["query_string"]:
            return None
        given = [value for name, value in request.query if name == "token"]
        if not given or request.scope["method"] not in ("GET", "HEAD"):
            return None
        if not self.door.token:
            return Answer("", redirect_page(request))
        if any(equal(value, self.door.token) for value in given):
            secure = "; Secure" if request.scope["scheme"] == "https" or self.door.proxy.startswith("https:") else ""
            cookie = f"{self.door.cookie(request.port)}={self.secret}; Path=/; HttpOnly; SameSite=Strict{secure}"
            return Answer("", redirect_page(request), cookie)
        if self.has_token(request):
            return Answer("", redirect_page(request))
        return Answer("This is not the token.", token_page(request, wrong=True))

    async def answer(self, request: "Request", given: Answer, send: Send) -> None:
        """Sends an answer: as a page to who navigates, in one line to others."""
        moved = not given.sentence
        # A page of another server, or a file that opened the browser, led here: a redirect would still count as its
        # own, and the cookie would not be sent.  The page goes on by itself, as this server's.
        status = 403 if not moved else 200 if request.site not in ("", *FROM_HERE) else 303
        as_page = given.page and (moved or "text/html" in (request.one(b"accept") or ""))
        body = (given.page if as_page else given.sentence + "\n").encode()
        headers = [
            (b"content-type", b"text/html; charset=utf-8" if as_page else b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            *security_headers(()),
        ]
        if status == 303:
            headers.append((b"location", request.address().encode()))
        if given.cookie:
            headers.append((b"set-cookie", given.cookie.encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if request.scope["method"] == "HEAD" else body})


class Request:
    """What the guard reads of a request."""

    def __init__(self, scope: Scope):
        self.scope = scope
        self.host = (self.one(b"host") or "").lower()
        server = scope.get("server") or ("", 0)
        self.server, self.port = str(server[0]).removeprefix("::ffff:"), server[1]
        self.site = self.one(b"sec-fetch-site") or ""

    def one(self, name: bytes) -> str | None:
        """Value of a header; None if it is missing, and a text that is never right if it is there twice."""
        values = [value for key, value in self.scope["headers"] if key == name]
        return values[0].decode("latin-1") if len(values) == 1 else "," if values else None

    def cookies(self, name: str) -> Iterable[str]:
        for key, value in self.scope["headers"]:
            if key == b"cookie":
                for part in value.decode("latin-1").split(";"):
                    own, _, content = part.strip().partition("=")
                    if own == name:
                        yield content

    @property
    def is_navigation(self) -> bool:
        """Whether it opens a page in a tab."""
        return (
            self.scope["type"] == "http"
            and self.scope["method"] in ("GET", "HEAD")
            and self.one(b"sec-fetch-mode") == "navigate"
            and self.one(b"sec-fetch-dest") == "document"
        )

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True)

    def address(self) -> str:
        """Path and query without the token, on this server whatever the path says."""
        raw = self.scope.get("raw_path") or b"/"
        path = "/" + raw.decode("latin-1").lstrip("/\\")
        rest = urlencode([(name, value) for name, value in self.query if name != "token"])
        return f"{path}?{rest}" if rest else path


def equal(given: str, right: str) -> bool:
    """Compares in a time that says nothing of how much is right."""
    return hmac.compare_digest(given.encode(errors="replace"), right.encode())


def _of_cookie(token: str) -> str:
    """Content of the cookie: the token cannot be computed from it."""
    return hmac.new(token.encode(), b"ddpm-workbench cookie", hashlib.sha256).hexdigest()


# Headers


def inline_scripts() -> list[str]:
    """Scripts that stand in the document of the pages, as the hashes by which a policy allows them."""
    scripts = re.findall(r"<script>(.*?)</script>", shell_route.document(), re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts]


def security_headers(scripts: Iterable[str]) -> Headers:
    """Headers of every answer.  Nothing is loaded from, sent to or framed by another server.

    blob: scripts are the page's own components, which Streamlit hands over as text.
    """
    policy = {
        "default-src": "'self'",
        "script-src": " ".join(("'self'", "blob:", *scripts)),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "media-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self'",
        "worker-src": "'self' blob:",
        "frame-src": "'none'",
        "object-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    return [
        (b"content-security-policy", "; ".join(f"{name} {value}" for name, value in policy.items()).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"same-origin"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]


# Pages

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>DDPM Workbench</title>{head}
<style>body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 34rem; margin: 15vh auto; padding: 0 1.5rem;
  color-scheme: light dark; }} input, button {{ font: inherit; padding: 0.35rem 0.7rem; }}
  input {{ width: 60%; }}</style></head>
<body>{body}</body></html>
"""


def token_page(request: Request, wrong: bool = False) -> str:
    """Page that asks for the token."""
    kept = "".join(
        f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
        for name, value in request.query
        if name != "token"
    )
    sentence = "This is not the token of this dashboard." if wrong else "This dashboard asks for its token."
    return _PAGE.format(
        head="",
        body=f"<h1>Token needed</h1><p>{sentence} The shell that started it shows its address, which ends in"
        " <code>?token=…</code>: open that, or type the token here.</p>"
        f'<form method="get">{kept}<input name="token" type="password" autocomplete="off" autofocus'
        ' aria-label="Token"> <button>Open</button></form>',
    )


def link_page(request: Request) -> str:
    """Page for who follows a link from elsewhere: from here on it is their own click."""
    address = html.escape(request.address())
    return _PAGE.format(
        head="",
        body="<h1>DDPM Workbench</h1><p>A page of another server, or another program, led here."
        f' <a href="{address}">Open the dashboard</a></p>',
    )


def redirect_page(request: Request) -> str:
    """Page that goes on to the same address without the token."""
    address = html.escape(request.address())
    return _PAGE.format(
        head=f'<meta http-equiv="refresh" content="0; url={address}">',
        body=f'<p><a href="{address}">Open the dashboard</a></p>',
    )
