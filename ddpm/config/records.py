"""Checks what was read from JSON against the fields of a small dataclass: types, ranges, choices."""

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from ddpm.errors import UserError

T = TypeVar("T")

Count = Annotated[int, Meta(ge=0, le=10**15)]  # steps, images, bytes of a log
Seconds = Annotated[float, Meta(ge=0, le=10**11)]  # durations, and times since the epoch


def read(cls: type[T], value: Any, what: str) -> T:
    """Makes a `cls`, a dataclass, of a group that was read from JSON; fields that are missing take their defaults.

    what: what errors call the group, such as the path of its file.  Names that `cls` does not have are those of a newer
    version and are left out.  Raises UserError if a value is missing, of another type or out of range.
    """
    try:
        return msgspec.convert(value, cls)
    except msgspec.ValidationError as error:
        raise UserError(
            f"{what} does not hold what it should ({error}): restore it from a copy, or delete it.", code="bad-value"
        ) from error
