"""Numbers as text."""

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from raising import raises_error

from ddpm import formatting


@pytest.mark.parametrize(
    ("number", "forms", "said"),
    [
        (0, ("picture",), "0 pictures"),
        (1, ("picture",), "1 picture"),
        (2000, ("picture",), "2,000 pictures"),
        (1, ("class", "classes"), "1 class"),
        (2, ("class", "classes"), "2 classes"),
        (1, ("tensor differs", "tensors differ"), "1 tensor differs"),
    ],
)
def test_one_and_many(number: int, forms: tuple[str, ...], said: str) -> None:
    assert formatting.plural(number, *forms) == said


def test_days() -> None:
    assert [formatting.duration(days * 86400.0 + 3600) for days in (1, 2)] == ["1 day 1 h", "2 days 1 h"]


NUMBERS = [
    *((0, "0"), (7, "7"), (1000, "1,000"), (-2500, "-2,500"), (1e6, "1,000,000"), (1e7, "1e7"), (2.5e8, "2.5e8")),
    *(
        (12.5, "12.5"),
        (0.031623, "0.03162"),
        (1234.56, "1,235"),
        (98765.4, "98,765"),
        (0.5, "0.5"),
        (1.25e-3, "0.00125"),
    ),
    *((1e-4, "1e-4"), (3e-4, "3e-4"), (-2.5e-5, "-2.5e-5"), (9.9996, "10"), (999.96, "1,000"), (1e-300, "1e-300")),
    *((None, "–"), (math.nan, "–"), (math.inf, "–")),
]
DURATIONS = [
    *((0.25, "0.25 s"), (9.96, "10.0 s"), (12, "12 s"), (80, "1 min 20 s"), (185, "3 min 05 s"), (7500, "2 h 05 min")),
    *((90000, "1 day 1 h"), (270000, "3 days 3 h"), (None, "–"), (-1, "–")),
]


def test_numbers_have_one_form() -> None:
    assert [formatting.number(value) for value, _ in NUMBERS] == [said for _, said in NUMBERS]


def test_durations_have_one_form() -> None:
    assert [formatting.duration(value) for value, _ in DURATIONS] == [said for _, said in DURATIONS]


def test_units() -> None:
    assert [formatting.memory(size) for size in (900, 3.2e8, 3.2e9, 3.2e12)] == ["1 kB", "320 MB", "3.2 GB", "3.2 TB"]
    assert [formatting.speed(speed) for speed in (12.34, 0.4, 0, 1500)] == ["12.3 it/s", "2.5 s/it", "–", "1,500 it/s"]
    assert [formatting.percent(*done) for done in ((999, 1000), (1000, 1000), (0, 0))] == ["99 %", "100 %", "0 %"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("20m", 1200), (" 3H ", 10800), ("1h30m", 5400), ("1.5h", 5400), ("1d 2h", 93600), ("0.5s", 0.5)],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert formatting.seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "3", "3 hours", "h", "-1h", "0s", "1h-2m", "1.2.3h", "1e5s", "٣h", "9" * 400 + "h"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with raises_error("bad-value"):
        formatting.seconds_of(text)


def test_a_time_of_day_in_another_zone() -> None:
    noon = datetime(2026, 11, 28, 12, 0, tzinfo=UTC).timestamp()
    for hours, found in ((0, "12:00"), (2, "14:00"), (-5, "07:00")):
        assert formatting.clock(noon, noon, timezone(timedelta(hours=hours))) == found
    assert formatting.clock(noon, noon + 13 * 3600, UTC) == "Sat 28 Nov, 12:00"
    assert (
        formatting.clock(noon, noon + 13 * 3600, timezone(timedelta(hours=-5))) == "07:00"
    )  # still the same day there
    assert formatting.clock(noon, noon + 40 * 86400, UTC) == "Sat 28 Nov 2026, 12:00"
