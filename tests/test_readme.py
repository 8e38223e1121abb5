"""What README.md and docs/ show works as it stands there."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddpm.cli import main
from ddpm.config.presets import OURS, PRESETS
from ddpm.runs.results import KINDS
from ddpm.solvers import SOLVERS

ROOT = Path(main.__file__).parents[2]
README = ROOT / "README.md"
TEXTS = [README, *sorted((ROOT / "docs").glob("*.md"))]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def by_path(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_readme_is_short() -> None:
    assert len(read(README).splitlines()) < 200


def printed_by(code: str, folder: Path) -> list[str]:
    """Lines that a program prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in TEXTS if "```python" in read(path)], ids=by_path)
def test_examples_in_python_run(path: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", read(path), re.DOTALL)
    lines = printed_by(f"{example}\nprint(images.dtype, *images.shape)", tmp_path)
    assert [int(line.split()[0]) for line in lines[:10]] == list(range(1, 11))
    assert re.fullmatch(r"uint8 (16|4) 32 32 3", lines[-1])


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The subcommands of a command, by name."""
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


@pytest.mark.parametrize("path", TEXTS, ids=by_path)
def test_every_command_is_understood(path: Path) -> None:
    """Lines of their own are whole commands; in a sentence, the command and its flags are known."""
    parser = main._parser()
    lines = re.findall(r"^ {4,}(?:torchrun [^\n]* -m )?(ddpm .*?)(?<!\\)$", read(path), re.DOTALL | re.MULTILINE)
    for line in lines:
        words = shlex.split(line.replace("\\\n", " "), comments=True)
        if words[-1] != "...":
            parser.parse_args(main.prepared(words[1:]))
    for line in re.findall(r"`ddpm ([a-z][^`\n]*)`", read(path)):
        words = line.split()
        command = commands_of(parser)[words[0]]
        command = commands_of(command).get(words[1], command) if len(words) > 1 else command
        assert {word for word in words if word.startswith("--")} <= {*command._option_string_actions}, line


def test_every_subcommand_is_shown() -> None:
    shown = " ".join(map(read, TEXTS))
    assert not [name for name in commands_of(main._parser()) if name != "measure" and f"ddpm {name}" not in shown]


# --- links and paths


def anchors(path: Path) -> set[str]:
    """The anchors of a file's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", read(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", TEXTS, ids=by_path)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", read(path)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_every_text_and_image_is_linked() -> None:
    linked = {
        (path.parent / target.partition("#")[0]).resolve()
        for path in TEXTS
        for target in re.findall(r"\]\(([^)]+)\)", read(path))
    }
    assert not [path.name for path in (ROOT / "docs").iterdir() if path not in linked]


@pytest.mark.parametrize("path", TEXTS, ids=by_path)
def test_paths_in_the_text_exist(path: Path) -> None:
    names = re.findall(r"`((?:ddpm|pages|tests|docs|examples)/[\w/.-]+)`", read(path))
    assert not [name for name in names if not (ROOT / name).exists()]


def the_map() -> Iterator[tuple[Path, str]]:
    """(path, what is said of it) of every line of the README's map."""
    tree = read(README).split("## The map")[1].split("\n## ")[0]
    above: list[tuple[int, Path]] = []
    for line in tree.splitlines():
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        name, words = line.split(maxsplit=1)
        above = [(level, folder) for level, folder in above if level < indent]
        path = (above[-1][1] if above else ROOT) / name
        if name.endswith("/"):
            above.append((indent, path))
        yield path, words


MAP = dict(the_map())


@pytest.mark.parametrize("path", MAP, ids=by_path)
def test_the_map_is_right(path: Path) -> None:
    assert path.is_file() or path.is_dir()
    assert MAP[path]


def test_the_map_is_whole() -> None:
    """Every package, every page, and every module that stands at the top of the package."""
    packages = [path.parent for top in ("ddpm", "pages") for path in (ROOT / top).rglob("__init__.py")]
    pages = [ROOT / "app.py", ROOT / "home.py", *(ROOT / "pages").glob("*.py")]
    modules = (ROOT / "ddpm").glob("*.py")
    wanted = [path for path in [*packages, *pages, *modules] if not path.name.startswith("__")]
    known = {*MAP, *(parent for path in MAP for parent in path.parents)}
    assert not [by_path(path) for path in wanted if path not in known]


FINDS = {
    "warm-up": "def learning_rate",
    "cosine": "def cosine_betas",
    "clips x_start": ".clamp(-1, 1)",
    "previews, requests": "preview.save(",
    "button Stop": '"Stop"',
    "native charts": "ScatterChart",
    "Winograd tile size": "def winograd_tile",
}
"""What a reader looks for, as the map says it, and what is in the file that it names."""


@pytest.mark.parametrize("words", FINDS)
def test_the_map_leads_to(words: str) -> None:
    (path,) = [path for path, said in MAP.items() if words in said]
    assert FINDS[words] in read(path)


# --- tables


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.group == OURS])
def test_presets_are_listed(name: str) -> None:
    assert f"`{name}`" in read(ROOT / "docs" / "command_line.md")


def test_samplers_and_results_are_listed() -> None:
    samplers = read(ROOT / "docs" / "samplers.md")
    assert not [row.label for row in SOLVERS.values() if f"| {row.label}," not in samplers]
    folder = read(ROOT / "docs" / "run_folder.md")
    assert not [kind for kind in KINDS if f"{kind}/TIME/" not in folder]


def test_the_order_of_packages_is_the_one_that_is_checked() -> None:
    from test_rules import ORDER

    assert (
        ORDER.split()
        == re.search(r"^    (errors .*?)\n\n", read(ROOT / "docs" / "how_it_is_built.md"), re.DOTALL | re.MULTILINE)[
            1
        ].split()
    )  # type: ignore[index]
