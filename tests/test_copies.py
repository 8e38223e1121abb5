"""Copies of training images: planted ones are found, and unseen images are not taken for copies."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.data import distances
from ddpm.data.datasets import Dataset
from ddpm.errors import UserError
from ddpm.quality import copies, memorisation
from ddpm.storage import arrays

CIFAR = Path(__file__).parents[1] / "ddpm" / "assets" / "cifar10_mini.npz"


def compressed(image: np.ndarray, quality: int = 75) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def shifted(pixels: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """By a pixel, with the outermost row and column repeated."""
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    size = pixels.shape[1]
    return padded[:, 1 + dy : 1 + dy + size, 1 + dx : 1 + dx + size]


PLANTED = {
    "exact": lambda x: x,
    "mirrored": lambda x: x[:, :, ::-1],
    "shifted": lambda x: shifted(x, 1, 0),
    "shifted diagonally": lambda x: shifted(x[:, :, ::-1], -1, 1),
    "recompressed": lambda x: np.stack([compressed(image) for image in x]),
    "recompressed to half": lambda x: np.stack([compressed(image, 50) for image in x]),
    "brightened": lambda x: (x * 1.25).clip(0, 255).astype(np.uint8),
    "shifted in brightness": lambda x: (x.astype(int) + 30).clip(0, 255).astype(np.uint8),
    "darkened": lambda x: (x * 0.7).astype(np.uint8),
}


class Cifar:
    """600 images as training images, 200 that decide the threshold, 200 more."""

    def __init__(self) -> None:
        with CIFAR.open("rb") as file:
            pixels = arrays.read_npz(file)["images"]
        self.training, self.unseen, self.fresh = np.split(pixels, [600, 800])
        self.references = copies.References(Dataset(self.training, None, (), ()))
        self.threshold = copies.calibrate(self.references.nearest(self.unseen).scores)


@pytest.fixture(scope="module")
def cifar() -> Cifar:
    return Cifar()


@pytest.mark.parametrize("how", PLANTED)
def test_planted_copies_are_found(cifar: Cifar, how: str) -> None:
    planted = PLANTED[how](cifar.training[:100])
    found = cifar.references.nearest(planted)
    assert (found.scores < cifar.threshold).mean() >= 0.95
    assert (found.numbers == np.arange(100)).mean() >= 0.98
    if how in ("mirrored", "exact"):
        assert found.distances.max() == 0
        assert (found.mirrored == (how == "mirrored")).mean() >= 0.98, "few images are symmetric"


def test_unseen_images_are_no_copies(cifar: Cifar) -> None:
    assert (cifar.references.nearest(cifar.unseen).scores < cifar.threshold).mean() <= 0.01
    assert (cifar.references.nearest(cifar.fresh).scores < cifar.threshold).mean() <= 0.01


def test_without_unseen_images_training_images_are_compared_with_the_others(cifar: Cifar) -> None:
    places = np.arange(0, 600, 3)
    alone = cifar.references.nearest_others(places)
    assert not (alone.numbers == cifar.references.numbers[places]).any()
    threshold = copies.calibrate(alone.scores)
    assert (cifar.references.nearest(cifar.fresh).scores < threshold).mean() <= 0.01
    assert (cifar.references.nearest(PLANTED["shifted"](cifar.training[:100])).scores < threshold).mean() >= 0.95


def test_duplicates_in_the_training_images_hide_no_copy(cifar: Cifar) -> None:
    """Neither exact ones, nor ones that are compressed or mirrored anew."""
    first = cifar.training[:50]
    again = [first, first, np.stack([compressed(image) for image in first]), first[:, :, ::-1]]
    references = copies.References(Dataset(np.concatenate([cifar.training, *again]), None, (), ()))
    assert references.duplicates == 100
    assert len(references.different) == 700
    assert (references.different.images[references.different.indices[:600]] == cifar.training).all()
    scores = references.nearest(PLANTED["brightened"](first)).scores
    assert (scores < cifar.threshold).mean() >= 0.95
    assert (distances.nearest_to_each(references.different, first, 1).distances == 0).all()


def test_a_split_names_images_by_their_number_in_it(cifar: Cifar) -> None:
    data = Dataset(cifar.training, None, (), (), indices=np.arange(1, 600, 2))
    chosen = np.arange(100, 200)
    found = copies.References(data, chosen).nearest(cifar.training[1 + 2 * chosen[:20]])
    assert (found.numbers == chosen[:20]).all()


@pytest.mark.parametrize("shape", [(8, 8, 3), (3, 3, 3), (28, 28, 1), (64, 64, 3), (100, 100, 3), (16, 16, 4)])
def test_images_of_any_size(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (40, *shape), dtype=np.uint8)
    pixels = np.stack([image[:, ::-1] // 2 + image // 4 for image in small])
    found = copies.References(Dataset(pixels, None, (), ())).nearest(np.concatenate([pixels[:5] // 2, small[:5]]))
    assert (found.numbers[:5] == np.arange(5)).all()
    assert (found.scores[:5] < 0.2).all()
    assert np.isfinite(found.scores).all()


def test_noise_and_images_of_one_colour_are_no_copies(cifar: Cifar) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    flat = np.full((1, 32, 32, 3), 90, np.uint8)
    assert (cifar.references.nearest(np.concatenate([noise, flat])).scores >= copies.HIGHEST).all()
    with_flat = copies.References(Dataset(np.concatenate([cifar.training, flat]), None, (), ()))
    assert with_flat.nearest(flat + 20).scores[0] >= copies.HIGHEST


def test_too_few_images_are_refused() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(UserError) as refused:
        copies.References(Dataset(np.repeat(pixels[:1], 5, axis=0), None, (), ()))
    assert refused.value.code == "too-few-images"
    two = copies.References(Dataset(pixels, None, (), ()))
    assert two.nearest(pixels).numbers.tolist() == [0, 1]
    with pytest.raises(UserError) as refused:
        two.nearest_others(np.arange(2))
    assert refused.value.code == "too-few-images"


def test_the_threshold_lets_few_unseen_images_through() -> None:
    scores = np.random.default_rng(0).uniform(0.1, 1, 2000)
    assert (scores < copies.calibrate(scores)).sum() == 10
    assert (scores[:50] < copies.calibrate(scores[:50])).sum() == 0
    assert copies.calibrate(np.full(10, 0.9)) == copies.HIGHEST


def test_intervals_of_shares() -> None:
    """Against the worked example of Newcombe 1998, Table II: 56/70 - 48/80."""
    assert copies.share(0, 20) == pytest.approx((0, 0, 0.1611), abs=1e-4)
    assert copies.share(56, 70) == pytest.approx((0.8, 0.6918, 0.8770), abs=1e-3)
    assert copies.excess(56, 70, 48, 80) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    low, high = copies.excess(10, 2000, 10, 2000)[1:]
    assert low < 0 < high


def test_the_nearest_of_many_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    data = Dataset(rng.integers(0, 256, (300, 8, 8, 3), dtype=np.uint8), None, (), (), indices=np.arange(0, 300, 2))
    pixels = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    found = distances.nearest_to_each(data, pixels, 4)
    for k, image in enumerate(pixels):
        shown = data.images[::2].astype(float)
        both = np.stack([np.square(shown - one).mean(axis=(1, 2, 3)) for one in (image, image[:, ::-1])])
        order = np.argsort(both.min(axis=0))[:4]
        assert found.numbers[k].tolist() == order.tolist()
        assert found.distances[k] == pytest.approx(np.sqrt(both.min(axis=0)[order]))
        assert found.flipped[k].tolist() == (both[1] < both[0])[order].tolist()
    assert distances.nearest_to_each(data, data.images[:3], 1000).numbers.shape == (3, 150)


def copied_samples(cifar: Cifar) -> np.ndarray:
    """20 copies among 100 samples, which are otherwise like unseen images."""
    return np.concatenate(
        [PLANTED["shifted"](cifar.training[:10]), PLANTED["exact"](cifar.training[10:20]), cifar.fresh[:80]]
    )


@pytest.mark.parametrize("held_out", [True, False])
def test_an_evaluation_counts_copies(cifar: Cifar, held_out: bool) -> None:
    training, unseen = Dataset(cifar.training, None, (), ()), Dataset(cifar.unseen, None, (), ())
    *steps, last = memorisation.measure(copied_samples(cifar), training, unseen if held_out else None)
    assert all(step.found is None and step.done <= step.total for step in steps)
    assert last.found is not None
    found, pairs = last.found
    assert found.checked == 100
    assert 19 <= found.copied <= 21
    assert (found.unseen, found.held_out) == ((200, True) if held_out else (600, False))
    assert found.unseen_copied <= 0.01 * found.unseen
    assert found.excess is not None
    assert found.excess[1] < 0.2 < found.excess[2]
    assert found.by_pixels is not None
    assert found.by_pixels[0] >= 10, "the exact ones"
    assert found.by_pixels[1] <= 0.02 * found.unseen
    first = found.pairs[:19]
    assert all(pair.copied and pair.sample == pair.training for pair in first)
    for k, pair in enumerate(first):
        assert (pairs.training[k] == cifar.training[pair.training]).all()


def test_unseen_images_that_were_seen_do_not_hide_copies() -> None:
    """A folder that was doubled by mirroring, of which some images were held out: their doubles are in the training."""
    rng = np.random.default_rng(0)
    images = np.repeat(np.repeat(rng.integers(0, 256, (600, 8, 8, 3), dtype=np.uint8), 2, axis=1), 2, axis=2)
    training = np.concatenate([images[:300], images[:100, :, ::-1]])
    held_out = np.concatenate([images[:20, ::1, ::-1], images[300:560]])
    samples = np.concatenate([images[100:110], images[590:]])
    *_, last = memorisation.measure(samples, Dataset(training, None, (), ()), Dataset(held_out, None, (), ()))
    assert last.found is not None
    found = last.found[0]
    assert (found.unseen, found.unseen_copied, found.held_out) == (260, 0, True)
    assert (found.checked, found.copied) == (20, 10)

    few = Dataset(held_out[-30:], None, (), ())
    *_, last = memorisation.measure(samples, Dataset(images[:300], None, (), ()), few)
    assert last.found is not None
    assert (last.found[0].unseen, last.found[0].held_out, last.found[0].copied) == (300, False, 10)


def test_where_every_image_has_a_double_nothing_is_usual() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    doubled = Dataset(np.concatenate([images, images[:, :, ::-1]]), None, (), ())
    with pytest.raises(UserError) as refused:
        list(memorisation.measure(images[:5], doubled, None))
    assert refused.value.code == "too-few-images"
