"""A mask painted in a real browser is the mask that Python gets: by mouse, finger and keyboard."""

import json
import shutil
import tomllib
from collections.abc import Iterator

import numpy as np
import pytest
from dashboard import ROOT, Server, start_server, stop_server, wait_until_idle
from playwright.sync_api import Page, expect
from waiting import until

pytestmark = pytest.mark.browser

W, H = 32, 24
# What the browser tests read: how often the script ran, and which pixels of the mask are painted.
SCRIPT = f"""
import json
import numpy as np
import streamlit as st
from pages.ui.components import mask_canvas

def picture(seed):
    ramp = np.linspace(40, 220, {W} * {H} * 3).reshape({H}, {W}, 3)
    return ((ramp + 60 * seed) % 256).astype(np.uint8)

def here():
    seed = st.segmented_control("Picture", [0, 1], default=0, key="seed", persist_state="session")
    mask = mask_canvas.paint(picture(seed), key="mask")
    st.session_state["runs"] = st.session_state.get("runs", 0) + 1
    assert mask is None or (mask.shape == ({H}, {W}) and mask.dtype == np.uint8 and set(np.unique(mask)) <= {{0, 255}})
    pixels = None if mask is None else np.argwhere(mask).tolist()
    found = {{"runs": st.session_state["runs"], "seed": seed, "pixels": pixels}}
    st.html("<pre id='got'>" + json.dumps(found) + "</pre>")
    st.button("Run again")

def there():
    st.write("another page")

st.set_page_config(layout="wide")
pages = [st.Page(here, title="Here", default=True), st.Page(there, title="There")]
chosen = st.navigation(pages)
for page in pages:
    st.sidebar.page_link(page)
chosen.run()
"""

Pixels = set[tuple[int, int]]  # (row, column)
EVERYTHING = {(y, x) for y in range(H) for x in range(W)}


@pytest.fixture(scope="module")
def canvas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Instead of the dashboard a page with nothing but the canvas, in the dashboard's theme."""
    folder = tmp_path_factory.mktemp("canvas")
    script, log = folder / "canvas.py", folder / "server.log"
    script.write_text(SCRIPT)
    shutil.copytree(ROOT / ".streamlit", folder / ".streamlit")
    process, url = start_server(folder, log, folder, script)
    yield Server(url, folder, log)
    stop_server(process)


@pytest.fixture
def server(canvas: Server) -> Iterator[Server]:
    with open(canvas.log, errors="replace") as log:
        yield canvas
        said = log.read()
    assert "Traceback" not in said, said
    assert "ignored" not in said, said


def open_canvas(page: Page, server: Server) -> None:
    page.goto(server.address())
    page.locator("canvas").wait_for()
    expect(page.locator("#got")).to_be_visible()


def got(page: Page) -> dict[str, object]:
    return json.loads(page.locator("#got").inner_text())


def expect_mask(page: Page, pixels: Pixels | None) -> None:
    """Wait until Python has this mask; fail with the difference."""
    wanted = None if pixels is None else sorted(list(p) for p in pixels)
    try:
        page.wait_for_function(
            "wanted => JSON.stringify(JSON.parse(document.querySelector('#got')?.innerText || '{}').pixels) === wanted",
            arg=json.dumps(wanted, separators=(",", ":")),
        )
    except Exception:
        assert got(page)["pixels"] == wanted
        raise


def point(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where the middle of a pixel of the image is in the window."""
    box = page.locator("canvas").bounding_box()
    assert box
    assert box["width"] % W == 0, "each pixel is a square of whole pixels"
    assert box["height"] / H == box["width"] / W
    return box["x"] + (x + 0.5) * box["width"] / W, box["y"] + (y + 0.5) * box["height"] / H


def drag(page: Page, *stops: tuple[float, float]) -> None:
    page.mouse.move(*point(page, *stops[0]))
    page.mouse.down()
    for stop in stops[1:]:
        page.mouse.move(*point(page, *stop), steps=6)
    page.mouse.up()


def brush(page: Page, size: int) -> None:
    page.get_by_label("Brush size in pixels").fill(str(size))
    expect(page.locator("output")).to_have_text(f"{size} px")


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def row(y: int, first: int, last: int) -> Pixels:
    return {(y, x) for x in range(first, last + 1)}


def test_what_is_dragged_over_arrives_and_is_taken_back(page: Page, server: Server) -> None:
    open_canvas(page, server)
    expect_mask(page, None)
    brush(page, 1)
    before = got(page)["runs"]

    drag(page, (3, 5), (20, 5))
    line = row(5, 3, 20)
    expect_mask(page, line)
    assert got(page)["runs"] == before + 1  # type: ignore[operator]  # a stroke, not each move of the mouse
    expect(page.get_by_role("status").filter(has_text="2 % painted")).to_be_visible()

    drag(page, (25, 2), (25, 12), (28, 12))  # a corner
    corner = {(y, 25) for y in range(2, 13)} | row(12, 25, 28)
    expect_mask(page, line | corner)

    press(page, "Erase")
    drag(page, (10, 5), (12, 5))
    expect_mask(page, (line | corner) - row(5, 10, 12))
    page.keyboard.press("Control+z")  # the canvas has the focus
    expect_mask(page, line | corner)
    press(page, "Undo")
    expect_mask(page, line)

    press(page, "Invert")
    expect_mask(page, EVERYTHING - line)
    press(page, "Fill")
    expect_mask(page, EVERYTHING)
    press(page, "Clear")
    expect_mask(page, None)
    expect(page.get_by_text("Nothing painted yet")).to_be_visible()
    press(page, "Undo")
    press(page, "Undo")
    press(page, "Undo")
    expect_mask(page, line)
    press(page, "Undo")
    expect_mask(page, None)
    runs = got(page)["runs"]
    expect(page.get_by_role("button", name="Undo")).to_have_attribute("aria-disabled", "true")
    page.get_by_role("button", name="Undo").click(force=True)  # nothing is left, and nothing happens
    press(page, "Paint")
    drag(page, (-3, 0), (0, 0))  # begins beside the canvas
    wait_until_idle(page)
    assert got(page)["runs"] == runs


def test_a_brush_is_a_disc_and_a_stroke_has_no_gaps(page: Page, server: Server) -> None:
    open_canvas(page, server)
    brush(page, 4)
    drag(page, (10.5, 10.5), (10.5, 10.5))  # on a corner of pixels
    disc = {(y, x) for y in range(9, 13) for x in range(9, 13)} - {(9, 9), (9, 12), (12, 9), (12, 12)}
    expect_mask(page, disc)
    press(page, "Clear")
    brush(page, 1)
    page.mouse.move(*point(page, 2, 2))
    page.mouse.down()
    page.mouse.move(*point(page, 20, 20))  # one fast move
    page.mouse.up()
    expect_mask(page, {(k, k) for k in range(2, 21)})
    press(page, "Clear")
    brush(page, 3)
    drag(page, (0, 0), (0, 0))  # half of it lies outside
    expect_mask(page, {(0, 0), (0, 1), (1, 0), (1, 1)})
    assert page.get_by_label("Brush size in pixels").get_attribute("max") == str(H // 2)


def test_it_is_kept_until_there_is_another_image(page: Page, server: Server) -> None:
    open_canvas(page, server)
    brush(page, 1)
    drag(page, (4, 4), (9, 4))
    expect_mask(page, row(4, 4, 9))
    press(page, "Run again")
    page.wait_for_function("JSON.parse(document.querySelector('#got').innerText).runs >= 3")
    expect_mask(page, row(4, 4, 9))

    page.get_by_role("link", name="There", exact=True).click()
    expect(page.get_by_text("another page")).to_be_visible()
    page.get_by_role("link", name="Here", exact=True).click()
    expect_mask(page, row(4, 4, 9))
    expect(page.get_by_text("1 % painted")).to_be_visible()  # the browser has it too
    brush(page, 1)
    drag(page, (4, 6), (5, 6))
    expect_mask(page, row(4, 4, 9) | row(6, 4, 5))

    page.get_by_role("radio", name="1").click()
    expect_mask(page, None)
    expect(page.get_by_text("Nothing painted yet")).to_be_visible()
    drag(page, (1, 1), (2, 1))
    expect_mask(page, row(1, 1, 2))
    page.get_by_role("radio", name="0").click()
    expect_mask(page, None)
    expect(page.get_by_text("Nothing painted yet")).to_be_visible()

    drag(page, (1, 1), (2, 1))
    expect_mask(page, row(1, 1, 2))
    page.reload()  # a session of its own: both sides begin anew
    expect(page.get_by_text("Nothing painted yet")).to_be_visible()
    expect_mask(page, None)


def test_strokes_faster_than_the_answers_are_all_kept(page: Page, server: Server) -> None:
    open_canvas(page, server)
    brush(page, 1)
    wanted: Pixels = set()
    for y in range(1, 21, 2):
        drag(page, (y, y), (y + 5, y))
        wanted |= row(y, y, y + 5)
    expect_mask(page, wanted)
    wait_until_idle(page)
    assert got(page)["pixels"] == sorted(list(p) for p in wanted)


def test_keyboard(page: Page, server: Server) -> None:
    open_canvas(page, server)
    page.get_by_role("button", name="Erase").focus()
    page.keyboard.press("Tab")  # the slider
    page.keyboard.press("Tab")
    canvas = page.get_by_role("application")
    expect(canvas).to_be_focused()
    while page.locator("output").inner_text() != "1 px":
        page.keyboard.press("[")
    y, x = H // 2, W // 2
    page.keyboard.press("Space")
    expect_mask(page, {(y, x)})
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("ArrowUp")
    page.keyboard.down("Space")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.up("Space")
    line = row(y - 1, x - 8, x - 4)
    expect_mask(page, {(y, x)} | line)
    assert page.locator(".spoken").inner_text() == f"Column {x - 3}, row {y}, painted"

    page.keyboard.press("]")
    expect(page.locator("output")).to_have_text("2 px")
    page.keyboard.press("[")
    page.keyboard.press("e")
    expect(page.get_by_role("button", name="Erase")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Space")
    expect_mask(page, {(y, x)} | (line - {(y - 1, x - 4)}))
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    expect_mask(page, {(y, x)})
    for _ in range(10):
        page.keyboard.press("Shift+ArrowLeft")  # stops at the border
    page.keyboard.press("e")
    page.keyboard.press("Space")
    expect_mask(page, {(y, x), (y - 1, 0)})


def test_a_finger_paints_on_a_telephone(page: Page, browser, server: Server) -> None:  # type: ignore[no-untyped-def]
    context = browser.new_context(viewport={"width": 375, "height": 740}, has_touch=True, is_mobile=True)
    try:
        telephone = context.new_page()
        open_canvas(telephone, server)
        brush(telephone, 1)
        assert telephone.evaluate("document.documentElement.scrollWidth") <= 375
        wide = telephone.locator("canvas").bounding_box()
        assert wide
        assert wide["width"] == 320
        touch = context.new_cdp_session(telephone)

        def finger(kind: str, *places: tuple[float, float]) -> None:
            points = [dict(zip("xy", point(telephone, *place), strict=True), id=k) for k, place in enumerate(places)]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        finger("touchStart", (6, 3))
        for y in range(4, 15):
            finger("touchMove", (6, y))
        finger("touchEnd")
        line = {(y, 6) for y in range(3, 15)}
        expect_mask(telephone, line)
        assert telephone.evaluate("document.querySelector('[data-testid=stMain]').scrollTop") == 0  # it did not scroll
        telephone.get_by_role("button", name="Undo").tap()
        expect_mask(telephone, None)
    finally:
        context.close()


def test_it_is_sampled_in_clean_squares(page: Page, server: Server) -> None:
    """Image and mask on screen: what is not painted keeps its colour, and what is painted does not."""
    open_canvas(page, server)
    brush(page, 4)
    drag(page, (10.5, 10.5), (20.5, 10.5))
    page.mouse.move(2, 2)  # the brush's outline goes

    def at(x: int, y: int) -> list[int]:
        return page.evaluate(f"""() => {{
              const find = (node) => node.querySelector?.('canvas')
                || [...node.querySelectorAll('*')].map(n => n.shadowRoot && find(n.shadowRoot)).find(Boolean);
              const canvas = find(document);
              const side = canvas.width / {W};
              const pixel = canvas.getContext('2d').getImageData(({x} + .5) * side, ({y} + .5) * side, 1, 1);
              return [...pixel.data].slice(0, 3);
            }}""")

    ramp = np.linspace(40, 220, W * H * 3).reshape(H, W, 3).astype(np.uint8)
    primary = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())["theme"]["light"]["primaryColor"]
    accent = np.frombuffer(bytes.fromhex(primary.removeprefix("#")), np.uint8)
    until(lambda: at(25, 10) == ramp[10, 25].tolist())
    assert at(3, 3) == ramp[3, 3].tolist()
    np.testing.assert_allclose(at(15, 10), (ramp[10, 15].astype(float) + accent) / 2, atol=3)
