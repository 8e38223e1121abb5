"""Samplers against a denoiser whose exact answer is known: data from a Gaussian, or from a mixture of two."""

from functools import cache, partial

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm import schedules, spacings
from ddpm.config.model import PREDICTIONS, DiffusionConfig, ModelConfig
from ddpm.config.tasks import FEW_STEPS, SampleConfig
from ddpm.config.training import Config
from ddpm.diffusion import denoiser
from ddpm.diffusion.denoiser import Denoiser, Prediction
from ddpm.diffusion.process import at
from ddpm.diffusion.variances import VARIANCES, fixed_small, learned_range
from ddpm.planning.resolve import resolve_process
from ddpm.sampling import samplers
from ddpm.sampling.engine import sample, schedule_of
from ddpm.sampling.request import resolve_request
from ddpm.sampling.samplers import ImageNoise
from ddpm.solvers import SOLVERS
from ddpm.spacings import SPACINGS

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
def test_ancestral_sampling_samples_the_data(full: schedules.Schedule, variance: str) -> None:
    rng = torch.Generator().manual_seed(1)
    *_, last = samplers.ddpm(
        exact(full),
        noise(),
        full,
        VARIANCES[variance],
        randn_like=lambda x: torch.randn(x.shape, generator=rng),
    )
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
    other = samplers.ddpm(exact(full), start, schedule, fixed_small, randn_like=ImageNoise(range(64)))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.x, b.x, atol=2e-4, rtol=0)


# --- solvers: data from a mixture of two Gaussians, whose exact denoiser is known, all in float64


MIXTURE = ((0.3, -0.6, 0.15), (0.7, 0.5, 0.25))  # weight, mean, std


def exact_mixture(full: schedules.Schedule) -> Denoiser:
    """E[x_0 | x_t] for pixels from MIXTURE: the mean of its parts' answers, each by its share in x_t."""

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        abar = float(full.curve.abar(float(t[0])))
        log_share, answer = [], []
        for weight, mean, std in MIXTURE:
            spread = abar * std**2 + 1 - abar
            off = x - abar**0.5 * mean
            log_share.append(np.log(weight) - 0.5 * np.log(spread) - 0.5 * off**2 / spread)
            answer.append(mean + abar**0.5 * std**2 / spread * off)
        return Prediction((torch.softmax(torch.stack(log_share), 0) * torch.stack(answer)).sum(0))

    return denoise


def between(full: schedules.Schedule, count: int) -> schedules.Schedule:
    """`count` steps of one length in lam, between t = 950 and t = 20."""
    lam = np.linspace(full.curve.lam(20.0), full.curve.lam(950.0), count + 1)
    return schedules.respaced(full, full.curve.t_of(lam).tolist())


@cache
def solved(name: str, schedule_name: str, count: int) -> Tensor:
    full = schedules.named(schedule_name, 1000)
    x = 0.9 * torch.randn(256, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sampler = samplers.named(name) if name in SOLVERS else partial(samplers.dpm_solver_pp, order=1)
    *_, last = sampler(exact_mixture(full), x, between(full, count), to_zero=False)
    return last.x


@pytest.mark.parametrize("name", [name for name, row in SOLVERS.items() if row.exact])
def test_a_solver_converges_at_its_order(name: str) -> None:
    """Twice the steps make the error 2 ** order times smaller.

    Where the curve of a linear schedule is straight between timesteps; half an order is allowed for few steps.
    """
    truth = solved("unipc-3", "linear", 2000)
    errors = [float((solved(name, "linear", count) - truth).abs().mean()) for count in (80, 160, 320)]
    measured = np.log2(errors[0] / errors[1]), np.log2(errors[1] / errors[2])
    assert np.mean(measured) == pytest.approx(SOLVERS[name].order, abs=0.35)


@pytest.mark.parametrize("name", [name for name, row in SOLVERS.items() if row.exact])
def test_all_solvers_find_the_same_images(name: str) -> None:
    """DDIM with 1,000 steps is near what all of them come to; the others come nearer still to each other."""
    reference, truth = solved("ddim", "cosine", 1000), solved("unipc-3", "cosine", 1000)
    away = float((reference - truth).abs().mean())
    assert away < 1e-3
    found = solved(name, "cosine", 1000)
    assert float((found - reference).abs().mean()) < 1.1 * away
    if name != "ddim":
        assert float((found - truth).abs().mean()) < away / 100


def test_ddim_is_dpm_solver_1(full: schedules.Schedule) -> None:
    for spec in ("5", "20", "ddim50"):
        schedule = schedules.respaced(full, schedules.space_timesteps(1000, spec))
        for to_zero in (True, False):
            *_, one = samplers.ddim(exact(full), noise(64), schedule, to_zero=to_zero)
            *_, other = samplers.dpm_solver_pp(exact(full), noise(64), schedule, order=1, to_zero=to_zero)
            torch.testing.assert_close(one.x, other.x, atol=1e-5, rtol=0)


def test_few_steps_of_a_high_order_beat_many_of_ddim() -> None:
    truth = solved("unipc-3", "linear", 1000)
    error = {
        n: float((solved(n, "linear", k) - truth).abs().mean())
        for n, k in (("ddim", 100), ("unipc-3", 20), ("dpm++3m", 20))
    }
    assert error["unipc-3"] < error["ddim"]
    assert error["dpm++3m"] < error["ddim"]


@pytest.mark.parametrize("name", ["dpm++2m-sde", "heun"])
def test_samplers_with_fresh_noise_sample_the_data(full: schedules.Schedule, name: str) -> None:
    rng = torch.Generator().manual_seed(1)
    sampler = partial(samplers.named(name), churn=40.0) if name == "heun" else samplers.named(name)
    kept = spacings.logsnr(full.curve, 100, 999)
    schedule = schedules.respaced(full, kept)
    fresh = lambda x: torch.randn(x.shape, generator=rng)  # noqa: E731
    *_, last = sampler(exact(full), noise(), schedule, randn_like=fresh)
    *_, plain = sampler(exact(full), noise(), schedule, randn_like=torch.zeros_like)
    assert abs(float(last.x.mean()) - MEAN) < 4 * STD / 4096**0.5
    assert abs(float(last.x.std()) / STD - 1) < 0.06
    assert float((last.x - plain.x).abs().mean()) > STD / 10, "its noise is fresh"


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_heun_with_churn_of_a_process_of_few_timesteps(steps: int) -> None:
    """Which ends where its noise is churned."""
    schedule = schedules.named("cosine", steps)
    *_, last = samplers.heun(exact(schedule), noise(4), schedule, randn_like=torch.randn_like, churn=40.0)
    assert torch.isfinite(last.x).all()


def test_heun_without_churn_asks_for_no_noise(full: schedules.Schedule) -> None:
    def forbidden(x: Tensor) -> Tensor:
        raise AssertionError("no noise was to be drawn")

    *_, last = samplers.heun(exact(full), noise(4), between(full, 5), randn_like=forbidden)
    assert torch.isfinite(last.x).all()


@pytest.mark.parametrize("to_zero", [True, False])
@pytest.mark.parametrize("name", list(SOLVERS))
def test_a_yield_is_a_call(full: schedules.Schedule, name: str, to_zero: bool) -> None:
    """So that whoever stops asking waits for one call at most; and `nfe` says how many there will be."""
    for asked in (2, 3, 7, 10):
        config = Config()
        resolved = resolve_process(config, SampleConfig(sampler=name, steps=asked, denoise_to_zero=to_zero))
        schedule = schedule_of(resolved)
        made, seen = 0, 0

        def counted(x: Tensor, t: Tensor) -> Prediction:
            nonlocal made
            made += 1
            return exact(full)(x, t)

        for step in samplers.named(name)(counted, noise(8), schedule, to_zero=to_zero, randn_like=ImageNoise(range(8))):
            seen += 1
            assert (step.done, made) == (seen, seen)
        assert seen == step.total == resolved.nfe <= asked
        assert asked - seen < max(2, SOLVERS[name].calls + SOLVERS[name].warm_up)
        assert torch.isfinite(step.x).all()


@pytest.mark.parametrize("name", list(SOLVERS))
def test_one_call_is_enough_to_end(full: schedules.Schedule, name: str) -> None:
    schedule = schedule_of(resolve_process(Config(), SampleConfig(sampler=name, steps=1)))
    *_, last = samplers.named(name)(exact(full), noise(1024), schedule, randn_like=ImageNoise(range(1024)))
    assert (last.done, last.total) == (1, 1)
    assert torch.equal(last.x, last.x_start)


def test_the_first_step_may_be_spared(full: schedules.Schedule) -> None:
    """What it leaves out costs little, as there is but noise to be seen, and a step is won."""
    asked = []

    def watched(x: Tensor, t: Tensor) -> Prediction:
        asked.append(float(t[0]))
        return exact(full)(x, t)

    schedule = schedules.respaced(full, spacings.logsnr(full.curve, 11, 999))
    *_, spared = samplers.dpm_solver_pp(samplers.first_step_spared(watched, schedule), noise(64), schedule)
    *_, whole = samplers.dpm_solver_pp(exact(full), noise(64), schedule)
    assert len(asked) == 10
    assert max(asked) < schedule.timesteps[-1]
    assert float((spared.x - whole.x).abs().mean()) < 0.03


@pytest.mark.parametrize("name", list(SOLVERS))
def test_a_step_says_what_it_was_reported_and_where(full: schedules.Schedule, name: str) -> None:
    """x_start and t of a yield are those of its own call."""
    asked: list[tuple[float, Tensor]] = []

    def watched(x: Tensor, t: Tensor) -> Prediction:
        predicted = exact(full)(x, t)
        asked.append((float(t[0]), predicted.x_start))
        return predicted

    schedule = schedule_of(resolve_process(Config(), SampleConfig(sampler=name, steps=8)))
    for step in samplers.named(name)(watched, noise(4), schedule, randn_like=ImageNoise(range(4))):
        assert step.t == pytest.approx(asked[-1][0])
        assert torch.equal(step.x_start, asked[-1][1])


def test_a_learned_variance_and_a_spared_first_step(full: schedules.Schedule) -> None:
    def learned(x: Tensor, t: Tensor) -> Prediction:
        return Prediction(exact(full)(x, t).x_start, torch.zeros_like(x))

    schedule = schedules.respaced(full, schedules.space_timesteps(1000, "6"))
    denoise = samplers.first_step_spared(learned, schedule)
    *_, last = samplers.ddpm(denoise, noise(4), schedule, learned_range, randn_like=ImageNoise(range(4)))
    assert torch.isfinite(last.x).all()


def test_every_sampler_is_described_and_there() -> None:
    assert all(callable(samplers.named(name)) for name in SOLVERS)
    assert FEW_STEPS in SOLVERS
    assert {row.spacing for row in SOLVERS.values()} <= set(SPACINGS)


def test_dynamic_thresholding() -> None:
    x = torch.linspace(-3, 3, 101).reshape(1, 1, 101, 1)
    assert torch.equal(denoiser.clip_x_start(x), x.clamp(-1, 1))
    scaled = denoiser.clip_x_start(x, 0.9)
    size = torch.quantile(x.abs(), 0.9)
    torch.testing.assert_close(scaled, (x / size).clamp(-1, 1))
    inside = 0.5 * x.clamp(-1, 1)
    assert torch.equal(denoiser.clip_x_start(inside, 0.9), inside), "what is within the range stays as it is"
    both = denoiser.clip_x_start(torch.cat([x, inside]), 0.9)
    torch.testing.assert_close(both, torch.cat([scaled, inside])), "each picture by itself"


def test_a_denoiser_between_two_timesteps(full: schedules.Schedule) -> None:
    """Whole timesteps as floats give what they give as integers, and what lies between goes on without a jump."""
    x = noise(4)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(3 * x + 0.001 * t[:, None, None, None])

    for settings in (DiffusionConfig(prediction=prediction) for prediction in PREDICTIONS):
        denoise = denoiser.make_denoiser(network, full, settings, clip=False)
        for t in (0, 1, 500, 998):
            whole = denoise(x, torch.full((4,), t)).x_start
            as_float = denoise(x, torch.full((4,), float(t), dtype=torch.float64)).x_start
            torch.testing.assert_close(whole, as_float, rtol=1e-5, atol=1e-5)
        low, mid, high = (denoise(x, torch.full((4,), t, dtype=torch.float64)).x_start for t in (500.0, 500.5, 501.0))
        assert float((mid - (low + high) / 2).abs().max()) < 0.02 * float((high - low).abs().max()) + 1e-3


@pytest.mark.parametrize("spec", ["1", "2", "3", "ddim1", "ddim4"])
def test_few_steps_down_to_one(full: schedules.Schedule, spec: str) -> None:
    schedule = schedules.respaced(full, schedules.space_timesteps(1000, spec))
    for sampler in (samplers.ddim, samplers.ddpm):
        steps = list(sampler(exact(full), noise(1024), schedule, randn_like=ImageNoise(range(1024))))
        assert [s.done for s in steps] == list(range(1, len(schedule) + 1))
        assert torch.isfinite(steps[-1].x).all()
        assert abs(float(steps[-1].x.mean()) - MEAN) < 0.2


def test_inversion_and_back(full: schedules.Schedule) -> None:
    images = MEAN + STD * noise(64)
    *_, encoded = samplers.ddim_inversion(exact(full), images, full)
    *_, decoded = samplers.ddim(exact(full), encoded.x, full)
    assert abs(float(encoded.x.std()) - 1) < 0.25  # 64 images
    assert float((decoded.x - images).abs().max()) < 0.05


def test_image_k_does_not_depend_on_the_batch() -> None:
    config = Config(model=ModelConfig(image_size=8, num_channels=32))

    def network(x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.sin(x + 0.01 * t[:, None, None, None])

    sampled = {}
    for batch in (1, 3, 8):
        for ddim in (True, False):
            settings = SampleConfig(
                num_samples=8, batch_size=batch, use_ddim=ddim, eta=0.5 * ddim, timestep_respacing="10", seed=5
            )
            sampled[batch, ddim] = torch.cat(
                [d.step.x for d in sample(network, resolve_request(config, settings)) if d.finished]
            )
    for ddim in (True, False):
        assert torch.equal(sampled[1, ddim], sampled[8, ddim])
        assert torch.equal(sampled[3, ddim], sampled[8, ddim])
    later = SampleConfig(num_samples=2, use_ddim=True, eta=0.5, timestep_respacing="10", seed=8)
    *_, last = sample(network, resolve_request(config, later))
    assert torch.equal(last.step.x, sampled[8, True][3:5]), "image k is sampled from seed + k"


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
