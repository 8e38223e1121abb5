"""The modules of ./static, under an address with their version, so that a browser may keep them for ever."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pages.ui.components import browser_code


async def code(request: Request) -> Response:
    """Answers with a module.  A tab of an earlier version gets 404, and says that it wants to be loaded again."""
    wanted = request.path_params
    source = browser_code.modules().get(wanted["name"]) if wanted["version"] == browser_code.version() else None
    if source is None:
        return PlainTextResponse("There is no such module.\n", 404, headers={"cache-control": "no-store"})
    return Response(
        source,
        media_type="text/javascript; charset=utf-8",
        headers={"cache-control": "private, max-age=31536000, immutable"},
    )


ROUTES = [Route(f"/{browser_code.ADDRESS}/{{version}}/{{name}}", code, methods=["GET"])]
