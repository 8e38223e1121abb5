"""What the README shows works as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ddpm.cli import main

ROOT = Path(main.__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_headless_example(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("loss") == 10
    with Image.open(tmp_path / "stars.png") as grid:
        assert min(grid.size) > 2 * 32 * 4


def test_every_command_is_understood() -> None:
    commands = re.findall(r"^    (ddpm .*?)(?<!\\)$", README, re.DOTALL | re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        words = shlex.split(command.replace("\\\n", " "), comments=True)
        main._parser().parse_args(words[1:])


def test_pictures_and_files_are_there() -> None:
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).exists(), picture


def test_the_map_names_every_module() -> None:
    tree = README.split("## The map")[1].split("\n## ")[0]
    tracked = [p for pattern in ("ddpm/*.py", "pages/*.py", "pages/ui/*.py") for p in ROOT.glob(pattern)]
    missing = [str(p.relative_to(ROOT)) for p in tracked if p.name != "__init__.py" and p.name not in tree]
    assert not missing


@pytest.mark.parametrize("name", ["quick-start", "cifar10-cpu", "cifar10-paper"])
def test_presets_are_listed(name: str) -> None:
    assert f"`{name}`" in README
