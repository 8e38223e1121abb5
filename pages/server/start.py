"""What happens when the server starts: its address is printed, and opened in a browser."""

import contextlib
import html
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from streamlit import cli_util, config, runtime

from ddpm.errors import UserError
from ddpm.storage import files
from pages.server import downloads, warm
from pages.server.access import EVERYWHERE, Access, origin_of

ROOT = Path(__file__).resolve().parents[2]
PORT = 8501  # where Streamlit listens by default

Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


def announcing(door: Access) -> Lifespan:
    """Lifespan of the server: prints its address, opens it where there is a browser, and tidies up at the end."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        port = config.get_option("server.port")
        url = address(door, port)
        print("\n  " + "\n  ".join(announcement(door, port)) + "\n", flush=True)
        warm.begin()
        downloads.keep(runtime.get_instance().media_file_mgr)
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


def announcement(door: Access, port: int) -> list[str]:
    """Lines that say where the dashboard is."""
    lines = [f"DDPM Workbench  {address(door, port)}"]
    if door.address in EVERYWHERE and not door.proxy:
        lines.append(f"From elsewhere  {address(door, port, socket.gethostname().lower())}")
    if port != PORT and not config.is_manually_set("server.port"):  # Streamlit takes the next one that is free
        lines.append(f"Port {PORT} is taken, by another dashboard perhaps, so this one is at port {port}.")
    return [*lines, "Ctrl+C ends the dashboard; trainings go on."]


def address(door: Access, port: int, name: str = "") -> str:
    """Address that lets its user in.  name: another one of this computer's."""
    scheme = "https" if config.get_option("server.sslCertFile") else "http"
    base = config.get_option("server.baseUrlPath").strip("/")
    path = f"/{base}" if base else ""
    origin = f"{scheme}://{name}:{port}" if name else origin_of(door, port, scheme)
    return origin + path + (f"/?token={door.token}" if door.token else "")


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
