"""Patches: squares of pixels are channels of the U-Net, and pixels again behind it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from raising import raises_error

from ddpm.api.model import Model
from ddpm.checkpoints import infer_config
from ddpm.config import codec, validation
from ddpm.config.model import ModelConfig
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.interop import export_openai
from ddpm.models import backend, unet
from ddpm.models.native import build
from ddpm.models.unet import UNet
from ddpm.planning import architecture, memory
from ddpm.runs.runs import Run
from ddpm.training.trainer import Trainer

SMALL = dict(
    image_size=16, patch_size=2, num_channels=32, num_res_blocks=1, channel_mult="1,2", attention_resolutions="8"
)
T = torch.tensor([3.0, 700.0])


def small(**settings: object) -> ModelConfig:
    return ModelConfig(**{**SMALL, **settings})


def woken(config: ModelConfig) -> UNet:
    """A network with random weights where a fresh one has zeros."""
    model, rng = unet.build(config), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng) * 0.05
    return model.eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_a_patch_is_channels_and_pixels_again(x: torch.Tensor) -> None:
    model = unet.build(small())
    patches = model.to_patches(x)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert torch.equal(patches[:, 4 + 2 * i + j], x[:, 1, i::2, j::2])
    assert torch.equal(model.to_pixels(patches), x)


def test_it_is_a_u_net_of_so_many_channels_with_its_names(x: torch.Tensor) -> None:
    """And learned variances are the second half of the channels of an image, as without patches."""
    patched = woken(small(learn_sigma=True))
    inside = woken(small(patch_size=1, image_size=8, image_channels=12, learn_sigma=True))
    inside.load_state_dict(patched.state_dict())
    with torch.no_grad():
        mean, variance = patched(x, T).chunk(2, dim=1)
        expected = inside(F.pixel_unshuffle(x, 2), T).chunk(2, dim=1)
    assert torch.equal(mean, F.pixel_shuffle(expected[0], 2))
    assert torch.equal(variance, F.pixel_shuffle(expected[1], 2))


def test_the_small_image_comes_before_the_patches(x: torch.Tensor) -> None:
    low_res = x[:, :, ::4, ::4]
    model, plain = woken(small(small_size=4)), woken(small(image_channels=6, image_size=16))
    plain.input_blocks.load_state_dict(model.input_blocks.state_dict())
    enlarged = F.interpolate(low_res, (16, 16), mode="bilinear")
    first = plain.input_blocks[0](plain.to_patches(torch.cat([x, enlarged], dim=1)), [])
    seen = []
    model.input_blocks[0].register_forward_hook(lambda *given: seen.append(given[-1]))
    with torch.no_grad():
        assert model(x, T, low_res=low_res).shape == x.shape
    assert torch.equal(seen[0], first)


def test_the_path_at_full_resolution_is_added_and_is_learnt(x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(patch_skip_channels=8, learn_sigma=True)
    fresh = unet.build(config)
    assert not fresh(x, T).any()
    (fresh(x, T) - 1).square().sum().backward()
    assert fresh.out[2].weight.grad.any()
    assert fresh.edge_out.weight.grad.any(), "both grow from the first step on, though both begin at zero"
    model, seen = woken(config), []
    monkeypatch.setattr(model, "to_pixels", lambda inside: seen.append(inside) or F.pixel_shuffle(inside, 2))
    with torch.no_grad():
        output = model(x, T)
        plain, features = F.pixel_shuffle(seen[0], 2).split([6, 8], dim=1)
        path = model.edge_out(F.silu(model.edge_in(x) + features))
        torch.testing.assert_close(output, plain + path, rtol=0, atol=1e-5)
        model.edge_out.weight.zero_()
        model.edge_out.bias.zero_()
        assert torch.equal(model(x, T), plain)


@pytest.mark.parametrize("patch_skip_channels", [0, 24])
@pytest.mark.parametrize(("precision", "apart"), [("fp32", 1e-5), ("bf16", 3e-2)])
def test_kernels_compute_the_same(x: torch.Tensor, precision: str, apart: float, patch_skip_channels: int) -> None:
    library = build.found().library
    if library is None:
        pytest.skip(build.found().why)
    model = woken(small(num_channels=64, patch_skip_channels=patch_skip_channels))
    found = []
    for kernels, chosen in (("torch", None), ("native", library)):
        name = "fp32" if kernels == "torch" else precision
        network = backend.ComputeMode(torch.device("cpu"), name, kernels, chosen, ()).prepared(model)
        model.zero_grad()
        output = network(x, T)
        output.square().mean().backward()
        assert output.dtype == torch.float32
        assert output.is_contiguous()
        found.append([output.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= apart * one.norm() + 1e-6


def test_sixty_four_pixels_in_patches_cost_what_thirty_two_do() -> None:
    plain = ModelConfig(image_size=32, num_channels=64)
    patched = ModelConfig(image_size=64, num_channels=64, patch_size=2)
    assert (patched.multipliers, patched.map_size) == (plain.multipliers, 32)
    assert architecture.flops(patched) < 1.01 * architecture.flops(plain)
    for how in (memory.TORCH, memory.ExpectedMode(True, 4)):
        assert memory.activation_bytes(patched, how) == pytest.approx(memory.activation_bytes(plain, how), rel=0.01)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("learn_sigma", [False, True])
def test_it_learns_samples_and_goes_on_exactly(tiny: Config, learn_sigma: bool) -> None:
    settings = dict(
        patch_size=2,
        patch_skip_channels=8 * learn_sigma,
        class_cond=True,
        dropout=0.1,
        prediction="v",
        learn_sigma=learn_sigma,
        lr=1e-3,
    )
    config = datasets.resolve(codec.replace(tiny, settings))
    dataset = datasets.open_dataset(config.data, config.model)
    whole = Trainer(config, dataset)
    *_, last = whole.steps(6)
    assert last.applied
    first = Trainer(config, dataset)
    list(first.steps(3))
    saved = first.weights(), first.optimizer.state_dict(), first.state()
    second = Trainer(config, dataset)
    second.load(*saved)
    list(second.steps(6))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, second.parameters, strict=True))
    model = Model(whole.network(), config)
    assert model.sample(2, steps=3, seed=0).shape == (2, 8, 8, 3)
    assert model.sample(2, steps=3, seed=0, sampler="ddim").shape == (2, 8, 8, 3)


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(image_size=64, learn_sigma=True, attention_resolutions="16"),
        dict(image_size=32, small_size=8),
        dict(image_size=32, small_size=8, learn_sigma=True, patch_skip_channels=8),
        dict(image_size=32, patch_size=4, channel_mult=""),
        dict(image_size=32, image_channels=1),
        dict(image_size=16, image_channels=4),
    ],
)
def test_a_file_without_settings_is_known_by_its_shapes(settings: dict[str, object]) -> None:
    model = small(**settings)
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in unet.build(model).state_dict().items()}
    guess = 2 if model.image_channels == 1 else 1  # grey in patches has as many channels as a transparent image
    found = infer_config.model_settings(shapes, "", model.image_size, model.small_size, patch_size=guess)
    alike = ModelConfig(**found)
    assert (alike.patch_size, alike.image_channels, alike.learn_sigma, alike.super_res) == (
        model.patch_size,
        model.image_channels,
        model.learn_sigma,
        model.super_res,
    )
    assert (alike.multipliers, alike.attention_sizes) == (model.multipliers, model.attention_sizes)
    assert not infer_config.fitting_flags(shapes, model)
    if "image_size" not in settings or settings["image_size"] == 64:
        assert infer_config.model_settings(shapes, "")["image_size"] % model.patch_size == 0
    assert alike.patch_skip_channels == model.patch_skip_channels
    wrong = infer_config.fitting_flags(shapes, small(**{**settings, "patch_size": 1}))
    assert model.image_channels == 1 or wrong[wrong.index("--patch_size") + 1] == str(model.patch_size)


@pytest.mark.parametrize(
    ("settings", "name", "remedy"),
    [
        (dict(image_size=30, patch_size=4), "patch_size", {"patch_size": 2}),
        (dict(image_size=27, patch_size=2), "patch_size", {"patch_size": 1}),
        (dict(image_size=4, patch_size=8), "patch_size", {"patch_size": 2}),
        (dict(image_size=20, channel_mult="1,2,2,2"), "image_size", {"image_size": 16}),
        (dict(image_size=4, channel_mult="1,2,2"), "image_size", {"image_size": 8}),
        (dict(patch_size=9), "patch_size", {"patch_size": 8}),
    ],
)
def test_patches_that_do_not_fit(settings: dict[str, object], name: str, remedy: dict[str, int]) -> None:
    config = Config(model=small(**settings))
    problem = next(validation.network_problems(config))
    assert problem.name == name
    assert remedy in problem.remedies
    for each in problem.remedies[:1]:
        assert not [p for p in validation.network_problems(codec.replace(config, each)) if p.name == name]


def test_improved_diffusion_has_none(fake_run: Callable[..., Run], tmp_path: Path) -> None:
    with raises_error("not-exportable", "patch_size 2"):
        export_openai.export_checkpoint(fake_run("patched", patch_size=2), tmp_path / "back")
