"""Looks at every image of a folder or an .npz file, and keeps the result for as long as the files stay the same."""

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import PIL

from ddpm.data.source import Item, Source
from ddpm.data.sources import open_source
from ddpm.errors import UserError
from ddpm.storage import files, image_files, image_limits, paths

FORMAT = 3
BLOCK = 256  # images between two calls of `progress`
LEAST = 64  # pixels of the shorter side to decode a JPEG at, which finds every fault of the file in less time
MOST_BROKEN = 1000  # broken images that are kept by name
MOST_BYTES = 2**22  # of a result
KEPT = 500  # results

Progress = Callable[[int, int], None]  # (images done, total)


class Checked(NamedTuple):
    """What was seen of the images of a source."""

    total: int
    broken: int
    reasons: tuple[str, ...]  # a sentence on each broken image, the first MOST_BROKEN
    names: tuple[str, ...]  # of the same images
    sides: dict[int, int]  # shorter side in pixels -> number of images

    def smaller(self, size: int) -> int:
        """Number of images whose shorter side is below `size`."""
        return sum(count for side, count in self.sides.items() if side < size)


def state_of(source: Source, data_dir: str) -> str:
    """Names the state of the files of a source, its test split included: another name when one was added, removed or
    written, or when other images can be read, by another limit or version.
    """
    test = source.test_part()
    readable = [image_limits.most_pixels(), PIL.__version__]
    about = [FORMAT, readable, source.stamps(), test.stamps() if test else None]
    stamps = hashlib.sha256(json.dumps(about).encode(errors="surrogatepass"))
    stamps.update(os.path.realpath(paths.full(data_dir)).encode(errors="surrogatepass"))
    return stamps.hexdigest()[:32]


def known(state: str) -> Checked | None:
    """The result for that state of the files; None if they were not looked at."""
    try:
        data = files.read_json(_path(state), MOST_BYTES)
        if data is None:
            return None
        return Checked(
            int(data["total"]),
            int(data["broken"]),
            tuple(map(str, data["reasons"])),
            tuple(map(str, data["names"])),
            {int(side): int(count) for side, count in data["sides"].items()},
        )
    except (UserError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None  # damaged: it is made anew


def check(data_dir: str, progress: Progress | None = None) -> Checked:
    """Decodes every image, and keeps the result.  Raises UserError if there is no such data."""
    source = open_source(data_dir)
    state = state_of(source, data_dir)
    if found := known(state):
        return found
    parts = [source, *([test] if (test := source.test_part()) else [])]  # a training opens both
    total = sum(part.count for part in parts)
    waiting, done, sides = itertools.chain(*(part.items(LEAST, 3) for part in parts)), 0, Counter[int]()
    broken: list[tuple[str, str]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while items := list(itertools.islice(waiting, BLOCK)):
            for item, (side, why) in zip(items, pool.map(_look, items), strict=True):
                if why:
                    broken.append((item.name, why))
                else:
                    sides[side] += 1
            done += len(items)
            if progress:
                progress(done, total)
    kept = broken[:MOST_BROKEN]
    found = Checked(total, len(broken), tuple(w for _, w in kept), tuple(n for n, _ in kept), dict(sides))
    files.keep_newest(_path(state).parent, KEPT - 1)
    files.write_json(_path(state), found._asdict())
    return found


def _look(item: Item) -> tuple[int, str]:
    """The shorter side of an image, and why it cannot be read."""
    try:
        with item.open() as read:
            return min(image_files.full_size(read.image)), ""
    except UserError as error:
        if error.code == "out-of-memory":  # of this instant: the image is not broken
            raise
        return 0, str(error)


def _path(state: str) -> Path:
    return paths.cache_folder() / "checked" / f"{state}.json"
