"""What happens when the server starts: its address is printed, and opened in a browser."""

import contextlib
import html
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from streamlit import cli_util, config

from ddpm.errors import UserError
from ddpm.storage import files
from pages.server.access import Access, origin_of

ROOT = Path(__file__).resolve().parents[2]

Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


def announcing(door: Access) -> Lifespan:
    """Lifespan of the server: prints its address, opens it where there is a browser, and tidies up at the end."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        port = config.get_option("server.port")
        url = address(door, port)
        print(f"\n  DDPM Workbench  {url}\n  Ctrl+C ends the dashboard; trainings go on.\n", flush=True)
        leading = ROOT / ".streamlit" / f"open-{port}.html"
        if not config.get_option("server.headless"):
            shown = url if not door.token else leads_to(url, leading)
            if shown:
                threading.Thread(target=cli_util.open_browser, args=(shown,), daemon=True).start()
        try:
            yield
        finally:
            leading.unlink(missing_ok=True)

    return lifespan


def address(door: Access, port: int) -> str:
    """Address that lets its user in."""
    scheme = "https" if config.get_option("server.sslCertFile") else "http"
    base = config.get_option("server.baseUrlPath").strip("/")
    path = f"/{base}" if base else ""
    return origin_of(door, port, scheme) + path + (f"/?token={door.token}" if door.token else "")


def leads_to(url: str, path: Path) -> str:
    """Writes a file that leads to `url`, for this user alone; its own address, or "" where it cannot be written.

    Every user of a computer sees with which arguments a browser was started: there must be no token among them.
    """
    text = (
        f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={html.escape(url)}"><title>DDPM Workbench</title>'
    )
    try:
        files.write(path, lambda file: file.write(text.encode()), durable=False, mode=0o600)
    except (OSError, UserError):
        return ""
    return path.as_uri()
