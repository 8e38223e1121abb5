"""Noise: the sigmoid schedule, zero terminal SNR from training to every sampler, and offset noise."""

import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from raising import raises_error
from torch import Tensor

import ddpm
from ddpm import schedules, spacings, weightings
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.diffusion import denoiser, losses, process
from ddpm.diffusion.denoiser import Denoiser, Prediction
from ddpm.diffusion.losses import Batch
from ddpm.interop import export_openai
from ddpm.runs.runs import Run
from ddpm.sampling import analytic_variance, editing, samplers
from ddpm.solvers import SOLVERS
from ddpm.training.trainer import Trainer

MEAN, STD = 0.3, 0.2  # of every pixel of the data


@cache
def zero(name: str, T: int = 1000) -> schedules.Schedule:
    return schedules.named(name, T, ends_in_noise=True)


def test_sigmoid_is_the_published_curve() -> None:
    """gamma(t) of Chen 2023, Algorithm 1, with start -3, end 3 and tau 1; the last step is cut as that of cosine."""
    full = schedules.named("sigmoid", 10)

    def gamma(t: float) -> float:
        first, last, now = (1 / (1 + math.exp(-x)) for x in (-3.0, 3.0, -3.0 + 6.0 * t))
        return (last - now) / (last - first)

    assert full.alphas_cumprod[:9] == pytest.approx([gamma(k / 10) for k in range(1, 10)], rel=1e-12)
    assert full.alphas_cumprod[4] == pytest.approx(0.5)
    assert full.betas[9] == 0.999
    assert schedules.possible("sigmoid", 1)


@pytest.mark.parametrize("name", schedules.BETAS)
def test_zero_terminal_snr_is_the_published_algorithm(name: str) -> None:
    """Lin et al. 2024, Algorithm 1: sqrt(abar) is shifted to end at 0, and scaled to begin where it began."""
    before, after = np.sqrt(schedules.named(name, 50).alphas_cumprod), np.sqrt(zero(name, 50).alphas_cumprod)
    assert after[-1] == 0
    assert zero(name, 50).betas[-1] == 1
    expected = (before - before[-1]) * before[0] / (before[0] - before[-1])
    np.testing.assert_allclose(after, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", schedules.BETAS)
def test_the_curve_reaches_noise_alone(name: str) -> None:
    full = zero(name)
    np.testing.assert_allclose(full.curve.abar(np.arange(1000)), full.alphas_cumprod, rtol=1e-9)
    assert full.curve.lam(999.0) == -np.inf
    t = np.array([0, 3.5, 500, 998, 998.25, 998.9])
    np.testing.assert_allclose(full.curve.t_of(full.curve.lam(t)), t, atol=1e-6)
    assert full.curve.t_of(-np.inf) == 999
    for spread in (row.spread for row in spacings.SPACINGS.values()):
        kept = spread(full.curve, 10, 999)
        assert (kept[0], kept[-1]) == (0, 999)
        assert (np.diff(kept) > 0).all()


# --- samplers


def exact(full: schedules.Schedule) -> Denoiser:
    """E[x_0 | x_t] for pixels ~ N(MEAN, STD^2)."""

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        abar = float(full.curve.abar(float(t[0])))
        return Prediction(MEAN + abar**0.5 * STD**2 / (abar * STD**2 + 1 - abar) * (x - abar**0.5 * MEAN))

    return denoise


def noise(count: int) -> Tensor:
    return torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(0))


def error(name: str, count: int, spacing: str) -> float:
    """How far a sampler comes, over `count` timesteps down to t = 0, from the only map that the ODE has."""
    full, x = zero("cosine"), noise(64).double()
    kept = spacings.SPACINGS[spacing].spread(full.curve, count, 999)
    whole = [int(t) for t in kept] if all(t == int(t) for t in kept) else kept
    *_, last = samplers.named(name)(exact(full), x, schedules.respaced(full, whole), to_zero=False)
    abar = full.alphas_cumprod[0]
    return float((last.x - abar**0.5 * MEAN - (abar * STD**2 + 1 - abar) ** 0.5 * x).abs().max())


@pytest.mark.parametrize("name", [name for name, row in SOLVERS.items() if row.exact])
def test_solvers_go_from_noise_alone_to_the_exact_solution(name: str) -> None:
    """At their order, as far as the first, infinitely long step lets them: that one is of order 2, of DDIM 1."""
    errors = [error(name, count, "logsnr") for count in (25, 100, 400)]
    assert np.log2(errors[0] / errors[1]) / 2 > min(SOLVERS[name].order, 2) - 0.1
    assert errors[2] < min(0.005, errors[1])
    for spacing in ("uniform", "karras"):
        few, many = (error(name, count, spacing) for count in (25, 400))
        assert many < min(0.006, few)


@pytest.mark.parametrize("schedule", schedules.BETAS)
@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm++2m-sde"])
def test_samplers_with_fresh_noise_sample_the_data(name: str, schedule: str) -> None:
    full, rng = zero(schedule), torch.Generator().manual_seed(1)
    sampler = partial(samplers.ddim, eta=0.7) if name == "ddim" else samplers.named(name)
    kept = schedules.respaced(full, schedules.space_timesteps(1000, "200"))
    *_, last = sampler(exact(full), noise(4096), kept, randn_like=lambda x: torch.randn(x.shape, generator=rng))
    assert abs(float(last.x.mean()) - MEAN) < 4 * STD / 4096**0.5
    assert abs(float(last.x.std()) / STD - 1) < 0.06


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_ddim_as_noisy_as_ddpm_begins_from_noise_alone(schedule: str) -> None:
    """What is left beside the fresh noise is 0 there, or by rounding a little less."""
    full, x = zero(schedule), noise(4)
    for count in (5, 10, 14, 15, 17, 20, 25, 30, 250):
        for kept in (schedules.space_timesteps(1000, str(count)), schedules.space_timesteps(1000, f"ddim{count}")):
            *_, last = samplers.ddim(exact(full), x, schedules.respaced(full, kept), eta=1.0)
            assert last.x.isfinite().all()


def test_a_single_step_and_a_spared_one() -> None:
    full = zero("linear")
    one = schedules.respaced(full, [999])
    for name in SOLVERS:
        *_, last = samplers.named(name)(exact(full), noise(4), one, randn_like=torch.zeros_like)
        torch.testing.assert_close(last.x, torch.full_like(last.x, MEAN))
    spared = samplers.first_step_spared(exact(full), full)
    assert float(spared(noise(4), torch.full((4,), 999)).x_start.abs().max()) == 0


def test_inversion_and_inpainting() -> None:
    full = zero("cosine")
    schedule = schedules.respaced(full, schedules.space_timesteps(1000, "500"))
    given = MEAN + STD * noise(16)
    steps = list(editing.invert(exact(full), given, schedule))
    torch.testing.assert_close(steps[499].x, noise(16), atol=0.02, rtol=0)
    torch.testing.assert_close(steps[-1].x, given, atol=0.01, rtol=0)
    short = schedules.respaced(full, schedules.space_timesteps(1000, "10"))
    rng = torch.Generator().manual_seed(1)
    mask = torch.ones(1, 1, 1, 1)
    moves = [-1] * 10 + [1] * 10 + [-1] * 10
    *_, last = editing.inpaint(
        samplers.ddpm,
        exact(full),
        given,
        mask,
        short,
        moves,
        randn_like=lambda x: torch.randn(x.shape, generator=rng),
    )
    assert torch.isfinite(last.x).all()


# --- training and likelihood


@pytest.mark.parametrize("prediction", ["x_start", "v", "x_prev"])
def test_the_bound_and_the_losses_are_finite_and_the_prior_is_nothing(prediction: str) -> None:
    """An exact network: each term of the bound but the decoder's is 0, and L_T is exactly 0."""
    full = zero("linear", 30)
    random = torch.Generator().manual_seed(0)
    x_start = torch.rand((30, 3, 4, 4), generator=random) * 2 - 1
    batch = Batch(x_start, torch.arange(30), torch.randn(x_start.shape, generator=random))
    assert losses.prior_bpd(full, x_start).tolist() == [0.0] * 30
    x_t = process.q_sample(full, x_start, batch.t, batch.noise)
    settings = {"prediction": prediction, "zero_terminal_snr": True, "diffusion_steps": 30}
    for more in (dict(), dict(learn_sigma=True), dict(learn_sigma=True, learned_range=False), dict(use_kl=True)):
        config = codec.replace(Config(), {**settings, **more})
        truth = losses.target(full, config.diffusion, batch, x_t)
        output = truth if not more.get("learn_sigma") else torch.cat([truth, torch.zeros_like(truth)], dim=1)
        found = losses.training_losses(lambda *_, output=output: output, full, full, config, batch)
        assert all(values.isfinite().all() for values in found.values())
        predicted = denoiser.interpret_output(output, x_t, batch.t, full, config.diffusion, clip=False)
        torch.testing.assert_close(predicted.x_start[1:], x_start[1:], atol=2e-2, rtol=0)
        assert losses.vlb_terms(full, config.diffusion, x_start, x_t, batch.t, predicted).isfinite().all()
    assert losses.eps_errors(lambda *_: truth + 1, full, config.diffusion, batch).isfinite().all()


@pytest.mark.parametrize("prediction", ["x_start", "v"])
@pytest.mark.parametrize("name", weightings.WEIGHTINGS)
def test_weightings_are_finite_where_there_is_no_signal(name: str, prediction: str) -> None:
    weights = weightings.weights(name, 0, prediction, zero("cosine").alphas_cumprod)
    assert weights[-1] == 1, "sampling begins there"
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()


def test_the_analytic_variance_has_a_value_everywhere() -> None:
    table = analytic_variance.table(zero("cosine", 20), np.linspace(0.5, 0, 20))
    assert ((table > 0) & (table < 2)).all()


def test_a_network_is_trained_and_sampled_from(tiny: Config) -> None:
    """By every sampler; what its settings say travels with it."""
    training = ddpm.train(tiny, total_steps=3, zero_terminal_snr=True, prediction="v", noise_schedule="sigmoid")
    assert all(report.losses["loss"].isfinite().all() for report in training)
    model = training.model()
    assert model.alphas_cumprod[-1] == 0
    for name in SOLVERS:
        assert model.sample(2, steps=5, solver=name, seed=0).shape == (2, 8, 8, 3)


def test_improved_diffusion_cannot_have_it(fake_run: Callable[..., Run], tmp_path: Path) -> None:
    run = fake_run(zero_terminal_snr=True, prediction="x_start")
    with raises_error("not-exportable", "zero_terminal_snr"):
        export_openai.export_checkpoint(run, tmp_path / "a")
    with raises_error("not-exportable", "sigmoid"):
        export_openai.export_checkpoint(fake_run("other", noise_schedule="sigmoid"), tmp_path / "b")


# --- offset noise


def test_offset_noise_is_one_number_for_each_image_and_channel(tiny: Config) -> None:
    config = datasets.resolve(codec.replace(tiny, {"noise_offset": 0.5, "batch_size": 2000}))
    data = datasets.open_dataset(config.data, config.model)
    noise = Trainer(config, data).next_batch().noise.double()
    plain = Trainer(codec.replace(config, {"noise_offset": 0.0}), data).next_batch().noise.double()
    offset = noise - plain
    torch.testing.assert_close(offset, offset.mean(dim=(2, 3), keepdim=True).expand_as(offset), atol=1e-6, rtol=0)
    each = offset[:, :, 0, 0]
    assert float(each.std()) == pytest.approx(0.5, rel=0.05)
    assert float(torch.corrcoef(each.T)[0, 1].abs()) < 0.08
    assert float(noise.var()) == pytest.approx(1 + 0.25, rel=0.03)


def test_offset_noise_resumes_exactly(tiny: Config) -> None:
    config = datasets.resolve(codec.replace(tiny, {"noise_offset": 0.1}))
    data = datasets.open_dataset(config.data, config.model)
    straight, other = Trainer(config, data), Trainer(config, data)
    list(straight.steps(2))
    other.load(straight.weights(), straight.optimizer.state_dict(), straight.state())
    assert torch.equal(straight.next_batch().noise, other.next_batch().noise)
