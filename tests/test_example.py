"""The model that comes with the program: small, whole, and good for sampling."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raising import raises_error
from streamlit.testing.v1 import AppTest
from waiting import PATIENCE

from ddpm.checkpoints import checkpoint_files, loading
from ddpm.cli import main
from ddpm.config.tasks import SampleConfig
from ddpm.interop import export_openai
from ddpm.runs import example, runs
from ddpm.runs.runs import Run
from ddpm.sampling import engine
from ddpm.sampling.request import resolve_request
from ddpm.storage import files

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts"))

import pack_example  # noqa: E402


def test_it_is_small_and_whole() -> None:
    assert sum(path.stat().st_size for path in example.ASSET.rglob("*") if path.is_file()) <= 4e6
    run = Run(example.ASSET)
    (checkpoint,) = run.checkpoints()
    assert checkpoint_files.damage(checkpoint) == ""
    assert checkpoint.step == run.config.train.total_steps == 3000
    assert checkpoint.weights == ["ema_0.995"]
    assert run.state() == "finished"
    assert run.previews()


def test_it_becomes_a_run_once(tmp_path: Path) -> None:
    first = example.provide(tmp_path)
    assert runs.find_run(tmp_path, "example") == first
    marker = first.folder / "samples" / "mine.txt"
    files.write_bytes(marker, b"mine")
    assert example.provide(tmp_path) == first
    assert marker.exists(), "what is there is left alone"
    assert checkpoint_files.damage(first.checkpoint()) == ""


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.copy

    def full(source: Path, target: Path) -> Any:
        if source.suffix == ".pt":
            raise files.DiskFull(target)
        return real(source, target)

    monkeypatch.setattr(files, "copy", full)
    with pytest.raises(files.DiskFull):
        example.provide(tmp_path)
    assert [path for path in tmp_path.iterdir() if path.name != ".lock"] == []


def test_something_in_its_way(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "example" / "notes.txt", b"mine")
    with raises_error("already-exists"):
        example.provide(tmp_path)


def test_it_samples_coloured_shapes_in_ten_steps() -> None:
    """Each on a bright ground, in one colour, the shape covering a good part: noise has none of it."""
    wanted = SampleConfig(num_samples=8, steps=10, seed=1, precision="fp32")
    opened = loading.open_model(Run(example.ASSET), wanted)
    sampled = engine.sample_images(opened.network(), resolve_request(opened.config, wanted)).astype(int)
    rough = np.abs(np.diff(sampled, axis=2)).mean()
    assert rough < 15, "smooth but for edges; noise has 85"
    corners = sampled[:, ::31, ::31].reshape(8, -1, 3)
    inside = sampled[:, 13:19, 13:19].reshape(8, -1, 3)
    assert (np.abs(corners.mean(axis=1) - inside.mean(axis=1)).max(axis=1) > 25).mean() >= 0.75, "a shape on a ground"


def test_what_it_lacks_is_said(tmp_path: Path) -> None:
    run = example.provide(tmp_path)
    with raises_error("missing-weights", "ema_0.995", 3000):
        export_openai.export_checkpoint(run, tmp_path / "openai")
    assert "ema_0.995_003000.pt" in run.finished_message
    with raises_error("nothing-left", "3,000"):
        main.execute(["train", "--resume", "example", "--runs_dir", str(tmp_path)])
    with raises_error("missing-weights", "'model'", "ema_0.995"):
        main.execute(["sample", "--run", "example", "--runs_dir", str(tmp_path), "--weights", "model", "--steps", "2"])


def test_only_a_finished_run_is_packed(tmp_path: Path) -> None:
    run = example.provide(tmp_path)
    shutil.copy(run.folder / "status.json", tmp_path / "status.json")
    files.write_json(run.folder / "status.json", {"state": "stopped", "step": 5})
    with raises_error("still-running"):
        pack_example.pack(run, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
    assert Run(example.ASSET).checkpoints(), "the one there is stays"


def test_a_newcomer_finds_it_on_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDPM_RUNS", str(tmp_path))
    at = AppTest.from_file(str(ROOT / "home.py"), default_timeout=PATIENCE).run()
    assert any(button.key == "example" for button in at.button)
    at.switch_page("pages/sample.py").run()
    assert not (tmp_path / "example").exists(), "a page that is looked at creates nothing"
    monkeypatch.setattr("ddpm.runs.launch.start_sampling", lambda run, sample: run)
    at.button(key="use_example").click().run()
    assert not at.exception
    assert any("the included example model" in caption.value for caption in at.caption)
    assert any(button.label == "Sample" and not button.disabled for button in at.button)
    assert (tmp_path / "example" / "config.json").exists()
