"""An endless, seeded, resumable stream of batches of a data set."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from ddpm.data import crops
from ddpm.data.datasets import LARGE, Dataset
from ddpm.data.permutation import Permutation

Order = Literal["sorted", "computed"]  # by sorting random numbers for all images; or image by image, without an array


class Stream:
    """Endless batches: every epoch is a new permutation of the data, and batches continue across epochs.

    Of a data set with `scaled` images each is a random crop, another one in every epoch.

    Order, flips and crops depend only on the seed, not on the batch size; a stream resumed at `position` with the same
    `order` returns exactly what an uninterrupted one returns.  Without one given, more than LARGE images are in the
    "computed" order, for which memory holds nothing that grows with their number.
    """

    def __init__(
        self, dataset: Dataset, seed: int, random_flip: bool = False, position: int = 0, order: Order | None = None
    ):
        self.dataset = dataset
        self.seed = seed
        self.random_flip = random_flip
        self.position = position  # images returned so far
        self.order: Order = order or ("computed" if len(dataset) > LARGE else "sorted")
        self._began: tuple[int, Order] | None = None  # the epoch whose permutation is at hand, and its order
        self._permutation: Callable[[np.ndarray], np.ndarray]

    def next(self, n: int, part: slice = slice(None)) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the next n images, uint8 [n, H, W, C], and their labels int64 [n], if the data has any.

        part: the slice of the n images to read and return, for one of several processes.
        """
        numbers, flips, cuts = (values[part] for values in self._next_indices(n))
        pixels, labels = self.dataset.crop(numbers, cuts) if self.dataset.scaled else self.dataset.take(numbers)
        if self.random_flip:
            pixels[flips] = pixels[flips, :, ::-1]
        return pixels, labels

    def _next_indices(self, n: int) -> tuple[np.ndarray, ...]:
        """The next n indices into the data, int64 [n], which images to mirror, bool [n], and random numbers for crops.

        Those are float64 [n, crops.DRAWS], with no columns where there are none.
        """
        count, parts = len(self.dataset), []
        while n > 0:
            epoch, start = divmod(self.position, count)
            places = np.arange(start, min(start + n, count))
            parts.append((self._shuffled(epoch, places), *self._random(epoch, places)))
            self.position += len(places)
            n -= len(places)
        if len(parts) == 1:
            return parts[0]
        return tuple(np.concatenate(values) for values in zip(*parts, strict=True))

    def _shuffled(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """The images at these places of an epoch: both int64 [n]."""
        if self._began != (epoch, self.order):
            count = len(self.dataset)
            if self.order == "computed":
                self._permutation = Permutation(count, (self.seed, epoch))
            else:
                # Sorts raw random bits: numpy guarantees their stability across versions, but not that of permutations.
                self._permutation = np.argsort(self._bits(epoch).random_raw(count), kind="stable").__getitem__
            self._began = (epoch, self.order)
        return self._permutation(places)

    def _random(self, epoch: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which images at consecutive places, int64 [n], to mirror, and random numbers for crops: see _next_indices.

        Of the random bits of an epoch those of the order come first, then one number for each flip, then the crops.
        """
        count, draws = len(self.dataset), crops.DRAWS if self.dataset.scaled else 0
        first, n = int(places[0]), len(places)
        flips = self._bits(epoch, count + first).random_raw(n) >> np.uint64(63) == 1
        cuts = self._bits(epoch, 2 * count + first * draws).random_raw(n * draws).reshape(n, draws)
        return flips, (cuts >> np.uint64(11)) / 2.0**53

    def _bits(self, epoch: int, skipped: int = 0) -> np.random.PCG64:
        """The random bits of an epoch, without the first numbers of them."""
        bits = np.random.PCG64(np.random.SeedSequence((self.seed, epoch)))
        bits.advance(skipped)
        return bits
