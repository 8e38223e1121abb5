"""Which classes are sampled, and how a grid shows them."""

import re
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raising import raises_error

from ddpm.config import codec, validation
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.planning import classes
from ddpm.planning.resolve import resolve_labels
from ddpm.sampling import sample_writer

NAMES = ("cat", "dog", "t-shirt", "7", "bird")


def model(num_classes: int, *names: str) -> Config:
    return codec.replace(Config(), dict(class_cond=True, num_classes=num_classes, class_names=names))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("", [0, 1, 2, 3, 4]),
        ("dog", [1]),
        ("bird, cat", [4, 0]),
        ("0-2", [0, 1, 2]),
        ("1 - 2,cat", [1, 2, 0]),
        ("t-shirt", [2]),
        ("7", [3]),  # a name comes before a number
        ("4-4,4", [4, 4]),
        ("5-6", [5, 6]),  # without a name, but a label all the same
    ],
)
def test_names_numbers_and_ranges(text: str, labels: list[int]) -> None:
    assert classes.parse_classes(model(8, *NAMES), text) == labels


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=12).filter(any), st.integers(1, 300))
def test_labels_in_proportion_have_the_shares_at_every_moment(counts: list[int], n: int) -> None:
    found = classes.in_proportion(counts, n)
    assert np.array_equal(classes.in_proportion(counts, n + 7)[:n], found)
    for k in {1, n // 2, n} - {0}:
        given_so_far = np.bincount(found[:k], minlength=len(counts))
        assert np.abs(given_so_far - k * np.array(counts) / sum(counts)).max() < len(counts)
    assert not np.isin(found, np.flatnonzero(np.array(counts) == 0)).any()


def test_labels_with_equally_many_images_come_in_turn() -> None:
    assert np.array_equal(classes.in_proportion([1000] * 10, 512), np.arange(512) % 10)
    assert classes.in_proportion([9, 1], 10).tolist().count(1) == 1


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("crane, bird", [1]),
        ("crane,bird", [1]),
        ("crane, crane, bird,crane, machine, big", [0, 1, 3]),
        ("crane, machine", [0, 2]),  # none that begins so ends there
        ("", [0, 1, 2, 3]),
    ],
)
def test_names_with_commas(text: str, labels: list[int]) -> None:
    named = model(4, "crane", "crane, bird", "machine", "crane, machine, big")
    assert classes.parse_classes(named, text) == labels


@given(
    st.lists(st.text("ab,5 -", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=4, unique=True), st.data()
)
def test_names_that_were_picked_are_those_that_are_meant(known: list[str], data: st.DataObject) -> None:
    hypothesis.assume(not any(re.fullmatch(r"\d+-\d+", name) for name in known))
    hypothesis.assume(all("," not in name or name.strip(", ") for name in known))
    picked = data.draw(st.lists(st.sampled_from(known), min_size=1))
    wanted = [known.index(name) for name in picked]
    named = model(len(known), *known)
    assert classes.parse_classes(named, classes.joined(known, picked)) == wanted
    assert classes.parse_classes(named, classes.joined(known, np.array(wanted))) == wanted


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("horse", ("unknown-class", "'horse'", "cat, dog, t-shirt, 7, bird")),
        ("8", ("unknown-class", 8, 8, 0, 7)),
        ("0-8", ("unknown-class", 8)),
        ("3-1", ("bad-range", "1-3")),
        ("-1", ("unknown-class", "'-1'")),
        ("1-", ("unknown-class", "'1-'")),
        ("²", ("unknown-class", "'²'")),
    ],
)
def test_what_is_no_class(text: str, error: tuple[Any, ...]) -> None:
    with raises_error(*error):
        classes.parse_classes(model(8, *NAMES), text)


def test_more_names_than_labels_is_a_problem() -> None:
    assert [p.name for p in validation.network_problems(model(2, "a", "b", "c"))] == ["num_classes"]
    assert list(validation.network_problems(model(3, "a", "b", "c"))) == []


def test_labels_without_names_are_asked_for_where_they_are_many() -> None:
    reference = model(1000)
    with raises_error("missing-value", 1000, "--classes 0-9", "--classes 0-999"):
        resolve_labels(reference, SampleConfig())
    assert classes.parse_classes(reference, "0-999") == list(range(1000))
    assert classes.parse_classes(model(1000, *NAMES), "") == [0, 1, 2, 3, 4], "those that have a name"
    assert classes.parse_classes(model(10), "") == list(range(10))


def test_a_model_without_classes() -> None:
    assert resolve_labels(Config(), SampleConfig()) is None
    with raises_error("not-applicable"):
        resolve_labels(Config(), SampleConfig(classes="0"))


@pytest.mark.parametrize(
    ("labels", "columns"),
    [
        ([0, 1, 2, 0, 1, 2, 0], 3),
        ([2, 0, 2, 0], 2),
        ([0, 1, 2], None),  # one row says nothing that a square does not
        ([0, 0, 0], None),
        ([0, 1, 1, 0], None),  # not in turn
        ([*range(16), 0], 16),
        ([*range(17), 0], None),
    ],
)
def test_a_column_for_each_class(labels: list[int], columns: int | None) -> None:
    assert classes.columns(np.array(labels)) == columns
    assert classes.columns(None) is None


def test_the_newest_images_keep_their_columns() -> None:
    pixels = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    shown = sample_writer.preview_of(pixels, np.arange(10) % 3, None, 5)
    assert shown[::3, ::3, 0].tolist() == [[6, 7, 8], [9, 128, 128]]
