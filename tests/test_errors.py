"""Errors: what the system refuses, as a sentence with a code; the form of all sentences."""

import ast
import dataclasses
import errno
import os
import pickle
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from raising import raises_error

from ddpm import errors
from ddpm.config import codec, tasks
from ddpm.errors import UserError
from ddpm.storage.files import DiskFull

ROOT = Path(__file__).resolve().parents[1]
HOLE = "\0"  # where a value stands in a sentence

# What a sentence may begin with beside a capital, an option or a value: a name that is written small.
NAMES = {"ddpm", "class_names", "super-res-train", "number", "test_labels", *tasks.TASKS}
NAMES |= {field.name for section in codec.SECTIONS.values() for field in dataclasses.fields(section)}
NAMES |= {
    field.name for task in vars(tasks).values() if dataclasses.is_dataclass(task) for field in dataclasses.fields(task)
}


@pytest.mark.parametrize("number", [*errors.REMEDIES, errno.EINVAL, errno.ENOLCK, errno.ESTALE])
def test_it_names_the_thing_and_what_to_do(number: int) -> None:
    with raises_error("system-refused") as caught, errors.user_errors():
        raise OSError(number, os.strerror(number), "/a/file", None, Path("/another"))
    assert (
        str(caught.value)
        == f"/a/file and /another cannot be used ({os.strerror(number)}): {errors.REMEDIES.get(number, errors.REMEDY)}."
    )
    assert caught.value.code == "system-refused"
    assert isinstance(caught.value.__cause__, OSError)


def test_an_open_file_is_named_by_who_has_it_open() -> None:
    with pytest.raises(OSError, match="gone") as caught, errors.with_filename(Path("log.txt")):
        raise OSError(errno.EIO, "gone")
    assert caught.value.filename == "log.txt"
    with pytest.raises(OSError, match="gone") as caught, errors.with_filename(Path("log.txt")):
        raise OSError(errno.EIO, "gone", "another")
    assert caught.value.filename == "another"


def test_texts_that_cannot_be_written() -> None:
    assert str(UserError("cl\udce9 and ä", code="bad-text")) == "cl\\udce9 and ä"
    with raises_error("bad-text", "udce9"), errors.user_errors():
        "\udce9".encode()


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), RuntimeError("a fault of ours")])
def test_others_are_left_alone(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, errors.user_errors():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [UserError("What: so.", code="busy"), DiskFull(Path("/none/a.png"))])
def test_they_travel_between_processes(error: UserError) -> None:
    there = pickle.loads(pickle.dumps(error))
    assert isinstance(there, UserError)
    assert (str(there), there.code) == (str(error), error.code)


@cache
def raised() -> tuple[tuple[str, ast.Call], ...]:
    """Each place that makes a UserError or a Problem, as FILE:LINE, and the call that makes it."""
    return tuple(_raised())


def _raised() -> Iterator[tuple[str, ast.Call]]:
    for folder in ("ddpm", "pages", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in ("UserError", "Problem")
                ):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def sentences(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may come to, with HOLE for each value; none where it is a name or a call."""
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from sentences(node.body)
        yield from sentences(node.orelse)


def test_sentences_say_what_is_wrong_what_was_found_and_what_to_do() -> None:
    """One sentence, with a colon before the remedy; one that is passed on may stand at its beginning or end."""
    checked, wrong = 0, []
    for place, call in raised():
        for text in sentences(call.args[call.func.id == "Problem"]):  # type: ignore[attr-defined]
            checked += 1
            word = re.split(r"[^\w-]", text.removeprefix("--"), maxsplit=1)[0]
            if not (
                "\n" not in text
                and text.endswith((".", HOLE))
                and (":" in text or text.startswith(HOLE) or text.endswith(HOLE))
                and not re.search(r"[a-z)]\. [^\0]", text)
                and (text.startswith((HOLE, "--")) or text[0].isupper() or word in NAMES)
            ):
                wrong.append(f"{place}: {text.replace(HOLE, '...')}")
    assert not wrong, "\n".join(wrong)
    assert checked > 250


def test_every_code_is_one_of_a_fault() -> None:
    made = {
        keyword.value.value
        for _, call in raised()
        for keyword in call.keywords
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
    }
    assert made | {"disk-full", "peer-lost"} == set(get_args(errors.Code))


def test_a_lack_of_memory_is_a_sentence() -> None:
    torch = pytest.importorskip("torch")
    for allocate in (lambda: torch.empty(2**52, dtype=torch.uint8), lambda: np.empty(2**52, np.uint8)):
        with raises_error("out-of-memory", "microbatch"), errors.user_errors():
            allocate()
    other = RuntimeError("something else")
    assert errors.translated(other) is other
    with pytest.raises(BrokenPipeError), errors.user_errors():
        raise BrokenPipeError
