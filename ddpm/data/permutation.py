"""Pseudo-random permutations of [0, N) that are computed where they are asked for, and need no array of N numbers."""

import numpy as np

ROUNDS = 6  # four make a Feistel network of random functions a random permutation (Luby and Rackoff 1988)


class Permutation:
    """A permutation of the numbers 0 .. count - 1, which `key` decides.

    A Feistel network permutes the numbers of 2 k bits, at most four times as many as `count`; one that is not below
    `count` is permuted again until it is (cycle walking, Black and Rogaway 2002).

    key: numbers from 0 up.
    """

    def __init__(self, count: int, key: tuple[int, ...]):
        self.count = count
        self._half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))  # bits of each half, k
        self._mask = np.uint64(2 ** int(self._half) - 1)
        self._keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Where `numbers`, int64 [n] in [0, count), go: int64 [n]."""
        found = self._network(numbers.astype(np.uint64))
        while (outside := np.flatnonzero(found >= self.count)).size:
            found[outside] = self._network(found[outside])
        return found.astype(np.int64)

    def _network(self, numbers: np.ndarray) -> np.ndarray:
        """Permutes numbers of 2 k bits, uint64 [n]."""
        left, right = numbers >> self._half, numbers & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & self._mask)
        return left << self._half | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """Numbers uint64 [n] of which each bit depends on all bits of x, uint64 [n]: the finalizer of SplitMix64."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
