"""Rows of the table of promises."""

from typing import NamedTuple


class Row(NamedTuple):
    """What became of one promise."""

    promise: str
    tried: int
    lost: int
    examples: tuple[str, ...] = ()  # of what was lost, in a line or more each


def line(row: Row) -> str:
    """The row as a line of the table."""
    return f"| {row.promise} | {row.tried:,} | {row.lost:,} |"
