"""Masks between the browser and Python: what is sent arrives, and what is wrong is ignored and told in the log."""

import base64
import logging
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from pages.ui.components import mask_canvas

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (32, 32), (7, 33)])
def test_a_mask_comes_back_as_it_was(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8) * 255
    text = mask_canvas.encode(mask)
    back = mask_canvas.decode(text, shape)
    assert back is not None
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, mask)
    assert len(text) <= 4 * -(-mask.size // 24)


def test_the_order_of_the_bits() -> None:
    """Row by row, the highest bit first, as the script in the browser packs them."""
    mask = mask_canvas.decode(base64.b64encode(bytes([0b10010000, 0b01000000])).decode(), (2, 5))
    assert mask is not None
    assert mask.tolist() == [[255, 0, 0, 255, 0], [0, 0, 0, 0, 255]]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "NoneType"),
        (7, "int"),
        (["AAA="], "list"),
        ("", "0 bytes instead of 2"),
        ("AA==", "1 bytes instead of 2"),
        ("AAAA", "3 bytes instead of 2"),
        ("AA A=", "no base64"),
        ("?", "no base64"),
        ("ÄÄÄ=", "no base64"),
    ],
)
def test_a_wrong_mask_is_ignored(text: object, why: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ddpm"):
        assert mask_canvas.decode(text, (2, 5)) is None
    assert "A painted mask was ignored" in caplog.text
    assert why in caplog.text


GOOD = {"image": "p", "stamp": 5, "mask": "/8A="}


def test_what_the_browser_sends_is_read() -> None:
    assert mask_canvas.read(GOOD, "p", (2, 5)) == ("p", 5, "/8A=")
    assert mask_canvas.read({**GOOD, "more": 1}, "p", (2, 5)) == ("p", 5, "/8A=")


@pytest.mark.parametrize(
    "value",
    [
        "text",
        [1],
        3,
        {**GOOD, "stamp": "5"},
        {**GOOD, "stamp": True},
        {**GOOD, "stamp": 1.5},
        {**GOOD, "mask": "AA=="},
        {"image": "p"},
    ],
)
def test_what_it_should_not_send_is_ignored(value: object, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ddpm"):
        assert mask_canvas.read(value, "p", (2, 5)) is None
    assert "ignored" in caplog.text


@pytest.mark.parametrize("value", [None, {**GOOD, "image": "another"}])
def test_nothing_and_a_mask_of_another_image_are_not_wrong(value: object, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ddpm"):
        assert mask_canvas.read(value, "p", (2, 5)) is None
    assert not caplog.text


def test_images_are_reported_apart() -> None:
    black = np.zeros((4, 6, 1), np.uint8)
    others = [black + 1, black.reshape(6, 4, 1), black.repeat(3, axis=2)]
    names = {mask_canvas.name(image) for image in [black, *others]}
    assert len(names) == 4
    assert mask_canvas.name(black.copy()) == mask_canvas.name(black)
    assert mask_canvas.name(np.asfortranarray(black)) == mask_canvas.name(black)


SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
import streamlit as st
from pages.ui.components import mask_canvas

picture = np.full((4, 6, st.session_state.get("channels", 3)), st.session_state.get("grey", 9), np.uint8)
mask = mask_canvas.paint(picture, key="mask")
st.code("None" if mask is None else str(mask.astype(int).tolist()))
"""


def test_what_was_painted_is_there_again_for_the_same_image_only() -> None:
    image = np.full((4, 6, 3), 9, np.uint8)
    mask = np.zeros((4, 6), np.uint8)
    mask[1, 2:5] = 255
    at = AppTest.from_string(SCRIPT).run()
    assert not at.exception
    assert at.code[0].value == "None"
    kept = mask_canvas.Painted(mask_canvas.name(image), 5, mask_canvas.encode(mask))
    at.session_state["mask-painted"] = kept  # the page was left and is opened again
    assert at.run().code[0].value == str(mask.tolist())
    at.session_state["grey"] = 10
    assert at.run().code[0].value == "None"
    for channels in (1, 4):
        at.session_state["channels"] = channels
        assert not at.run().exception
        assert at.code[0].value == "None"


def test_an_empty_mask_is_none() -> None:
    at = AppTest.from_string(SCRIPT)
    image = np.full((4, 6, 3), 9, np.uint8)
    empty = mask_canvas.encode(np.zeros((4, 6)))
    at.session_state["mask-painted"] = mask_canvas.Painted(mask_canvas.name(image), 5, empty)
    assert at.run().code[0].value == "None"
    assert not at.exception
