"""Data sets: what they hold, which images are learnt from and which held out; an endless, seeded, resumable stream of
batches.

`data_dir` is a folder, an .npz file or a name: see `ddpm.data.sources`.  A folder that is called like one of the
names is ./shapes.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ddpm.config.codec import replace
from ddpm.config.model import ModelConfig
from ddpm.config.tasks import AnalyticConfig, EvalConfig
from ddpm.config.training import Config, DataConfig
from ddpm.data import decoded
from ddpm.data.decoded import Decoded, Progress, open_decoded
from ddpm.data.source import Source
from ddpm.data.sources import open_source
from ddpm.errors import UserError
from ddpm.formatting import plural, some

__all__ = [
    "Dataset",
    "Description",
    "Digest",
    "Split",
    "Stream",
    "describe",
    "open_dataset",
    "part_of",
    "resolve",
]

MOST_LISTED = 20  # classes that a line of the log names
FEW = 100  # images, below which a model soon knows them by heart

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
    test_count: int = 0  # images of the data's own test part, which are not among the others
    left_out: tuple[str, ...] = ()  # what else lies there, by kind: "3 .txt files"
    kind: str = ""  # a few words on what it is, and by which rule it has its classes

    @property
    def lines(self) -> tuple[str, ...]:
        """Sentences on what is learnt from and what is not."""
        listed = [f"{name} {count:,}" for name, count in zip(self.class_names, self.counts, strict=True)]
        classes = f" ({some(listed, MOST_LISTED)})" if listed else ""
        left_out = (f"Left out: {', '.join(self.left_out)}.",) if self.left_out else ()
        return (f"{self.text}{classes}.", *left_out)


@dataclass(frozen=True)
class Digest:
    """What tells data from any other: equal for the same images in the same order,
    wherever they lie and however large.
    """

    images: str = ""  # SHA-256, in hex, of every image that is learnt from or held out and of its class's name
    held_out: str = ""  # SHA-256 of the images that are held out, or to be tested on; empty where there are none
    count: int = 0  # images that are learnt from or held out
    content: str = ""  # SHA-256 of the same images alone, without classes; "" as an earlier version kept it

    def same(self, other: "Digest", classes: bool = True) -> bool:
        """Whether both are of the same images in the same order, and where `classes` of the same classes."""
        if classes or not (self.content and other.content):
            return self.images == other.images
        return self.content == other.content


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures of one size, ready to be learnt from."""

    images: np.ndarray  # uint8 [N, H, W, C], memory-mapped, read-only
    labels: np.ndarray | None  # int64 [N], places in class_names; -1 for none, which is never so with class_cond
    class_names: tuple[str, ...]
    notices: tuple[str, ...]  # sentences worth telling
    places: np.ndarray | None = None  # of the images that belong to this part of the data; None: all
    digest: Digest = Digest()  # of the whole data, whichever part this is
    about: tuple[str, ...] = ()  # sentences on what the data is and what is left out, for the log
    learnt: np.ndarray | None = None  # uint64, increasing: who is learnt from in the whole data; None: not known
    apart: np.ndarray | None = None  # the same of who is held out or to be tested on

    def __len__(self) -> int:
        return len(self.images if self.places is None else self.places)

    def take(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Pictures by their number in this part: uint8 [n, H, W, C], and labels int64 [n], if the data has any."""
        places = chosen if self.places is None else self.places[chosen]
        return self.images[places], None if self.labels is None else self.labels[places]


def describe(data_dir: str) -> Description:
    """Look through the data without decoding it.  Raises UserError when it cannot be learnt from."""
    return _describe(open_source(data_dir))


def _describe(source: Source) -> Description:
    names, test = source.class_names, source.test_part()
    pictures, classes = plural(source.count, "image"), plural(len(names), "class", "classes")
    text = f"{source.kind}: {pictures}, {classes}" if names else f"{source.kind}: {pictures}"
    if test:
        text += f", and {plural(test.count, 'image')} to test on"
    notices = (*source.notices, *_notices(source.count, source.labels, names))
    counts = _counts(source.labels, names)
    return Description(
        source.count, names, counts, text, source.size, notices, test.count if test else 0, source.left_out, source.kind
    )


def _counts(labels: np.ndarray | None, names: tuple[str, ...]) -> tuple[int, ...]:
    """Images of each class."""
    return () if labels is None else tuple(int(n) for n in np.bincount(labels[labels >= 0], minlength=len(names)))


def _notices(used: int, labels: np.ndarray | None, names: tuple[str, ...]) -> tuple[str, ...]:
    """What is worth telling of images of which so many are used."""
    notices = []
    if used < FEW:
        notices.append(
            f"Only {plural(used, 'image')}: the model will soon know them by heart rather than learn from them."
        )
    counts = _counts(labels, names)
    missing = [name for name, count in zip(names, counts, strict=False) if not count]
    if counts and missing:
        notices.append(f"There are no images of {len(missing)} of the classes: {', '.join(missing[:5])}.")
    return tuple(notices)


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
            "put those of each class in a folder of its own, or set class_cond to False.",
            code="no-classes",
        )
    if 0 < model.num_classes < len(names):
        raise UserError(
            f"num_classes is {model.num_classes}, but {data_dir} has {len(names)} classes: set it to 0, for as many as"
            " there are.",
            code="bad-value",
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
                f"The classes of {data_dir} are {', '.join(names) or 'none'}, and the network knows"
                f" {', '.join(known) if known and not numbered else f'{count} classes'}: name the data it was"
                " trained on.",
                code="changed-classes",
            )
    return replace(config, {"data_dir": data_dir, "class_names": names})


def adjusted(data: DataConfig, wanted: EvalConfig | AnalyticConfig) -> DataConfig:
    """`data` with small images enlarged and broken ones left out where either says so."""
    return dataclasses.replace(
        data, enlarge=data.enlarge or wanted.enlarge, skip_broken=data.skip_broken or wanted.skip_broken
    )


def part_of(data: DataConfig, split: str) -> Split:
    """The part that `split` means with this data: "auto" is "test" where there is one.

    Raises UserError when "test" is asked of data that has none.
    """
    own = open_source(data.data_dir).test_part()
    _check_part(data, split, own)
    return "test" if (data.hold_out > 0 or own) and split != "train" else "train"


def _check_part(data: DataConfig, split: str, own: Source | None) -> None:
    """Raises UserError when "test" is asked of data that has no such part."""
    if split == "test" and not data.hold_out and own is None:
        raise UserError(
            f"{data.data_dir} has no test part, and none of it was held out: evaluate on other data or on part train, "
            "or train with hold_out 0.1.",
            code="no-test-part",
        )


def held_out_count(count: int, share: float) -> int:
    """About how many of `count` images training never sees: at least one where any are to be held out, never all."""
    return min(max(1, round(share * count)), count - 1) if share > 0 else 0


def held_out(identities: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which images training never sees, bool [n]: about `share` of them, at least one and never all.

    Their content decides, identities uint8 [n, 32], together with the seed: no image changes sides because others come
    or go or have another name, and copies of one are on the same side.  Nothing is held out where all are the same.
    """
    if share <= 0:
        return np.zeros(len(identities), bool)
    key = seed.to_bytes(8, "little")
    hashes = [hashlib.blake2b(identity.tobytes(), digest_size=8, key=key).digest() for identity in identities]
    places = np.frombuffer(b"".join(hashes), "<u8")
    held = places / 2.0**64 < share
    if not held.any():
        held = places == places.min()
    return held & (places != places.max()) if held.all() else held


def digest_of(main: Decoded, labels: np.ndarray | None, names: tuple[str, ...], apart: np.ndarray) -> Digest:
    """What tells this data from any other.  apart: the identities of what is held out or to be tested on, uint8 [m,
    32].
    """
    images = hashlib.sha256(json.dumps(names).encode())
    images.update(main.identities.tobytes())
    if labels is not None:
        images.update(labels.astype("<i8").tobytes())
    of_apart = hashlib.sha256(b"".join(sorted(row.tobytes() for row in apart))).hexdigest() if len(apart) else ""
    content = hashlib.sha256(main.identities.tobytes()).hexdigest()
    return Digest(images.hexdigest(), of_apart, len(main.identities), content)


def open_dataset(
    data: DataConfig, model: ModelConfig, progress: Progress | None = None, *, split: Split = "train", seed: int = 0
) -> Dataset:
    """The images of `data.data_dir` at `model.image_size` with `model.image_channels`.

    split: "train" leaves out what `data.hold_out` sets apart by the training's `seed`; "test" is the data's own
    test part, or else what was set apart; "all" is everything but such a test part.

    Images that have no class among others that have one are left out with `model.class_cond` and only then.

    Of the rest, where the data has a test part of its own, only the identities are read, for the digest.

    They are decoded into the cache folder the first time, with `progress(done, total)` called now and then, and
    again when the source has changed; a second process waits for the first.

    Raises UserError when there is no such data or part, when an image is broken while `data.skip_broken` is False, or
    smaller than asked for while `data.enlarge` is False; DiskFull.
    """
    source = open_source(data.data_dir)
    if model.class_cond:
        source = source.labelled()
    own = source.test_part()
    _check_part(data, split, own)
    of_own = own is not None and split == "test"
    if of_own:  # the rest is not measured
        main = decoded.cached(source, data, model) or decoded.identities(source, data, progress)
    else:
        main = open_decoded(source, data, model, progress)
    labels = None if source.labels is None else source.labels[main.kept]
    held = held_out(main.identities, data.hold_out, seed)
    if data.hold_out and not held.any():
        raise UserError(
            f"{data.data_dir} has only one image, so none can be held out (copies count as one): set hold_out to 0, or"
            " add images.",
            code="too-few-images",
        )
    apart = decoded.identities(own, data, progress, "test").identities if own else main.identities[held]
    digest = digest_of(main, labels, source.class_names, apart)
    whole = {"learnt": _short(main.identities[~held]), "apart": _short(apart)}
    if own and of_own:
        main, places = open_decoded(own, data, model, progress, "test"), None
        labels = None if own.labels is None else own.labels[main.kept]
    else:
        held_any = bool(data.hold_out) and split != "all"
        places = np.flatnonzero(held if split == "test" else ~held) if held_any else None
    used = len(main.pixels) if places is None else len(places)
    notices = (*source.notices, *_notices(used, labels, source.class_names), *main.notices)
    return Dataset(main.pixels, labels, source.class_names, notices, places, digest, _describe(source).lines, **whole)


def _short(identities: np.ndarray) -> np.ndarray:
    """The beginning of each identity, enough to tell images apart: uint64, increasing, none twice."""
    return np.unique(np.ascontiguousarray(identities[:, :8]).view("<u8"))


def class_numbers(config: Config, class_names: tuple[str, ...]) -> np.ndarray | None:
    """The network's number of each class of some data, int64 [classes]; None for a network without classes.

    Classes are told by their names where the network's are known, else by their place: numbers are places, unless some
    of the data's own names are among them.  Raises UserError when the data has none, or others.
    """
    if not config.model.class_cond:
        return None
    if not class_names:
        raise UserError(
            "The model was trained with classes, and these pictures have none: use pictures that are sorted into its"
            " classes.",
            code="no-classes",
        )
    apart = not set(class_names) & set(config.class_names)
    unnamed = _are_numbers(config.class_names) and len(class_names) == len(config.class_names) and apart
    known = class_names if unnamed else config.class_names or class_names[: config.model.num_classes]
    unknown = [name for name in class_names if name not in known]
    if unknown:
        have = ", ".join(known[:10]) if config.class_names else f"{config.model.num_classes} classes"
        raise UserError(
            f"The pictures have classes that the model does not know ({', '.join(unknown[:5])}): it was trained with"
            f" {have}; use pictures of those.",
            code="unknown-class",
        )
    return np.array([known.index(name) for name in class_names], dtype=np.int64)


def _are_numbers(names: tuple[str, ...]) -> bool:
    """Whether nobody has named these classes yet, so that they are told by their place."""
    return names == tuple(str(k) for k in range(len(names)))


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
