"""Data sets, and their training and held-out images.

`data_dir` is a folder, an .npz file or a name: see `ddpm.data.sources`.  For a folder with the same name as a data set,
write ./shapes.
"""

import contextlib
import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from ddpm.config.codec import replace
from ddpm.config.model import ModelConfig
from ddpm.config.tasks import AnalyticConfig, EvalConfig
from ddpm.config.training import Config, DataConfig
from ddpm.data import crops, decoded, encoded, splits
from ddpm.data.crops import Scaled
from ddpm.data.decoded import Progress
from ddpm.data.encoded import Encoded
from ddpm.data.source import Source, count_classes
from ddpm.data.sources import open_source
from ddpm.data.splits import LARGE, Digest
from ddpm.data.tar_shards import Shards
from ddpm.errors import UserError
from ddpm.formatting import plural, some

__all__ = [
    "LARGE",
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
MOST_SKIPPED = 100  # broken images in a row that others take the place of
BROKEN = ("broken-image", "not-an-image", "unsupported-image", "image-too-large")  # codes of images that are skipped

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


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of one size with labels, ready for training or evaluation."""

    images: np.ndarray | Encoded  # uint8 [N, H, W, C], read-only: memory-mapped, or decoded where they are taken
    labels: np.ndarray | None  # int64 [N], indices into class_names; -1 for none, never with class_cond
    class_names: tuple[str, ...]
    notices: tuple[str, ...]  # sentences to show to the user
    indices: np.ndarray | None = None  # int64 [n], the images of this split; None: all
    digest: Digest = dataclasses.field(default_factory=Digest)  # of the whole data, for every split
    about: tuple[str, ...] = ()  # sentences on the data and what is left out, for the log
    train_ids: np.ndarray | None = None  # uint64 [n], increasing: ids of all training images; None: not kept
    held_out_ids: np.ndarray | None = None  # uint64 [n], increasing: ids of all held-out or test images
    scaled: Scaled | Encoded | None = None  # what a stream cuts random crops from; None: it takes the images

    def __len__(self) -> int:
        return len(self.images if self.indices is None else self.indices)

    @property
    def values(self) -> int:
        """Number of values of an image, H W C."""
        return math.prod(self.images.shape[1:])

    def class_counts(self) -> dict[str, int]:
        """Number of images of each class in this split, by name; empty without labels."""
        if self.labels is None:
            return {}
        labels = self.labels if self.indices is None else self.labels[self.indices]
        return dict(zip(self.class_names, count_classes(labels, self.class_names), strict=True))

    def take(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Images uint8 [n, H, W, C] and labels int64 [n], if any, by `numbers`, int64 [n], within this split.

        Of images that are decoded only here a broken one raises UserError; with skip_broken the next takes its place.
        """
        if isinstance(self.images, Encoded):
            return self._decoded(self.images, numbers)
        return self._with_labels(self.images[self._indices(numbers)], numbers)

    def crop(self, numbers: np.ndarray, random: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """A random crop of each image, uint8 [n, H, W, C], and labels int64 [n], if any; numbers: int64 [n], as `take`.

        random: float64 [n, crops.DRAWS] in [0, 1).
        """
        assert self.scaled is not None, "opened for random crops"
        if isinstance(self.scaled, Encoded):
            return self._decoded(self.scaled, numbers, random)
        return self._with_labels(self.scaled.crops(self._indices(numbers), random, self.images.shape[1]), numbers)

    def _decoded(
        self, images: Encoded, numbers: np.ndarray, random: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """As `take`, or as `crop` with random numbers."""
        pixels, used = np.empty((len(numbers), *images.shape[1:]), np.uint8), numbers.copy()
        for row in range(len(numbers)):
            for _ in range(MOST_SKIPPED):
                index = self._indices(used[row : row + 1])
                try:
                    one = images[index] if random is None else images.crops(index, random[row : row + 1], images.size)
                    break
                except UserError as error:
                    if not images.data.skip_broken or error.code not in BROKEN:
                        raise
                    failed = error
                    used[row] = (used[row] + 1) % len(self)
            else:
                raise failed
            pixels[row] = one[0]
        return self._with_labels(pixels, used)

    def _with_labels(self, pixels: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return pixels, None if self.labels is None else self.labels[self._indices(numbers)]

    def _indices(self, numbers: np.ndarray) -> np.ndarray:
        return numbers if self.indices is None else self.indices[numbers]


def describe(data_dir: str, progress: Progress | None = None) -> Description:
    """Describes the data without decoding it.  Raises UserError if it cannot be used for training.

    progress: called while tar shards are read for the first time.
    """
    return description_of(open_source(data_dir, progress))


def description_of(source: Source) -> Description:
    """Describes the data of an open source."""
    names, test = source.class_names, source.test_part()
    images, classes = plural(source.count, "image"), plural(len(names), "class", "classes")
    text = f"{source.kind}: {images}, {classes}" if names else f"{source.kind}: {images}"
    if test:
        text += f", and {plural(test.count, 'test image')}"
    counts = source.class_counts()
    notices = (*source.notices, *_notices(source.count, counts, names))
    return Description(
        source.count, names, counts, text, source.size, notices, test.count if test else 0, source.left_out, source.kind
    )


def _notices(used: int, counts: tuple[int, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Sentences on too few images and empty classes.  counts: images of each class."""
    notices = []
    if used < FEW:
        notices.append(f"Only {plural(used, 'image')}: the model will soon memorise them.")
    missing = [name for name, count in zip(names, counts, strict=False) if not count]
    if counts and missing:
        notices.append(f"There are no images of {len(missing)} of the classes: {', '.join(missing[:5])}.")
    return tuple(notices)


def resolve(config: Config, progress: Progress | None = None) -> Config:
    """Sets class_names, and num_classes (0 unless class-conditional), of `config` from its data.

    Raises UserError if the data cannot be used for training, or if class_cond is set and it has no or too many classes.
    """
    data_dir, model = config.data.data_dir, config.model
    names = describe(data_dir, progress).class_names
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
    are read, for the digest.  Those of tar shards are only listed, and decoded each time they are taken.

    Raises UserError if there is no such data or split, if an image is broken and `data.skip_broken` is False, or if one
    is smaller than image_size and `data.enlarge` is False; DiskFull.
    """
    source = open_source(data.data_dir, progress)
    if model.class_cond:
        source = source.labelled()
    own = source.test_part()
    if own and model.class_cond:
        own = own.labelled()
    _check_part(data, split, own)
    of_own = own is not None and split == "test"
    main = _opened(source, data, model, progress, only_identities=of_own)
    test = _opened(own, data, model, progress, "test", only_identities=True) if own else None
    parts = splits.parts_of(main.entries, data.hold_out, seed, test.entries if test else None)
    used = _opened(own, data, model, progress, "test") if own and of_own else main
    indices = None if used is not main or split == "all" else parts.held_out if split == "test" else parts.train
    labels = used.entries.labels
    if indices is None and labels is source.labels:
        counts = source.class_counts()
    else:
        counts = () if labels is None else count_classes(labels, source.class_names)
    number = used.entries.count if indices is None else len(indices)
    notices = (*source.notices, *_notices(number, counts, source.class_names), *used.notices)
    scaled: Scaled | Encoded | None = None
    if training and data.crop == "random":
        if isinstance(used.images, Encoded):
            scaled = used.images
        else:
            scaled = crops.open_scaled(source, data, model, len(used.images), progress)
            notices = (*notices, *crops.notices(scaled, model.image_size))
    return Dataset(
        used.images,
        labels,
        () if labels is None else source.class_names,
        notices,
        indices,
        parts.digest,
        description_of(source).lines,
        parts.train_ids,
        parts.held_out_ids,
        scaled,
    )


class _Opened(NamedTuple):
    """Images of a source, in whatever way they are read."""

    images: np.ndarray | Encoded  # uint8 [n, H, W, C]; of a source that is to be decoded first, empty if not needed
    entries: splits.Images
    notices: tuple[str, ...]


def _opened(
    source: Source,
    data: DataConfig,
    model: ModelConfig,
    progress: Progress | None,
    part: str = "",
    only_identities: bool = False,
) -> _Opened:
    """Opens the images of a source, or of its split `part`.  Raises what `open_dataset` raises."""
    names = source.class_names
    if isinstance(source, Shards):
        where = decoded.called(data, part)
        images = Encoded(source, data, model) if only_identities else encoded.open_encoded(source, data, model, where)
        cache = source.index.path.with_name(f"{source.index.path.name}{source.subset and f'.{source.subset}'}")
        entries = splits.Images(source.count, lambda: source.identities, source.labels, names, cache)
        return _Opened(images, entries, encoded.notices(source))
    if only_identities:
        found = None if part else decoded.cached(source, data, model)
        if found is None and data.skip_broken and not part:  # which ones are broken is known once they are decoded
            with contextlib.suppress(UserError):  # what is wrong with images that are not asked for matters to nobody
                found = decoded.open_decoded(source, data, model, progress)
        found = found or decoded.identities(source, data, progress, part)
    else:
        found = decoded.open_decoded(source, data, model, progress, part)
    labels = source.labels if source.labels is None or found.kept is None else source.labels[found.kept]
    entries = splits.Images(len(found.identities), lambda: found.identities, labels, names, found.path)
    return _Opened(found.pixels, entries, found.notices)


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
    if class_names == config.class_names:  # some of which may be the same
        return np.arange(len(class_names))
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
