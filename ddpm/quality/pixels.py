"""Comparisons of two sets of images without any network: patches, spectrum, colours, blocks.

Images are uint8 [N, H, W, C] of one size; all is computed in float64, or in float32 where it is said.
"""

import math
from collections.abc import Iterator

import numpy as np

PATCH = 7  # pixels, height and width
PER_IMAGE = 8  # patches of each image
DIRECTIONS = 256  # that patches are projected on
BANDS = 16  # of the spectrum; fewer for images below 32 pixels, none empty
BLOCK = 500 * 32 * 32 * 3  # numbers of images that are computed at once


def _blocks(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Images uint8 [N, H, W, C], some at a time, as float64 in levels of 0 to 255."""
    count = max(1, BLOCK // max(1, math.prod(pixels.shape[1:])))
    for start in range(0, len(pixels), count):
        yield pixels[start : start + count].astype(np.float64)


# --- patches


def halved(x: np.ndarray) -> np.ndarray:
    """Returns images [N, H, W, C] at half the size: means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    x = x[:, :height, :width]
    return x.reshape(len(x), height // 2, 2, width // 2, 2, x.shape[3]).mean((2, 4))


def details(x: np.ndarray) -> np.ndarray:
    """Returns what images [N, H, W, C] lose when they are halved: a level of a Laplacian pyramid."""
    small = halved(x)
    doubled = small.repeat(2, axis=1).repeat(2, axis=2)
    return x[:, : doubled.shape[1], : doubled.shape[2]] - doubled


def patch_quantiles(pixels: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Returns 1,000 quantiles of random patches of images [N, H, W, C] along random directions, [1000, 256] each.

    Of patches of 7 x 7 pixels, or of the whole where that is less, in levels of 0 to 255; first of what halving the
    size takes away, then of what halving it twice takes away of the rest.
    """
    found = []
    for level in range(2):
        rng = np.random.default_rng((seed, level))
        side = min(PATCH, *(size // 2 ** (level + 1) * 2 for size in pixels.shape[1:3]))  # of what `details` keeps
        directions = rng.standard_normal((side * side * pixels.shape[3], DIRECTIONS))
        directions /= np.linalg.norm(directions, axis=0)
        values = np.sort(_projected(pixels, level, side, directions, rng), axis=0)
        found.append(values[((np.arange(1000) + 0.5) / 1000 * len(values)).astype(np.int64)])
    return found


def patch_distances(x: list[np.ndarray], y: list[np.ndarray]) -> tuple[float, float]:
    """Returns how far patches of images are from those of others, by their quantiles: in fine and in coarse detail.

    x, y: what `patch_quantiles` returns, [Q, K] each: Q quantiles along K directions.

    The sliced Wasserstein distance (Rabin et al. 2011; of patches of a Laplacian pyramid: Karras et al. 2018, section
    5): the mean over random directions of the mean distance of the sorted projections.
    """
    fine, coarse = (float(np.abs(a - b).mean()) for a, b in zip(x, y, strict=True))
    return fine, coarse


def _projected(
    pixels: np.ndarray, level: int, side: int, directions: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Projections of random patches of side x side pixels, [N * PER_IMAGE, DIRECTIONS]."""
    found = []
    for block in _blocks(pixels):
        x = details(halved(block) if level else block)
        windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))
        which = np.repeat(np.arange(len(x)), PER_IMAGE)
        rows, columns = (rng.integers(0, windows.shape[axis], len(which)) for axis in (1, 2))
        found.append(windows[which, rows, columns].reshape(len(which), -1) @ directions)
    return np.concatenate(found)


# --- spectrum


def cosines(size: int) -> np.ndarray:
    """Returns the orthonormal matrix [size, size] of the discrete cosine transform (DCT-II), a frequency a row."""
    k, x = np.arange(size)[:, None], np.arange(size)
    matrix = np.sqrt(2 / size) * np.cos(np.pi * k * (2 * x + 1) / (2 * size))
    matrix[0] /= np.sqrt(2)
    return matrix


def spectrum(pixels: np.ndarray) -> np.ndarray:
    """Returns the mean power of images [N, H, W, C] in bands of frequency, float64 [<= 16], the lowest first.

    Of cosine transforms of brightness, the mean of the channels; bands are equally wide in the distance from frequency
    0, which is left out.
    """
    height, width = pixels.shape[1:3]
    down, across = cosines(height), cosines(width)
    power = np.zeros((height, width))
    for block in _blocks(pixels):
        power += ((down @ block.mean(axis=3) @ across.T) ** 2).sum(axis=0)
    power /= len(pixels)
    distance = np.hypot(np.arange(height)[:, None] / height, np.arange(width) / width)
    bands = max(1, min(BANDS, height // 2, width // 2))
    band = np.minimum((distance * bands).astype(np.int64), bands - 1)
    band[0, 0] = bands
    sums = np.bincount(band.ravel(), power.ravel(), bands + 1)[:bands]
    return sums / np.bincount(band.ravel(), minlength=bands + 1)[:bands]


def decibels(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns how much more power than y [B] x [B] has in each band, in decibels."""
    ratio: np.ndarray = 10 * np.log10((x + 1e-3) / (y + 1e-3))
    return ratio


def spectrum_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Returns how far the spectrum of images x [N, H, W, C] is from that of y: root mean square over bands, in dB."""
    return float(np.sqrt((decibels(spectrum(x), spectrum(y)) ** 2).mean()))


# --- colours


def colours(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of each channel of images [N, H, W, C], in levels of 0 to 255: [C] each."""
    total = np.zeros(pixels.shape[3])
    squares = np.zeros(pixels.shape[3])
    for block in _blocks(pixels):
        total += block.sum((0, 1, 2))
        squares += (block**2).sum((0, 1, 2))
    count = pixels.size / pixels.shape[3]
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def colour_differences(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Returns how far the mean colour of images x is from that of y (root mean square, levels), and their spread.

    x, y: [N, H, W, C].

    The second is the standard deviation of x over that of y, all channels together: above 1, contrast is too strong.
    """
    (mean_x, spread_x), (mean_y, spread_y) = colours(x), colours(y)
    far = float(np.sqrt(((mean_x - mean_y) ** 2).mean()))
    return far, float(np.sqrt((spread_x**2).sum() / max((spread_y**2).sum(), 1e-12)))


# --- blocks


def blockiness(pixels: np.ndarray) -> float:
    """Returns how much neighbours differ at boundaries of 2 x 2 blocks, over how much they differ inside of these.

    pixels: images [N, H, W, C].

    Mean |difference| between columns 2k + 1 and 2k + 2, over that between columns 2k and 2k + 1, and rows alike: 1
    for images without a grid.  Blocks of 2, 4 or 8 pixels, such as those of JPEG, raise it.
    """
    across, inside = np.zeros(2), np.zeros(2)
    for block in _blocks(pixels):
        for axis in (1, 2):
            steps = np.abs(np.diff(block, axis=axis)).swapaxes(0, axis)
            across += steps[1::2].sum(), steps[1::2].size
            inside += steps[0::2].sum(), steps[0::2].size
    return float((across[0] / across[1]) / max(inside[0] / inside[1], 1e-12))


# --- reference rows


def blurred(pixels: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """Returns images uint8 [N, H, W, C] blurred by a Gaussian of `sigma` pixels; edges are mirrored."""
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    found = []
    for block in _blocks(pixels):
        for axis in (1, 2):
            size = block.shape[axis]
            edges = [(reach, reach) if k == axis else (0, 0) for k in range(4)]
            padded = np.pad(block, edges, mode="symmetric")
            block = sum(weight * np.take(padded, range(k, k + size), axis=axis) for k, weight in enumerate(weights))
        found.append(np.rint(block).astype(np.uint8))
    return np.concatenate(found)


def noise_like(pixels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Returns `count` images of normal noise, with the mean and spread of each channel of images [N, H, W, C]."""
    mean, spread = colours(pixels)
    rng = np.random.default_rng(seed)
    found = np.empty((count, *pixels.shape[1:]), np.uint8)
    for image in found:
        values = rng.standard_normal(image.shape, np.float32) * spread.astype(np.float32) + mean.astype(np.float32)
        image[:] = np.rint(values).clip(0, 255)
    return found
