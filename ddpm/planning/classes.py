"""Which classes are drawn: by name, number or range, or all in turn.  No torch."""

import re
from collections.abc import Sequence

import numpy as np

from ddpm.config.training import Config
from ddpm.errors import UserError

MOST_UNNAMED = 100  # labels without names of which all are drawn unasked: a model rarely learnt more of them
COLUMNS = range(2, 17)  # numbers of classes of which a grid has a column each


def names(config: Config) -> tuple[str, ...]:
    """What the labels are called, those first that have a name; numbers where none has.  () without classes."""
    if not config.model.class_cond:
        return ()
    return config.class_names or tuple(map(str, range(config.model.num_classes)))


def must_be_said(config: Config) -> bool:
    """Whether a drawing has to say its classes: of many labels without names nobody knows which were trained."""
    return config.model.class_cond and not config.class_names and config.model.num_classes > MOST_UNNAMED


def parse_classes(config: Config, text: str) -> list[int]:
    """The labels that `text` asks for, to be drawn in turn; all that have a name when it is empty.

    `text`: names, numbers and ranges such as 0-9, with commas between.  Raises UserError for what is no class, and
    for an empty text where it must be said.
    """
    if not config.model.class_cond:
        if text.strip():
            raise UserError(
                f"classes {text!r} was asked of a model without classes: leave it empty.", code="not-applicable"
            )
        return []
    last = config.model.num_classes - 1
    found = [label for word in text.split(",") if word.strip() for label in _labels(config, word.strip())]
    if not found and must_be_said(config):
        raise UserError(
            f"This model has {last + 1} labels without names, and does not say which of them it has learnt: name those "
            f"to draw, as in --classes 0-9, or --classes 0-{last} for all.",
            code="missing-value",
        )
    return found or list(range(len(names(config))))


def _labels(config: Config, word: str) -> Sequence[int]:
    """The labels of a name, which comes first, a number or a range."""
    known, count = names(config), config.model.num_classes
    if word in known:
        return [known.index(word)]
    match = re.fullmatch(r"([0-9]+)(?:\s*-\s*([0-9]+))?", word)
    if not match:
        some = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
        raise UserError(
            f"There is no class {word!r}: choose among {some}, or numbers and ranges (0-{count - 1}).",
            code="unknown-class",
        )
    first, end = int(match[1]), int(match[2] or match[1])
    if (most := max(first, end)) >= count:
        choose = f"numbers from 0 to {count - 1}" if count > 1 else "0"
        raise UserError(f"There is no class {most}: the model has {count}, so choose {choose}.", code="unknown-class")
    if end < first:
        raise UserError(f"The range of classes {word} runs backwards: write {end}-{first}.", code="bad-range")
    return range(first, end + 1)


def columns(labels: np.ndarray | None) -> int | None:
    """Columns of a grid in which each is a class; None where these labels [N] are not a few classes in turn."""
    if labels is None:
        return None
    count = len(np.unique(labels))
    in_turn = np.array_equal(labels, np.resize(labels[:count], len(labels)))
    return count if count in COLUMNS and len(labels) > count and in_turn else None
