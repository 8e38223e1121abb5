"""Charts of results: their numbers, as plain JSON."""

import numpy as np

from pages.ui.components import figures


def test_numbers_as_json_has_them() -> None:
    found = figures.numbers(np.array([1.0, 0.0, np.nan, np.inf, 1.23456789e-7, 123456789.0, -0.333333333]))
    assert found == [1, 0, None, None, 1.23457e-7, 123456789, -0.333333]
    assert isinstance(found[0], int)
