"""Settings in which runs differ, as a table."""

from collections.abc import Sequence
from typing import Any

from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.formatting import printable

MOST = 80  # characters of a value; the rest is left out


def rows(configs: Sequence[Config]) -> list[tuple[str, list[str]]]:
    """(setting, its value in each configuration) of each setting that is not the same in all, in their order."""
    if not configs:
        return []
    pairs = [codec.differences(configs[0], other) for other in configs[1:]]
    names = [name for name in _all_names(configs[0]) if any(name in pair for pair in pairs)]
    first = {name: old for pair in reversed(pairs) for name, (old, _) in pair.items()}
    return [
        (name, [text(first[name]), *(text(pair.get(name, (0, first[name]))[1]) for pair in pairs)]) for name in names
    ]


def _all_names(config: Config) -> list[str]:
    sections = codec.to_json(config)
    return [name for part in codec.SECTIONS for name in sections[part]] + ["class_names"]


def text(value: Any) -> str:
    """A value of a setting on one line."""
    written = ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    found = printable(" ".join(written.split()))
    return found if len(found) <= MOST else f"{found[: MOST - 1]}…"
