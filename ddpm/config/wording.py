"""Settings in the words of a form: its labels instead of flags, on and off instead of True and False."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from ddpm import formatting
from ddpm.config import codec, fields
from ddpm.config.fields import Setting
from ddpm.config.validation import Problem, Remedy

_SAID_AS = (  # what the shell says of values that a form has no such way to enter, and what a form says
    (r"(use|or|set it to|set \w+ to|leave \w+ at) -1 for", "leave it empty for"),
    (r"set it to 0 to use the number", "leave it empty to use the number"),
)


@cache
def by_name() -> Mapping[str, Setting]:
    """All settings of a training by name."""
    return {s.name: s for section in codec.SECTIONS.values() for s in fields.settings(section)}


def settings_of(section: str) -> list[Setting]:
    """The settings of a section of a configuration, such as "train"."""
    return fields.settings(codec.SECTIONS[section])


def sentence(problem: Problem) -> str:
    """What is wrong, in the words of a form: "Channels: 50 is not a multiple of 32 ..."."""
    text = problem.sentence
    for shell, form in _SAID_AS:
        text = re.sub(shell, form, text)
    return _with_labels(text)


def remedy(values: Remedy) -> str:
    """What a remedy does, as the label of a button: "Channels: 64", "Switch on Enlarge small images"."""
    parts = []
    for name, value in values.items():
        s = by_name()[name]
        if s.type is bool:
            parts.append(f"Switch {'on' if value else 'off'} {s.label}")
        else:
            parts.append(f"{s.label}: {shown(s, value)}")
    return ", ".join(parts)


def shown(s: Setting, value: Any) -> str:
    """A value of a setting as a form shows it, in words where it has them."""
    if s.empty is not None and value == s.empty[0]:
        return s.empty[1]
    if value is None or value == "":
        return "nothing"
    if s.type is bool:
        return "on" if value else "off"
    if s.type is int:
        return f"{value:,}"
    return formatting.number(value, 6) if s.type is float else str(s.display(value))


def _with_labels(text: str) -> str:
    labels = {name: s.label for name, s in by_name().items()}
    names = "|".join(sorted(labels, key=len, reverse=True))
    long = "|".join(sorted((name for name in labels if "_" in name), key=len, reverse=True))

    def label(found: re.Match[str], group: int = 1) -> str:
        return labels[found[group]]

    text = re.sub(rf"^({names}) (?=is\b)", lambda found: f"{label(found)} ", text)
    text = re.sub(rf"^({names}) (?=[\d'\"-])", lambda found: f"{label(found)}: ", text)
    text = re.sub(
        rf"\bset ({names}) to (True|False)\b",
        lambda found: f"switch {'on' if found[2] == 'True' else 'off'} {label(found)}",
        text,
    )
    text = re.sub(
        rf"\b({names}) is (True|False)\b",
        lambda found: f"{label(found)} is {'on' if found[2] == 'True' else 'off'}",
        text,
    )
    text = re.sub(
        rf"\b(set|raise|--)( ?)({names})\b", lambda found: f"{found[1].strip('-')}{found[2]}{labels[found[3]]}", text
    )
    text = re.sub(rf"\b({long})\b", label, text)
    return re.sub(r"\bTrue\b", "on", re.sub(r"\bFalse\b", "off", text))
