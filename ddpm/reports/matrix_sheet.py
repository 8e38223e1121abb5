"""A labelled sheet of a matrix of images: a label for each row, and one for each column."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddpm.reports.contact_sheet import FAINT, GAP, INK, LINE, PAPER, TEXT, sized
from ddpm.storage import images

BETWEEN = 4  # pixels between two images


def sheet(rows: Sequence[str], columns: Sequence[str], pixels: np.ndarray, title: str = "") -> Image.Image:
    """Draws the images of each row next to its label, below the labels of the columns.

    pixels: uint8 [R, N, H, W, C]; of the labels, more rows may be there than have images yet.
    """
    font = ImageFont.load_default(TEXT)
    small = np.stack([sized(row) for row in pixels])
    height, width = small.shape[2:4]
    left = 2 * GAP + max(math.ceil(font.getlength(label)) for label in rows)
    heads = [_shortened(label, width, font) for label in columns]
    top = GAP + (LINE + GAP if title else 0) + LINE + 4
    size = (
        max(left + len(columns) * (width + BETWEEN) + GAP, math.ceil(font.getlength(title)) + 2 * GAP),
        top + len(rows) * (height + BETWEEN) + GAP,
    )
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, GAP), title, INK, font)
    for number, label in enumerate(heads):
        draw.text((left + number * (width + BETWEEN), top - LINE - 4), label, FAINT, font)
    for number, label in enumerate(rows):
        above = top + number * (height + BETWEEN)
        draw.text((GAP, above + (height - LINE) // 2), label, INK, font)
        if number < len(small):
            for column, image in enumerate(small[number]):
                block = images.from_pixels(image)
                place = (left + column * (width + BETWEEN), above)
                canvas.paste(block, place, block if block.mode == "RGBA" else None)
    return canvas


def _shortened(label: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The label, or what of it is as wide as an image."""
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(label + "…") > width:
        label = label[:-1]
    return label + "…"
