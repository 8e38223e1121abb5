"""Which images of a data set are held out, and the digest of the data.

Both follow from the identities of all images.  Of more than LARGE images they are found once and kept in the cache
folder, so that opening the data takes no time or memory that grows with their number.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm.data.source import IDENTITY_BYTES
from ddpm.errors import UserError
from ddpm.storage import files

LARGE = 2**20  # images; of more, nothing is kept in memory for each
BLOCK = 2**16  # images that are looked at together
FORMAT = 1  # increase it if the same images are split otherwise


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


class Parts(NamedTuple):
    """The two parts of N images."""

    digest: Digest
    train: np.ndarray | None  # int64 [n], increasing: images that are not held out; None: all
    held_out: np.ndarray | None  # int64 [N - n]; None: none
    train_ids: np.ndarray | None  # uint64 [n], increasing: ids of all training images; None if there are too many
    held_out_ids: np.ndarray | None  # the same of all held-out or test images


@dataclass(frozen=True)
class Images:
    """What the parts follow from."""

    count: int
    identities: Callable[[], np.ndarray]  # uint8 [count, 32], which are read only where they are needed
    labels: np.ndarray | None  # int64 [count]
    class_names: tuple[str, ...]
    cache: Path  # file in the cache folder whose name changes with the content of the source


def parts_of(images: Images, share: float, seed: int, test: Images | None = None) -> Parts:
    """Holds out about `share` of the images; with a test split of its own, `test`, that is what the digest is of.

    Raises UserError if all images are copies of one, and some are to be held out.
    """
    if max(images.count, test.count if test else 0) <= LARGE:
        return _small(images, share, seed, test)
    key = json.dumps([FORMAT, share, seed, images.class_names, images.labels is not None, test and test.cache.name])
    name = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:16]
    path = images.cache.with_name(f"{images.cache.name}.split-{name}.json")
    return _open(path, images, share) or _large(path, images, share, seed, test)


def _small(images: Images, share: float, seed: int, test: Images | None) -> Parts:
    identities = images.identities()
    held = held_out(identities, share, seed)
    if share and not held.any():
        raise _all_copies()
    others = test.identities() if test else identities[held]
    digest = digest_of(identities, images.labels, images.class_names, others)
    ids = _short_ids(identities[~held]), _short_ids(others)
    if not share:
        return Parts(digest, None, None, *ids)
    return Parts(digest, np.flatnonzero(~held), np.flatnonzero(held), *ids)


def _all_copies() -> UserError:
    return UserError(
        "The data has only one distinct image, so none can be held out: set hold_out to 0, or add images.",
        code="too-few-images",
    )


def held_out(identities: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Mask bool [n] of the held-out images: about `share` of them, at least one and never all.

    identities: uint8 [n, 32].  Each image is assigned by a hash of its identity and the seed: adding, removing or
    renaming others does not move it, and copies stay together.  If all are copies of one, none is held out.
    """
    if share <= 0:
        return np.zeros(len(identities), bool)
    values = _hashes(identities, seed)
    held = values / 2.0**64 < share
    if not held.any():
        held = values == values.min()
    return held & (values != values.max()) if held.all() else held


def _hashes(identities: np.ndarray, seed: int) -> np.ndarray:
    """A hash of each of the identities, uint8 [n, 32], and the seed: uint64 [n]."""
    key, content = seed.to_bytes(8, "little"), identities.tobytes()
    rows = (content[start : start + IDENTITY_BYTES] for start in range(0, len(content), IDENTITY_BYTES))
    return np.frombuffer(b"".join(hashlib.blake2b(row, digest_size=8, key=key).digest() for row in rows), "<u8")


def digest_of(
    identities: np.ndarray, labels: np.ndarray | None, names: tuple[str, ...], held_out: np.ndarray
) -> Digest:
    """Digest of images with identities uint8 [n, 32] and labels int64 [n]; held_out: uint8 [m, 32]."""
    images, content = hashlib.sha256(json.dumps(names).encode()), hashlib.sha256()
    for values, hashes in ((identities, (images, content)), (labels, (images,))):
        for start in range(0, 0 if values is None else len(values), BLOCK):
            block = values[start : start + BLOCK]  # type: ignore[index]
            for one in hashes:
                one.update(block.astype(block.dtype.newbyteorder("<")).tobytes())
    rows = np.sort(np.ascontiguousarray(held_out).view(f"V{IDENTITY_BYTES}").ravel())
    of_held_out = hashlib.sha256(rows.tobytes()).hexdigest() if len(rows) else ""
    return Digest(images.hexdigest(), of_held_out, len(identities), content.hexdigest())


def _short_ids(identities: np.ndarray) -> np.ndarray:
    """First 8 bytes of identities uint8 [n, 32], enough to distinguish images: uint64 [<= n], increasing, unique."""
    return np.unique(np.ascontiguousarray(identities[:, :8]).view("<u8"))


def _large(path: Path, images: Images, share: float, seed: int, test: Images | None) -> Parts:
    """Finds the parts block by block, and keeps them in files beside `path`."""
    identities, kept = images.identities(), list[np.ndarray]()
    path.unlink(missing_ok=True)  # written last: it marks the other files as complete
    train, held = (path.with_suffix(suffix) for suffix in (".train", ".held_out"))

    def split(train: object, held: object) -> None:
        for start in range(0, images.count, BLOCK):
            block = identities[start : start + BLOCK]
            mask = _hashes(block, seed) / 2.0**64 < share
            for file, chosen in ((train, ~mask), (held, mask)):
                file.write((np.flatnonzero(chosen) + start).astype("<i8").tobytes())  # type: ignore[attr-defined]
            kept.append(block[mask])

    if share:
        files.write(train, lambda one: files.write(held, lambda other: split(one, other)))
        if not 0 < sum(map(len, kept)) < images.count:
            raise _all_copies()
    others = test.identities() if test else np.concatenate([*kept, np.empty((0, IDENTITY_BYTES), np.uint8)])
    digest = digest_of(identities, images.labels, images.class_names, others)
    sums = [files.crc32(file) for file in (train, held)] if share else []
    files.write_json(path, dict(digest=vars(digest), sums=sums))
    opened = _open(path, images, share)
    if opened is None:
        raise UserError(f"{path} was changed by another program: try again.", code="changed-data")
    return opened


def _open(path: Path, images: Images, share: float) -> Parts | None:
    """Opens parts that were kept; None if they are missing or damaged."""
    try:
        about = files.read_json(path)
        if about is None:
            return None
        digest = Digest(**{name: type(value)(about["digest"][name]) for name, value in vars(Digest()).items()})
        if digest.count != images.count:
            return None
        if not share:
            return Parts(digest, None, None, None, None)
        both = [path.with_suffix(suffix) for suffix in (".train", ".held_out")]
        if [files.crc32(file) for file in both] != about["sums"]:
            return None
        train, held = (np.memmap(file, "<i8", "r").view(np.ndarray) for file in both)
        return Parts(digest, train, held, None, None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, UserError):
        return None
