"""Decoded images in the cache folder: one memory-mapped file per source, image size and preprocessing.

The identities of the images and the indices of broken ones are stored next to the pixels.
"""

import hashlib
import itertools
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import PIL
from PIL import Image

from ddpm import formatting
from ddpm.config.model import ModelConfig
from ddpm.config.training import DataConfig
from ddpm.data.source import IDENTITY_BYTES, Item, Source
from ddpm.data_sets import DATA_SETS
from ddpm.errors import UserError
from ddpm.storage import arrays, files, image_limits, images, locks, paths

log = logging.getLogger("ddpm")

CACHE_FORMAT = 4  # increase it if the same source gives other pixels, or the files of the cache change
BLOCK = 256  # images decoded between two writes
NAMED = 20  # broken images that a sentence lists

T = TypeVar("T")
Progress = Callable[[int, int], None]  # (images done, total)

NOTES = {
    "deep": "{count:,} of {total:,} images have 16 bits of grey and were reduced to 8.",
    "enlarged": "{count:,} of {total:,} images were smaller than image_size and have been enlarged.",
    "transparent": "{count:,} of {total:,} images are transparent in some areas, which became white.",
}


class Decoded(NamedTuple):
    """The n usable images of a source in the cache; broken ones are left out."""

    path: Path  # of the file in the cache
    pixels: np.ndarray  # uint8 [n, H, W, C], memory-mapped, read-only; empty if only identities were read
    identities: np.ndarray  # uint8 [n, 32], memory-mapped: equal for equal content
    kept: np.ndarray | None  # int64 [n], increasing: their indices in the source; None: all
    notices: tuple[str, ...]  # sentences to show to the user


def open_decoded(
    source: Source, data: DataConfig, model: ModelConfig, progress: Progress | None = None, part: str = ""
) -> Decoded:
    """Opens the images of `source`, the source of `data` or its split `part`; decodes them if they are not cached.

    A second process waits for the first.  Raises UserError if an image is broken and `data.skip_broken` is False, or
    smaller than image_size and `data.enlarge` is False; DiskFull.
    """
    path = cache_path(source, data, model, part)

    def fill() -> Decoded:
        return _open(path, source, model) or _fill(path, source, data, model, progress, part)

    return _open(path, source, model) or locked(path, fill)


def cached(source: Source, data: DataConfig, model: ModelConfig, part: str = "") -> Decoded | None:
    """Returns what `open_decoded` returns, or None if the images are not cached."""
    return _open(cache_path(source, data, model, part), source, model)


def identities(source: Source, data: DataConfig, progress: Progress | None = None, part: str = "") -> Decoded:
    """Identities of the images, decodable or not, without decoding them; unreadable files are left out."""
    path = _named(source, [_where(data), part, source.subset], "identities", ".npy")

    def fill() -> Decoded:
        return _open_identities(path, source) or _identify(path, source, data, progress, part)

    return _open_identities(path, source) or locked(path, fill)


def locked(path: Path, fill: Callable[[], T]) -> T:
    """Calls `fill` under the lock of a cache file, so that other processes wait for its result."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locks.locked(path.with_suffix(".lock")):
            return fill()
    except OSError as error:
        raise UserError(
            f"Decoded images cannot be written to {path.parent} ({error.strerror}): set the environment "
            "variable DDPM_CACHE to a writable folder.",
            code="not-writable",
        ) from error


def cache_path(source: Source, data: DataConfig, model: ModelConfig, part: str = "", kind: str = "") -> Path:
    """SOURCE-SIZExCHANNELSKIND-STAMP.raw: STAMP changes with the content of the source, which invalidates old files."""
    skips = (
        f"skip_broken {image_limits.most_pixels()} {PIL.__version__}" if data.skip_broken else ""
    )  # which may change
    chosen = [name for name in (part, source.subset, skips) if name]
    size = f"{model.image_size}x{model.image_channels}{kind}"
    return _named(source, [_where(data), str(data.enlarge), *chosen], size, ".raw")


def _where(data: DataConfig) -> str:
    return data.data_dir if data.data_dir in DATA_SETS else os.path.realpath(paths.full(data.data_dir))


def _named(source: Source, which: list[str], kind: str, suffix: str) -> Path:
    what = json.dumps([CACHE_FORMAT, source.stamps()])
    return paths.cache_folder() / "images" / f"{_short_hash('|'.join(which))}-{kind}-{_short_hash(what)}{suffix}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _identities_path(path: Path) -> Path:
    return path.with_suffix(".identities.npy")


def _open(path: Path, source: Source, model: ModelConfig) -> Decoded | None:
    """Opens cached images; None if they are missing or incomplete."""
    try:
        about = files.read_json(path.with_suffix(".json"))
        if about is None:
            return None
        broken, notices = about["broken"], tuple(about["notices"])
        shape = (source.count - len(broken), model.image_size, model.image_size, model.image_channels)
        identities = arrays.map_npy(_identities_path(path))
        if path.stat().st_size != math.prod(shape) or identities.shape != (shape[0], IDENTITY_BYTES):
            return None
        pixels = np.memmap(path, np.uint8, "r", shape=shape)
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
    kept = np.delete(np.arange(source.count), broken) if broken else None
    return Decoded(
        path, pixels.view(np.ndarray), identities, kept, notices
    )  # a plain array: a memmap is slower to index


def _fill(
    path: Path, source: Source, data: DataConfig, model: ModelConfig, progress: Progress | None, part: str
) -> Decoded:
    where = called(data, part)
    size, channels = model.image_size, model.image_channels
    decoding = Decoding(source, data, model, progress, where, lambda image: images.prepare(image, size, channels), size)

    def save(file: Any) -> None:
        for block in decoding.blocks():
            file.write(np.stack(block))

    path.with_suffix(".json").unlink(missing_ok=True)  # written last: it marks the other files as complete
    files.write(path, save)
    arrays.write_npy(
        _identities_path(path), np.frombuffer(b"".join(decoding.identities), np.uint8).reshape(-1, IDENTITY_BYTES)
    )
    check_unchanged(source, where)
    about = dict(data_dir=data.data_dir, broken=[index for index, _ in decoding.broken], notices=decoding.notices())
    files.write_json(path.with_suffix(".json"), about)
    remove_superseded(path)
    opened = _open(path, source, model)
    if opened is None:
        raise changed_by_another(path)
    return opened


def changed_by_another(path: Path) -> UserError:
    """The error of a cache file that is not what was just written."""
    return UserError(
        f"Decoded images in {path.parent} were changed by another program: try again.", code="changed-data"
    )


def called(data: DataConfig, part: str) -> str:
    """Name of the data, or of a split of it, in messages."""
    return f"the {part} split of {data.data_dir}" if part else data.data_dir


def check_unchanged(source: Source, where: str) -> None:
    """Raises UserError if files of `source` were written to since it was opened; where: its name in the message."""
    if source.has_changed():
        raise UserError(
            f"Images of {where} changed while they were read: wait until no program writes there, and try again.",
            code="changed-data",
        )


def _open_identities(path: Path, source: Source) -> Decoded | None:
    """Opens cached identities; None if they are missing or incomplete."""
    try:
        rows = arrays.map_npy(path)
    except (OSError, UserError):
        return None
    return _from_identities(path, rows) if rows.shape == (source.count, IDENTITY_BYTES) else None


def _from_identities(path: Path, rows: np.ndarray) -> Decoded:
    """Drops unreadable images from identities uint8 [count, 32], all 0 for these."""
    pixels, readable = np.empty((0, 0, 0, 0), np.uint8), rows.any(axis=1)
    if readable.all():
        return Decoded(path, pixels, rows, None, ())
    return Decoded(path, pixels, rows[readable], np.flatnonzero(readable), ())


def _identify(path: Path, source: Source, data: DataConfig, progress: Progress | None, part: str) -> Decoded:
    waiting = source.items(1, 1)
    rows: list[bytes] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while items := list(itertools.islice(waiting, BLOCK)):
            rows += pool.map(_identity_of, items)
            if progress:
                progress(len(rows), source.count)
    check_unchanged(source, called(data, part))
    found = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, IDENTITY_BYTES)
    arrays.write_npy(path, found)
    remove_superseded(path)
    return _from_identities(path, found)


def _identity_of(item: Item) -> bytes:
    """Identity of an image, or zeros if it cannot be read; `open_decoded` reports the error."""
    try:
        return item.identify()
    except UserError as error:
        log.warning("%s", error)
        return bytes(IDENTITY_BYTES)


def remove_superseded(path: Path) -> None:
    """Deletes cache files of the same source and size from before it changed."""
    prefix = path.name.rpartition("-")[0]
    for old in path.parent.glob(f"{prefix}-*"):
        if not old.name.startswith(f"{path.stem}."):
            try:
                old.unlink()
            except OSError:  # in use, on Windows
                continue


class _Outcome(NamedTuple):
    """Result of decoding one image."""

    pixels: np.ndarray | None  # uint8 [h, w, C]; None if it cannot be used
    identity: bytes = b""
    broken: str = ""  # error message
    side: int = 0  # shorter side of an image that is too small
    notes: tuple[str, ...] = ()


class Decoding:
    """One decoding pass over a source, with the problems found.

    where: name of the source in messages.  prepare: from an image to pixels uint8 [h, w, C].  size: of the images of a
    source that generates them.
    """

    def __init__(
        self,
        source: Source,
        data: DataConfig,
        model: ModelConfig,
        progress: Progress | None,
        where: str,
        prepare: Callable[[Image.Image], np.ndarray],
        size: int,
    ):
        self.source, self.data, self.model, self.progress = source, data, model, progress
        self.where, self.prepare, self.size = where, prepare, size
        self.identities: list[bytes] = []
        self.broken: list[tuple[int, str]] = []  # (index, error message)
        self.names: list[str] = []  # of broken images
        self.small: list[int] = []
        self.notes: Counter[str] = Counter()

    def blocks(self) -> Iterator[list[np.ndarray]]:
        """Yields all images in order, at most BLOCK of them, uint8 [h, w, C].  Raises UserError after the last one."""
        waiting = self.source.items(self.size, self.model.image_channels)
        done = 0
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            while items := list(itertools.islice(waiting, BLOCK)):
                block = list(pool.map(self._decode, items))
                for index, (item, one) in enumerate(zip(items, block, strict=True), start=done):
                    if one.broken:
                        self.broken.append((index, one.broken))
                        self.names.append(item.name)
                done += len(block)
                self.small += [one.side for one in block if one.side]
                self.notes.update(note for one in block for note in one.notes)
                good = [one for one in block if one.pixels is not None]
                self.identities += [one.identity for one in good]
                if (
                    good and not self.small and (self.data.skip_broken or not self.broken)
                ):  # else only count the problems
                    yield [one.pixels for one in good if one.pixels is not None]
                if self.progress:
                    self.progress(done, self.source.count)
        self._raise_errors()

    def _decode(self, item: Item) -> _Outcome:
        size, channels = self.model.image_size, self.model.image_channels
        try:
            with item.open() as (image, identity):
                side = min(image.size)
                if side < size and not self.data.enlarge:
                    return _Outcome(None, side=side)
                found = dict(
                    deep=images.is_deep(image),
                    enlarged=side < size,
                    transparent=channels != 4 and images.is_transparent(image),
                )
                notes = tuple(note for note, true in found.items() if true)
                return _Outcome(self.prepare(image), identity, notes=notes)
        except UserError as error:
            if error.code == "out-of-memory":  # of this instant: the image is not broken
                raise
            return _Outcome(None, broken=str(error))

    def _raise_errors(self) -> None:
        count, where = self.source.count, self.where
        if self.broken:
            self._log_broken()
        if self.broken and not self.data.skip_broken:
            first = self.broken[0][1]
            if len(self.broken) == 1:
                raise UserError(
                    f"{first.rstrip('.')} (or set skip_broken to True to leave it out).", code="broken-image"
                )
            raise UserError(
                f"{len(self.broken):,} of {count:,} images cannot be read ({self._named()}): remove or replace them, or"
                f" set skip_broken to True to leave them out; the first: {first}",
                code="broken-image",
            )
        if len(self.broken) == count:
            raise UserError(
                f"None of the {count:,} images of {where} can be read: replace them; the first: {self.broken[0][1]}",
                code="broken-image",
            )
        if self.small:
            raise UserError(
                f"{len(self.small):,} of {count:,} images of {where} are smaller than image_size"
                f" {self.model.image_size} (the smallest has {min(self.small)} pixels on its shorter side): use larger"
                f" images, set enlarge to True, or set image_size to {min(self.small)} or less.",
                code="small-images",
            )

    def _log_broken(self) -> None:
        """Logs each broken image with its reason, if the error message does not list all of them."""
        if self.data.skip_broken or len(self.broken) > 1:
            for _, why in self.broken:
                log.warning("%s", why)

    def _named(self) -> str:
        return formatting.some(self.names, NAMED)

    def notices(self) -> list[str]:
        """Sentences on how the images were changed, and which were left out."""
        total = self.source.count
        found = [NOTES[note].format(count=count, total=total) for note, count in sorted(self.notes.items())]
        if self.broken:
            found.insert(
                0, f"{len(self.broken):,} of {total:,} images cannot be read and were left out: {self._named()}."
            )
        return found
