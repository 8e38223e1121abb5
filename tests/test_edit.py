"""Interpolation, variations, inpainting and inversion, with a denoiser whose exact answer is known."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from raising import raises_error
from torch import Tensor

from ddpm import schedules
from ddpm.config.model import DiffusionConfig, ModelConfig
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.diffusion.denoiser import Prediction
from ddpm.diffusion.process import at
from ddpm.diffusion.variances import fixed_small
from ddpm.errors import UserError
from ddpm.planning import inputs, timesteps
from ddpm.planning.resolve import resolve_process
from ddpm.sampling import editing, engine, samplers
from ddpm.sampling.request import resolve_request
from ddpm.sampling.samplers import ImageNoise
from ddpm.storage import image_files, images

FULL = schedules.named("cosine", 1000)
CONFIG = Config(model=ModelConfig(image_size=8, num_channels=32), diffusion=DiffusionConfig(noise_schedule="cosine"))
LENGTH = 0.9  # correlation of neighbours in the data


def covariance() -> Tensor:
    """[64, 64] of the pixels of a smooth 8 x 8 image: neighbours agree, so a hole can be filled from around it."""
    place = torch.arange(8)
    near = LENGTH ** (place[:, None] - place).abs().float()
    return 0.16 * torch.kron(near, near)


def smooth(x: Tensor, t: Tensor) -> Prediction:
    """E[x_0 | x_t] for images from N(0, covariance), channels by themselves."""
    abar = at(FULL.alphas_cumprod, t, x).flatten()[0]
    gain = abar.sqrt() * covariance() @ torch.linalg.inv(abar * covariance() + (1 - abar) * torch.eye(64))
    return Prediction((x.reshape(*x.shape[:2], 64) @ gain.T).reshape(x.shape))


def sampled_from_data(count: int) -> Tensor:
    root = torch.linalg.cholesky(covariance())
    return (torch.randn(count, 1, 64, generator=torch.Generator().manual_seed(3)) @ root.T).reshape(count, 1, 8, 8)


def walk(steps: int) -> schedules.Schedule:
    return schedules.respaced(FULL, schedules.space_timesteps(1000, str(steps)))


# --- interpolation


def test_slerp_stays_on_the_sphere_and_ends_at_its_ends() -> None:
    a, b = (torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    w = torch.linspace(0, 1, 5)
    between = editing.slerp(a, b, w)
    torch.testing.assert_close(between[0], a[0])
    torch.testing.assert_close(between[-1], b[-1])
    unit = lambda x: x / x.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)  # noqa: E731
    on_sphere = editing.slerp(unit(a), unit(b), w)
    torch.testing.assert_close(on_sphere.flatten(1).norm(dim=1), torch.ones(5))
    torch.testing.assert_close(editing.slerp(a, a, w), a)


def test_noise_between_two_seeds_is_noise() -> None:
    between = editing.Between(5, 9, [0.0, 0.3, 1.0])
    x = between.start((3, 64, 64))
    assert torch.equal(x[0], ImageNoise([5]).start((3, 64, 64))[0])
    assert torch.equal(x[2], ImageNoise([9]).start((3, 64, 64))[0])
    assert float(x[1].std()) == pytest.approx(1, abs=0.02)
    again = between(x)
    assert not torch.equal(again, x)
    assert float((again[1] * x[1]).mean()) == pytest.approx(0, abs=0.03), "fresh noise with every call"


def network(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
    return torch.tanh(2 * x - 0.001 * t[:, None, None, None])


@pytest.mark.parametrize("name", ["ddpm", "ddim", "unipc-3", "dpm++2m-sde"])
def test_an_interpolation_begins_and_ends_at_its_seeds(name: str) -> None:
    settings = SampleConfig(num_samples=5, task="interpolate", seed=3, to_seed=11, sampler=name, steps=6, batch_size=2)
    strip = torch.cat([d.step.x for d in engine.sample(network, resolve_request(CONFIG, settings)) if d.finished])
    for seed, place in ((3, 0), (11, 4)):
        one = SampleConfig(num_samples=1, seed=seed, sampler=name, steps=6)
        *_, alone = engine.sample(network, resolve_request(CONFIG, one))
        torch.testing.assert_close(strip[place], alone.step.x[0], atol=1e-4, rtol=0)
    jumps = (strip[1:] - strip[:-1]).flatten(1).norm(dim=1)
    assert float(jumps.max()) < 0.8 * float((strip[-1] - strip[0]).norm()), "it goes there by and by"


# --- variations


def test_a_variation_keeps_more_of_the_image_the_less_noise_there_is() -> None:
    pictures = sampled_from_data(16)
    away = []
    for strength in (0.1, 0.4, 0.8):
        settings = SampleConfig(task="vary", strength=strength, sampler="ddim", steps=20)
        schedule = engine.schedule_of(resolve_process(CONFIG, settings))
        noise = ImageNoise(range(16))
        *_, last = editing.vary(samplers.ddim, smooth, pictures, schedule, randn_like=noise)
        away.append(float(editing.rmse(last.x, pictures).mean()))
        assert float(last.x.std()) == pytest.approx(0.4, abs=0.1), "and looks like the data"
    assert away[0] < 0.6 * away[1] < 0.6 * away[2]


# --- inpainting


@pytest.mark.parametrize("sampler", [partial(samplers.ddpm, variance=fixed_small), samplers.ddim])
def test_inpainting_keeps_what_is_known(sampler: Any) -> None:
    pictures = sampled_from_data(8)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    for resample in (1, 3):
        moves = list(timesteps.repaint_moves(20, 3, resample))
        steps = list(editing.inpaint(sampler, smooth, pictures, mask, walk(20), moves, randn_like=ImageNoise(range(8))))
        assert [s.done for s in steps] == list(range(1, 20 * resample + 1))
        assert torch.equal(steps[-1].x * (1 - mask), pictures * (1 - mask)), "exactly"
        assert not torch.equal(steps[-1].x, pictures)


@pytest.mark.slow
def test_inpainting_fits_the_new_to_the_known() -> None:
    """With enough steps and resampling it is a draw from the exact answer, given the pixels around the hole."""
    pictures, mask = sampled_from_data(64), torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    hole, rest, full = mask.flatten().bool(), ~mask.flatten().bool(), covariance()
    weights = full[hole][:, rest] @ torch.linalg.inv(full[rest][:, rest])
    expected = pictures.reshape(64, 64)[:, rest] @ weights.T
    spread = float(torch.diagonal(full[hole][:, hole] - weights @ full[rest][:, hole]).mean().sqrt())
    sampler = partial(samplers.ddpm, variance=fixed_small)

    def error(steps: int, jump: int, resample: int) -> float:
        moves = list(timesteps.repaint_moves(steps, jump, resample))
        noise = ImageNoise(range(64))
        *_, last = editing.inpaint(sampler, smooth, pictures, mask, walk(steps), moves, randn_like=noise)
        return float((last.x.reshape(64, 64)[:, hole] - expected).square().mean().sqrt())

    once, again = error(25, 1, 1), error(25, 1, 8)
    assert again < 0.7 * once, "going through the steps again makes it fit"
    assert error(100, 5, 10) == pytest.approx(spread, rel=0.1)


# --- inversion


def test_a_image_comes_back_from_its_noise() -> None:
    pictures = sampled_from_data(16)
    schedule = walk(200)
    steps = list(editing.invert(smooth, pictures, schedule))
    assert [s.done for s in steps] == list(range(1, 401))
    assert {s.total for s in steps} == {400}
    noise = steps[199].x
    assert float(noise.std()) == pytest.approx(1, abs=0.15)
    back = [
        float(editing.rmse(list(editing.invert(smooth, pictures, walk(n)))[-1].x, pictures).mean())
        for n in (10, 40, 200)
    ]
    assert back[0] > 2 * back[1] > 4 * back[2], "the finer the steps the better"
    assert back[2] < 0.01


# --- from files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for k in range(3):
        images.save_png(tmp_path / "pictures" / f"{k}.png", rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    mask = np.zeros((8, 8, 1), np.uint8)
    mask[:, 4:] = 255
    images.save_png(tmp_path / "mask.png", mask)
    images.save_png(tmp_path / "black.png", np.zeros((8, 8, 1), np.uint8))
    images.save_png(tmp_path / "large.png", np.zeros((16, 12, 3), np.uint8))
    return tmp_path


def test_images_are_taken_in_turn_and_kept_where_the_mask_is_black(folder: Path) -> None:
    settings = SampleConfig(
        num_samples=5,
        task="inpaint",
        picture=str(folder / "pictures"),
        mask=str(folder / "mask.png"),
        steps=4,
        resample=2,
        batch_size=2,
    )
    sampled = engine.sample_images(network, resolve_request(CONFIG, settings))
    known = np.stack([np.asarray(image_files.load(folder / "pictures" / f"{k % 3}.png")) for k in range(5)])
    assert np.array_equal(sampled[:, :, :4], known[:, :, :4])
    assert not np.array_equal(sampled[0, :, 4:], sampled[3, :, 4:]), "another seed, another filling"
    one = SampleConfig(
        num_samples=1,
        seed=3,
        task="inpaint",
        picture=str(folder / "pictures/0.png"),
        mask=str(folder / "mask.png"),
        steps=4,
        resample=2,
    )
    assert np.array_equal(engine.sample_images(network, resolve_request(CONFIG, one))[0], sampled[3])


REFUSED: list[tuple[dict[str, str], str]] = [
    (
        dict(picture="large.png", task="vary"),
        "picture large.png has 12 x 16 pixels, and this model samples 8 x 8 pixels",
    ),
    (
        dict(picture="pictures/0.png", task="inpaint", mask="large.png"),
        "large.png has 12 x 16 pixels, and this model samples 8 x 8",
    ),
    (dict(picture="pictures/0.png", task="inpaint", mask="black.png"), "black.png is black everywhere"),
    (dict(picture="pictures/0.png", task="inpaint"), "mask is empty, and inpaint needs one"),
    (dict(picture="pictures/0.png", task="vary", mask="mask.png"), "mask.png was given, and the task is vary"),
    (dict(task="invert"), "picture is empty, and invert begins with one"),
    (dict(picture="pictures/0.png"), "0.png was given, and the task is draw"),
    (dict(picture="nothing.png", task="vary"), "nothing.png"),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSED)
def test_what_does_not_fit_is_said_in_one_sentence(folder: Path, values: dict[str, str], sentence: str) -> None:
    paths = {name: str(folder / value) if name in ("picture", "mask") else value for name, value in values.items()}
    with pytest.raises(UserError) as caught:
        inputs.read(CONFIG, SampleConfig(steps=4, **paths))  # type: ignore[arg-type]
    assert sentence in str(caught.value)
    assert str(caught.value).count(". ") == 0


def test_an_enlarging_model_begins_with_small_images_only(folder: Path) -> None:
    config = Config(model=ModelConfig(image_size=8, small_size=4, num_channels=32))
    with raises_error("not-applicable"):
        inputs.read(config, SampleConfig(task="vary", picture=str(folder / "pictures"), base_samples="x"))
