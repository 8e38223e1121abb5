"""Data sets, decoded once into a memory-mapped file, and an endless, seeded, resumable stream of batches.

`data_dir` is a folder, an .npz file or a name: see `ddpm.sources`.  A folder that is called like one of the
names is ./shapes.
"""

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ddpm import files, images, locks
from ddpm.config import Config, DataConfig, ModelConfig, replace
from ddpm.errors import UserError
from ddpm.places import cache_folder
from ddpm.sources import SOURCES, Decode, Source, open_source

__all__ = ["SOURCES", "Dataset", "Description", "Split", "Stream", "describe", "open_dataset", "part_of", "resolve"]

CACHE_FORMAT = 1  # raise it when the same source gives other pixels
BLOCK = 256  # pictures decoded between two writes
FEW = 100  # pictures, below which a model soon knows them by heart

Progress = Callable[[int, int], None]  # (pictures done, pictures in all)
Split = Literal["all", "train", "test"]


@dataclass(frozen=True)
class Description:
    """What `data_dir` holds, found without decoding it."""

    count: int
    class_names: tuple[str, ...]  # in label order; empty when there are no labels
    counts: tuple[int, ...]  # pictures of each class
    text: str  # one line: "Folder, classes by file name: 5,085 images, 10 classes"
    size: tuple[int, int] | None  # width and height of the first picture; None when drawn at any size
    notices: tuple[str, ...]  # sentences worth telling
    test_count: int = 0  # pictures of the data's own test part, which are not among the others


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures of one size, ready to be learnt from."""

    images: np.ndarray  # uint8 [N, H, W, C], memory-mapped, read-only
    labels: np.ndarray | None  # int64 [N], places in class_names
    class_names: tuple[str, ...]
    notices: tuple[str, ...]  # sentences worth telling
    places: np.ndarray | None = None  # of the images that belong to this part of the data; None: all

    def __len__(self) -> int:
        return len(self.images if self.places is None else self.places)

    def take(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Pictures by their number in this part: uint8 [n, H, W, C], and labels int64 [n], if the data has any."""
        places = chosen if self.places is None else self.places[chosen]
        return self.images[places], None if self.labels is None else self.labels[places]


def describe(data_dir: str) -> Description:
    """Look through the data without decoding it.  Raises UserError when it cannot be learnt from."""
    return _describe(open_source(data_dir))


def _describe(source: Source, used: int | None = None) -> Description:
    """`used`: how many of the pictures are learnt from, where that is not all."""
    names = source.class_names
    counts = () if source.labels is None else tuple(int(n) for n in np.bincount(source.labels, minlength=len(names)))
    pictures, classes = _number(source.count, "image", "images"), _number(len(names), "class", "classes")
    notices = []
    if (used or source.count) < FEW:
        notices.append(
            f"Only {_number(used or source.count, 'image', 'images')}: the model will soon know them by heart rather than learn from them."
        )
    missing = [name for name, count in zip(names, counts, strict=True) if not count]
    if missing:
        notices.append(f"There are no images of {len(missing)} of the classes: {', '.join(missing[:5])}.")
    text = f"{source.kind}: {pictures}, {classes}" if names else f"{source.kind}: {pictures}"
    test = source.test_part()
    return Description(source.count, names, counts, text, source.size, tuple(notices), test.count if test else 0)


def _number(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def resolve(config: Config) -> Config:
    """`config` with what follows from the data: class_names, and num_classes when class-conditional, else 0.

    Raises UserError when the data cannot be learnt from, or has no classes (or too many) and they are wanted.
    """
    data_dir, model = config.data.data_dir, config.model
    names = describe(data_dir).class_names
    if not model.class_cond:
        return replace(config, {"class_names": names, "num_classes": 0})
    if not names:
        raise UserError(
            f"class_cond is True, but the images of {data_dir} have no classes: name them label_xxx.png, "
            "put those of each class in a folder of its own, or set class_cond to False."
        )
    if 0 < model.num_classes < len(names):
        raise UserError(
            f"num_classes is {model.num_classes}, but {data_dir} has {len(names)} classes: set it to 0, for as many as there are."
        )
    return replace(config, {"class_names": names, "num_classes": model.num_classes or len(names)})


def attach(config: Config, data_dir: str) -> Config:
    """`config` of a network that is trained already, with data to go on with, and the classes' names from it.

    Raises UserError when the data has other classes than the network knows.
    """
    known, names = config.class_names, describe(data_dir).class_names
    numbered = _are_numbers(known)
    if config.model.class_cond:
        fits = len(names) == len(known) if known else 0 < len(names) <= config.model.num_classes
        if not fits or (known and not numbered and names != known):
            count = len(known) or config.model.num_classes
            raise UserError(
                f"The classes of {data_dir} are {', '.join(names) or 'none'}, and the network knows "
                f"{', '.join(known) if known and not numbered else f'{count} classes'}: name the data it was trained on."
            )
    return replace(config, {"data_dir": data_dir, "class_names": names})


def part_of(data: DataConfig, split: str) -> Split:
    """The part that `split` means with this data: "auto" is "test" where there is one.

    Raises UserError when "test" is asked of data that has none.
    """
    there = data.hold_out > 0 or open_source(data.data_dir).test_part() is not None
    if split == "test" and not there:
        raise UserError(
            f"{data.data_dir} has no test part, and none of it was held out: evaluate on other data or on part train, "
            "or train with hold_out 0.1."
        )
    return "test" if there and split != "train" else "train"


def held_out_count(count: int, share: float) -> int:
    """How many of `count` pictures training never sees: at least one where any are to be held out, never all."""
    return min(max(1, round(share * count)), count - 1) if share > 0 else 0


def _part(count: int, share: float, split: Split, seed: int) -> np.ndarray | None:
    """The places of the pictures of a part, increasing, [n] of `count`; None: all."""
    held = held_out_count(count, share)
    if split == "all" or (split == "train" and not held):
        return None
    # Sorted raw bits, as in Stream; with a key, so that they are no epoch's.
    bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(1,)))
    order = np.argsort(bits.random_raw(count), kind="stable")
    return np.sort(order[:held] if split == "test" else order[held:])


def open_dataset(
    data: DataConfig, model: ModelConfig, progress: Progress | None = None, *, split: Split = "train", seed: int = 0
) -> Dataset:
    """The pictures of `data.data_dir` at `model.image_size` with `model.image_channels`.

    split: "train" leaves out what `data.hold_out` sets apart by the training's `seed`; "test" is the data's own
    test part, or else what was set apart; "all" is everything but such a test part.

    They are decoded into the cache folder the first time, with `progress(done, total)` called now and then, and
    again when the source has changed; a second process waits for the first.

    Raises UserError when there is no such data or part, when a picture is broken, or smaller than asked for while
    `data.enlarge` is False; DiskFull.
    """
    source = open_source(data.data_dir)
    own = source.test_part() if split == "test" else None
    if split == "test" and own is None:
        part_of(data, split)  # raises where nothing is held out, either
    if data.hold_out and source.count < 2:
        raise UserError(f"{data.data_dir} has only one image, so none can be held out: set hold_out to 0, or add images.")  # fmt: skip
    places = None if own else _part(source.count, data.hold_out, split, seed)
    source = own or source
    path = _cache_path(source, data, model, "test" if own else "")
    cached = _open_cache(path, source, model)
    if cached is None:
        try:
            with locks.locked(path.with_suffix(".lock")):
                cached = _open_cache(path, source, model) or _fill_cache(path, source, data, model, progress)
        except OSError as error:
            raise UserError(
                f"Decoded images cannot be kept in {path.parent} ({error.strerror}): name a folder "
                "that you may write to in the environment variable DDPM_CACHE."
            ) from error
    pixels, notices = cached
    used = None if places is None else len(places)
    return Dataset(pixels, source.labels, source.class_names, (*_describe(source, used).notices, *notices), places)


def class_numbers(config: Config, class_names: tuple[str, ...]) -> np.ndarray | None:
    """The network's number of each class of some data, int64 [classes]; None for a network without classes.

    Classes are told by their names where the network's are known, else by their place: numbers are places, unless some
    of the data's own names are among them.  Raises UserError when the data has none, or others.
    """
    if not config.model.class_cond:
        return None
    if not class_names:
        raise UserError("The model was trained with classes, and these pictures have none: use pictures that are sorted into its classes.")  # fmt: skip
    apart = not set(class_names) & set(config.class_names)
    unnamed = _are_numbers(config.class_names) and len(class_names) == len(config.class_names) and apart
    known = class_names if unnamed else config.class_names or class_names[: config.model.num_classes]
    unknown = [name for name in class_names if name not in known]
    if unknown:
        have = ", ".join(known[:10]) if config.class_names else f"{config.model.num_classes} classes"
        raise UserError(
            f"The pictures have classes that the model does not know ({', '.join(unknown[:5])}): it was trained with {have}; "
            "use pictures of those."
        )
    return np.array([known.index(name) for name in class_names], dtype=np.int64)


def _are_numbers(names: tuple[str, ...]) -> bool:
    """Whether nobody has named these classes yet, so that they are told by their place."""
    return names == tuple(str(k) for k in range(len(names)))


Cached = tuple[np.ndarray, tuple[str, ...]]  # pictures and notices


def _cache_path(source: Source, data: DataConfig, model: ModelConfig, part: str = "") -> Path:
    """WHERE-SIZExCHANNELS-WHAT.npy: WHAT changes when the source does, and the old file is then of no use."""
    where = data.data_dir if data.data_dir in SOURCES else os.path.realpath(os.path.expanduser(data.data_dir))
    what = json.dumps([CACHE_FORMAT, source.identity()])
    size = f"{model.image_size}x{model.image_channels}"
    which = f"{where}|{data.enlarge}{part and '|'}{part}"
    return cache_folder() / "images" / f"{_short_hash(which)}-{size}-{_short_hash(what)}.npy"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _open_cache(path: Path, source: Source, model: ModelConfig) -> Cached | None:
    """What is in the cache; None when it is not there, or torn."""
    shape = (source.count, model.image_size, model.image_size, model.image_channels)
    try:
        pixels = np.lib.format.open_memmap(path, mode="r")
        about = files.read_json(path.with_suffix(".json"))
    except (OSError, ValueError, EOFError, UserError):
        return None
    if about is None or pixels.shape != shape or pixels.dtype != np.uint8:
        return None
    return pixels.view(np.ndarray), tuple(about["notices"])  # a plain array: a memmap is slower to index


def _fill_cache(path: Path, source: Source, data: DataConfig, model: ModelConfig, progress: Progress | None) -> Cached:
    notes: Counter[str] = Counter()
    shape = (source.count, model.image_size, model.image_size, model.image_channels)

    def save(file: Any) -> None:
        np.lib.format.write_array_header_1_0(file, dict(descr="|u1", fortran_order=False, shape=shape))
        for block in _decode(source, data, model, notes, progress):
            file.write(np.ascontiguousarray(block))

    path.with_suffix(".json").unlink(missing_ok=True)  # it comes last, and says that the pixels are whole
    files.write(path, save)
    notices = tuple(NOTES[note].format(count=count, total=source.count) for note, count in sorted(notes.items()))
    files.write_json(path.with_suffix(".json"), dict(data_dir=data.data_dir, notices=notices))
    _remove_superseded(path)
    opened = _open_cache(path, source, model)
    assert opened is not None, path
    return opened


def _remove_superseded(path: Path) -> None:
    """Delete what the same source gave at the same size before it changed."""
    prefix = path.name.rpartition("-")[0]
    for old in path.parent.glob(f"{prefix}-*"):
        if old.stem != path.stem:
            try:
                old.unlink()
            except OSError:  # in use, on Windows
                continue


NOTES = {
    "deep": "{count:,} of {total:,} images have 16 bits of grey and were reduced to 8.",
    "enlarged": "{count:,} of {total:,} images were smaller than asked for and have been enlarged.",
    "transparent": "{count:,} of {total:,} images are transparent in places, which became white.",
}


class _Decoded(NamedTuple):
    pixels: np.ndarray | None  # uint8 [size, size, C]; None when it cannot be used
    broken: str = ""  # the sentence that says why
    side: int = 0  # of a picture that is too small, the shorter
    notes: tuple[str, ...] = ()


def _decode(
    source: Source, data: DataConfig, model: ModelConfig, notes: Counter[str], progress: Progress | None
) -> Iterator[np.ndarray]:
    """All pictures in order, in blocks uint8 [<=BLOCK, H, W, C].  Raises UserError after the last one."""
    size, channels = model.image_size, model.image_channels

    def decode(get: Decode) -> _Decoded:
        try:
            image = get()
        except UserError as error:
            return _Decoded(None, broken=str(error))
        side = min(image.size)
        if side < size and not data.enlarge:
            return _Decoded(None, side=side)
        found = dict(deep=images.is_deep(image), enlarged=side < size, transparent=channels != 4 and image.has_transparency_data)  # fmt: skip
        return _Decoded(images.prepare(image, size, channels), notes=tuple(note for note, true in found.items() if true))  # fmt: skip

    broken: list[str] = []
    small: list[int] = []
    done = 0
    waiting = source.pictures(size, channels)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while block := list(pool.map(decode, itertools.islice(waiting, BLOCK))):
            done += len(block)
            broken += [one.broken for one in block if one.broken]
            small += [one.side for one in block if one.side]
            notes.update(note for one in block for note in one.notes)
            if not broken and not small:  # otherwise go on only to count
                yield np.stack([one.pixels for one in block if one.pixels is not None])
            if progress:
                progress(done, source.count)
    if broken:
        first = f"{len(broken)} of {source.count} images cannot be read; the first: " if len(broken) > 1 else ""
        raise UserError(first + broken[0])
    if small:
        raise UserError(
            f"{len(small):,} of {source.count:,} images of {data.data_dir} are smaller than image_size {size} (the smallest "
            f"has {min(small)} pixels on its shorter side): use larger ones, set enlarge to True, or image_size to {min(small)} or less."
        )


class Stream:
    """Endless batches: every epoch is a new permutation of the data, and batches run across its ends.

    The order and the flips follow from the seed; continuing at `position` gives exactly what a stream that was
    never interrupted gives.  Nothing here depends on the batch size.
    """

    def __init__(self, dataset: Dataset, seed: int, random_flip: bool = False, position: int = 0):
        self.dataset = dataset
        self.seed = seed
        self.random_flip = random_flip
        self.position = position  # pictures drawn so far
        self._epoch = -1

    def next(self, n: int, part: slice = slice(None)) -> tuple[np.ndarray, np.ndarray | None]:
        """The next n pictures, uint8 [n, H, W, C], and their labels int64 [n], if the data has any.

        Of the n, only those of `part` are read and given.
        """
        order, flips = (drawn[part] for drawn in self._draw(n))
        pixels, labels = self.dataset.take(order)
        if self.random_flip:
            pixels[flips] = pixels[flips, :, ::-1]
        return pixels, labels

    def _draw(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The next n places in the data, and which of them to mirror."""
        parts = []
        while n > 0:
            epoch, start = divmod(self.position, len(self.dataset))
            if epoch != self._epoch:
                self._begin(epoch)
            taken = slice(start, start + n)
            parts.append((self._order[taken], self._flips[taken]))
            self.position += len(parts[-1][0])
            n -= len(parts[-1][0])
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([order for order, _ in parts]), np.concatenate([flips for _, flips in parts])

    def _begin(self, epoch: int) -> None:
        # Sorting raw random bits: numpy promises these to stay the same for ever, but not its permutations.
        bits = np.random.PCG64(np.random.SeedSequence((self.seed, epoch)))
        self._order = np.argsort(bits.random_raw(len(self.dataset)), kind="stable")
        self._flips = bits.random_raw(len(self.dataset)) >> np.uint64(63) == 1
        self._epoch = epoch
