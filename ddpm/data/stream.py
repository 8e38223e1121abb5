"""An endless, seeded, resumable stream of batches of a data set."""

import numpy as np

from ddpm.data import crops
from ddpm.data.datasets import Dataset


class Stream:
    """Endless batches: every epoch is a new permutation of the data, and batches continue across epochs.

    Of a data set with `scaled` images each is a random crop, another one in every epoch.

    Order, flips and crops depend only on the seed, not on the batch size; a stream resumed at `position` returns
    exactly what an uninterrupted one returns.
    """

    def __init__(self, dataset: Dataset, seed: int, random_flip: bool = False, position: int = 0):
        self.dataset = dataset
        self.seed = seed
        self.random_flip = random_flip
        self.position = position  # images returned so far
        self._epoch = -1

    def next(self, n: int, part: slice = slice(None)) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the next n images, uint8 [n, H, W, C], and their labels int64 [n], if the data has any.

        part: the slice of the n images to read and return, for one of several processes.
        """
        order, flips, cuts = (values[part] for values in self._next_indices(n))
        pixels, labels = self.dataset.crop(order, cuts) if self.dataset.scaled else self.dataset.take(order)
        if self.random_flip:
            pixels[flips] = pixels[flips, :, ::-1]
        return pixels, labels

    def _next_indices(self, n: int) -> tuple[np.ndarray, ...]:
        """The next n indices into the data, int64 [n], which images to mirror, bool [n], and random numbers for crops.

        Those are float64 [n, crops.DRAWS], with no columns where there are none.
        """
        parts = []
        while n > 0:
            epoch, start = divmod(self.position, len(self.dataset))
            if epoch != self._epoch:
                self._begin(epoch)
            taken = slice(start, start + n)
            parts.append((self._order[taken], self._flips[taken], self._cuts[taken]))
            self.position += len(parts[-1][0])
            n -= len(parts[-1][0])
        if len(parts) == 1:
            return parts[0]
        return tuple(np.concatenate(values) for values in zip(*parts, strict=True))

    def _begin(self, epoch: int) -> None:
        # Sorts raw random bits: numpy guarantees their stability across versions, but not that of permutations.
        bits = np.random.PCG64(np.random.SeedSequence((self.seed, epoch)))
        self._order = np.argsort(bits.random_raw(len(self.dataset)), kind="stable")
        self._flips = bits.random_raw(len(self.dataset)) >> np.uint64(63) == 1
        draws = crops.DRAWS if self.dataset.scaled else 0
        whole = bits.random_raw(len(self.dataset) * draws).reshape(len(self.dataset), draws)
        self._cuts = (whole >> np.uint64(11)) / 2.0**53
        self._epoch = epoch
