"""What a training takes of memory: foretold from its settings, held against processes that train."""

import itertools
import sys
from typing import Any

import pytest
import torch

from ddpm.bench import step_cost
from ddpm.bench.processes import BenchmarkProcess
from ddpm.bench.worker import random_batch
from ddpm.compute import precision
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.host import compiler as compilers
from ddpm.host import hardware
from ddpm.models.native import build
from ddpm.models.native.ops import NativeOps
from ddpm.planning import memory
from ddpm.training.trainer import Trainer

BASE = codec.replace(
    Config(),
    dict(
        image_size=32,
        num_channels=32,
        num_res_blocks=1,
        channel_mult="1,2",
        attention_resolutions="16",
        batch_size=64,
        threads=1,
        precision="fp32",
        kernels="native",
        ema_rate="0.9",
    ),
)
TORCH = {"kernels": "torch"}


def estimated(**settings: Any) -> float:
    config = codec.replace(BASE, settings)
    return memory.training_bytes(config.model, config.train)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one."""
    monkeypatch.setattr(compilers, "find_compiler", lambda: ("/usr/bin/c++",))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how malloc wastes memory was measured with glibc")
@pytest.mark.parametrize("settings", [{}, TORCH], ids=str)
def test_a_training_takes_the_memory_that_is_expected(settings: dict[str, Any]) -> None:
    if settings != TORCH and build.found().library is None:
        pytest.skip(build.found().why)
    config = codec.replace(BASE, settings)
    maps = memory.activation_bytes(config.model, memory.expected_mode(config.train.kernels, config.train.precision))
    assert maps * config.train.micro > 0.7 * memory.RUNTIME[False], "too small a training to tell how maps are counted"
    with BenchmarkProcess(config) as training:
        training.request("time_steps", 2)
        peak = training.request("peak_bytes")
    assert memory.training_bytes(config.model, config.train) == pytest.approx(peak, rel=0.2)


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kernels_work_in_the_room_that_is_expected(size: int, precision: str) -> None:
    if build.found().library is None:
        pytest.skip(build.found().why)
    config = codec.replace(
        BASE, dict(image_size=size, channel_mult="1,2", attention_resolutions="", batch_size=1, precision=precision)
    )
    trainer = Trainer(config, step_cost.noise(config))
    trainer.update(random_batch(config))
    ops = trainer.model.ops
    assert isinstance(ops, NativeOps)
    assert ops.room(0).numel() == pytest.approx(
        memory._gradient_workspace(config.model, torch.get_num_threads()), rel=0.02
    )


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize(
    ("name", "rising"),
    [
        ("batch_size", (1, 2, 4, 16, 128)),
        ("microbatch", (1, 4, 32, 64)),
        ("num_channels", (32, 64, 96, 128)),
        ("image_size", (8, 16, 32, 64)),
        ("num_res_blocks", (1, 2, 3)),
        ("channel_mult", ("1,1", "1,2", "2,2")),
        ("attention_resolutions", ("", "16", "32,16")),
        ("ema_rate", ("", "0.9", "0.9,0.99")),
        ("precision", ("bf16", "fp32")),
    ],
)
def test_more_of_anything_takes_more(name: str, rising: tuple[Any, ...], kernels: str) -> None:
    found = [estimated(**{name: value, "kernels": kernels}) for value in rising]
    assert all(one < more for one, more in itertools.pairwise(found))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_recomputing_takes_less_where_there_are_many_layers(kernels: str) -> None:
    deep = dict(num_res_blocks=3, kernels=kernels)
    assert estimated(use_checkpoint=True, **deep) < estimated(**deep)


@pytest.mark.usefixtures("compiler")
def test_dropout_takes_no_memory_with_our_kernels() -> None:
    assert estimated(dropout=0.1) == estimated()
    assert estimated(dropout=0.1, **TORCH) > estimated(**TORCH)


@pytest.mark.usefixtures("compiler")
def test_our_kernels_take_less_than_torch_and_more_with_more_threads() -> None:
    assert estimated() < estimated(threads=2) < estimated(**TORCH) == estimated(**TORCH, threads=2)
    assert estimated(microbatch=16) == estimated(batch_size=16)


@pytest.mark.usefixtures("compiler")
def test_what_will_compute_is_reported_without_asking_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_bf16, width in ((True, 2), (False, 4)):
        monkeypatch.setattr(hardware, "has_bf16", lambda has=has_bf16: has)
        assert memory.expected_mode("auto", "auto") == memory.ExpectedMode(native=True, bytes=width)
        assert memory.expected_mode("compile", "auto") == memory.ExpectedMode(native=False, bytes=width)
        assert memory.expected_mode("native", "fp32") == memory.ExpectedMode(native=True, bytes=4)
        assert memory.expected_mode("native", "fp16") == memory.ExpectedMode(native=False, bytes=2)
        assert estimated(precision="auto", use_fp16=True) == estimated(precision="bf16")
    monkeypatch.setattr(compilers, "find_compiler", lambda: ())
    assert memory.expected_mode("native", "fp32") == memory.TORCH


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the processor is described in Linux's /proc")
def test_instructions_for_bf16_are_those_that_torch_finds() -> None:
    assert hardware.has_bf16() == precision.has_bf16()
