"""What presets learn in a budget of CPU time: as many steps as it pays for, and figures of the samples."""

import json
from pathlib import Path

import numpy as np
import pytest
from raising import raises_error

from ddpm.bench import quality
from ddpm.cli import main
from ddpm.config.benchmarks import QualityBenchmarkConfig
from ddpm.config.presets import PRESETS, Preset
from ddpm.config.training import Config
from ddpm.runs.runs import Run


@pytest.fixture
def presets(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, lr in (("slow", 1e-4), ("fast", 1e-3)):
        settings = {
            field: value
            for section in ("model", "diffusion", "data", "train")
            for field, value in vars(getattr(tiny, section)).items()
            if value != vars(getattr(Config(), section))[field]
        }
        monkeypatch.setitem(PRESETS, name, Preset(name, "", {**settings, "lr": lr, "lr_warmup_steps": 5}))


@pytest.mark.parametrize(
    "wrong", [{"budget": "20"}, {"budget": "soon"}, {"presets": "none-such"}, {"presets": " , "}], ids=str
)
def test_what_cannot_be_measured_is_said(wrong: dict[str, str], tmp_path: Path) -> None:
    settings = QualityBenchmarkConfig(data_dir="shapes", **wrong)
    with raises_error("bad-value"):
        next(quality.measure(settings, tmp_path))


@pytest.mark.slow
def test_presets_are_trained_for_a_budget_and_measured(
    presets: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(tmp_path / "images.npz")  # few, as all of them are looked at
    np.savez(data, np.random.default_rng(0).integers(0, 256, (600, 8, 8, 3), np.uint8))
    flags = "bench quality --budget 0.5s --presets slow,fast --num_samples 256 --steps 2 --threads 1"
    words = [*flags.split(), "--data_dir", data, "--runs_dir", str(tmp_path), "--json", "True"]
    assert main.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["preset"] for row in found["rows"]] == ["slow", "fast"]
    for row in found["rows"]:
        run = Run(Path(row["run"]))
        assert run.is_complete()
        assert row["steps"] == run.config.train.total_steps > 5
        assert row["images"] == 4 * row["steps"]
        assert row["cpu_seconds_per_step"] * row["steps"] == pytest.approx(0.5)
        value, low, high = row["figures"]["fd"]
        assert 0 < low < value < high
        assert row["about"]["n"] == 256
        assert Path(row["grid"]).exists()
    assert main.main(words) == 0
    assert json.loads(capsys.readouterr().out) == found, "nothing is trained or measured again"
    PRESETS["fast"] = PRESETS["fast"]._replace(settings={**PRESETS["fast"].settings, "lr": 2e-3})
    with raises_error("already-exists"):
        list(quality.measure(QualityBenchmarkConfig("0.5s", "fast", data, 256, 2, threads=1), tmp_path))


@pytest.mark.slow
def test_a_budget_shorter_than_the_warm_up_is_refused(presets: None, tmp_path: Path) -> None:
    settings = QualityBenchmarkConfig(budget="0.000001s", presets="fast", data_dir="shapes", threads=1)
    with raises_error("bad-value"):
        list(quality.measure(settings, tmp_path))
    assert not list(tmp_path.glob("quality-*"))
