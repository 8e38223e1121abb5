"""What the system refuses, as a sentence."""

import errno
import os
from pathlib import Path

import pytest

from ddpm import errors
from ddpm.errors import UserError


@pytest.mark.parametrize("number", [*errors.REMEDIES, errno.EINVAL, errno.ENOLCK, errno.ESTALE])
def test_it_names_the_thing_and_what_to_do(number: int) -> None:
    with pytest.raises(UserError) as caught, errors.told():
        raise OSError(number, os.strerror(number), "/a/file", None, Path("/another"))
    assert (
        str(caught.value)
        == f"/a/file and /another cannot be used ({os.strerror(number)}): {errors.REMEDIES.get(number, errors.REMEDY)}."
    )
    assert isinstance(caught.value.__cause__, OSError)


def test_an_open_file_is_named_by_who_has_it_open() -> None:
    with pytest.raises(OSError, match="gone") as caught, errors.naming(Path("log.txt")):
        raise OSError(errno.EIO, "gone")
    assert caught.value.filename == "log.txt"
    with pytest.raises(OSError, match="gone") as caught, errors.naming(Path("log.txt")):
        raise OSError(errno.EIO, "gone", "another")
    assert caught.value.filename == "another"


def test_texts_that_cannot_be_written() -> None:
    assert str(UserError("cl\udce9 and ä", code="bad-text")) == "cl\\udce9 and ä"
    with pytest.raises(UserError, match="letters"), errors.told():
        "\udce9".encode()


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), RuntimeError("a fault of ours")])
def test_others_are_left_alone(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, errors.told():
        raise error
    assert caught.value is error
