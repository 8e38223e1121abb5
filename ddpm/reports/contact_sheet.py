"""A labelled contact sheet of samples: one row per sampler, one column per number of model evaluations."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddpm import formatting
from ddpm.planning.solver_grid import GridResult, SolverVariant, level
from ddpm.storage import files, images

SHOWN = 4  # images in a cell, as a square grid
SIDE = range(64, 129)  # pixels of an image: smaller ones are enlarged by a whole factor, larger ones shrunk
TEXT, LINE, GAP = 13, 17, 12
PAPER, INK, FAINT = "white", "#1f2328", "#6e7781"


class Sheet:
    """A contact sheet, filled cell by cell.

    The last column holds the images that a row converges to, if it has any.
    """

    def __init__(self, variants: Sequence[SolverVariant], calls: Sequence[int], title: str = ""):
        self._rows = {variant: number for number, variant in enumerate(variants)}
        self._columns = {count: number for number, count in enumerate(calls)}
        self._title = title
        self._font = ImageFont.load_default(TEXT)
        self._converged: dict[bool, np.ndarray] = {}
        self._canvas: Image.Image | None = None

    def add(self, cell: GridResult, pixels: np.ndarray) -> None:
        """Adds the first images of a cell; pixels: uint8 [N, H, W, C]."""
        self._put(cell.variant, self._columns[cell.asked], pixels, *caption(cell))

    def add_converged(self, variant: SolverVariant, pixels: np.ndarray, about: str) -> None:
        """Adds the images that a row converges to, uint8 [N, H, W, C]; `about` says how they were computed."""
        self._put(variant, len(self._columns), pixels, "converged", about)

    def save(self, path: Path) -> None:
        """Writes the sheet as a PNG file, unless it is empty.  Raises DiskFull."""
        if self._canvas is not None:
            canvas = self._canvas
            files.write(path, lambda file: canvas.save(file, "PNG"))

    def _put(self, variant: SolverVariant, column: int, pixels: np.ndarray, first: str, second: str) -> None:
        block = images.from_pixels(images.grid(sized(pixels[:SHOWN])))
        if self._canvas is None:
            self._begin(block.size)
        assert self._canvas is not None
        left = self._left + column * (self._width + GAP)
        top = self._top + self._rows[variant] * (self._height + GAP)
        draw = ImageDraw.Draw(self._canvas)
        draw.rectangle((left, top, left + self._width, top + self._height), PAPER)
        self._canvas.paste(block, (left, top), block if block.mode == "RGBA" else None)
        below = top + block.height + 3
        draw.text((left, below), first, INK, self._font)
        draw.text((left, below + LINE), second, FAINT, self._font)

    def _begin(self, block: tuple[int, int]) -> None:
        """Creates the canvas and labels the rows, once the size of a cell is known."""
        labels = [variant.label.split(", ") for variant in self._rows]
        texts = ["50 calls, 0.123 s", *(f"{n} calls, 0.123 s" for n in self._columns)]
        self._width = max(block[0], *(math.ceil(self._font.getlength(text)) for text in texts))
        self._height = block[1] + 3 + 2 * LINE
        self._left = GAP * 2 + max(math.ceil(self._font.getlength(part)) for label in labels for part in label)
        self._top = GAP + (LINE + GAP if self._title else 0)
        width = self._left + (len(self._columns) + 1) * (self._width + GAP)
        height = self._top + len(self._rows) * (self._height + GAP)
        self._canvas = Image.new(
            "RGB", (max(width, GAP * 2 + math.ceil(self._font.getlength(self._title))), height), PAPER
        )
        draw = ImageDraw.Draw(self._canvas)
        draw.text((GAP, GAP), self._title, INK, self._font)
        for number, parts in enumerate(labels):
            top = self._top + number * (self._height + GAP)
            for line, part in enumerate(parts):
                draw.text((GAP, top + line * LINE), part, FAINT if line else INK, self._font)


def caption(cell: GridResult) -> tuple[str, str]:
    """The two lines under a cell: "10 calls, 0.21 s" and "1.3 levels off"."""
    first = f"{formatting.plural(cell.calls, 'call')}, {formatting.duration(cell.seconds)}"
    return first, "random" if cell.distance is None else f"{level(cell.distance)} levels off"


def sized(pixels: np.ndarray) -> np.ndarray:
    """Images, uint8 [N, H, W, C], scaled to a side within SIDE: enlarged by repeating pixels, or shrunk."""
    size = pixels.shape[1]
    if size >= SIDE.stop:
        return images.shrunk(pixels, SIDE.stop - 1)
    factor = -(-SIDE.start // size)
    return pixels.repeat(factor, axis=1).repeat(factor, axis=2)
