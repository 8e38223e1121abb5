"""Docstrings are contracts: a public function of tensors or arrays names their shapes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ddpm

PACKAGE = Path(ddpm.__file__).parent
SHAPE = re.compile(r"\[(?:\.\.\.|\d*[A-Za-z][\w*+\-/ ]*)(?:, ?(?:\.\.\.|[\w*+\-/ ]+))*\]|\bscalar\b")
ARRAYS = {"Tensor", "ndarray", "NDArray"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def of_arrays(function: Function) -> bool:
    """True if a parameter or the result is annotated as a tensor or an array, alone or inside of another type."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    annotations = [one.annotation for one in every if one is not None] + [function.returns]
    found = set()
    for annotation in filter(None, annotations):
        if isinstance(annotation, ast.Constant):
            annotation = ast.parse(str(annotation.value), mode="eval").body
        for node in ast.walk(annotation):
            found |= {getattr(node, "id", None), getattr(node, "attr", None)}
    return bool(found & ARRAYS)


def without_shape(source: str) -> Iterator[str]:
    """Names of the public functions in a module that take or return arrays and do not say of which shape."""

    def look(body: list[ast.stmt], outer: str, prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from look(node.body, f"{outer}\n{ast.get_docstring(node) or ''}", f"{prefix}{node.name}.")
            elif isinstance(node, Function):
                public = not node.name.startswith("_") or node.name in ("__init__", "__call__")
                if public and of_arrays(node) and not SHAPE.search(f"{outer}\n{ast.get_docstring(node) or ''}"):
                    yield f"{prefix}{node.name}"

    yield from look(ast.parse(source).body, "", "")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_public_functions_of_arrays_name_their_shapes(path: Path) -> None:
    assert list(without_shape(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    ("function", "names_it"),
    [
        ('def f(x: Tensor):\n    """x: float32 [N, C, H, W]."""', True),
        ('def f(x: "torch.Tensor | None" = None):\n    """x: [N]."""', True),
        ('def f() -> dict[str, np.ndarray]:\n    """Losses [2N, ...] in [-1, 1]."""', True),
        ('def f() -> Tensor:\n    """A scalar."""', True),
        ('def f() -> Tensor:\n    """Images in [-1, 1], and in [0, 1]."""', False),
        ("def f(x: Tensor): ...", False),
        ("def _f(x: Tensor): ...", True),
        ("def f(x: int): ...", True),
        ('class A:\n    """Of x [N]."""\n    def f(self, x: Tensor): ...', True),
        ('class A:\n    """Of x."""\n    @property\n    def f(self) -> np.ndarray: ...', False),
        ("class A:\n    def __call__(self, x: Tensor): ...", False),
    ],
)
def test_it_finds_those_that_do_not(function: str, names_it: bool) -> None:
    assert (list(without_shape(function)) == []) is names_it
