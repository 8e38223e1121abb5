"""Expecting a UserError: by its code, and by the values that its sentence must name, not by its wording."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ddpm.errors import Code, UserError


@contextmanager
def raises_error(code: Code, *values: object) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """The block raises a UserError of this code; its sentence holds each of `values`, as str() writes them."""
    with pytest.raises(UserError) as raised:
        yield raised
    sentence = str(raised.value)
    assert raised.value.code == code, sentence
    for value in values:
        assert str(value) in sentence
