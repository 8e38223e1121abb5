"""What the server answers besides the pages: a list of routes from each module that has some.

They lie behind the guard like everything else, and come before Streamlit's own, the last of which answers everything.
"""

from starlette.routing import Mount, Route
from streamlit import config

from pages.server import (
    code_route,
    log_route,
    metrics_route,
    previews_route,
    row_route,
    runs_route,
    samples_route,
    shell_route,
)

ROUTES: list[Route] = [
    *code_route.ROUTES,
    *log_route.ROUTES,
    *metrics_route.ROUTES,
    *previews_route.ROUTES,
    *row_route.ROUTES,
    *runs_route.ROUTES,
    *samples_route.ROUTES,
    *shell_route.ROUTES,
]


def all_routes() -> list[Route | Mount]:
    """The routes, below the folder that server.baseUrlPath names."""
    base = config.get_option("server.baseUrlPath").strip("/")
    return [Mount(f"/{base}", routes=ROUTES)] if base else [*ROUTES]
