"""Streamlit's own document, in which every page runs, with the address of the server in it.

Without that, the browser asks below the address of the page first, as in /train/_stcore/health, where nothing is, and
only then at the root.
"""

import json
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route
from streamlit import config, file_util

from pages.ui.frame import layout


@cache
def document() -> str:
    """The document, with a script before its own that says where the server is."""
    text = (Path(file_util.get_static_dir()) / "index.html").read_text(encoding="utf-8")
    base = json.dumps("/" + config.get_option("server.baseUrlPath").strip("/"))
    script = f"<script>window.__streamlit = {{ BACKEND_BASE_URL: location.origin + {base} }}</script>"
    return text.replace("<script", f"{script}<script", 1)


def shell(_: Request) -> HTMLResponse:
    """Answers with the document; a browser asks each time whether it has changed, as with Streamlit's."""
    return HTMLResponse(document(), headers={"cache-control": "no-cache"})


def path(script: str) -> str:
    """Where Streamlit shows a page: that of home.py at the root, the others under their names."""
    return "/" if script == layout.HOME else f"/{Path(script).stem}"


ROUTES = [Route(path(script), shell, methods=["GET"]) for script, *_ in layout.MENU]
