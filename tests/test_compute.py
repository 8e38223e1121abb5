"""Backends: which is chosen and what is said of it; whole networks and trainings by kernels and by torch."""

import dataclasses
import io
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from ddpm.bench import step_cost
from ddpm.compute import precision
from ddpm.config import codec, presets
from ddpm.config.model import ModelConfig
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.data.datasets import Dataset
from ddpm.models import backend, unet
from ddpm.models.backend import ComputeMode
from ddpm.models.native import build
from ddpm.models.native.ops import NativeOps
from ddpm.models.torch_ops import TORCH
from ddpm.models.unet import UNet
from ddpm.training.trainer import Trainer

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SLOW_BF16 = "bf16 was asked for and this device has no instructions for it, so that torch is slower in it than in fp32."
SLOW_FP16 = "fp16 was asked for and is slow on a CPU: bf16 or fp32 suit it better."
NO_FP16 = "The native kernels compute in fp32 or bf16: fp16 is left to torch alone."
WITHOUT = "Torch alone computes, which takes about twice as long, since there is none."

# (kernels, precision, device, instructions for bf16, a compiler) -> (kernels, precision, notices)
CHOICES = [
    ("auto", "auto", CPU, False, True, "native", "fp32", ()),
    ("auto", "auto", CPU, True, True, "native", "bf16", ()),
    ("native", "fp32", CPU, True, True, "native", "fp32", ()),
    ("native", "bf16", CPU, False, True, "native", "bf16", ()),
    ("native", "fp16", CPU, False, True, "torch", "fp16", (SLOW_FP16, NO_FP16)),
    ("torch", "auto", CPU, True, True, "torch", "bf16", ()),
    ("torch", "bf16", CPU, False, True, "torch", "bf16", (SLOW_BF16,)),
    ("torch", "fp16", CPU, False, True, "torch", "fp16", (SLOW_FP16,)),
    ("compile", "fp32", CPU, False, True, "compile", "fp32", ()),
    ("compile", "bf16", CPU, False, True, "compile", "bf16", (SLOW_BF16,)),
    ("auto", "auto", CPU, False, False, "torch", "fp32", (WITHOUT,)),
    ("native", "bf16", CPU, False, False, "torch", "bf16", (SLOW_BF16, WITHOUT)),
    ("native", "bf16", CPU, True, False, "torch", "bf16", (WITHOUT,)),
    ("auto", "auto", GPU, False, True, "torch", "fp32", ()),
    ("auto", "auto", GPU, True, True, "torch", "bf16", ()),
    ("native", "bf16", GPU, False, True, "torch", "bf16", (SLOW_BF16,)),
    ("compile", "fp16", GPU, True, True, "compile", "fp16", ()),
]


@pytest.mark.parametrize(("kernels", "name", "device", "has_bf16", "compiler", "by", "numbers", "notices"), CHOICES)
def test_what_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
    kernels: str,
    name: str,
    device: torch.device,
    has_bf16: bool,
    compiler: bool,
    by: str,
    numbers: str,
    notices: tuple[str, ...],
) -> None:
    library: Any = object()
    monkeypatch.setattr(precision, "has_bf16", lambda: has_bf16)
    monkeypatch.setattr(precision, "has_matrix_unit", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    monkeypatch.setattr(
        build, "found", lambda: build.Found(library, "") if compiler else build.Found(None, "there is none")
    )
    chosen = backend.resolve_backend(kernels, name, device)
    assert tuple(chosen) == (device, numbers, by, library if by == "native" else None, notices)
    who = {"native": "native kernels", "torch": "torch alone", "compile": "torch.compile"}[by]
    assert chosen.words == f"on {device}, in {numbers} by {who}"


@pytest.mark.parametrize(
    ("kernels", "name", "unit", "by", "notices"),
    [
        ("auto", "auto", True, "amx", 0),
        ("auto", "fp32", True, "native", 0),
        ("native", "bf16", True, "native", 0),
        ("amx", "bf16", True, "amx", 0),
        ("amx", "bf16", False, "amx", 1),
        ("amx", "fp32", False, "native", 0),
        ("torch", "bf16", True, "torch", 0),
    ],
)
def test_when_the_matrix_unit_computes(
    monkeypatch: pytest.MonkeyPatch, kernels: str, name: str, unit: bool, by: str, notices: int
) -> None:
    library: Any = object()
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    monkeypatch.setattr(precision, "has_matrix_unit", lambda: unit)
    monkeypatch.setattr(build, "found", lambda: build.Found(library, ""))
    chosen = backend.resolve_backend(kernels, name, CPU)
    assert (chosen.kernels, chosen.library) == (by, None if by == "torch" else library)
    assert len(chosen.notices) == notices


def by(kernels: str, name: str = "fp32") -> ComputeMode:
    """As it comes on this machine, which must have a compiler."""
    made = backend.resolve_backend(kernels, name, CPU)
    if kernels == "native" and made.library is None:
        pytest.skip(made.notices[0])
    return made


SMALL = ModelConfig(
    image_size=16, num_channels=32, num_res_blocks=1, channel_mult="1,2", attention_resolutions="8", num_heads=2
)
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "classes": dict(class_cond=True, num_classes=5),
    "added embedding": dict(use_scale_shift_norm=False),
    "attention everywhere": dict(attention_resolutions="16,8", num_heads=4, num_heads_upsample=1),
    "learned variance": dict(learn_sigma=True),
    "enlarging": dict(small_size=4),
    "recomputed": dict(use_checkpoint=True),
    "96 channels, three levels": dict(num_channels=96, channel_mult="1,1,2", attention_resolutions="4", num_heads=3),
    "64 channels, odd size": dict(image_size=28, num_channels=64, channel_mult="1,2,2", attention_resolutions="14,7"),
    "grey, two blocks": dict(image_channels=1, num_res_blocks=2),
    "few pixels": dict(image_size=8, channel_mult="1,1,1,1", attention_resolutions="1,2,4", num_heads=1),
}


def woken(config: ModelConfig) -> UNet:
    """A network in training, with small weights where a fresh one has zeros, so that everything counts."""
    torch.manual_seed(0)
    network = unet.build(config).train()
    for parameter in network.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.02)
    return network


def results(
    config: ModelConfig, how: ComputeMode, batch: int = 2, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """(what comes out, the whole gradient), of inputs and weights that depend on the settings alone."""
    network, rng = woken(config).to(dtype), torch.Generator().manual_seed(1)
    x = torch.randn((batch, config.image_channels, config.image_size, config.image_size), generator=rng).to(dtype)
    condition: dict[str, Tensor] = {}
    if config.class_cond:
        condition["y"] = torch.arange(batch)
    if config.small_size:
        condition["low_res"] = torch.randn((batch, config.image_channels, *[config.small_size] * 2), generator=rng).to(
            dtype
        )
    out = how.prepared(network)(x, torch.linspace(3, 900, batch), **condition)
    assert out.dtype == dtype
    out.backward(torch.randn(out.shape, generator=rng).to(dtype) / out.numel())
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    return out.detach(), torch.cat([g.flatten() for g in gradients])


def apart(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.slow
@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS.keys())
def test_a_network_computes_what_torch_does(settings: dict[str, Any]) -> None:
    config = dataclasses.replace(SMALL, **settings)
    out, gradient = results(config, by("torch"))
    ours, our_gradient = results(config, by("native"))
    assert apart(ours, out) < 5e-6
    assert apart(our_gradient, gradient) < 1e-5
    rounded, rounded_gradient = results(config, by("native", "bf16"))
    assert 1e-4 < apart(rounded, out) < 2e-2, "it does compute in another precision"
    assert float(torch.cosine_similarity(rounded_gradient.double(), gradient.double(), dim=0)) > 0.9995


@pytest.mark.slow
def test_the_network_of_the_preset_for_a_cpu() -> None:
    config = presets.PRESETS["cifar10-cpu"].config.model
    out, gradient = results(config, by("torch"))
    ours, our_gradient = results(config, by("native"))
    assert apart(ours, out) < 5e-6
    assert apart(our_gradient, gradient) < 1e-5
    _, rounded = results(config, by("native", "bf16"))
    assert float(torch.cosine_similarity(rounded.double(), gradient.double(), dim=0)) > 0.9995


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_recomputing_activations_changes_no_gradient(name: str) -> None:
    model = dataclasses.replace(SMALL, dropout=0.3)
    kept, again = (results(dataclasses.replace(model, use_checkpoint=on), by("native", name)) for on in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


def test_dropout_only_while_training() -> None:
    network = woken(dataclasses.replace(SMALL, dropout=0.3))
    forward = by("native", "fp32").prepared(network)
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([3.0])
    network.train()
    assert not torch.equal(forward(x, t), forward(x, t))
    network.eval()
    assert torch.equal(forward(x, t), forward(x, t))


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_image_that_is_no_number_is_noticed_and_spoils_no_other(name: str) -> None:
    network = by("native", name).prepared(woken(SMALL))
    x, t = torch.randn(3, 3, 16, 16), torch.tensor([3.0, 4.0, 5.0])
    x[1, 2, 7, 7] = math.nan
    with torch.no_grad():
        finite = network(x, t).isfinite().flatten(1)
    assert finite[[0, 2]].all()
    assert not finite[1].any(), "attention sees all of it"


SHAPES: dict[str, Any] = dict(
    data_dir="shapes",
    image_size=16,
    num_channels=32,
    num_res_blocks=1,
    channel_mult="1,2",
    attention_resolutions="8",
    num_heads=2,
    noise_schedule="cosine",
    diffusion_steps=100,
    batch_size=8,
    lr=1e-3,
    ema_rate="0.9,0.99",
)


def trainer(tiny: Config, kernels: str, name: str, **settings: Any) -> Trainer:
    config = datasets.resolve(codec.replace(tiny, {**SHAPES, "kernels": kernels, "precision": name, **settings}))
    made = Trainer(config, opened(config))
    assert (made.compute.kernels, made.compute.precision) == (kernels, name)
    return made


def opened(config: Config) -> Dataset:
    return datasets.open_dataset(config.data, config.model)


@pytest.mark.slow
def test_trainings_go_the_same_way(tiny: Config) -> None:
    """At a learning rate at which rounding does not grow: at 1e-3 torch's own goes its own way with other batches."""
    by("native")
    means = []
    for kernels, name in (("torch", "fp32"), ("native", "fp32"), ("native", "bf16")):
        reports = trainer(tiny, kernels, name, batch_size=4, lr=3e-4, channel_mult="1,1").steps(200)
        means.append(torch.tensor([float(r.losses["loss"].mean()) for r in reports]).reshape(-1, 25).mean(dim=1))
    plain, ours, rounded = means
    assert plain[-1] < 0.3 * plain[0], "it learns"
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=0)
    torch.testing.assert_close(rounded, plain, rtol=0.01, atol=0)
    assert not torch.equal(rounded, plain)


def everything(trainer: Trainer) -> list[Tensor]:
    """Weights, averages and what AdamW remembers, flat."""
    found: list[Tensor] = []

    def walk(content: Any) -> None:
        if isinstance(content, Tensor):
            found.append(content.detach().clone())
        elif isinstance(content, Mapping):
            for part in content.values():
                walk(part)

    walk({"weights": trainer.weights(), "optimizer": trainer.optimizer.state_dict()["state"]})
    return found


def handed_over(tiny: Config, first: tuple[str, str], then: tuple[str, str]) -> list[Tensor]:
    """After three steps of one and three of another that was loaded from it."""
    settings: dict[str, Any] = dict(dropout=0.0, weight_decay=0.01, grad_clip=0.5)
    one = trainer(tiny, *first, **settings)
    list(one.steps(3))
    weights = {kind: {name: t.clone() for name, t in tensors.items()} for kind, tensors in one.weights().items()}
    saved = io.BytesIO()
    torch.save((weights, one.optimizer.state_dict(), one.state()), saved)
    saved.seek(0)
    other = trainer(tiny, *then, **settings)
    other.load(*torch.load(saved, weights_only=True))
    list(other.steps(6))
    return everything(other)


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_training_resumes_to_the_last_bit(tiny: Config, name: str) -> None:
    by("native")
    straight = trainer(tiny, "native", name, dropout=0.0, weight_decay=0.01, grad_clip=0.5)
    list(straight.steps(6))
    resumed = handed_over(tiny, ("native", name), ("native", name))
    assert len(resumed) > 100
    assert all(torch.equal(a, b) for a, b in zip(everything(straight), resumed, strict=True))


@pytest.mark.slow
def test_either_resumes_what_the_other_saved(tiny: Config) -> None:
    by("native")
    plain = handed_over(tiny, ("torch", "fp32"), ("torch", "fp32"))
    for first, then in (("native", "torch"), ("torch", "native")):
        mixed = handed_over(tiny, (first, "fp32"), (then, "fp32"))
        both = [torch.cat([t.flatten().double() for t in tensors if t.ndim]) for tensors in (mixed, plain)]
        assert apart(*both) < 1e-3
        steps = [[float(t) for t in tensors if not t.ndim] for tensors in (mixed, plain)]
        assert steps[0] == steps[1] == [6.0] * len(steps[1])


def test_a_training_goes_on_in_the_precision_that_it_was_saved_in(
    tiny: Config, caplog: pytest.LogCaptureFixture
) -> None:
    def made(**settings: Any) -> Trainer:
        config = codec.replace(tiny, {"precision": "auto", **settings})
        return Trainer(config, step_cost.noise(config))

    saved = made(precision="bf16", kernels="torch")
    state = saved.state()
    resumed = made(kernels="torch")
    resumed.load(saved.weights(), None, state)
    assert resumed.compute.precision == "bf16"
    assert "not bit by bit" not in caplog.text
    older = {name: value for name, value in state.items() if name not in ("precision", "kernels")}
    asked = made(precision="bf16", kernels="torch")
    asked.load(saved.weights(), None, older)
    assert asked.compute.precision == "bf16", "what is asked for is kept"
    assert "Saved in fp32 by torch kernels and resumed in bf16 by torch" in caplog.text


def test_a_network_to_sample_from_computes_in_fp32(tiny: Config) -> None:
    config = codec.replace(tiny, {"precision": "bf16"})
    trainer = Trainer(config, step_cost.noise(config))
    if not isinstance(trainer.model.ops, NativeOps):
        pytest.skip("there are no kernels here")
    sampled = trainer.network().ops
    assert isinstance(sampled, NativeOps)
    assert (trainer.model.ops.dtype, sampled.dtype) == (torch.bfloat16, torch.float32)
    network = trainer.network()
    backend.resolve_backend("torch", "fp32", torch.device("cpu")).prepared(network)
    assert network.ops is TORCH
