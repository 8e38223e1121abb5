"""The kernels with NEON, the vectors of ARM, in an emulator: values and gradients against torch in double precision."""

from collections.abc import Iterator

import emulated
import pytest
import torch
from emulated import Emulated, EmulatedOps
from test_kernels import CASES, MAIN, TORCHS, check
from test_optimizer import TRAININGS
from test_optimizer import test_twenty_steps_are_those_of_torch as check_twenty_steps

from ddpm.models.native import functions
from ddpm.training import optimizer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("threads_afterwards")]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    if missing := emulated.missing():
        pytest.skip(f"{missing} is not installed")
    library = Emulated(tmp_path_factory.mktemp("neon"))
    yield library
    library.close()


@pytest.fixture(autouse=True)
def tensors_instead_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a list of addresses points at has to be known."""
    for module in (functions, optimizer):
        monkeypatch.setattr(module, "addresses", list)


def test_vectors_are_those_of_neon(library: Emulated) -> None:
    assert library.winograd_block() == 16, "four vectors of four floats"


@pytest.mark.parametrize("name", [name for name in CASES if name != TORCHS])
def test_float32_is_double_precision_but_for_rounding(library: Emulated, name: str) -> None:
    check(EmulatedOps(library), name)


@pytest.mark.parametrize("name", MAIN)
def test_bf16_rounds_only_the_maps(library: Emulated, name: str) -> None:
    check(EmulatedOps(library, torch.bfloat16), name)


@pytest.mark.parametrize("name", ["conv of few tiles", "conv of uneven shares", "attention 64"])
def test_three_threads_share_the_work(library: Emulated, name: str) -> None:
    torch.set_num_threads(3)
    check(EmulatedOps(library), name)
    assert library.most_threads() == 3


def test_the_optimizer_updates_as_torch_does(library: Emulated) -> None:
    check_twenty_steps(library, TRAININGS["all at once"])  # type: ignore[arg-type]
