"""Augmentation on which the network is conditioned: what is done to images, and that nothing of it leaks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from raising import raises_error

from ddpm.checkpoints import infer_config
from ddpm.compute import distributed
from ddpm.config import codec
from ddpm.config.model import AUGMENTED, ModelConfig
from ddpm.config.training import Config
from ddpm.data import augment, datasets
from ddpm.interop import export_openai
from ddpm.models import unet
from ddpm.runs.runs import Run
from ddpm.storage import images
from ddpm.training.trainer import Trainer

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def rows(*done: tuple[float, float, float]) -> np.ndarray:
    return np.array(done, np.float32)


def test_a_mirrored_image_and_a_shifted_one() -> None:
    done = rows((1, 0, 0), (0, 1, 0), (0, 0, -0.5))
    found = augment.applied(PIXELS, done)
    assert np.array_equal(found[0], PIXELS[0, :, ::-1])
    assert np.array_equal(found[1][:, 2:], PIXELS[1][:, :-2])
    assert np.array_equal(found[1][:, :2], PIXELS[1][:, 2:0:-1]), "the margin is the image, reflected"
    assert np.array_equal(found[2][:-1], PIXELS[2][1:])
    assert np.array_equal(found[2][-1], PIXELS[2][-2])


def test_a_mirrored_image_is_shifted_afterwards() -> None:
    both = augment.applied(PIXELS, rows(*[(1, 0.5, 1)] * 3))
    one_by_one = augment.applied(augment.applied(PIXELS, rows(*[(1, 0, 0)] * 3)), rows(*[(0, 0.5, 1)] * 3))
    assert np.array_equal(both, one_by_one)


def test_what_is_said_to_be_nothing_is_nothing() -> None:
    assert np.array_equal(augment.applied(PIXELS, rows(*[(0, 0, 0)] * 3)), PIXELS)


@pytest.mark.parametrize("size", [8, 30, 32, 64])
def test_how_often_and_how_far(size: int) -> None:
    done = augment.drawn(np.random.default_rng(1).random((20_000, augment.DRAWS)), 0.2, size)
    assert done.shape == (20_000, AUGMENTED)
    most = augment.reach(size)
    assert most / size == pytest.approx(1 / 8, abs=0.02)
    shifts = done[:, 1:].astype(float) * most
    np.testing.assert_allclose(shifts, np.rint(shifts), atol=1e-5)
    assert done[:, 0].mean() == pytest.approx(0.2, abs=0.01)
    moved = done[:, 1:].any(axis=1)
    assert moved.mean() == pytest.approx(0.2 * (1 - (2 * most + 1) ** -2), abs=0.01)
    assert np.corrcoef(moved, done[:, 0])[0, 1] == pytest.approx(0, abs=0.03)
    for direction in shifts[moved].T:
        assert {*np.rint(direction)} == {*range(-most, most + 1)}


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_never_and_always(chance: float) -> None:
    done = augment.drawn(np.random.default_rng(1).random((500, augment.DRAWS)), chance, 32)
    assert done[:, 0].mean() == chance
    assert done[:, 1:].any() == (chance == 1)


@pytest.fixture
def config(tiny: Config) -> Config:
    settings = dict(augment=0.5, image_size=16, class_cond=True, dropout=0.1, lr=1e-3, batch_size=16)
    return datasets.resolve(codec.replace(tiny, settings))


def trainer(config: Config) -> Trainer:
    return Trainer(config, datasets.open_dataset(config.data, config.model))


def test_a_sample_is_drawn_by_the_network_without_augmentation(config: Config) -> None:
    """Nothing is told to it, or that nothing was done: both are the network that lacks these weights."""
    torch.manual_seed(0)
    told = unet.build(config.model).eval()
    for parameter in told.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    plain = unet.build(codec.replace(config, {"augment": 0.0}).model).eval()
    lacking = plain.load_state_dict(told.state_dict(), strict=False)
    assert (lacking.missing_keys, lacking.unexpected_keys) == ([], ["augment_emb.weight"])
    x, t, y = torch.randn(2, 3, 16, 16), torch.tensor([1.0, 9.0]), torch.tensor([0, 1])
    with torch.no_grad():
        expected = plain(x, t, y)
        assert torch.equal(told(x, t, y), expected)
        assert torch.equal(told(x, t, y, augmented=torch.zeros(2, AUGMENTED)), expected)
        for place in range(AUGMENTED):
            assert not torch.allclose(told(x, t, y, augmented=torch.eye(AUGMENTED)[[place] * 2]), expected)


@pytest.mark.parametrize("small_size", [0, 4])
def test_the_network_is_told_what_was_done(config: Config, small_size: int) -> None:
    config = codec.replace(config, {"small_size": small_size})
    training, plain = trainer(config), trainer(codec.replace(config, {"augment": 0.0}))
    batch, untouched = training.next_batch(), plain.next_batch()
    assert batch.augmented is not None
    assert untouched.augmented is None
    assert batch.augmented[:, 0].any()
    assert batch.augmented[:, 1:].any()
    pixels = images.to_uint8(untouched.x_start.numpy() + 0.5 / 127.5)
    done = augment.applied(pixels, batch.augmented.numpy())
    assert np.array_equal(images.to_float(done), batch.x_start.numpy())
    if small_size:
        assert batch.low_res is not None
        assert torch.equal(batch.low_res, F.interpolate(batch.x_start, (4, 4), mode="area"))


@pytest.mark.usefixtures("one_thread")
def test_a_resumed_training_augments_as_it_would_have(config: Config) -> None:
    whole = trainer(config)
    list(whole.steps(6))
    first = trainer(config)
    list(first.steps(3))
    saved = first.weights(), first.optimizer.state_dict(), first.state()
    second = trainer(config)
    second.load(*saved)
    list(second.steps(6))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, second.parameters, strict=True))
    assert whole.model.augment_emb.weight.grad.any()


@pytest.mark.parametrize("settings", [dict(), dict(patch_size=2), dict(small_size=4)])
def test_a_file_without_settings_shows_it(config: Config, settings: dict[str, Any]) -> None:
    model = codec.replace(config, {"augment": 0.3, **settings}).model
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in unet.build(model).state_dict().items()}
    assert ModelConfig(**infer_config.model_settings(shapes, "", 16)).augment > 0
    assert not infer_config.fitting_flags(shapes, model)
    flags = infer_config.fitting_flags(shapes, codec.replace(Config(model=model), {"augment": 0.0}).model)
    assert flags == ["--augment", str(infer_config.AUGMENTED)]


def test_improved_diffusion_cannot_be_told(fake_run: Callable[..., Run], tmp_path: Path) -> None:
    with raises_error("not-exportable", "augment"):
        export_openai.export_checkpoint(fake_run("told", augment=0.2), tmp_path / "back")


def test_two_processes_share_what_one_draws(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trainer(codec.replace(config, {"batch_size": 6})).next_batch()
    parts = []
    for rank in (0, 1):
        half = trainer(codec.replace(config, {"batch_size": 3}))
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "world_size", lambda: 2)
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            parts.append(half.next_batch())
    for name in ("x_start", "augmented", "noise", "t"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts])), name
