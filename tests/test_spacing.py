"""Which timesteps are visited: the formulas of the papers, how many calls they cost, and what cannot be."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises_error

from ddpm import schedules, spacings
from ddpm.config import codec
from ddpm.config.model import DiffusionConfig
from ddpm.config.tasks import FEW_STEPS, EvalConfig, SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import timesteps
from ddpm.planning.resolve import resolve_process
from ddpm.schedules import Curve
from ddpm.solvers import SOLVERS
from ddpm.spacings import SPACINGS

COSINE = Config(diffusion=DiffusionConfig(noise_schedule="cosine"))


@pytest.fixture(params=["linear", "cosine"])
def curve(request: pytest.FixtureRequest) -> Curve:
    return schedules.named(request.param, 1000).curve


def test_the_curve_goes_through_every_timestep(curve: Curve) -> None:
    full = schedules.named("cosine", 200)
    t = np.arange(200)
    np.testing.assert_allclose(full.curve.abar(t), full.alphas_cumprod, rtol=1e-12)
    np.testing.assert_allclose(full.curve.alpha(t) ** 2 + full.curve.sigma(t) ** 2, 1, rtol=1e-12)


@given(st.floats(0, 999))
def test_lam_and_back(t: float) -> None:
    for name in schedules.BETAS:
        curve = schedules.named(name, 1000).curve
        assert curve.t_of(curve.lam(t)) == pytest.approx(t, abs=1e-5)


def test_lam_falls_and_ends_stay_ends(curve: Curve) -> None:
    lam = curve.lam(np.linspace(0, 999, 4000))
    assert (np.diff(lam) < 0).all()
    assert curve.t_of(1e3) == 0
    assert curve.t_of(-1e3) == 999


def test_spacings_are_what_their_papers_say(curve: Curve) -> None:
    kept = spacings.logsnr(curve, 11, 999)
    assert kept[0] == 0
    steps = np.diff(curve.lam(np.array(kept)))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-5)
    noise = np.exp(-curve.lam(np.array(spacings.karras(curve, 11, 999)))) ** (1 / 7)
    np.testing.assert_allclose(np.diff(noise), np.diff(noise)[0], rtol=1e-5)
    assert spacings.quadratic(curve, 11, 999) == [round((k / 10 * 999**0.5) ** 2) for k in range(11)]
    assert spacings.quadratic(curve, 1000, 999) == list(range(1000))
    assert spacings.quadratic(curve, 100, 999)[:4] == [0, 1, 2, 3]
    assert spacings.uniform(curve, 10, 999) == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]


def test_cosine_schedules_are_cut_where_noise_has_no_end(curve: Curve) -> None:
    """DPM-Solver cuts at t = 0.9946 of 1 (Lu et al. 2022a, Appendix D.3); linear schedules end there by themselves."""
    full = schedules.named("cosine", 1000)
    last = spacings.logsnr(full.curve, 10, 999)[-1]
    assert (last + 1) / 1000 == pytest.approx(0.9946, abs=0.002)
    linear = schedules.named("linear", 1000).curve
    assert spacings.logsnr(linear, 10, 999)[-1] == pytest.approx(999)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(SOLVERS)), st.integers(2, 60), st.sampled_from(list(SPACINGS)), st.booleans(), st.booleans()
)
def test_as_many_calls_as_were_asked_for(name: str, steps: int, how: str, to_zero: bool, spared: bool) -> None:
    sample = SampleConfig(sampler=name, steps=steps, spacing=how, denoise_to_zero=to_zero, analytic_first_step=spared)
    kept = timesteps.timesteps(Config(), sample)
    assert all(0 <= a < b <= 999 for a, b in itertools.pairwise(kept))
    assert kept[0] == 0 or len(kept) == 1
    assert steps - 1 <= resolve_process(Config(), sample).nfe <= steps
    if how in ("uniform", "quadratic"):
        assert all(isinstance(t, int) for t in kept), "the network knows whole timesteps best"


def test_what_improved_diffusion_says_stays() -> None:
    assert timesteps.timesteps(Config(), SampleConfig()) == list(range(1000))
    assert timesteps.timesteps(Config(), SampleConfig(timestep_respacing="ddim50")) == list(range(0, 1000, 20))
    assert timesteps.timesteps(Config(), EvalConfig(timestep_respacing="10")) == schedules.space_timesteps(1000, "10")
    assert timesteps.solver(SampleConfig()) == "ddpm"
    assert timesteps.solver(SampleConfig(use_ddim=True, timestep_respacing="50")) == "ddim"
    assert timesteps.solver(SampleConfig(steps=10)) == FEW_STEPS
    assert timesteps.solver(SampleConfig(steps=10, task="inpaint")) == "ddpm"
    assert timesteps.solver(SampleConfig(task="invert")) == "ddim"


def test_a_model_that_learnt_some_timesteps_is_asked_about_no_others() -> None:
    config = codec.replace(Config(), {"timestep_respacing": "ddim50"})
    learnt = schedules.space_timesteps(1000, "ddim50")
    assert timesteps.timesteps(config, SampleConfig()) == learnt
    asked = [
        SampleConfig(steps=25),
        SampleConfig(steps=50, sampler="ddim"),
        SampleConfig(steps=7, sampler="heun"),
        SampleConfig(timestep_respacing="25"),
        SampleConfig(steps=5, task="vary", strength=0.3),
        EvalConfig(timestep_respacing="25"),
    ]
    for wanted in asked:
        kept, free = timesteps.timesteps(config, wanted), timesteps.timesteps(Config(), wanted)
        assert len(kept) == len(free)
        assert set(kept) <= set(learnt)
        assert all(a < b for a, b in itertools.pairwise(kept))
        if len(kept) < 20:
            assert np.abs(np.array(kept) - free).max() <= 20, "as near as there are"
    with raises_error("impossible-steps", 250, 50):
        timesteps.timesteps(config, EvalConfig(timestep_respacing="250"))


def test_a_variation_begins_where_its_strength_says() -> None:
    for strength, last in ((1.0, 999), (0.5, 500), (0.1, 100)):
        sample = SampleConfig(task="vary", strength=strength, steps=10)
        assert timesteps.timesteps(Config(), sample)[-1] == pytest.approx(last, abs=1e-6)
        old = dataclasses.replace(sample, steps=0, timestep_respacing="100")
        assert max(timesteps.timesteps(Config(), old)) <= last


def test_repaint_goes_back_as_far_as_it_came() -> None:
    for count, jump, resample in itertools.product((1, 7, 20), (1, 3, 50), (1, 2, 5)):
        moves = list(timesteps.repaint_moves(count, jump, resample))
        level = count + np.cumsum(moves)
        assert level[-1] == 0
        assert level.min() == 0
        assert level.max() < count or resample > 1
        assert sum(m < 0 for m in moves) == count * resample
        sample = SampleConfig(task="inpaint", steps=count, jump=jump, resample=resample)
        assert resolve_process(Config(), sample).nfe == count * resample


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        dict(steps=5000, sampler="ddim", spacing="uniform"),
        "steps 5000 cannot be spread over 1000 whole timesteps: ask for at most 1000,",
    ),
    (dict(steps=1001, sampler="ddim", spacing="quadratic"), "steps 1001 cannot be spread over 1000"),
    (dict(steps=1, denoise_to_zero=False, sampler="heun"), "steps 1 are too few for Heun"),
    (dict(steps=1, denoise_to_zero=False, sampler="plms"), "steps 1 are too few for PLMS"),
    (dict(steps=10, timestep_respacing="20"), "steps 10 and timestep_respacing '20' both say"),
    (dict(spacing="karras"), "spacing karras spreads as many steps as steps says"),
    (dict(timestep_respacing="2000"), "timestep_respacing '2000'"),
    (dict(steps=10, use_ddim=True, sampler="heun"), "use_ddim is True and sampler is heun"),
    (dict(steps=10, task="inpaint", sampler="unipc-3"), "inpaint goes back and repeats steps"),
    (dict(steps=10, task="invert", sampler="ddim", eta=0.5), "invert follows DDIM without noise"),
    (dict(steps=10, task="vary", analytic_first_step=True), "analytic_first_step is for pure noise"),
    (dict(steps=10, task="vary", strength=0.0), "strength 0 adds no noise"),
    (dict(timestep_respacing="1", denoise_to_zero=False), "denoise_to_zero is False, and a single timestep leaves no"),
    (dict(timestep_respacing="1", analytic_first_step=True), "analytic_first_step is True, and a single timestep"),
    (dict(steps=10, churn=5.0), "churn 5 is for Heun, and the sampler is UniPC-2"),
    (dict(steps=10, dynamic_threshold=0.99, clip_denoised=False), "dynamic_threshold 0.99 is a way to clip"),
    (dict(steps=10, task="inpaint", denoise_to_zero=False), "denoise_to_zero is False, and inpaint"),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSED)
def test_what_cannot_be_is_said_in_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve_process(COSINE, SampleConfig(**values))
    said = str(caught.value)
    assert sentence in said
    assert said.count(". ") == 0
    assert said.endswith(".")


def test_a_process_of_one_timestep() -> None:
    single = Config(diffusion=DiffusionConfig(noise_schedule="cosine", diffusion_steps=1))
    assert timesteps.timesteps(single, SampleConfig(steps=1)) == [0]
    with raises_error("impossible-steps", 10, 1):
        timesteps.timesteps(single, SampleConfig(steps=10))
