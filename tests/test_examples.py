"""The examples, run as a reader runs them, with little to do.

The notebook's cells are plain Python, so that they are executed here one after another: no Jupyter needs to be
installed.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from openpyxl import load_workbook
from PIL import Image

import ddpm

ROOT = Path(ddpm.__file__).parents[1]


def run(arguments: list[str], cwd: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_the_notebook(tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "examples" / "tour.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 8
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"), "keep it small"
    code = "\n\n".join(cells).replace("STEPS = 20", "STEPS = 2")
    (tmp_path / "tour.py").write_text(code, encoding="utf-8")
    lines = run(["tour.py"], tmp_path).splitlines()
    assert lines[0].startswith("('airplane', 'automobile'")
    assert lines[1].endswith("bits/dim")
    assert lines[2].startswith("loss ")
    assert [path.name for path in tmp_path.iterdir()] == ["tour.py"], "nothing is written"


@pytest.mark.slow
def test_train_and_export(tmp_path: Path) -> None:
    script = str(ROOT / "examples" / "train_and_export.py")
    said = run([script, "--steps", "3", "--per_class", "1", "--out", "out"], tmp_path)
    assert "step 3: loss" in said
    assert Image.open(tmp_path / "out" / "grid.png").width > 8 * 32
    sheets = load_workbook(tmp_path / "out" / "metrics.xlsx", read_only=True).sheetnames
    assert sheets[:3] == ["Summary", "Config", "Metrics"]
    assert ddpm.open_run(tmp_path / "out" / "run").metrics["step"].tolist() == [1, 2, 3]


@pytest.mark.slow
def test_compare_solvers(tmp_path: Path) -> None:
    script = str(ROOT / "examples" / "compare_solvers.py")
    words = ["--images", "2", "--solvers", "ddim,unipc-2", "--steps", "3,6", "--reference", "12"]
    said = run([script, *words], tmp_path).splitlines()
    rows = {line.split()[0]: [float(number) for number in line.split()[1:]] for line in said[1:3]}
    assert set(rows) == {"ddim", "unipc-2"}
    assert all(many < few for few, many in rows.values()), "closer with more steps"
    assert Image.open(tmp_path / "solvers.png").height > 3 * 32
