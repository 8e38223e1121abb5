"""The end of a training step by our own kernel against torch's AdamW and averages."""

import copy
import ctypes
import math

import pytest
import torch
from torch import Tensor, nn

from ddpm.config.training import TrainConfig
from ddpm.models.native import build
from ddpm.training.optimizer import Ema, Optimizer

pytestmark = pytest.mark.usefixtures("threads_afterwards")

SIZES = [(1,), (3,), (17,), (100_003,), (64, 3, 3, 3), (0,), (5, 1, 7)]


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    library, why = build.found()
    if library is None:
        pytest.skip(why)
    return library


class Weights(nn.Module):
    """Tensors of odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.all = nn.ParameterList(nn.Parameter(torch.randn(size, generator=rng)) for size in SIZES)


def ends(train: TrainConfig, library: ctypes.CDLL | None) -> tuple[Optimizer, Ema]:
    model = Weights()
    ema = Ema(model, train.ema_rates, train.ema_warmup)
    return Optimizer(list(model.parameters()), ema, train, library), ema


def draw(optimizer: Optimizer, seed: int, scale: float = 1.0) -> None:
    """Gives every weight a gradient; some lie in another order than their weight, one there is not."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in optimizer.parameters:
        parameter.grad = torch.randn(parameter.shape, generator=rng) * scale
    grad = optimizer.parameters[4].grad
    assert grad is not None
    optimizer.parameters[4].grad = grad.contiguous(memory_format=torch.channels_last)
    optimizer.parameters[2].grad = None


def held(optimizer: Optimizer, ema: Ema) -> list[Tensor]:
    """Weights, averages, and what AdamW remembers."""
    states = optimizer.state_dict()["state"]
    moments = [state[name] for state in states.values() for name in ("exp_avg", "exp_avg_sq", "step")]
    averages = [tensor for rate in ema.rates for tensor in ema.weights(rate).values()]
    return [*(p.detach() for p in optimizer.parameters), *averages, *moments]


def assert_close(ours: list[Tensor], theirs: list[Tensor], most: float) -> None:
    """Within `most` of each tensor's length."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert float((a.detach().double() - b.detach().double()).norm()) <= most * float(b.detach().double().norm())


TRAININGS = {
    "plain": TrainConfig(lr=1e-3, ema_rate="0.9"),
    "all at once": TrainConfig(lr=1e-3, weight_decay=0.05, grad_clip=0.7, ema_rate="0.9,0.9999", ema_warmup=True),
    "no average": TrainConfig(lr=1e-2, weight_decay=0.1, ema_rate=""),
    "slow average": TrainConfig(lr=1e-3, ema_rate="0.9999,0.5", ema_warmup=False),
}


@pytest.mark.parametrize("train", TRAININGS.values(), ids=TRAININGS.keys())
def test_twenty_steps_are_those_of_torch(library: ctypes.CDLL, train: TrainConfig) -> None:
    torch.set_num_threads(2)
    ours, theirs = ends(train, library), ends(train, None)
    for step in range(20):
        norms = []
        for optimizer, _ in (ours, theirs):
            draw(optimizer, step, scale=1e-3 if step % 3 else 1.0)  # clipped, and not
            norm, applied = optimizer.step(train.lr * min(1, (step + 1) / 10))
            assert applied
            norms.append(norm)
        assert norms[0] == pytest.approx(norms[1], rel=3e-6), "torch adds up in single precision"
    assert_close(ours[0].parameters, theirs[0].parameters, 1e-6)
    assert_close(held(*ours), held(*theirs), 2.5e-6)
    assert ours[1].updates == theirs[1].updates == 20


def test_one_step_is_the_formula_in_double_precision(library: ctypes.CDLL) -> None:
    train = TrainConfig(lr=0.01, weight_decay=0.1, ema_rate="0.75", ema_warmup=False)
    optimizer, ema = ends(train, library)
    weights = [p.detach().double() for p in optimizer.parameters]
    draw(optimizer, 0)
    gradients = [
        torch.zeros_like(w) if p.grad is None else p.grad.double()
        for p, w in zip(optimizer.parameters, weights, strict=True)
    ]
    optimizer.step(0.01)
    for before, g, now, average in zip(
        weights, gradients, optimizer.parameters, ema.weights("0.75").values(), strict=True
    ):
        expected = before * (1 - 0.01 * 0.1) - 0.01 * g / (g.abs() + 1e-8)  # its first step is as long for any gradient
        torch.testing.assert_close(now.detach().double(), expected, rtol=0, atol=3e-7)
        torch.testing.assert_close(average.double(), 0.75 * before + 0.25 * expected, rtol=0, atol=4e-7)


@pytest.mark.parametrize("size", [0, 1, 3, 17, 16_383, 16_384, 100_003])
def test_the_length_of_the_gradient_whatever_the_threads(library: ctypes.CDLL, size: int) -> None:
    train = TrainConfig(ema_rate="")
    rng = torch.Generator().manual_seed(1)
    parameters = [torch.zeros(n, requires_grad=True) for n in (size, 5, 40_000)]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=rng)
    exact = math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters if p.grad is not None))
    norms = set()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        norms.add(Optimizer(parameters, Ema(nn.Module(), (), False), train, library).step(0.0)[0])
    assert len(norms) == 1, "to the last bit"
    assert norms.pop() == pytest.approx(exact, rel=2e-7)


def test_the_threads_do_not_change_the_update(library: ctypes.CDLL) -> None:
    train, results = TRAININGS["all at once"], []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        optimizer, ema = ends(train, library)
        for step in range(3):
            draw(optimizer, step)
            optimizer.step(1e-3)
        results.append(held(optimizer, ema))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("tensor", [0, 3, 4])
def test_a_gradient_that_is_not_finite_changes_nothing(
    library: ctypes.CDLL, kernels: bool, tensor: int, value: float
) -> None:
    """1e30 is one whose square is none."""
    optimizer, ema = ends(TRAININGS["all at once"], library if kernels else None)
    draw(optimizer, 0)
    optimizer.step(1e-3)
    before = [x.clone() for x in held(optimizer, ema)]
    draw(optimizer, 1)
    grad = optimizer.parameters[tensor].grad
    assert grad is not None
    grad.flatten()[-1:].copy_(torch.tensor([value])) if grad.ndim == 1 else grad[-1, -1, -1].fill_(value)
    norm, applied = optimizer.step(1e-3)
    assert not applied
    assert not math.isfinite(norm)
    assert all(torch.equal(a, b) for a, b in zip(before, held(optimizer, ema), strict=True))
    assert ema.updates == 1


@pytest.mark.parametrize("ours_first", [True, False])
def test_either_goes_on_from_what_the_other_saved(library: ctypes.CDLL, ours_first: bool) -> None:
    train = TRAININGS["all at once"]
    straight = ends(train, None)
    parts = [ends(train, library if first else None) for first in (ours_first, not ours_first)]
    for step in range(12):
        optimizer, ema = parts[step // 6]
        if step == 6:
            _copy(parts[0], parts[1])
        for either, _ in (straight, (optimizer, ema)):
            draw(either, step)
            either.step(1e-3)
    assert_close(held(*parts[1]), held(*straight), 1.5e-6)
    steps = [float(state["step"]) for state in parts[1][0].state_dict()["state"].values()]
    assert steps == [12.0] * len(SIZES)


def test_a_state_that_is_loaded_is_the_one_that_is_moved(library: ctypes.CDLL) -> None:
    """Also into an optimizer that has done steps already, and knows where its own was."""
    train = TRAININGS["all at once"]
    saved, used = ends(train, library), ends(train, library)
    for seed, (optimizer, _) in ((0, saved), (1, used)):
        draw(optimizer, seed)
        optimizer.step(1e-3)
    _copy(saved, used)
    for optimizer, _ in (saved, used):
        draw(optimizer, 2)
        optimizer.step(1e-3)
    assert all(torch.equal(a, b) for a, b in zip(held(*saved), held(*used), strict=True))


def _copy(saved: tuple[Optimizer, Ema], fresh: tuple[Optimizer, Ema]) -> None:
    with torch.no_grad():
        for a, b in zip(saved[0].parameters, fresh[0].parameters, strict=True):
            b.copy_(a)
    for rate in saved[1].rates:
        fresh[1].load(rate, saved[1].weights(rate))
    fresh[1].updates = saved[1].updates
    fresh[0].load_state_dict(copy.deepcopy(saved[0].state_dict()))
