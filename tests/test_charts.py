"""Charts of results: their numbers, as plain JSON."""

import tomllib

import numpy as np
import pytest
from app_page import ROOT

from pages.ui.components import figures


def test_numbers_as_json_has_them() -> None:
    found = figures.numbers(np.array([1.0, 0.0, np.nan, np.inf, 1.23456789e-7, 123456789.0, -0.333333333]))
    assert found == [1, 0, None, None, 1.23457e-7, 123456789, -0.333333]
    assert isinstance(found[0], int)


def _luminance(colour: str) -> float:
    values = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    more, less = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (more + 0.05) / (less + 0.05)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_curves_and_their_values_stand_out(name: str) -> None:
    """A value at the end of a curve is text in its colour."""
    theme = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text("utf-8"))["theme"][name]
    for colour in [*theme["chartCategoricalColors"], theme["primaryColor"], theme["linkColor"], theme["codeTextColor"]]:
        assert contrast(colour, theme["backgroundColor"]) >= 4.5, colour
        assert contrast(colour, theme["secondaryBackgroundColor"]) >= 3, colour
