"""Curves as the screen needs them: thinned without losing an extreme, in buckets with what they hide, and spikes."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ddpm.runs import curves
from ddpm.runs.curves import downsample

series = arrays.arrays(float, st.integers(1, 3000), elements=st.floats(width=32), fill=st.floats(0, 1, width=32))


@given(series, st.integers(8, 300))
@settings(max_examples=60)
def test_thin_keeps_every_spike(y: np.ndarray, most: int) -> None:
    x = np.arange(len(y), dtype=float)
    tx, ty = downsample(x, y, most)
    assert len(tx) <= max(most, 8)
    assert (np.diff(tx) > 0).all()
    assert np.array_equal(y[tx.astype(int)], ty, equal_nan=True)
    assert (tx[0], tx[-1]) == (0, len(y) - 1)
    if not np.isnan(y).all():
        assert (np.nanmin(ty), np.nanmax(ty)) == (np.nanmin(y), np.nanmax(y))
        size = 2 ** math.ceil(math.log2(2 * len(y) / (most - 4))) if len(y) > most else 1
        for start in range(0, len(y), size):  # no less in any bucket
            part, kept = y[start : start + size], ty[(tx >= start) & (tx < start + size)]
            if not np.isnan(part).all():
                assert (np.nanmin(part), np.nanmax(part)) == (np.nanmin(kept), np.nanmax(kept))


def test_thin_shows_gaps_and_does_not_flicker() -> None:
    y = np.ones(10_000)
    y[2000:5000] = np.nan
    x, kept = downsample(np.arange(10_000), y, 200)
    assert np.isnan(kept).any()
    grown, _ = downsample(np.arange(10_100), np.append(y, np.ones(100)), 200)
    assert set(x[:-1]) <= set(grown)
    few = np.arange(5.0)
    assert downsample(few, few)[1] is not None
    assert len(downsample(few[:0], few[:0])[0]) == 0


@given(series, st.sampled_from([1, 2, 8, 64]))
@example(np.array([math.nan, 2, 3, math.inf, 5, math.nan]), 2)
@settings(max_examples=60)
def test_buckets_hold_what_numpy_finds_in_their_rows(y: np.ndarray, size: int) -> None:
    found = curves.buckets(y, size)
    parts = [y[start : start + size] for start in range(0, len(y), size)]
    known = [part[np.isfinite(part)] for part in parts]
    assert found.values.tolist() == [len(part) for part in known]
    for name, measure in (("least", np.min), ("most", np.max), ("mean", np.mean)):
        expected = [float(measure(part)) if len(part) else math.nan for part in known]
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-12, atol=1e-30)
    first = [part[0] if len(part) else math.nan for part in known]
    np.testing.assert_array_equal(found.first, first)


@given(st.integers(0, 10**7), st.integers(16, 8192))
def test_buckets_fill_the_width_and_no_more(rows: int, width: int) -> None:
    size = curves.bucket_size(rows, width)
    assert rows <= 2 * width * size
    assert size == 1 or rows > width * size


def noisy(rows: int = 20_000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.04 + np.exp(-np.arange(rows) / 300)) * np.exp(rng.normal(0, 0.4, rows))


@pytest.mark.parametrize("size", [1, 4, 16])
def test_spikes_are_found_and_nothing_else(size: int) -> None:
    values = noisy(2000 * size)
    assert len(curves.spikes(values, curves.buckets(values, size).most, size)) == 0
    places = [700 * size, 1300 * size, 1300 * size + 1, len(values) - 3 * size]
    values[places] = 40.0
    found = curves.spikes(values, curves.buckets(values, size).most, size)
    assert {int(row) for row in found} == {*places}


FLAT = [np.full(500, 0.001), np.zeros(500), np.full(500, np.nan)]
MOVING = [np.linspace(1, 2, 500), np.geomspace(1, 1e-6, 500), -noisy(500)]


@pytest.mark.parametrize("values", [*FLAT, *MOVING, noisy(20), noisy(0)])
def test_what_has_no_spikes(values: np.ndarray) -> None:
    assert len(curves.spikes(values, curves.buckets(values, 1).most, 1)) == 0
