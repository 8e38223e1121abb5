"""Numbers as text."""

import pytest

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
