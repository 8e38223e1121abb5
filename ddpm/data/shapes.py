"""`shapes`: a generated data set, so that a first training needs no data.

Image k is the same at any size: one large, coloured shape on a pale, plain background.
"""

import colorsys
import math
import random

from PIL import Image, ImageColor, ImageDraw

from ddpm.storage import images

NAMES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")  # image k shows NAMES[k % 8]
COUNT = 5000
VERSION = 1  # increase it if the images change, which invalidates cached ones
OVERSAMPLING = 4  # rendered this many times larger, then reduced, for smooth edges

COLOURS = ("#e5484d", "#f2762e", "#f0b429", "#30a46c", "#12a5b0", "#2f80ed", "#7a5be0", "#dd4a9e")
Point = tuple[float, float]


def render(index: int, size: int, channels: int = 3) -> Image.Image:
    """Renders image `index` at size x size: grey (1 channel), RGB (3) or RGBA on a transparent background (4)."""
    rng = random.Random(index)
    side = size * OVERSAMPLING
    colour = tuple(level + rng.randint(-10, 10) for level in ImageColor.getrgb(rng.choice(COLOURS)))
    back = tuple(round(255 * level) for level in colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.02, 0.07), 0.98))
    centre = (side * rng.uniform(0.45, 0.55), side * rng.uniform(0.45, 0.55))
    radius = side * rng.uniform(0.33, 0.41)
    turn = rng.uniform(-0.22, 0.22)  # radians

    image = Image.new("RGBA", (side, side), (*back, 0 if channels == 4 else 255))
    pen = ImageDraw.Draw(image)
    for k, outline in enumerate(_outlines(NAMES[index % len(NAMES)])):
        points = [_transform(point, centre, radius, turn) for point in outline]
        pen.polygon(points, fill=(*colour, 255) if k == 0 else image.getpixel((0, 0)))  # later ones are holes
    return images.convert(image.reduce(OVERSAMPLING), channels)


def _transform(point: Point, centre: Point, radius: float, turn: float) -> Point:
    (x, y), cos, sin = point, math.cos(turn), math.sin(turn)
    return centre[0] + radius * (x * cos - y * sin), centre[1] + radius * (x * sin + y * cos)


def _arc(radius: float, x: float = 0.0, y: float = 0.0) -> list[Point]:
    angles = [2 * math.pi * k / 72 for k in range(72)]
    return [(x + radius * math.sin(a), y - radius * math.cos(a)) for a in angles]


def _corners(*radii: float, count: int) -> list[Point]:
    """`count` corners around the centre, clockwise from the top, at distances that cycle through `radii`."""
    angles = [2 * math.pi * k / count for k in range(count)]
    return [(radii[k % len(radii)] * math.sin(a), -radii[k % len(radii)] * math.cos(a)) for k, a in enumerate(angles)]


def _heart() -> list[Point]:
    angles = [2 * math.pi * k / 72 for k in range(72)]
    return [
        (
            16 * math.sin(a) ** 3 / 16.5,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a) + 2) / 16.5,
        )
        for a in angles
    ]


def _outlines(name: str) -> list[list[Point]]:
    """Outline of a shape within the unit circle, y pointing down, followed by its holes."""
    a = 0.34  # half the width of the arms of the cross
    match name:
        case "circle":
            return [_arc(0.92)]
        case "square":
            return [[(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]]
        case "triangle":
            return [[(x, y + 0.2) for x, y in _corners(1.15, count=3)]]
        case "star":
            return [[(x, y + 0.05) for x, y in _corners(1.1, 0.48, count=10)]]
        case "heart":
            return [_heart()]
        case "cross":
            return [
                [
                    (-a, -1),
                    (a, -1),
                    (a, -a),
                    (1, -a),
                    (1, a),
                    (a, a),
                    (a, 1),
                    (-a, 1),
                    (-a, a),
                    (-1, a),
                    (-1, -a),
                    (-a, -a),
                ]
            ]
        case "ring":
            return [_arc(0.98), _arc(0.52)]
        case _:  # moon
            return [_arc(0.98), _arc(0.8, 0.5, -0.3)]
