"""Schedules and respacing at their edges; test_golden.py has the numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raising import raises_error

from ddpm import schedules
from ddpm.schedules import named, respaced, space_timesteps


@pytest.mark.parametrize("T", [21, 100, 1000, 4000])
@pytest.mark.parametrize("name", schedules.BETAS)
def test_tables_of_any_length(name: str, T: int) -> None:
    schedule = named(name, T)
    assert len(schedule) == len(schedule.betas) == T
    assert ((schedule.betas > 0) & (schedule.betas <= 1)).all()
    assert (np.diff(schedule.alphas_cumprod) < 0).all()
    assert schedule.timesteps == tuple(range(T))
    assert schedule.posterior_variance[0] == 0
    for table in (
        schedule.posterior_log_variance_clipped,
        schedule.posterior_mean_coef1,
        schedule.posterior_mean_coef2,
    ):
        assert np.isfinite(table).all()


def test_the_posterior_is_bayes() -> None:
    """q(x_{t-1} | x_t, x_0) from the product of the two Gaussians it is made of."""
    schedule = named("linear", 50)
    beta, abar_prev = schedule.betas[1:], schedule.alphas_cumprod_prev[1:]
    precision = (1 - beta) / beta + 1 / (1 - abar_prev)
    assert schedule.posterior_variance[1:] == pytest.approx(1 / precision)
    assert schedule.posterior_mean_coef1[1:] == pytest.approx(np.sqrt(abar_prev) / (1 - abar_prev) / precision)
    assert schedule.posterior_mean_coef2[1:] == pytest.approx(np.sqrt(1 - beta) / beta / precision)


@pytest.mark.parametrize("T", [1, 2, 19, 20])
def test_too_short_for_linear(T: int) -> None:
    with raises_error("bad-schedule", "diffusion_steps", T, 21):
        named("linear", T)


@pytest.mark.parametrize("T", [1, 2, 3])
def test_cosine_goes_down_to_one_step(T: int) -> None:
    schedule = named("cosine", T)
    assert schedule.betas.max() <= 0.999
    assert np.isfinite(schedule.posterior_log_variance_clipped).all()


@pytest.mark.parametrize("spec", ["1", "ddim1"])
@pytest.mark.parametrize("T", [1, 20, 1000])
def test_a_single_step_is_the_noisiest(T: int, spec: str) -> None:
    assert space_timesteps(T, spec) == [T - 1]
    schedule = respaced(named("cosine", T), [T - 1])
    assert schedule.betas == pytest.approx(1 - named("cosine", T).alphas_cumprod[-1])
    assert np.isfinite(schedule.posterior_log_variance_clipped).all()
    assert schedule.T == T


@given(st.integers(1, 300), st.data())
def test_even_spacing(T: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, T))
    kept = space_timesteps(T, str(count))
    assert len(kept) == count
    assert kept == sorted(set(kept))
    assert kept[-1] == T - 1
    assert count == 1 or kept[0] == 0
    assert len(kept) < 3 or np.ptp(np.diff(kept)) <= 1


@given(st.integers(1, 300), st.data())
def test_ddim_spacing(T: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(2, max(2, T)))
    if all(len(range(0, T, stride)) != count for stride in range(1, T + 1)):
        with raises_error("bad-respacing"):
            space_timesteps(T, f"ddim{count}")
        return
    kept = space_timesteps(T, f"ddim{count}")
    assert len(kept) == count
    assert len(set(np.diff(kept))) == 1
    assert kept[0] == 0


@given(st.integers(1, 300), st.data(), st.booleans())
def test_respacing_always_names_what_can_be_had(T: int, data: st.DataObject, ddim: bool) -> None:
    steps = data.draw(st.integers(1, T + 5))
    assert len(space_timesteps(T, schedules.respacing(T, steps, ddim))) == min(steps, T)


def test_parts() -> None:
    assert space_timesteps(300, "10,15,20")[:10] == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert [sum(100 * k <= t < 100 * (k + 1) for t in space_timesteps(300, "10,15,20")) for k in range(3)] == [
        10,
        15,
        20,
    ]
    assert space_timesteps(10, "") == list(range(10))
    assert space_timesteps(10, " 5 ") == space_timesteps(10, "5")


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("0", ("bad-respacing", "'50', 'ddim50'")),
        ("-5", ("bad-respacing",)),
        ("1.5", ("bad-respacing",)),
        ("10,,20", ("bad-respacing",)),
        ("ddim", ("bad-respacing",)),
        ("ddim0", ("bad-respacing",)),
        ("101", ("bad-respacing", 101, 100, 100)),
        ("10,60", ("bad-respacing", 60, 50, 2, 2, 100)),
        (
            "ddim99",
            ("bad-respacing", 100, 99, "(ddim50, ddim100)", "'99'"),
        ),
    ],
)
def test_strings_that_cannot_be(spec: str, error: tuple[Any, ...]) -> None:
    with raises_error(*error):
        space_timesteps(100, spec)


@given(st.sampled_from(["linear", "cosine"]), st.integers(21, 200), st.data())
def test_a_shortened_process_keeps_its_noise(name: str, T: int, data: st.DataObject) -> None:
    """What is left at each kept timestep is what the full process has there."""
    full = named(name, T)
    kept = sorted(data.draw(st.sets(st.integers(0, T - 1), min_size=1)))
    short = respaced(full, kept)
    assert short.alphas_cumprod == pytest.approx(full.alphas_cumprod[kept])
    assert short.timesteps == tuple(kept)
    assert ((short.betas > 0) & (short.betas <= 1)).all()
    again = respaced(short, [len(kept) - 1])
    assert again.timesteps == (kept[-1],)
