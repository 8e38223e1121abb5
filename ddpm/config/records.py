"""Checks what was read from JSON against the fields of a small class: types, ranges, choices.

A class is a dataclass or a NamedTuple whose fields are annotated with int, float, bool, str, Literal, `X | None`,
`list[X]`, `dict[str, X]`, another such class, or Any; `Annotated[int, Range(0, 9)]` and `Annotated[str, Text(64)]` add
limits.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Iterable
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, TypeVar

from ddpm.errors import UserError
from ddpm.formatting import brief

T = TypeVar("T")


class Range(NamedTuple):
    """Least and greatest value of a number."""

    low: float
    high: float


class Text(NamedTuple):
    """Most characters of a text, and the regular expression that it matches, if any."""

    most: int
    pattern: str = ""


class Keys(NamedTuple):
    """Most and fewest entries of a group or list, and the regular expression that each name in a group matches."""

    most: int
    pattern: str = ""
    least: int = 0


Count = Annotated[int, Range(0, 10**15)]  # steps, images, bytes of a log
Seconds = Annotated[float, Range(0, 10**11)]  # durations, and times since the epoch
Sha256 = Annotated[str, Text(64, r"[0-9a-f]{64}")]


def read(cls: type[T], value: Any, what: str) -> T:
    """Makes a `cls` of a group that was read from JSON; fields that are missing take their defaults.

    what: what errors call the group, such as the path of its file.  Names that `cls` does not have are those of a newer
    version and are left out.  Raises UserError if a value is missing, of another type or out of range.
    """
    if not isinstance(value, dict):
        _refuse(what, f"holds {brief(value)}, and should hold a group of named values")
    found: dict[str, Any] = {}
    fields: list[tuple[str, Any, tuple[Any, ...], bool]] = _fields(typing.cast(Any, cls))
    for name, kind, limits, required in fields:
        if name in value:
            found[name] = _value(kind, value[name], name, what, limits)
        elif required:
            _refuse(what, f"does not hold {name}")
    return cls(**found)


@cache
def _fields(cls: type) -> list[tuple[str, Any, tuple[Any, ...], bool]]:
    """(name, type, limits, whether it must be there) of each field."""
    hints = typing.get_type_hints(cls, include_extras=True)
    if dataclasses.is_dataclass(cls):
        missing = dataclasses.MISSING
        optional = {
            f.name for f in dataclasses.fields(cls) if f.default is not missing or f.default_factory is not missing
        }
    else:
        optional = {*getattr(cls, "_field_defaults", {})}
    found = []
    for name, kind in hints.items():
        limits = kind.__metadata__ if typing.get_origin(kind) is Annotated else ()
        found.append((name, typing.get_args(kind)[0] if limits else kind, limits, name not in optional))
    return found


def _value(kind: Any, value: Any, name: str, what: str, limits: tuple[Any, ...] = ()) -> Any:
    if type(value) is kind:  # first, as most are, and a page reads hundreds
        for limit in limits:
            CHECKS[type(limit)](limit, value, name, what)
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union) and not limits and type(value) in arguments:
        return value
    if origin is Annotated:
        return _value(arguments[0], value, name, what, kind.__metadata__)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return value if type(None) in arguments else _refuse(what, f"has null as {name}")
        return _value(next(a for a in arguments if a is not type(None)), value, name, what, limits)
    if origin is Literal:
        if value not in arguments:
            _refuse(what, f"has {brief(value)} as {name}, which is none of {', '.join(map(str, arguments))}")
        return value
    if origin is dict and type(value) is dict:
        _check_keys(value, name, what, limits)
        if _are_plain(value.values(), arguments[1]):
            return value
        return {key: _value(arguments[1], entry, f"{name} {key}", what) for key, entry in value.items()}
    if origin is list and type(value) is list:
        _check_keys(value, name, what, limits)
        if _are_plain(value, arguments[0]):
            return value
        return [_value(arguments[0], entry, name, what) for entry in value]
    if kind is Any:
        return value
    if kind is float and type(value) is int:
        value = float(value)
    if (origin is None and dataclasses.is_dataclass(kind)) or hasattr(kind, "_field_defaults"):
        return read(kind, value, f"{name} in {what}")
    wanted = origin or kind
    if type(value) is not wanted:
        _refuse(what, f"has {brief(value)} as {name}, which is not {NAMES.get(wanted, wanted.__name__)}")
    for limit in limits:
        CHECKS[type(limit)](limit, value, name, what)
    return value


def _are_plain(values: Iterable[Any], kind: Any) -> bool:
    """True if all are of a type without limits, such as float or float | None, so that none needs a look of its own."""
    plain = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return {type(value) for value in values} <= {*plain}


def _check_range(limit: Range, value: float, name: str, what: str) -> None:
    if not limit.low <= value <= limit.high:
        _refuse(what, f"has {value:.15g} as {name}, which is not between {limit.low:.15g} and {limit.high:.15g}")


def _check_text(limit: Text, value: str, name: str, what: str) -> None:
    if len(value) > limit.most:
        _refuse(what, f"has {len(value):,} characters as {name}, and may have {limit.most:,}")
    if limit.pattern and not re.fullmatch(limit.pattern, value):
        _refuse(what, f"has {brief(value)} as {name}, which is not of that form")


def _check_keys(value: dict[str, Any] | list[Any], name: str, what: str, limits: tuple[Any, ...]) -> None:
    for limit in limits:
        if len(value) > limit.most:
            _refuse(what, f"has {len(value):,} entries in {name}, and may have {limit.most:,}")
        if len(value) < limit.least:
            _refuse(what, f"has {len(value):,} entries in {name}, and needs {limit.least:,}")
        if limit.pattern and (bad := next((key for key in value if not re.fullmatch(limit.pattern, key)), None)):
            _refuse(what, f"has {brief(bad)} in {name}, which is not of that form")


CHECKS: dict[type, Callable[..., None]] = {Range: _check_range, Text: _check_text}
NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a group",
    list: "a list",
}


def _refuse(what: str, why: str) -> NoReturn:
    raise UserError(f"{what} {why}: restore it from a copy, or delete it.", code="bad-value")
