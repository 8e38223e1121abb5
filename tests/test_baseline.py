"""The baseline computes what the program computes, in plain torch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ddpm.bench import step_cost
from ddpm.bench.baseline import PlainTrainer
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.diffusion.losses import Batch, training_losses
from ddpm.models import unet
from ddpm.training.trainer import Trainer

SMALL = dict(
    image_size=16,
    num_channels=32,
    num_res_blocks=1,
    channel_mult="1,2",
    attention_resolutions="8",
    num_heads=2,
    diffusion_steps=50,
    batch_size=5,
    microbatch=2,
    lr=1e-3,
    weight_decay=0.01,
    precision="fp32",
    ema_rate="0.9,0.999",
)
KINDS: dict[str, dict[str, Any]] = {
    "scale and shift": {},
    "added embedding": dict(use_scale_shift_norm=False),
    "classes": dict(class_cond=True, num_classes=7, learn_sigma=True),
    "enlarging": dict(small_size=8),
}


def small(**settings: Any) -> Config:
    return codec.replace(Config(), {**SMALL, **settings})


def woken(model: torch.nn.Module) -> None:
    """Random weights where a fresh network has zeros, so that everything counts."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.05)


def batches(config: Config, count: int) -> list[Batch]:
    trainer = Trainer(config, step_cost.noise(config))
    return [trainer.next_batch() for _ in range(count)]


def apart(one: Tensor, other: Tensor) -> float:
    """Relative distance of two tensors."""
    return float(((one - other).norm() / other.norm()).detach())


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS.keys())
def test_the_same_network_in_value_and_gradient(settings: dict[str, Any]) -> None:
    config = small(**settings)
    plain, ours = PlainTrainer(config), unet.build(config.model)
    woken(plain.model)
    woken(ours)
    (batch,) = batches(config, 1)
    times = batch.t.float()
    assert (
        apart(plain.network(batch.noise, times, **batch.condition), ours(batch.noise, times, **batch.condition)) < 1e-5
    )
    for network in (plain.network, ours):
        training_losses(network, plain.schedule, plain.full, config, batch)["loss"].mean().backward()
    pairs = [(p.grad, q.grad) for p, q in zip(plain.parameters, ours.parameters(), strict=True)]
    assert all(one is not None and other is not None for one, other in pairs)
    whole = torch.cat([other.flatten() for _, other in pairs])
    assert apart(torch.cat([one.flatten() for one, _ in pairs]), whole) < 1e-5
    for one, other in pairs:  # some have nothing but rounding, as biases before a normalisation
        assert float((one - other).norm()) < 1e-5 * float(other.norm()) + 1e-6 * float(whole.norm())


@pytest.mark.slow
@pytest.mark.parametrize("warmup", [True, False])
def test_three_steps_lead_to_the_same_weights_and_averages(warmup: bool) -> None:
    config = small(class_cond=True, num_classes=7, ema_warmup=warmup)
    plain, trainer = PlainTrainer(config), Trainer(config, step_cost.noise(config))
    start = torch.cat([p.detach().flatten() for p in plain.parameters]).clone()
    for batch in batches(config, 3):
        loss, report = plain.update(batch), trainer.update(batch)
        assert loss == pytest.approx(float(report.losses["loss"].mean()), rel=1e-5)
        assert plain.grad_norm == pytest.approx(report.grad_norm, rel=1e-4)
    weights = [torch.cat([p.detach().flatten() for p in ps]) for ps in (plain.parameters, trainer.parameters)]
    assert apart(weights[0], start) > 1e-3
    assert apart(*weights) < 1e-5
    for rate, averages in plain.averages.items():
        ours = torch.cat([w.flatten() for w in trainer.weights()[f"ema_{rate}"].values()])
        assert apart(torch.cat([w.flatten() for w in averages]), ours) < 1e-5
