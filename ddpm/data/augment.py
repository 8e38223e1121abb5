"""Augmentation that does not leak into samples: the network is conditioned on what was done to an image.

Karras et al. 2022, Section 5 and Appendix F.2, with mirroring and shifts alone, which need no interpolation: a pixel
stays the pixel it was.
"""

import numpy as np

REACH = 1 / 8  # of the image size: the largest shift
DRAWS = 4  # random numbers that an image takes


def drawn(random: np.ndarray, chance: float, size: int) -> np.ndarray:
    """Chooses what is done to each image: float32 [N, 3], whether mirrored, and the shifts right and down.

    random: float [N, DRAWS] in [0, 1).  chance: of being mirrored, and of being shifted, each by itself.  Shifts are
    whole pixels, given as a share of the largest one, REACH of `size`: in [-1, 1].
    """
    most = reach(size)
    mirrored = random[:, 0] < chance
    shifts = np.floor(random[:, 2:] * (2 * most + 1)) - most
    shifts[random[:, 1] >= chance] = 0
    return np.column_stack([mirrored, shifts / most]).astype(np.float32)


def applied(pixels: np.ndarray, done: np.ndarray) -> np.ndarray:
    """Mirrors and shifts images uint8 [N, H, W, C] as `done` says, float32 [N, 3]; the margins are reflected.

    A row of zeros leaves its image as it is.
    """
    count, height, width, _ = pixels.shape
    shifts = np.rint(done[:, 1:] * reach(width)).astype(np.int64)
    columns = reflected(np.arange(width) - shifts[:, :1], width)
    columns = np.where(done[:, :1] > 0, width - 1 - columns, columns)  # mirrored, then shifted
    rows = reflected(np.arange(height) - shifts[:, 1:], height)
    return pixels[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def reach(size: int) -> int:
    """The largest shift in pixels of an image of this size."""
    return max(1, round(size * REACH))


def reflected(places: np.ndarray, length: int) -> np.ndarray:
    """Places int64 [...] up to `length` - 1 beyond 0 .. length - 1, reflected at the first and last pixel into it."""
    places = np.abs(places)
    return np.where(places >= length, 2 * (length - 1) - places, places)
