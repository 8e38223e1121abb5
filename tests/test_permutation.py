"""Orders that are computed where they are asked for: permutations, reproducible, exact where a stream goes on."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpm.data import crops, stream
from ddpm.data.datasets import Dataset
from ddpm.data.permutation import Permutation
from ddpm.data.stream import Stream


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has more than 40 images count as many."""
    monkeypatch.setattr(stream, "LARGE", 40)


def numbered(count: int) -> Dataset:
    """Image k is k, in 2 x 1 pixels, the right one 255."""
    pixels = np.full((count, 1, 2, 1), 255, np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count)
    return Dataset(pixels, np.arange(count), (), ())


@given(count=st.integers(1, 3000), key=st.tuples(st.integers(0, 2**40), st.integers(0, 2**20)))
def test_every_number_is_met_once(count: int, key: tuple[int, int]) -> None:
    found = Permutation(count, key)(np.arange(count))
    assert np.array_equal(np.sort(found), np.arange(count))
    assert np.array_equal(Permutation(count, key)(np.arange(count)[::-1]), found[::-1])


def test_an_order_never_changes() -> None:
    assert Permutation(10, (7, 0))(np.arange(10)).tolist() == [8, 1, 3, 9, 6, 2, 0, 4, 5, 7]
    assert Permutation(50_000_000, (7, 3))(np.arange(4)).tolist() == [44041675, 31643895, 31683484, 42995645]


def test_other_keys_give_other_orders() -> None:
    found = [Permutation(1000, key)(np.arange(1000)) for key in ((0, 0), (0, 1), (1, 0))]
    assert all((a == b).sum() < 10 for k, a in enumerate(found) for b in found[:k])


def test_neighbours_are_spread_evenly() -> None:
    """The tenths of the data in which a thousand consecutive images lie, and the steps from each to the next."""
    found = Permutation(5_000_000, (3, 1))(np.arange(1000))
    for values in (found, np.diff(found) % 5_000_000):
        assert np.bincount(values // 500_000, minlength=10).min() > 60


def test_a_large_stream_goes_on_exactly(few: None) -> None:
    whole = Stream(numbered(101), seed=5, random_flip=True).next(250)
    assert sorted(whole[1][:101].tolist()) == list(range(101))
    assert whole[1][:101].tolist() != whole[1][101:202].tolist()
    for position in (0, 1, 50, 100, 101, 180):
        again = Stream(numbered(101), seed=5, random_flip=True, position=position).next(60)
        for one, other in zip(again, whole, strict=True):
            assert np.array_equal(one, other[position : position + 60])


def test_two_processes_share_a_large_batch(few: None) -> None:
    whole, _ = Stream(numbered(90), seed=2).next(20)
    parts = [Stream(numbered(90), seed=2).next(20, slice(start, start + 10))[0] for start in (0, 10)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert not set(parts[0][:, 0, 0, 0].tolist()) & set(parts[1][:, 0, 0, 0].tolist())


def test_the_order_is_what_a_run_began_with(few: None) -> None:
    old, new = (Stream(numbered(90), 4, order=order).next(90)[1] for order in ("sorted", "computed"))
    assert np.array_equal(Stream(numbered(90), 4).next(90)[1], new)
    bits = np.random.PCG64(np.random.SeedSequence((4, 0)))
    assert np.array_equal(np.argsort(bits.random_raw(90), kind="stable"), old)
    assert not np.array_equal(old, new)
    resumed = Stream(numbered(90), 4)
    resumed.order, resumed.position = "sorted", 30
    assert np.array_equal(resumed.next(60)[1], old[30:])


@pytest.mark.parametrize("order", ["sorted", "computed"])
def test_flips_and_crops_are_those_of_earlier_versions(order: stream.Order) -> None:
    """All random numbers of an epoch, drawn at once, as version 0.1 did."""
    data = numbered(30)
    data = Dataset(data.images, data.labels, (), (), scaled=crops.Scaled(*[np.empty(0)] * 3, 1))
    bits = np.random.PCG64(np.random.SeedSequence((9, 1)))
    bits.random_raw(30)
    flips = bits.random_raw(30) >> np.uint64(63) == 1
    cuts = (bits.random_raw(30 * crops.DRAWS).reshape(30, -1) >> np.uint64(11)) / 2.0**53
    _, flipped, cut = Stream(data, 9, position=37, order=order)._next_indices(12)
    assert np.array_equal(flipped, flips[7:19])
    assert np.array_equal(cut, cuts[7:19])


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    taken = []
    for count in (2_000_000, 200_000_000):
        pixels = np.broadcast_to(np.zeros(1, np.uint8), (count, 1, 1, 1))
        tracemalloc.start()
        Stream(Dataset(pixels, None, (), ()), seed=1, random_flip=True).next(64)
        taken.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert taken[1] < 2 * taken[0] < 10**6
