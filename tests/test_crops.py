"""Random crops: which squares are cut, of images that are kept as they should be, and that training resumes exactly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm.config import codec
from ddpm.config.model import ModelConfig
from ddpm.config.training import Config, DataConfig
from ddpm.data import crops, datasets
from ddpm.data.crops import Scaled
from ddpm.data.stream import Stream
from ddpm.storage import images
from ddpm.training import held_out
from ddpm.training.trainer import Trainer

SIZES = [(40, 30), (20, 24), (16, 16), (200, 20), (17, 90)]  # width, height
MODEL = ModelConfig(image_size=16)


def folder_of(path: Path, sizes: list[tuple[int, int]] = SIZES) -> Path:
    """Images whose colours say where a pixel is: red from left to right, green from top to bottom, blue which one."""
    path.mkdir()
    for k, (width, height) in enumerate(sizes):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[..., 0] = np.linspace(0, 240, width).astype(np.uint8)
        pixels[..., 1] = np.linspace(0, 240, height).astype(np.uint8)[:, None]
        pixels[..., 2] = 20 * k
        Image.fromarray(pixels).save(path / f"{k:02}.png")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "pictures")


def opened(folder: Path, **settings: object) -> datasets.Dataset:
    return datasets.open_dataset(DataConfig(data_dir=str(folder), crop="random", **settings), MODEL, training=True)


def scaled_of(dataset: datasets.Dataset) -> Scaled:
    assert dataset.scaled is not None
    return dataset.scaled


def test_images_are_kept_a_little_larger_and_no_wider_than_twice(folder: Path) -> None:
    scaled = scaled_of(opened(folder))
    # The shorter side has 20 pixels, or as many as there are.
    assert scaled.sizes.tolist() == [[20, 27], [24, 20], [16, 16], [20, 40], [34, 17]]
    for k in range(len(SIZES)):
        image = scaled.image(k)
        assert image.shape == (*scaled.sizes[k], 3)
        assert (image[..., 2] == 20 * k).all()
    untouched = np.asarray(Image.open(folder / "01.png"))
    assert np.array_equal(scaled.image(1), untouched)
    wide = scaled.image(3)[0, :, 0].astype(int)
    assert (wide[0], wide[-1]) == pytest.approx((96, 144), abs=4), "the middle fifth of ten times its height"


def test_a_crop_of_all_pixels_is_a_part_of_the_image(folder: Path) -> None:
    scaled, numbers = scaled_of(opened(folder)), np.array([1, 2, 1, 1])
    random = np.array([[0, 0, 0], [0.99, 0.99, 0.99], [0, 0.999, 0.999], [0, 0.5, 0]])
    found = scaled.crops(numbers, random, 16)
    whole = scaled.image(1)
    assert np.array_equal(found[0], whole[:16, :16])
    assert np.array_equal(found[1], scaled.image(2)), "there is one crop of an image of that size"
    assert np.array_equal(found[2], whole[-16:, -16:])
    assert np.array_equal(found[3], whole[4:20, :16])


def test_the_largest_crop_is_the_shorter_side(folder: Path) -> None:
    scaled = scaled_of(opened(folder))
    (found,) = scaled.crops(np.array([0]), np.array([[0.999, 0, 0.5]]), 16)
    square = scaled.image(0)[:, 4:24]
    expected = images.from_pixels(square).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(found, np.asarray(expected))


def test_crops_reach_every_margin_and_differ_by_epoch(folder: Path) -> None:
    dataset = opened(folder)
    stream = Stream(dataset, seed=0)
    pixels = np.concatenate([stream.next(5)[0] for _ in range(200)])
    of_first = pixels[np.abs(pixels[..., 2].mean(axis=(1, 2))) < 2].astype(int)
    assert len(of_first) == 200
    assert of_first[..., 0].min() < 8
    assert of_first[..., 0].max() > 232
    assert of_first[..., 1].min() < 12
    assert of_first[..., 1].max() > 228
    assert len(np.unique(of_first[:, 0, 0, :2], axis=0)) > 30
    spans = of_first[:, -1, 0, 1] - of_first[:, 0, 0, 1]
    assert spans.min() == pytest.approx(240 * 15 / 19, abs=8), "four fifths of the height are the least"
    assert spans.max() > 225


def test_order_flips_and_held_out_images_are_those_without(folder: Path) -> None:
    dataset = opened(folder, hold_out=0.3)
    plain = datasets.open_dataset(DataConfig(data_dir=str(folder), hold_out=0.3), MODEL)
    assert dataset.digest == plain.digest
    assert np.array_equal(dataset.indices, plain.indices)
    assert np.array_equal(dataset.images, plain.images)
    shades = [Stream(d, 3, random_flip=True).next(20)[0][..., 2].mean(axis=(1, 2)) for d in (dataset, plain)]
    np.testing.assert_allclose(*shades, atol=2)
    for split in ("test", "all"):
        assert (
            datasets.open_dataset(DataConfig(str(folder), crop="random", hold_out=0.3), MODEL, split=split).scaled
            is None
        )


@pytest.mark.parametrize("batches", [(3, 4, 5), (1, 11), (12,)])
def test_a_stream_goes_on_where_it_was(folder: Path, batches: tuple[int, ...]) -> None:
    dataset = opened(folder)
    straight = Stream(dataset, 5, random_flip=True).next(24)[0]
    stream = Stream(dataset, 5, random_flip=True)
    first = [stream.next(n)[0] for n in batches]
    resumed = Stream(dataset, 5, random_flip=True, position=stream.position)
    assert np.array_equal(np.concatenate([*first, resumed.next(12)[0]]), straight)
    halves = [Stream(dataset, 5, random_flip=True).next(24, part)[0] for part in (slice(0, 12), slice(12, 24))]
    assert np.array_equal(np.concatenate(halves), straight), "two processes share the batch"


@pytest.mark.usefixtures("one_thread")
def test_a_training_resumes_exactly(folder: Path, tiny: Config) -> None:
    settings = dict(data_dir=str(folder), crop="random", image_size=16, augment=0.3)
    config = datasets.resolve(codec.replace(tiny, settings))
    dataset = datasets.open_dataset(config.data, config.model, training=True)
    whole = Trainer(config, dataset)
    list(whole.steps(6))
    first = Trainer(config, dataset)
    list(first.steps(3))
    saved = first.weights(), first.optimizer.state_dict(), first.state()
    second = Trainer(config, dataset)
    second.load(*saved)
    list(second.steps(6))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, second.parameters, strict=True))


def test_where_there_is_no_room_it_is_said(tmp_path: Path) -> None:
    same = opened(folder_of(tmp_path / "same", [(16, 16), (16, 16)]))
    assert len(same.notices) == 1 + len(opened(folder_of(tmp_path / "other", [(16, 17), (16, 16)])).notices)


def test_a_broken_image_is_left_out_of_both(folder: Path) -> None:
    (folder / "01.png").write_bytes(b"no picture")
    dataset = opened(folder, skip_broken=True)
    assert len(dataset.images) == len(scaled_of(dataset).sizes) == 4
    assert scaled_of(dataset).image(1)[0, 0, 2] == 40


def test_the_kept_images_are_made_once_and_again_if_they_change(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    fill: Callable[..., Scaled] = crops._fill
    monkeypatch.setattr(crops, "_fill", lambda *given: made.append(1) or fill(*given))
    opened(folder)
    opened(folder)
    assert len(made) == 1
    folder_of(folder / "more", [(30, 30)])
    assert len(scaled_of(opened(folder)).sizes) == 6
    assert len(made) == 2
    assert len(list((own_cache / "images").glob("*crops*.raw"))) == 1, "what they replace is removed"


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_images(folder: Path, channels: int) -> None:
    model = ModelConfig(image_size=16, image_channels=channels)
    dataset = datasets.open_dataset(DataConfig(data_dir=str(folder), crop="random"), model, training=True)
    pixels, _ = Stream(dataset, 0).next(10)
    assert pixels.shape == (10, 16, 16, channels)
    assert channels == 1 or (pixels[..., 3] == 255).all()


def test_the_loss_that_shows_memorising_compares_middles(folder: Path, tiny: Config) -> None:
    dataset, plain = opened(folder), datasets.open_dataset(DataConfig(data_dir=str(folder)), MODEL)
    found = [held_out._chosen(data, 5, tiny, None, "sorted").pixels for data in (dataset, plain)]
    assert np.array_equal(*found)
