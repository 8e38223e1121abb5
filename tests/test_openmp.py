"""How long OpenMP's threads spin, by the processor, and that a command sets it before torch is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm.host import hardware, openmp

COMMAND = """
import os, sys
from ddpm.cli import main
main.main(["runs"])
assert "torch" not in sys.modules
print(os.environ["GOMP_SPINCOUNT"], os.environ["KMP_BLOCKTIME"])
"""


@pytest.mark.parametrize(
    ("name", "flags", "turns"),
    [
        ("Intel(R) Xeon(R) Platinum 8375C", {"avx2", "avx512f", "clflushopt"}, openmp.LONG_TURNS),
        ("Intel(R) Core(TM) i7-5600U", {"avx2"}, openmp.TURNS),  # Broadwell
        ("AMD EPYC 7763 64-Core Processor", {"avx2", "clflushopt"}, openmp.TURNS),
        ("aarch64", set(), openmp.TURNS),
    ],
)
def test_a_turn_is_long_on_newer_processors_of_intel(
    name: str, flags: set[str], turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "processor", lambda: name)
    monkeypatch.setattr(hardware, "instructions", lambda: frozenset(flags))
    assert openmp.variables() == {"GOMP_SPINCOUNT": str(turns), "KMP_BLOCKTIME": "1"}


def test_a_command_sets_what_is_not_set(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in openmp.variables()}
    environ |= {"KMP_BLOCKTIME": "7", "PYTHONPATH": str(Path(__file__).parents[1])}
    said = subprocess.run(
        [sys.executable, "-c", COMMAND], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines()[-1] == f"{openmp.variables()['GOMP_SPINCOUNT']} 7"
