"""The network: what its settings change, what they must not, and what it costs."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ddpm.bench import baseline
from ddpm.config import validation
from ddpm.config.model import ModelConfig
from ddpm.config.training import Config
from ddpm.models.unet import AttentionBlock, UNet, timestep_embedding
from ddpm.planning import architecture

SMALL = dict(
    image_size=16, num_channels=32, num_res_blocks=1, channel_mult="1,2", attention_resolutions="8", num_heads=2
)


def small(**settings: object) -> ModelConfig:
    return ModelConfig(**{**SMALL, **settings})


def woken(model: UNet) -> UNet:
    """With random weights where a fresh network has zeros, so that everything counts."""
    rng = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng) * 0.05
    return model


SHAPES = {
    "plain": {},
    "grey": dict(image_channels=1),
    "transparent": dict(image_channels=4),
    "learned variance": dict(learn_sigma=True),
    "classes": dict(class_cond=True, num_classes=7),
    "added embedding": dict(use_scale_shift_norm=False),
    "one head up": dict(num_heads_upsample=1),
    "no attention but in the middle": dict(attention_resolutions=""),
    "odd size": dict(image_size=28, channel_mult="1,2,2", attention_resolutions="14,7"),
    "default levels": dict(image_size=64, channel_mult=""),
    "one level": dict(channel_mult="1"),
    "two blocks": dict(num_res_blocks=2),
    "patches": dict(patch_size=2),
    "patches, and a path beside them": dict(patch_size=2, patch_skip_channels=24, learn_sigma=True),
    "patches, levels by default": dict(image_size=24, patch_size=3, channel_mult="", learn_sigma=True),
}


@pytest.mark.parametrize("settings", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_and_parameters(settings: dict[str, object]) -> None:
    config = small(**settings)
    assert not list(validation.network_problems(Config(model=config)))
    model = UNet(config)
    x = torch.zeros(2, config.image_channels, config.image_size, config.image_size)
    y = torch.tensor([0, 6]) if config.class_cond else None
    with torch.no_grad():
        assert model(x, torch.tensor([0.0, 999.0]), y).shape == (2, config.out_channels, *x.shape[2:])
    assert sum(p.numel() for p in model.parameters()) == architecture.parameters(config)


def test_a_fresh_network_predicts_nothing() -> None:
    output = UNet(small())(torch.randn(2, 3, 16, 16), torch.tensor([1.0, 2.0]))
    assert torch.equal(output, torch.zeros_like(output))


def test_recomputing_activations_changes_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(1)
        model = woken(UNet(small(use_checkpoint=recompute, dropout=0.3))).train()
        torch.manual_seed(2)
        model(torch.ones(2, 3, 16, 16), torch.tensor([3.0, 4.0])).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in itertools.zip_longest(*gradients))


def test_dropout_only_while_training() -> None:
    model = woken(UNet(small(dropout=0.5)))
    x, t = torch.ones(1, 3, 16, 16), torch.tensor([3.0])
    assert not torch.equal(model.train()(x, t), model(x, t))
    assert torch.equal(model.eval()(x, t), model(x, t))


def test_classes_and_timesteps_matter() -> None:
    model = woken(UNet(small(class_cond=True, num_classes=3))).eval()
    x = torch.ones(1, 3, 16, 16)
    outputs = [model(x, torch.tensor([t]), torch.tensor([y])) for t in (0.0, 500.0) for y in (0, 2)]
    assert all(not torch.allclose(a, b) for a, b in itertools.combinations(outputs, 2))


def test_timestep_embedding_is_cosines_then_sines() -> None:
    embedding = timestep_embedding(torch.tensor([0.0, 1.0]), 4)
    expected = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.540302, 0.99995, 0.841471, 0.0099998]])
    torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [*SHAPES.values(), dict(small_size=8), dict(small_size=8, patch_size=2)],
    ids=[*SHAPES, "enlarging", "enlarging patches"],
)
def test_operations_are_those_that_torch_counts(settings: dict[str, object]) -> None:
    config = small(**settings)
    x = torch.zeros(2, config.in_channels, config.image_size, config.image_size)
    y = torch.tensor([0, 6]) if config.class_cond else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():  # of plain torch: it cannot see into kernels
        baseline.network(UNet(config), x, torch.tensor([0.0, 9.0]), y)
    assert 2 * architecture.flops(config) == counter.get_total_flops()


# guided-diffusion's ways to split attention


def test_heads_by_width_are_so_many_at_each_level() -> None:
    network = UNet(small(attention_resolutions="16,8", num_head_channels=16))
    heads = [block.heads for block in network.modules() if isinstance(block, AttentionBlock)]
    assert sorted(set(heads)) == [2, 4]  # of 32 and 64 channels


def test_the_new_order_of_attention_is_the_old_one_with_rows_exchanged() -> None:
    """q, k and v of all heads one after the other, rather than head by head."""
    config = small(num_heads=4, use_new_attention_order=True)
    new, old = woken(UNet(config)), UNet(small(num_heads=4))
    kept = new.state_dict()
    exchanged = {
        name: t.unflatten(0, (3, 4, -1)).transpose(0, 1).flatten(0, 2) if ".qkv." in name else t
        for name, t in kept.items()
    }
    x, t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        old.load_state_dict(exchanged)
        torch.testing.assert_close(new(x, t), old(x, t), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(new(x, t), baseline.network(new, x, t, None), rtol=1e-4, atol=1e-5)
        old.load_state_dict(kept)
        assert (new(x, t) - old(x, t)).abs().max() > 1e-2 * new(x, t).abs().max()


@pytest.mark.parametrize("each", [0, 24])
def test_channels_of_a_head_have_to_fit(each: int) -> None:
    (problem,) = validation.network_problems(Config(model=small(num_head_channels=each)))
    assert problem.name == "num_head_channels"
