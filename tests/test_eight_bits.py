"""Weights as int8: a quarter of the bytes, within half a scale of what they were."""

from pathlib import Path

import pytest
import torch
from raising import raises_error
from torch import Tensor

from ddpm.checkpoints import checkpoint_files, eight_bits
from ddpm.config.training import Config
from ddpm.models import unet
from ddpm.storage import files


@pytest.fixture
def weights(tiny: Config) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn_like(t) for name, t in unet.build(tiny.model).state_dict().items()}


def write(path: Path, content: dict[str, Tensor], config: Config) -> Path:
    files.write(path, lambda file: checkpoint_files.save_weights(file, content, config, 7, "ema_0.9"))
    return path


def test_a_file_of_them_is_read_as_weights(weights: dict[str, Tensor], tiny: Config, tmp_path: Path) -> None:
    packed = write(tmp_path / "packed.pt", eight_bits.pack(weights), tiny)
    whole = write(tmp_path / "whole.pt", weights, tiny)
    read = checkpoint_files.load_weights(packed)
    assert (read.config, read.step, read.kind) == (tiny, 7, "ema_0.9")
    assert list(read.tensors) == list(weights)
    for name, tensor in weights.items():
        assert read.tensors[name].dtype == torch.float32
        matrix = tensor.ndim > 1 and tensor.numel() >= eight_bits.LEAST
        largest = tensor.flatten(1).abs().amax(1).view(-1, *[1] * (tensor.ndim - 1)) if matrix else tensor.abs() / 8
        assert ((read.tensors[name] - tensor).abs() <= largest / 254 * 1.0001).all()
    values = sum(t.numel() for t in weights.values())
    assert whole.stat().st_size - packed.stat().st_size > 2 * values


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = torch.randn(4, 100)
    weight[2] = 0
    unpacked = eight_bits.unpack(eight_bits.pack({"w": weight}))["w"]
    assert unpacked[2].eq(0).all()
    assert unpacked.isfinite().all()


@pytest.mark.parametrize(
    "scale", [torch.ones(3), torch.ones(4, 1), torch.ones(4, dtype=torch.float16), torch.ones(0)], ids=str
)
def test_scales_that_do_not_fit_are_refused(scale: Tensor, tiny: Config, tmp_path: Path) -> None:
    content = {"w": torch.ones(4, 100, dtype=torch.int8), "w" + eight_bits.SCALE: scale}
    with raises_error("not-a-checkpoint"):
        checkpoint_files.load_weights(write(tmp_path / "odd.pt", content, tiny))


def test_a_scale_that_is_no_number_is_refused(weights: dict[str, Tensor], tiny: Config, tmp_path: Path) -> None:
    packed = eight_bits.pack(weights)
    next(t for name, t in packed.items() if name.endswith(eight_bits.SCALE))[0] = torch.nan
    with raises_error("not-finite"):
        checkpoint_files.load_weights(write(tmp_path / "nan.pt", packed, tiny))
