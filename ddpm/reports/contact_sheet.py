"""A labelled sheet of pictures: a row a sampler, a column a number of network calls.  No torch."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddpm import formatting
from ddpm.planning.solver_grid import GridResult, SolverVariant, level
from ddpm.storage import files, images

SHOWN = 4  # pictures of a cell, in a square
SIDE = range(64, 129)  # pixels that a picture takes: smaller ones are enlarged in whole steps, larger ones shrunk
TEXT, LINE, GAP = 13, 17, 12
PAPER, INK, FAINT = "white", "#1f2328", "#6e7781"


class Sheet:
    """The sheet as it grows, a cell at a time.

    The last column holds the converged pictures of a row, where it has some.
    """

    def __init__(self, ways: Sequence[SolverVariant], calls: Sequence[int], title: str = ""):
        self._rows = {way: number for number, way in enumerate(ways)}
        self._columns = {count: number for number, count in enumerate(calls)}
        self._title = title
        self._font = ImageFont.load_default(TEXT)
        self._converged: dict[bool, np.ndarray] = {}
        self._canvas: Image.Image | None = None

    def place(self, cell: GridResult, pixels: np.ndarray) -> None:
        """Put the first pictures of a cell, uint8 [N, H, W, C], in their place."""
        self._put(cell.variant, self._columns[cell.asked], pixels, *said(cell))

    def place_converged(self, way: SolverVariant, pixels: np.ndarray, about: str) -> None:
        """Put the pictures that a row converges to at its end; `about` says how they were found."""
        self._put(way, len(self._columns), pixels, "converged", about)

    def save(self, path: Path) -> None:
        """Write it as a PNG file, if there is anything on it.  Raises DiskFull."""
        if self._canvas is not None:
            canvas = self._canvas
            files.write(path, lambda file: canvas.save(file, "PNG"))

    def _put(self, way: SolverVariant, column: int, pixels: np.ndarray, first: str, second: str) -> None:
        block = images.from_pixels(images.grid(_sized(pixels[:SHOWN])))
        if self._canvas is None:
            self._begin(block.size)
        assert self._canvas is not None
        left = self._left + column * (self._width + GAP)
        top = self._top + self._rows[way] * (self._height + GAP)
        draw = ImageDraw.Draw(self._canvas)
        draw.rectangle((left, top, left + self._width, top + self._height), PAPER)
        self._canvas.paste(block, (left, top), block if block.mode == "RGBA" else None)
        below = top + block.height + 3
        draw.text((left, below), first, INK, self._font)
        draw.text((left, below + LINE), second, FAINT, self._font)

    def _begin(self, block: tuple[int, int]) -> None:
        """Make the canvas, with the names of the rows, now that it is known how large a cell is."""
        labels = [way.label.split(", ") for way in self._rows]
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


def said(cell: GridResult) -> tuple[str, str]:
    """The two lines under a cell: 10 calls, 0.21 s; 1.3 levels off."""
    first = f"{formatting.plural(cell.calls, 'call')}, {formatting.duration(cell.seconds)}"
    return first, "random" if cell.distance is None else f"{level(cell.distance)} levels off"


def _sized(pixels: np.ndarray) -> np.ndarray:
    """Pictures [N, H, W, C] within SIDE: enlarged so that every pixel stays a square, or shrunk."""
    size = pixels.shape[1]
    if size >= SIDE.stop:
        return images.shrunk(pixels, SIDE.stop - 1)
    times = -(-SIDE.start // size)
    return pixels.repeat(times, axis=1).repeat(times, axis=2)
