"""Settings as fields of frozen dataclasses, with the metadata from which flags, JSON and forms are built.

The settings themselves are in `ddpm.config.model`, `ddpm.config.training` and `ddpm.config.tasks`.
"""

import dataclasses
import os
import typing
import unicodedata
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import cache
from typing import Any, NamedTuple

from ddpm.errors import Code, UserError
from ddpm.formatting import brief
from ddpm.storage import paths

MOST_TEXT = 2**15  # characters of a text: the longest path of any system
MOST_NUMBERS = 100  # in a list of numbers

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
    aliases: Mapping[str, str] = {},
    flag: str = "",
    empty: tuple[Any, str] | None = None,
) -> Any:
    """A dataclass field with the metadata that forms and flags need.

    help, label: texts for the command line and the forms.
    low, high: limits of a number; unit: shown after the label.
    choices: the values of a text.
    basic: shown in a form at once; the others are in an expander named after their `group`.
    path: the value is the path of a file or folder, or one of `names`.
    choices, names: a tuple, or a function that lists the rows of a table, so that a new row is included at once.
    aliases: other spellings of a choice, which are shown and accepted; files keep the choice.
    flag: another name of the flag.
    empty: a value with a meaning of its own, and that meaning in words, as in (0, "all"); an empty field in a form.
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
            aliases=aliases,
            flag=flag,
            empty=empty,
        ),
    )


class Setting(NamedTuple):
    """A field with its metadata."""

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
    aliases: Mapping[str, str]
    flag: str
    empty: tuple[Any, str] | None

    @property
    def flag_help(self) -> str:
        """The help on the command line, with the meaning of the value that has one of its own."""
        if self.empty is None or self.empty[0] is None:  # which is the default, and so is said there
            return self.help
        value, meaning = self.empty
        return f"{self.help} {value if value != '' else 'Empty'}: {meaning}."

    @property
    def shown_choices(self) -> tuple[str, ...]:
        """The choices as they are shown, each by its alias if it has one."""
        return tuple(self.display(choice) for choice in self.choices)

    def display(self, value: Any) -> Any:
        """`value` as it is shown: by its alias if it has one."""
        return next((alias for alias, choice in self.aliases.items() if choice == value), value)

    def normalize(self, value: Any) -> Any:
        """`value` as files have it: an absolute path, or a name that stays a name; a choice instead of its alias."""
        if not self.path:
            return self.aliases.get(value, value) if self.aliases else value
        text = path_text(value)
        return text if text in self.names else absolute(text)

    def problem(self, value: Any) -> tuple[str, Code] | None:
        """What is wrong with a value of the right type, as a sentence and its code; None if nothing is."""
        if self.choices and value not in self.choices:
            return (
                f"{self.name} is {brief(value)}, which is none of {', '.join(self.shown_choices)}: choose one of them.",
                "bad-value",
            )
        if self.type in (int, float) and value is not None and not self.low <= value <= self.high:  # or NaN
            return f"{self.name} is {value}: set it between {self.low:.15g} and {self.high:.15g}.", "out-of-range"
        if self.type is str and len(value) > MOST_TEXT:
            return f"{self.name} has {len(value):,} characters: {MOST_TEXT:,} are allowed.", "bad-value"
        return None


def settings(section: type) -> list[Setting]:
    """The settings of one dataclass, in order.  An optional one has the type that it has if it is there."""
    return [
        one._replace(**{key: value() for key, value in listed}) if listed else one for one, listed in _made(section)
    ]


@cache
def _made(section: type) -> list[tuple[Setting, list[tuple[str, Callable[[], Any]]]]]:
    """The settings of one dataclass, and what of them is asked for each time, as a table may get more rows."""
    types = _types(section)
    return [
        (
            Setting(f.name, types[f.name], f.default, **f.metadata),
            [(key, f.metadata[key]) for key in ("choices", "names") if callable(f.metadata[key])],
        )
        for f in dataclasses.fields(section)
    ]


@cache
def _types(section: type) -> dict[str, type]:
    """The type of each setting; that of an optional one is the type that it has if it is there."""
    hints = typing.get_type_hints(section)
    return {name: next((a for a in typing.get_args(kind) if a is not type(None)), kind) for name, kind in hints.items()}


def absolute(text: str) -> str:
    """The absolute path for `text` as typed (see `path_text`); empty text stays empty."""
    typed = path_text(text)
    return str(paths.full(typed)) if typed else ""


def ints(name: str, text: str) -> tuple[int, ...]:
    """Parses '16,8' as (16, 8).  Raises UserError for anything but positive whole numbers."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > MOST_NUMBERS or not all(part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
        raise UserError(
            f"{name} {brief(text)} is not a list of positive whole numbers: separate them with commas, as in 16,8.",
            code="bad-value",
        )
    return tuple(int(part) for part in parts)


QUOTES = ('""', "''", "\u201c\u201d", "\u2018\u2019")


def path_text(text: str) -> str:
    """Cleans a typed or pasted path or name.

    Strips white space and invisible characters, the quotes that file managers put around copied paths, and file://.
    A text that is itself the name of an existing file or folder is returned unchanged.
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
    """Strips spaces and invisible characters, or one pair of quotes."""
    if len(text) > 1 and text[0] + text[-1] in QUOTES:
        return text[1:-1]
    ends = [k for k, letter in enumerate(text) if unicodedata.category(letter) not in ("Cc", "Cf", "Zs", "Zl", "Zp")]
    return text[ends[0] : ends[-1] + 1] if ends else ""


def parse(kind: type, text: str) -> Any:
    """Parses the text of a flag.  Raises ValueError with what was expected."""
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
