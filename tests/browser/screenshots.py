"""Takes a picture of every page in every state:  python tests/browser/screenshots.py FOLDER [NAME ...]

Each at 1440 and 820 pixels, light and dark: FOLDER/NAME-1440-light.png.  NAME: those of screens.py, `monitor-running`,
`monitor-message` and `home-running`.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import fake_run  # noqa: E402
from dashboard import QUIET, Server, chromium, start_server, stop_server, wait_by_asking  # noqa: E402
from playwright.sync_api import Error, Page, sync_playwright  # noqa: E402
from screens import CARDS, EMPTY, MANY, SCREENS, WELCOME, Screen, furnish, furnish_many  # noqa: E402

WIDTHS = (1440, 820)
HEIGHT = 1400
RUNNING = (
    Screen("monitor-running", "monitor", {"run": "live"}),
    Screen(
        "monitor-message", "monitor", {"run": "live"}, lambda page: page.get_by_role("button", name="Save now").click()
    ),
    Screen("home-running"),
)


def shoot(page: Page, server: Server, screen: Screen, folder: Path) -> Iterator[Path]:
    """Saves the pictures of one state, and returns where."""
    page.set_viewport_size({"width": WIDTHS[0], "height": HEIGHT})
    screen.open(page, server)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.wait_for_timeout(500)  # for what fades in, and what fits itself to the width
            path = folder / f"{screen.name}-{width}-{scheme}.png"
            page.screenshot(path=path)
            yield path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    executable = chromium()
    with tempfile.TemporaryDirectory() as place, sync_playwright() as tool:
        runs_dir = Path(place) / "runs"
        runs_dir.mkdir()
        os.environ |= {"DDPM_SHARES": f"{place}/shares", "DDPM_STATE": f"{place}/state"}
        process, url = start_server(runs_dir, Path(place) / "server.log", Path(place))
        server = Server(url, runs_dir, Path(place) / "server.log")
        browser = tool.chromium.launch(executable_path=executable, args=list(QUIET))
        page = browser.new_context().new_page()
        page.set_default_timeout(20_000)
        wait_by_asking(page)
        server.enter(page)

        def take(screens: tuple[Screen, ...]) -> None:
            for screen in screens:
                if not options.names or screen.name in options.names:
                    try:
                        for path in shoot(page, server, screen, options.folder):
                            print(path, flush=True)
                    except (Error, AssertionError) as error:  # the others can be looked at all the same
                        print(f"{screen.name}: {error}", file=sys.stderr, flush=True)

        try:
            take((WELCOME, *EMPTY))
            for name in ("first", "second"):
                fake_run.write(runs_dir, name, 60)
            take((CARDS,))
            furnish(runs_dir)
            take(SCREENS)
            with fake_run.running(runs_dir, "live", 2000, 10.0):
                take(RUNNING)
            if not options.names or {screen.name for screen in MANY} & {*options.names}:
                furnish_many(runs_dir)
            take(MANY)
        finally:
            stop_server(process)
            browser.close()


if __name__ == "__main__":
    main()
