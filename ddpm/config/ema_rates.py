"""How averages of the weights are written: a decay rate, 0.9999, or the width of a power profile, power0.05.

The same text is part of file names, ema_0.9999_000500.pt and ema_power0.05_000500.pt, and of weights' names.
"""

import math

POWER = "power"
NARROWEST, WIDEST = 0.001, 0.28  # widths; a mean of all steps alike has 1 / sqrt(12) = 0.289
PREFIX = "ema_"  # of the name of weights


def split(text: str) -> tuple[str, ...]:
    """The averages of a list with commas, as file names have them."""
    return tuple(normalized(rate.strip()) for rate in text.split(",") if rate.strip())


def normalized(rate: str) -> str:
    """An average as file names have it; what is not one is returned as it is."""
    start = POWER if rate.startswith(POWER) else ""
    try:
        number = float(rate.removeprefix(start))
    except ValueError:
        return rate
    return f"{start}{number}" if math.isfinite(number) else rate


def width_of(rate: str) -> float | None:
    """The width of a power profile, as a share of the training up to now; None for a decay rate and any other text."""
    try:
        return float(rate.removeprefix(POWER)) if rate.startswith(POWER) else None
    except ValueError:
        return None


def is_valid(rate: str) -> bool:
    """Whether it is a decay rate in [0, 1) or a power profile of a possible width."""
    if rate.startswith(POWER):
        width = width_of(rate)
        return width is not None and NARROWEST <= width <= WIDEST
    try:
        return 0 <= float(rate) < 1
    except ValueError:
        return False


def label(weights: str) -> str:
    """Weights of a checkpoint, "model" or "ema_RATE", in words."""
    if not weights.startswith(PREFIX):
        return "raw weights" if weights == "model" else weights
    rate = weights.removeprefix(PREFIX)
    return f"EMA width {rate.removeprefix(POWER)}" if rate.startswith(POWER) else f"EMA {rate}"
