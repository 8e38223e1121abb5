"""All figures of a set of samples, and the same of sets whose quality is known: real images, noise, blurred ones.

for done in measure(samples, reference, real, load()):
    print(done.done, done.total)
found = done.panel
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ddpm.quality import coverage, distances, pixels
from ddpm.quality.distances import Measure
from ddpm.quality.features import FeatureNet

VERSION = 3  # of how figures are computed: those of different versions are not compared
PART = 500  # images whose features are computed between two reports of progress


class Row(NamedTuple):
    """The figures of one set of images."""

    name: str  # samples, real, noise or blurred
    n: int
    figures: dict[str, Measure | float]


class Panel(NamedTuple):
    """The figures of all sets against one reference."""

    rows: list[Row]
    reference: dict[str, float]  # figures of the reference itself
    spectra: dict[str, list[float]]  # mean power in 16 bands of frequency, of each row and of the reference
    nearness: float  # Fréchet distance of the reference from CIFAR-10's test images


class Progress(NamedTuple):
    """Images whose features are done, and figures, each counted as one."""

    done: int
    total: int
    panel: Panel | None = None  # at the end


def measure(
    samples: np.ndarray, reference: np.ndarray, real: np.ndarray, net: FeatureNet, seed: int = 0
) -> Iterator[Progress]:
    """Measures samples uint8 [N, H, W, C] against reference images [M, H, W, C].

    real: images [n, H, W, C] of the same kind as the reference, none of them in it; the row of what is best possible.
    """
    noise = pixels.noise_like(reference, len(samples), seed)
    sets = {"samples": samples, "real": real, "noise": noise, "blurred": pixels.blurred(real)}
    total = sum(map(len, sets.values())) + len(reference) + len(sets) * EACH
    done = 0
    found: dict[str, np.ndarray] = {}
    for name, images in {"reference": reference, **sets}.items():
        parts = []
        for start in range(0, len(images), PART):
            parts.append(net.features(images[start : start + PART]))
            done += len(parts[-1])
            yield Progress(done, total)
        found[name] = np.concatenate(parts)
    against = _Against(reference, found["reference"], seed)
    rows = []
    for name, images in sets.items():
        rows.append(Row(name, len(images), against.figures(images, found[name], name in ("samples", "real"))))
        done += EACH
        if done < total:
            yield Progress(done, total)
    spectra = {name: pixels.spectrum(images).tolist() for name, images in {**sets, "reference": reference}.items()}
    its = {"blockiness": pixels.blockiness(reference)}
    yield Progress(total, total, Panel(rows, its, spectra, net.nearness(found["reference"])))


EACH = 1000  # how many images the figures of a row count as


class _Against:
    """A reference, with what is computed of it once."""

    def __init__(self, reference: np.ndarray, found: np.ndarray, seed: int):
        self.pixels, self.features, self.seed = reference, found, seed
        self.sums = distances.kernel_sums(found)
        self.patches = pixels.patch_quantiles(reference, seed)

    def figures(self, x: np.ndarray, of_x: np.ndarray, intervals: bool) -> dict[str, Measure | float]:
        """The figures of images x, whose features are of_x.  intervals: of the Fréchet distance too."""
        y, of_y, seed = self.pixels, self.features, self.seed
        equal = min(len(x), len(y))
        # Of more, any: existing images may lie in the order of their classes.  The reference is in random order.
        some = np.random.default_rng(seed).permutation(len(x))[:equal] if equal < len(x) else slice(None)
        covered = coverage.coverage(of_x[some], of_y[:equal])
        fine, coarse = pixels.patch_distances(pixels.patch_quantiles(x, seed), self.patches)
        colour, spread = pixels.colour_differences(x, y)
        return {
            "fd": distances.frechet_distance(of_x, of_y, seed, distances.RESAMPLES if intervals else 0),
            "fd_infinity": distances.frechet_at_infinity(of_x, of_y, seed, intervals),
            "kd": distances.kernel_distance(of_x, of_y, self.sums),
            "density": covered.density,
            "coverage": covered.coverage,
            "patches_fine": fine,
            "patches_coarse": coarse,
            "spectrum": pixels.spectrum_distance(x, y),
            "colour": colour,
            "spread": spread,
            "blockiness": pixels.blockiness(x),
        }


def as_json(panel: Panel) -> dict[str, Any]:
    """Returns the panel as it is recorded: a figure is [value, low, high]; without an interval, these are None."""
    rows = [
        {
            "name": row.name,
            "n": row.n,
            "figures": {
                name: list(value) if isinstance(value, Measure) else [value, None, None]
                for name, value in row.figures.items()
            },
        }
        for row in panel.rows
    ]
    return {"rows": rows, "reference": panel.reference, "spectra": panel.spectra, "nearness": panel.nearness}
