"""Importance-sampled timesteps: what they are sampled by, and that the mean of the loss stays what it was."""

import numpy as np
import pytest
import torch

from ddpm.config import codec
from ddpm.config.training import Config, DataConfig
from ddpm.data.datasets import open_dataset
from ddpm.diffusion.timestep_samplers import HISTORY, LossSecondMoment, Stratified, Uniform
from ddpm.training.trainer import Trainer


def warm(T: int = 5) -> LossSecondMoment:
    """One that has seen timestep t with a loss of t + 1, often enough."""
    sampler = LossSecondMoment(T)
    t = torch.arange(T).repeat(HISTORY)
    sampler.update(t, (t + 1).double())
    return sampler


def test_alike_until_every_timestep_is_known() -> None:
    sampler = LossSecondMoment(3)
    sampler.update(torch.tensor([0, 1] * 20), torch.ones(40).double())
    assert np.array_equal(sampler.weights(), np.ones(3))
    t, weight = sampler.sample(1000, torch.Generator().manual_seed(0))
    assert weight is not None
    assert torch.equal(weight, torch.ones(1000))
    assert set(t.tolist()) == {0, 1, 2}


def test_by_the_root_of_the_second_moment() -> None:
    weights = warm().weights()
    np.testing.assert_allclose(weights, np.arange(1, 6) / 15 * 0.999 + 0.001 / 5)


def test_only_the_last_losses_count() -> None:
    sampler = warm(2)
    sampler.update(torch.zeros(HISTORY, dtype=torch.int64), torch.full((HISTORY,), 2.0).double())
    np.testing.assert_allclose(sampler.weights(), [0.5, 0.5])


def test_weights_keep_the_mean_of_the_loss() -> None:
    """E[w(t) f(t)] over sampled timesteps is the mean of f over all of them, whatever f."""
    sampler, f = warm(), torch.tensor([3.0, -1.0, 0.5, 10.0, 2.0])
    t, weight = sampler.sample(200_000, torch.Generator().manual_seed(0))
    assert weight is not None
    np.testing.assert_allclose((weight * f[t]).mean(), f.mean(), rtol=0.02)
    np.testing.assert_allclose(torch.bincount(t, minlength=5) / len(t), sampler.weights(), atol=0.005)


@pytest.mark.parametrize("n", [1, 8, 50, 64])
def test_stratified_covers_the_range_with_each_batch_and_is_uniform_in_all(n: int) -> None:
    sampler, rng, T = Stratified(50), torch.Generator().manual_seed(0), 50
    batches = [sampler.sample(n, rng) for _ in range(20_000 // n)]
    assert all(weight is None for _, weight in batches)
    t = torch.stack([t for t, _ in batches])
    assert (t.min(), t.max()) == (0, T - 1)
    ordered = t.sort(dim=1).values
    assert ((ordered - torch.arange(n) * T / n).abs() <= T / n + 1).all()  # one in each part
    assert (t[:, 0] != ordered[:, 0]).any() or n == 1  # but not in this order
    np.testing.assert_allclose(torch.bincount(t.flatten(), minlength=T) / t.numel(), 1 / T, atol=0.005)


def test_uniform_weighs_nothing() -> None:
    t, weight = Uniform(7).sample(500, torch.Generator().manual_seed(0))
    assert weight is None
    assert set(t.tolist()) == set(range(7))


def test_a_state_goes_on_where_it_was_taken() -> None:
    before, after = warm(), LossSecondMoment(5)
    after.load(before.state())
    for sampler in (before, after):
        sampler.update(torch.tensor([1, 1, 4]), torch.tensor([7.0, 8.0, 0.1]).double())
    assert np.array_equal(before.weights(), after.weights())


def test_a_trainer_trains_from_unweighted_losses_and_resumes_exactly(tiny: Config) -> None:
    """What is logged and minimised is weighted, what the sampler learns from is not."""
    config = codec.replace(
        tiny,
        dict(schedule_sampler="loss-second-moment", diffusion_steps=4, batch_size=8, learn_sigma=True, use_kl=True),
    )
    data = open_dataset(DataConfig("shapes"), config.model)
    straight = Trainer(config, data)
    for _ in straight.steps(12):
        pass
    assert isinstance(straight.timesteps, LossSecondMoment)
    assert not np.array_equal(straight.timesteps.weights(), np.ones(4)), "it never became warm"

    first = Trainer(config, data)
    for _ in first.steps(9):
        pass
    resumed = Trainer(config, data)
    resumed.load(first.weights(), first.optimizer.state_dict(), first.state())
    for _ in resumed.steps(12):
        pass
    for ours, theirs in zip(resumed.parameters, straight.parameters, strict=True):
        assert torch.equal(ours, theirs)
    assert np.array_equal(resumed.timesteps.weights(), straight.timesteps.weights())  # type: ignore[attr-defined]

    batch = straight.next_batch()
    assert batch.weight is not None
    plain = straight.update(batch._replace(weight=None))
    weighted = Trainer(config, data)
    weighted.load(resumed.weights(), resumed.optimizer.state_dict(), resumed.state())
    report = weighted.update(batch)
    torch.testing.assert_close(
        report.losses["loss"], plain.losses["loss"] * batch.weight.double(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("state", [{}, warm(7).state()], ids=["of a uniform sampler", "of another process"])
def test_a_history_that_is_not_of_this_process_is_left_alone(state: dict) -> None:
    sampler = LossSecondMoment(5)
    sampler.load(state)
    assert sampler.state()["counts"].tolist() == [0] * 5
    same = warm()
    sampler.load(same.state())
    assert sampler.state()["counts"].tolist() == same.state()["counts"].tolist()
