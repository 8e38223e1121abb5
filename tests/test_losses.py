"""Objectives and the variational bound, against exact answers."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm import schedules
from ddpm.config import codec, objectives
from ddpm.config.model import PREDICTIONS
from ddpm.config.training import Config
from ddpm.diffusion import denoiser, losses, process
from ddpm.diffusion.losses import Batch, training_losses
from ddpm.diffusion.variances import VARIANCES, learned_range
from ddpm.schedules import Schedule

T = 30


@pytest.fixture
def full() -> Schedule:
    return schedules.named("cosine", T)


@pytest.fixture
def batch(full: Schedule) -> Batch:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (T, 3, 4, 4), generator=rng)
    return Batch(pixels / 127.5 - 1, torch.arange(T), torch.randn(T, 3, 4, 4, generator=rng))


def settings(**values: object) -> Config:
    return codec.replace(Config(), {"diffusion_steps": T, "noise_schedule": "cosine", **values})


def fixed(output: Tensor):  # type: ignore[no-untyped-def]
    """A network that says `output`, whatever it is shown."""
    return lambda x, t, **condition: output


def test_who_knows_the_image_has_nothing_left_to_learn(full: Schedule, batch: Batch) -> None:
    """With the true x_start and the posterior's own variance every term but the decoder's is 0."""
    config = settings(prediction="x_start", sigma_small=True, use_kl=True)
    found = training_losses(fixed(batch.x_start), full, full, config, batch)["loss"]
    assert found[1:].abs().max() < 1e-3
    assert found[0] > 0


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_right_answer_has_no_error_whatever_is_predicted(full: Schedule, batch: Batch, prediction: str) -> None:
    config = settings(prediction=prediction)
    x_t = process.q_sample(full, batch.x_start, batch.t, batch.noise)
    answer = losses.target(full, config.diffusion, batch, x_t)
    assert training_losses(fixed(answer), full, full, config, batch)["mse"].abs().max() == 0
    predicted = denoiser.interpret_output(answer, x_t, batch.t, full, config.diffusion, clip=False)
    # At the noisiest timesteps little of x_start is left in what is predicted, and float32 has to divide by it.
    torch.testing.assert_close(predicted.x_start[:-3], batch.x_start[:-3], rtol=0, atol=2e-3)


def test_a_variance_said_outright_is_taken_as_it_is_said(full: Schedule, batch: Batch) -> None:
    said = torch.linspace(-9, -0.1, T)[:, None, None, None].expand(T, 3, 4, 4)
    config = settings(learn_sigma=True, learned_range=False)
    x_t = process.q_sample(full, batch.x_start, batch.t, batch.noise)
    output = torch.cat([batch.noise, said], dim=1)
    predicted = denoiser.interpret_output(output, x_t, batch.t, full, config.diffusion, clip=False)
    torch.testing.assert_close(learned_range(full, batch.t, predicted), said, rtol=1e-4, atol=1e-4)

    # What is said of one step of many says little of a long one; nor does it where as many lie at other times.
    for times in ([0, T // 2, T - 1], [(T - 1) * (k / (T - 1)) ** 2 for k in range(T)]):
        kept = schedules.respaced(full, times)
        for k, t in enumerate(map(int, kept.timesteps)):
            one = denoiser.Prediction(*(None if part is None else part[t : t + 1] for part in predicted))  # type: ignore[misc]
            found = learned_range(kept, torch.tensor([k]), one)
            low, high = kept.posterior_log_variance_clipped[k], np.log(kept.betas[k])
            assert min(low, high) - 1e-5 <= float(found.min()) <= float(found.max()) <= max(low, high) + 1e-5


@pytest.mark.parametrize(("v", "name"), [(-1.0, "fixed_small"), (1.0, "fixed_large")])
def test_the_ends_of_the_range_are_the_two_fixed_variances(full: Schedule, batch: Batch, v: float, name: str) -> None:
    predicted = denoiser.Prediction(batch.x_start, torch.full_like(batch.x_start, v))
    learned = learned_range(full, batch.t, predicted)
    expected = VARIANCES[name](full, batch.t, predicted).expand_as(learned)
    torch.testing.assert_close(learned[1:], expected[1:])  # at t = 0 the fixed ones agree with each other instead


@pytest.mark.parametrize("rescale", [True, False])
def test_the_bound_of_the_hybrid_teaches_the_variance_alone(full: Schedule, batch: Batch, rescale: bool) -> None:
    config = settings(learn_sigma=True, rescale_learned_sigmas=rescale)
    output = torch.randn(T, 6, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = training_losses(fixed(output), full, full, config, batch)
    (gradient,) = torch.autograd.grad(found["loss"].sum(), output, retain_graph=True)
    (of_mse,) = torch.autograd.grad(found["mse"].sum(), output, retain_graph=True)
    assert torch.equal(gradient[:, :3], of_mse[:, :3])
    assert gradient[:, 3:].abs().sum() > 0
    torch.testing.assert_close(found["loss"], found["mse"] + found["vb"])


def test_the_share_of_the_bound(full: Schedule, batch: Batch) -> None:
    output = torch.randn(T, 6, 4, 4, generator=torch.Generator().manual_seed(1))
    whole, share = (
        training_losses(fixed(output), full, full, settings(learn_sigma=True, rescale_learned_sigmas=r), batch)["vb"]
        for r in (False, True)
    )
    torch.testing.assert_close(share, whole * T / 1000)


def test_masses_of_all_pixel_values_sum_to_one() -> None:
    values = torch.arange(256).double() / 127.5 - 1
    mean = torch.tensor([-1.3, -0.2, 0.0, 0.77, 1.0]).double()
    for scale in (0.005, 0.05, 1.0):
        log_scale = torch.full((5, 256), math.log(scale)).double()
        log_mass = losses.discretized_gaussian_log_likelihood(
            values.expand(5, 256), mean[:, None].expand(5, 256), log_scale
        )
        torch.testing.assert_close(log_mass.exp().sum(dim=1), torch.ones(5).double(), rtol=1e-6, atol=1e-6)


def test_the_divergence_is_that_of_torch() -> None:
    rng = torch.Generator().manual_seed(0)
    mean1, mean2, log1, log2 = torch.randn(4, 50, generator=rng).double()
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean1, (log1 / 2).exp()), torch.distributions.Normal(mean2, (log2 / 2).exp())
    )
    torch.testing.assert_close(losses.normal_kl(mean1, log1, mean2, log2), expected)


def test_the_prior_of_a_process_that_ends_in_noise_is_nothing() -> None:
    x = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert losses.prior_bpd(schedules.named("linear", 1000), x).abs().max() < 1e-4
    short = schedules.respaced(schedules.named("linear", 1000), [100])
    abar = float(short.alphas_cumprod[-1])
    by_hand = (
        0.5 * (abar * np.square(x.numpy()) + (1 - abar) - 1 - math.log(1 - abar)).mean(axis=(1, 2, 3)) / math.log(2)
    )
    np.testing.assert_allclose(losses.prior_bpd(short, x), by_hand, rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({}, ("loss", "mse")),
        (dict(learn_sigma=True), ("loss", "mse", "vb")),
        (dict(use_kl=True), ("loss",)),
        (dict(use_kl=True, learn_sigma=True), ("loss",)),
    ],
)
def test_parts_are_known_beforehand(full: Schedule, batch: Batch, values: dict, parts: tuple[str, ...]) -> None:
    config = settings(**values)
    output = torch.zeros(T, config.model.out_channels, 4, 4)
    assert tuple(training_losses(fixed(output), full, full, config, batch)) == losses.parts(config) == parts


def test_the_objective_has_its_name() -> None:
    names = {
        "L_simple": {},
        "L_hybrid": dict(learn_sigma=True),
        "L_simple + L_vlb": dict(learn_sigma=True, rescale_learned_sigmas=False),
        "L_vlb": dict(learn_sigma=True, use_kl=True),
    }
    for name, values in names.items():
        assert objectives.training_objective(settings(**values)).name == name
