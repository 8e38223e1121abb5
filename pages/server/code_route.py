"""What the browser runs, under addresses with a version, so that it may keep it for ever: ./static, and Plotly."""

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from pages.ui.components import browser_code

FOR_EVER = {"cache-control": "private, max-age=31536000, immutable"}


async def code(request: Request) -> Response:
    """Answers with a module.  A tab of an earlier version gets 404, and says that it wants to be loaded again."""
    wanted = request.path_params
    source = browser_code.modules().get(wanted["name"]) if wanted["version"] == browser_code.version() else None
    if source is None:
        return PlainTextResponse("There is no such module.\n", 404, headers={"cache-control": "no-store"})
    return Response(source, media_type="text/javascript; charset=utf-8", headers=FOR_EVER)


async def library(request: Request) -> Response:
    """Answers with Plotly's script."""
    return FileResponse(browser_code.library(), media_type="text/javascript; charset=utf-8", headers=FOR_EVER)


ROUTES = [
    Route(f"/{browser_code.LIBRARY}", library, methods=["GET"]),
    Route(f"/{browser_code.ADDRESS}/{{version}}/{{name}}", code, methods=["GET"]),
]
