"""Expecting a UserError: by its code, and by the values that its sentence must name, not by its wording."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ddpm.errors import Code, UserError


@contextmanager
def raises_error(code: Code, *values: object) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """The block raises a UserError of this code; its sentence holds each of `values`, as a word or words of its own."""
    with pytest.raises(UserError) as raised:
        yield raised
    sentence = str(raised.value)
    assert raised.value.code == code, sentence
    for value in values:
        assert re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", sentence), (value, sentence)
