"""Parses JSON that may be damaged or a stranger's: bounded in size and depth, and nothing that JSON does not have."""

import json
import math
import re
from typing import Any, NoReturn

MOST_DEPTH = 32  # groups within groups
MOST_INTEGER = 2**64  # checksums of images have as many bits; no number here has more


UNUSUAL = re.compile(r"[0-9]{19}|[eE][-+]?[0-9]{3}")  # in every number that is out of range


class Invalid(ValueError):
    """The text is not JSON of this kind; the message is a clause that says why."""


def parse(data: bytes) -> Any:
    """Parses UTF-8, UTF-16 or UTF-32, with or without the byte order mark that some editors add.

    Raises Invalid for anything that is not strictly JSON, for NaN and numbers beyond 64 bits, for a name that stands
    twice in one group, and for more than MOST_DEPTH groups within groups.
    """
    try:
        text = data.decode(json.detect_encoding(data))
        value = _DECODER.decode(text)
    except RecursionError:
        raise Invalid("it has groups within groups without end") from None
    except UnicodeDecodeError as error:
        raise Invalid(f"it is not text: {error.reason} at byte {error.start:,}") from None
    except Invalid:
        raise
    except ValueError as error:
        raise Invalid(str(error)) from None
    if UNUSUAL.search(text) or text.count("{") + text.count("[") > MOST_DEPTH:
        _check(value)
    return value


def _group(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        once: set[str] = set()
        twice = next(name for name, _ in pairs if name in once or once.add(name))  # type: ignore[func-returns-value]
        raise Invalid(f"{twice[:80]!r} stands twice in one group")
    return found


def _no_number(text: str) -> NoReturn:
    raise Invalid(f"{text} is not a number in JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_group, parse_constant=_no_number)


def _check(value: Any) -> None:
    """Raises Invalid for numbers out of range and for too much depth."""
    level: list[Any] = [value]
    for _ in range(MOST_DEPTH + 1):
        deeper: list[Any] = []
        for entry in level:
            if type(entry) is dict:
                deeper += entry.values()
            elif type(entry) is list:
                deeper += entry
            elif type(entry) is float:
                if not math.isfinite(entry):
                    raise Invalid("a number in it is infinite")
            elif type(entry) is int and not -MOST_INTEGER <= entry < MOST_INTEGER:
                raise Invalid("a number in it has more than 64 bits")
        if not deeper:
            return
        level = deeper
    raise Invalid(f"it has groups within groups more than {MOST_DEPTH} deep")
