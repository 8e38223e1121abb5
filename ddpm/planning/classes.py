"""Parses the classes of a request: names, numbers and ranges.  No torch."""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ddpm.config.training import Config
from ddpm.errors import UserError

MOST_UNNAMED = 100  # labels without names that are all sampled by default: a model rarely has learnt more
COLUMNS = range(2, 17)  # numbers of classes for which a grid has one column per class


def names(config: Config) -> tuple[str, ...]:
    """Returns the names of the labels, or their numbers where they have none; () without classes."""
    if not config.model.class_cond:
        return ()
    return config.class_names or tuple(map(str, range(config.model.num_classes)))


def must_be_named(config: Config) -> bool:
    """Returns whether a request has to name its classes, as nothing says which of many labels were trained."""
    return config.model.class_cond and not config.class_names and config.model.num_classes > MOST_UNNAMED


def parse_classes(config: Config, text: str) -> list[int]:
    """Parses names, numbers and ranges such as 0-9, separated by commas, into labels; an empty text is all with a name.

    Raises UserError for an unknown class, and for an empty text where classes must be named.
    """
    if not config.model.class_cond:
        if text.strip():
            raise UserError(
                f"classes {text!r} was given to a model without classes: leave it empty.", code="not-applicable"
            )
        return []
    last = config.model.num_classes - 1
    found = [label for word in _words(text, names(config)) for label in _labels(config, word)]
    if not found and must_be_named(config):
        raise UserError(
            f"This model has {last + 1} labels without names, and does not say which of them it has learnt: name those "
            f"to sample, as in --classes 0-9, or --classes 0-{last} for all.",
            code="missing-value",
        )
    return found or list(range(len(names(config))))


def joined(known: Sequence[str], wanted: Iterable[str | int | np.integer]) -> str:
    """Returns labels and names, some of those known, as a text for `parse_classes`."""

    def word(entry: str | int | np.integer) -> str:
        if isinstance(entry, int | np.integer) and entry >= 0:
            return f"{entry}-{entry}"  # a label, also where another class has its number as a name
        unclear = any("," in name for name in known) and entry in known  # two names could read as a third
        return word(list(known).index(str(entry))) if unclear else str(entry)

    return ",".join(map(word, wanted))


def _words(text: str, known: Sequence[str]) -> Iterator[str]:
    """Yields what stands between commas, and names that hold commas themselves as a whole, the longest there is."""
    parts = [part.strip() for part in text.split(",")]
    with_commas = {tuple(part.strip() for part in name.split(",")): name for name in known if "," in name}
    counts = sorted({len(name) for name in with_commas}, reverse=True)
    while parts:
        for count in counts:
            if name := with_commas.get(tuple(parts[:count])):
                break
        else:
            name, count = parts[0], 1
        if name:
            yield name
        del parts[:count]


def _labels(config: Config, word: str) -> Sequence[int]:
    """Returns the labels of a name, which takes precedence, of a number or of a range."""
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


def in_proportion(counts: Sequence[int], n: int) -> np.ndarray:
    """Labels, int64 [n], as often as in `counts`, of each label's images: every first k of them as nearly as k allow.

    Labels with equally many images come in turn, from 0 on.  Raises ValueError where no label has any.
    """
    shares, given = np.array(counts, np.int64), np.zeros(len(counts), np.int64)
    total = int(shares.sum())
    if total <= 0:
        raise ValueError("no label has any images")
    found = np.empty(n, np.int64)
    for k in range(n):
        found[k] = np.argmax(shares * (k + 1) - given * total)  # the one that is furthest behind its share
        given[found[k]] += 1
    return found


def columns(labels: np.ndarray | None) -> int | None:
    """Returns the number of columns of a grid with one per class; None where the labels are not a few classes in turn.

    labels: int64 [N].
    """
    if labels is None:
        return None
    count = len(np.unique(labels))
    in_turn = np.array_equal(labels, np.resize(labels[:count], len(labels)))
    return count if count in COLUMNS and len(labels) > count and in_turn else None
