"""A setting: a field of a frozen dataclass with what forms and flags need to know of it.

From these fields follow the JSON, the command line and the forms; `ddpm.config` has the settings themselves.
"""

import dataclasses
import os
import typing
import unicodedata
import urllib.parse
from collections.abc import Callable
from dataclasses import field
from typing import Any, NamedTuple

from ddpm.errors import UserError
from ddpm.storage import paths

Names = tuple[str, ...] | Callable[[], tuple[str, ...]]


def setting(
    default: Any,
    help: str,
    *,
    label: str,
    low: float | None = None,
    high: float | None = None,
    choices: Names = (),
    unit: str = "",
    basic: bool = False,
    group: str = "More",
    path: bool = False,
    names: Names = (),
) -> Any:
    """A field with what forms and flags need to know.

    `basic` ones are shown without being asked for, the others in a fold with those of their `group`.  path: it is the
    path of a file or folder, or one of `names`.  choices, names: what is allowed, or a function that lists the rows of
    a table, so that a new row is offered at once.
    """
    return field(
        default=default,
        metadata=dict(
            help=help,
            label=label,
            low=low,
            high=high,
            choices=choices,
            unit=unit,
            basic=basic,
            group=group,
            path=path,
            names=names,
        ),
    )


class Setting(NamedTuple):
    """A field as forms and flags see it."""

    name: str
    type: type
    default: Any
    help: str
    label: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    unit: str
    basic: bool
    group: str
    path: bool
    names: tuple[str, ...]

    def settled(self, value: Any) -> Any:
        """`value` as it is kept: a path holds from every folder, and a name stays a name."""
        if not self.path:
            return value
        meant = path_text(value)
        return meant if meant in self.names else absolute(meant)


def settings(section: type) -> list[Setting]:
    """The settings of one dataclass, in order.  An optional bool has type bool and default None."""
    types = typing.get_type_hints(section)
    found = []
    for f in dataclasses.fields(section):
        kind = types[f.name]
        plain = next((a for a in typing.get_args(kind) if a is not type(None)), kind)
        listed = {key: value() if callable(value := f.metadata[key]) else value for key in ("choices", "names")}
        found.append(Setting(f.name, plain, f.default, **{**f.metadata, **listed}))
    return found


def absolute(text: str) -> str:
    """The path that is typed as `text`, from the root of the disk, as `places.full` has it; no text stays none."""
    meant = path_text(text)
    return str(paths.full(meant)) if meant else ""


def ints(name: str, text: str) -> tuple[int, ...]:
    """'16,8' as (16, 8).  Raises UserError for anything else than positive whole numbers."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(
            f"{name} {text!r} is not a list of positive whole numbers: write them with commas, as in 16,8.",
            code="bad-value",
        )
    return tuple(int(part) for part in parts)


QUOTES = ('""', "''", "\u201c\u201d", "\u2018\u2019")


def path_text(text: str) -> str:
    """The path or name that is meant by `text`, as it was typed or pasted.

    Without white space and invisible characters around it, out of the quotes that file managers copy paths in, and out
    of a file:// address.  What there is under the very name that was typed is meant by it.
    """
    if os.path.lexists(text):
        return text
    while text != (bare := _bare(text)):
        text = bare
    if text[:7].lower() != "file://":
        return text
    from urllib.request import url2pathname  # takes a moment to import

    parts = urllib.parse.urlsplit(text)
    host = f"//{parts.netloc}" if parts.netloc not in ("", "localhost") else ""
    return url2pathname(host + parts.path)


def _bare(text: str) -> str:
    """`text` without what is around it: spaces, invisible characters, or a pair of quotes."""
    if len(text) > 1 and text[0] + text[-1] in QUOTES:
        return text[1:-1]
    ends = [k for k, letter in enumerate(text) if unicodedata.category(letter) not in ("Cc", "Cf", "Zs", "Zl", "Zp")]
    return text[ends[0] : ends[-1] + 1] if ends else ""


def parse(kind: type, text: str) -> Any:
    """A flag's text as a value.  Raises ValueError with what was expected."""
    if kind is bool:
        word = text.lower()
        if word in ("true", "yes", "t", "y", "1"):
            return True
        if word in ("false", "no", "f", "n", "0"):
            return False
        raise ValueError("expected True or False")
    if kind is int:
        try:
            return int(text)
        except ValueError:
            number = float(text)  # 1e6, say
            if not number.is_integer():
                raise
            return int(number)
    if kind is float:
        return float(text)
    return text
