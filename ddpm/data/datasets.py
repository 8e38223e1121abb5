"""Data sets, and their training and held-out images.

`data_dir` is a folder, an .npz file or a name: see `ddpm.data.sources`.  For a folder with the same name as a data set,
write ./shapes.
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
from ddpm.data import crops, decoded
from ddpm.data.crops import Scaled
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
    "describe",
    "open_dataset",
    "part_of",
    "resolve",
]

MOST_LISTED = 20  # classes that a line of the log lists
FEW = 100  # images; with fewer, a model soon memorises them

Split = Literal["all", "train", "test"]


@dataclass(frozen=True)
class Description:
    """Content of `data_dir`, found without decoding it."""

    count: int
    class_names: tuple[str, ...]  # in label order; empty when there are no labels
    counts: tuple[int, ...]  # images of each class
    text: str  # one line: "Folder, classes by file name: 5,085 images, 10 classes"
    size: tuple[int, int] | None  # width and height of the first image; None if available at any size
    notices: tuple[str, ...]  # sentences to show to the user
    test_count: int = 0  # images of the data's own test split, not included in count
    left_out: tuple[str, ...] = ()  # other files, by kind: "3 .txt files"
    kind: str = ""  # short description, and the rule that defines the classes

    @property
    def lines(self) -> tuple[str, ...]:
        """Sentences on what is used for training and what is not."""
        listed = [f"{name} {count:,}" for name, count in zip(self.class_names, self.counts, strict=True)]
        classes = f" ({some(listed, MOST_LISTED)})" if listed else ""
        left_out = (f"Left out: {', '.join(self.left_out)}.",) if self.left_out else ()
        return (f"{self.text}{classes}.", *left_out)


@dataclass(frozen=True)
class Digest:
    """Fingerprint of a data set: equal for the same images in the same order, at any path and any size."""

    images: str = ""  # SHA-256 in hex of all training and held-out images and their class names
    held_out: str = ""  # SHA-256 of the held-out or test images; empty if there are none
    count: int = 0  # training and held-out images
    content: str = ""  # SHA-256 of the images without class names; "" in files of earlier versions

    def same(self, other: "Digest", classes: bool = True) -> bool:
        """True if both have the same images in the same order and, with `classes`, the same classes."""
        if classes or not (self.content and other.content):
            return self.images == other.images
        return self.content == other.content


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of one size with labels, ready for training or evaluation."""

    images: np.ndarray  # uint8 [N, H, W, C], memory-mapped, read-only
    labels: np.ndarray | None  # int64 [N], indices into class_names; -1 for none, never with class_cond
    class_names: tuple[str, ...]
    notices: tuple[str, ...]  # sentences to show to the user
    indices: np.ndarray | None = None  # int64 [n], the images of this split; None: all
    digest: Digest = Digest()  # of the whole data, for every split
    about: tuple[str, ...] = ()  # sentences on the data and what is left out, for the log
    train_ids: np.ndarray | None = None  # uint64 [n], increasing: ids of all training images; None: not known
    held_out_ids: np.ndarray | None = None  # uint64 [n], increasing: ids of all held-out or test images
    scaled: Scaled | None = None  # the same images, larger, from which a stream cuts random crops; None: it takes them

    def __len__(self) -> int:
        return len(self.images if self.indices is None else self.indices)

    def take(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Images uint8 [n, H, W, C] and labels int64 [n], if any, by `numbers`, int64 [n], within this split."""
        indices = self._indices(numbers)
        return self.images[indices], None if self.labels is None else self.labels[indices]

    def crop(self, numbers: np.ndarray, random: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """A random crop of each image, uint8 [n, H, W, C], and labels int64 [n], if any; numbers: int64 [n], as `take`.

        random: float64 [n, crops.DRAWS] in [0, 1).
        """
        assert self.scaled is not None, "opened for random crops"
        indices = self._indices(numbers)
        pixels = self.scaled.crops(indices, random, self.images.shape[1])
        return pixels, None if self.labels is None else self.labels[indices]

    def _indices(self, numbers: np.ndarray) -> np.ndarray:
        return numbers if self.indices is None else self.indices[numbers]


def describe(data_dir: str) -> Description:
    """Describes the data without decoding it.  Raises UserError if it cannot be used for training."""
    return description_of(open_source(data_dir))


def description_of(source: Source) -> Description:
    """Describes the data of an open source."""
    names, test = source.class_names, source.test_part()
    images, classes = plural(source.count, "image"), plural(len(names), "class", "classes")
    text = f"{source.kind}: {images}, {classes}" if names else f"{source.kind}: {images}"
    if test:
        text += f", and {plural(test.count, 'test image')}"
    notices = (*source.notices, *_notices(source.count, source.labels, names))
    counts = _counts(source.labels, names)
    return Description(
        source.count, names, counts, text, source.size, notices, test.count if test else 0, source.left_out, source.kind
    )


def _counts(labels: np.ndarray | None, names: tuple[str, ...]) -> tuple[int, ...]:
    """Number of images of each class; labels: int64 [N] or None."""
    return () if labels is None else tuple(int(n) for n in np.bincount(labels[labels >= 0], minlength=len(names)))


def _notices(used: int, labels: np.ndarray | None, names: tuple[str, ...]) -> tuple[str, ...]:
    """Sentences on too few images and empty classes.  labels: int64 [N] or None."""
    notices = []
    if used < FEW:
        notices.append(f"Only {plural(used, 'image')}: the model will soon memorise them.")
    counts = _counts(labels, names)
    missing = [name for name, count in zip(names, counts, strict=False) if not count]
    if counts and missing:
        notices.append(f"There are no images of {len(missing)} of the classes: {', '.join(missing[:5])}.")
    return tuple(notices)


def resolve(config: Config) -> Config:
    """Sets class_names, and num_classes (0 unless class-conditional), of `config` from its data.

    Raises UserError if the data cannot be used for training, or if class_cond is set and it has no or too many classes.
    """
    data_dir, model = config.data.data_dir, config.model
    names = describe(data_dir).class_names
    if not model.class_cond:
        return replace(config, {"class_names": names, "num_classes": 0})
    if not names:
        raise UserError(
            f"class_cond is True, but the images of {data_dir} have no classes: name them label_xxx.png, "
            "put each class in a folder of its own, or set class_cond to False.",
            code="no-classes",
        )
    if 0 < model.num_classes < len(names):
        raise UserError(
            f"num_classes is {model.num_classes}, but {data_dir} has {len(names)} classes: set it to 0 to use the"
            " number of classes in the data.",
            code="bad-value",
        )
    return replace(config, {"class_names": names, "num_classes": model.num_classes or len(names)})


def attach(config: Config, data_dir: str) -> Config:
    """Sets data_dir and class_names of the `config` of a trained network, to resume training.

    Raises UserError if the classes of the data differ from those of the network.
    """
    known, names = config.class_names, describe(data_dir).class_names
    numbered = _are_numbers(known)
    if config.model.class_cond:
        fits = len(names) == len(known) if known else 0 < len(names) <= config.model.num_classes
        if not fits or (known and not numbered and names != known):
            count = len(known) or config.model.num_classes
            raise UserError(
                f"The classes of {data_dir} are {', '.join(names) or 'none'}, and those of the network are"
                f" {', '.join(known) if known and not numbered else f'{count} classes'}: name the data it was"
                " trained on.",
                code="changed-classes",
            )
    return replace(config, {"data_dir": data_dir, "class_names": names})


def adjusted(data: DataConfig, wanted: EvalConfig | AnalyticConfig) -> DataConfig:
    """Sets `enlarge` and `skip_broken` of `data` if they are set in `data` or in `wanted`."""
    return dataclasses.replace(
        data, enlarge=data.enlarge or wanted.enlarge, skip_broken=data.skip_broken or wanted.skip_broken
    )


def part_of(data: DataConfig, split: str) -> Split:
    """Resolves `split` for this data: "auto" is "test" if there is a test split, else "train".

    Raises UserError if `split` is "test" and the data has none.
    """
    own = open_source(data.data_dir).test_part()
    _check_part(data, split, own)
    return "test" if (data.hold_out > 0 or own) and split != "train" else "train"


def _check_part(data: DataConfig, split: str, own: Source | None) -> None:
    """Raises UserError if `split` is "test" and the data has no test split."""
    if split == "test" and not data.hold_out and own is None:
        raise UserError(
            f"{data.data_dir} has no test split and no held-out images: evaluate on other data or with part train, "
            "or train with hold_out 0.1.",
            code="no-test-part",
        )


def held_out_count(count: int, share: float) -> int:
    """Approximate number of held-out images among `count`: at least one if `share` > 0, and never all."""
    return min(max(1, round(share * count)), count - 1) if share > 0 else 0


def held_out(identities: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Mask bool [n] of the held-out images: about `share` of them, at least one and never all.

    identities: uint8 [n, 32].  Each image is assigned by a hash of its identity and the seed: adding, removing or
    renaming others does not move it, and copies stay together.  If all are copies of one, none is held out.
    """
    if share <= 0:
        return np.zeros(len(identities), bool)
    key = seed.to_bytes(8, "little")
    hashes = [hashlib.blake2b(identity.tobytes(), digest_size=8, key=key).digest() for identity in identities]
    values = np.frombuffer(b"".join(hashes), "<u8")
    held = values / 2.0**64 < share
    if not held.any():
        held = values == values.min()
    return held & (values != values.max()) if held.all() else held


def digest_of(main: Decoded, labels: np.ndarray | None, names: tuple[str, ...], held_out: np.ndarray) -> Digest:
    """Digest of data with labels int64 [n]; held_out: identities of the held-out or test images, uint8 [m, 32]."""
    images = hashlib.sha256(json.dumps(names).encode())
    images.update(main.identities.tobytes())
    if labels is not None:
        images.update(labels.astype("<i8").tobytes())
    rows = sorted(row.tobytes() for row in held_out)
    of_held_out = hashlib.sha256(b"".join(rows)).hexdigest() if rows else ""
    content = hashlib.sha256(main.identities.tobytes()).hexdigest()
    return Digest(images.hexdigest(), of_held_out, len(main.identities), content)


def open_dataset(
    data: DataConfig,
    model: ModelConfig,
    progress: Progress | None = None,
    *,
    split: Split = "train",
    seed: int = 0,
    training: bool = False,
) -> Dataset:
    """Opens the images of `data.data_dir` at `model.image_size` with `model.image_channels`.

    split: "train" omits the images held out by `data.hold_out` and the training seed `seed`; "test" is the test split
    of the data or, without one, the held-out images; "all" is everything but the test split of the data.

    training: opens what random crops are cut from as well, with `data.crop` random.

    Images without a class, where others have one, are left out only with `model.class_cond`.

    Images are decoded into the cache folder once, and again after the source has changed, with calls of
    `progress(done, total)`; a second process waits for the first.  Of a split that is not asked for, only identities
    are read, for the digest.

    Raises UserError if there is no such data or split, if an image is broken and `data.skip_broken` is False, or if one
    is smaller than image_size and `data.enlarge` is False; DiskFull.
    """
    source = open_source(data.data_dir)
    if model.class_cond:
        source = source.labelled()
    own = source.test_part()
    _check_part(data, split, own)
    of_own = own is not None and split == "test"
    if of_own:  # of the training images only identities are needed
        main = decoded.cached(source, data, model) or decoded.identities(source, data, progress)
    else:
        main = open_decoded(source, data, model, progress)
    labels = None if source.labels is None else source.labels[main.kept]
    held = held_out(main.identities, data.hold_out, seed)
    if data.hold_out and not held.any():
        raise UserError(
            f"{data.data_dir} has only one distinct image, so none can be held out: set hold_out to 0, or add images.",
            code="too-few-images",
        )
    test = decoded.identities(own, data, progress, "test").identities if own else main.identities[held]
    digest = digest_of(main, labels, source.class_names, test)
    ids = {"train_ids": _short_ids(main.identities[~held]), "held_out_ids": _short_ids(test)}
    if own and of_own:
        main, indices = open_decoded(own, data, model, progress, "test"), None
        labels = None if own.labels is None else own.labels[main.kept]
    else:
        held_any = bool(data.hold_out) and split != "all"
        indices = np.flatnonzero(held if split == "test" else ~held) if held_any else None
    used = len(main.pixels) if indices is None else len(indices)
    notices = (*source.notices, *_notices(used, labels, source.class_names), *main.notices)
    scaled = None
    if training and data.crop == "random":
        scaled = crops.open_scaled(source, data, model, len(main.pixels), progress)
        notices = (*notices, *crops.notices(scaled, model.image_size))
    about = description_of(source).lines
    return Dataset(main.pixels, labels, source.class_names, notices, indices, digest, about, **ids, scaled=scaled)


def _short_ids(identities: np.ndarray) -> np.ndarray:
    """First 8 bytes of identities uint8 [n, 32], enough to distinguish images: uint64 [<= n], increasing, unique."""
    return np.unique(np.ascontiguousarray(identities[:, :8]).view("<u8"))


def class_numbers(config: Config, class_names: tuple[str, ...]) -> np.ndarray | None:
    """Maps the classes of some data to class numbers of the network, int64 [C]; None for an unconditional network.

    Classes are matched by name if the names of the network are known, else by index; names that are just the numbers
    count as unknown unless the data uses some of them.  Raises UserError if the data has no classes, or unknown ones.
    """
    if not config.model.class_cond:
        return None
    if not class_names:
        raise UserError(
            "The model is class-conditional, and these images have no classes: use images in class folders with the"
            " names of its classes.",
            code="no-classes",
        )
    disjoint = not set(class_names) & set(config.class_names)
    unnamed = _are_numbers(config.class_names) and len(class_names) == len(config.class_names) and disjoint
    known = class_names if unnamed else config.class_names or class_names[: config.model.num_classes]
    unknown = [name for name in class_names if name not in known]
    if unknown:
        have = ", ".join(known[:10]) if config.class_names else f"{config.model.num_classes} classes"
        raise UserError(
            f"The images have classes that the model does not know ({', '.join(unknown[:5])}): it was trained with"
            f" {have}; use images of those.",
            code="unknown-class",
        )
    return np.array([known.index(name) for name in class_names], dtype=np.int64)


def _are_numbers(names: tuple[str, ...]) -> bool:
    """True if the class names are only 0, 1, ..., so that classes are matched by index."""
    return names == tuple(str(k) for k in range(len(names)))
