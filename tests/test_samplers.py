"""Samplers against a denoiser whose exact answer is known: data from a Gaussian."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm import diffusion, samplers, schedules
from ddpm.config import Config, ModelConfig, SampleConfig
from ddpm.diffusion import Denoiser, Prediction, at
from ddpm.sample import draw
from ddpm.samplers import ImageNoise

MEAN, STD = 0.3, 0.2  # of every pixel of the data


def exact(full: schedules.Schedule) -> Denoiser:
    """E[x_0 | x_t] for pixels ~ N(MEAN, STD^2)."""
    abar = full.alphas_cumprod

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        a = at(abar, t, x)
        return Prediction(MEAN + a.sqrt() * STD**2 / (a * STD**2 + 1 - a) * (x - a.sqrt() * MEAN))

    return denoise


@pytest.fixture(params=["linear", "cosine"])
def full(request: pytest.FixtureRequest) -> schedules.Schedule:
    return schedules.named(request.param, 1000)


def noise(count: int = 4096) -> Tensor:
    return torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ancestral_sampling_draws_the_data(full: schedules.Schedule, variance: str) -> None:
    rng = torch.Generator().manual_seed(1)
    *_, last = samplers.ddpm(
        exact(full), noise(), full, diffusion.VARIANCES[variance],
        randn_like=lambda x: torch.randn(x.shape, generator=rng),
    )  # fmt: skip
    assert last.done == last.total == 1000
    assert abs(float(last.x.mean()) - MEAN) < 4 * STD / 4096**0.5
    assert abs(float(last.x.std()) / STD - 1) < 0.05


def test_ddim_follows_the_exact_flow(full: schedules.Schedule) -> None:
    """The probability-flow ODE carries a Gaussian's quantiles: x_0 = MEAN + STD * (x_T - m) / s."""
    abar = full.alphas_cumprod[-1]
    start = noise()
    *_, last = samplers.ddim(exact(full), start, full)
    spread = (abar * STD**2 + 1 - abar) ** 0.5
    expected = MEAN + STD * (start - abar**0.5 * MEAN) / spread
    assert float((last.x - expected).abs().max()) < 0.02


def test_ddim_comes_closer_with_more_steps(full: schedules.Schedule) -> None:
    *_, converged = samplers.ddim(exact(full), noise(), full)
    errors = []
    for count in (5, 20, 100):
        schedule = schedules.respaced(full, schedules.space_timesteps(1000, str(count)))
        *_, last = samplers.ddim(exact(full), noise(), schedule)
        errors.append(float((last.x - converged.x).abs().mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_ddim_with_eta_1_is_ancestral_with_the_small_variance(full: schedules.Schedule) -> None:
    schedule = schedules.respaced(full, schedules.space_timesteps(1000, "50"))
    start = noise(64)
    one = samplers.ddim(exact(full), start, schedule, eta=1.0, randn_like=ImageNoise(range(64)))
    other = samplers.ddpm(exact(full), start, schedule, diffusion.fixed_small, randn_like=ImageNoise(range(64)))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.x, b.x, atol=2e-4, rtol=0)


@pytest.mark.parametrize("spec", ["1", "2", "3", "ddim1", "ddim4"])
def test_few_steps_down_to_one(full: schedules.Schedule, spec: str) -> None:
    schedule = schedules.respaced(full, schedules.space_timesteps(1000, spec))
    for sampler in (samplers.ddim, samplers.ddpm):
        steps = list(sampler(exact(full), noise(1024), schedule, randn_like=ImageNoise(range(1024))))
        assert [s.done for s in steps] == list(range(1, len(schedule) + 1))
        assert torch.isfinite(steps[-1].x).all()
        assert abs(float(steps[-1].x.mean()) - MEAN) < 0.2


def test_inversion_and_back(full: schedules.Schedule) -> None:
    pictures = MEAN + STD * noise(64)
    *_, encoded = samplers.ddim_inversion(exact(full), pictures, full)
    *_, decoded = samplers.ddim(exact(full), encoded.x, full)
    assert abs(float(encoded.x.std()) - 1) < 0.25  # 64 pictures
    assert float((decoded.x - pictures).abs().max()) < 0.05


def test_picture_k_does_not_depend_on_the_batch() -> None:
    config = Config(model=ModelConfig(image_size=8, num_channels=32))

    def network(x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.sin(x + 0.01 * t[:, None, None, None])

    drawn = {}
    for batch in (1, 3, 8):
        for ddim in (True, False):
            settings = SampleConfig(num_samples=8, batch_size=batch, use_ddim=ddim, eta=0.5, timestep_respacing="10", seed=5)  # fmt: skip
            drawn[batch, ddim] = torch.cat([d.step.x for d in draw(network, config, settings) if d.finished])
    for ddim in (True, False):
        assert torch.equal(drawn[1, ddim], drawn[8, ddim])
        assert torch.equal(drawn[3, ddim], drawn[8, ddim])
    later = SampleConfig(num_samples=2, use_ddim=True, eta=0.5, timestep_respacing="10", seed=8)
    *_, last = draw(network, config, later)
    assert torch.equal(last.step.x, drawn[8, True][3:5]), "picture k is drawn from seed + k"


def test_stopping_early_is_not_asking(full: schedules.Schedule) -> None:
    calls = 0

    def counted(x: Tensor, t: Tensor) -> Prediction:
        nonlocal calls
        calls += 1
        return exact(full)(x, t)

    walk = samplers.ddim(counted, noise(1), full)
    for _ in range(3):
        next(walk)
    walk.close()
    assert calls == 3
    assert torch.is_grad_enabled()


def test_tables_stay_sensible_for_one_step() -> None:
    full = schedules.named("cosine", 1000)
    one = schedules.respaced(full, schedules.space_timesteps(1000, "1"))
    assert one.timesteps == (999,)
    for table in (one.posterior_variance, one.posterior_log_variance_clipped, one.posterior_mean_coef1):
        assert np.isfinite(table).all()
