"""The model that comes with the program: small, whole, and good for sampling."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises_error
from streamlit.testing.v1 import AppTest
from waiting import PATIENCE

from ddpm.checkpoints import checkpoint_files, loading
from ddpm.cli import main
from ddpm.config import codec
from ddpm.config.tasks import SampleConfig
from ddpm.interop import export_openai
from ddpm.models import backend
from ddpm.quality import feature_net, features
from ddpm.runs import example, runs
from ddpm.runs.runs import Run
from ddpm.sampling import engine
from ddpm.sampling.request import resolve_request
from ddpm.storage import arrays, files, images

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts"))

import pack_example  # noqa: E402

KIND = "ema_0.99"  # the weights that it has
SHAPES_RUN = ROOT / "tests" / "shapes_run"


def test_it_is_small_and_whole() -> None:
    assert sum(path.stat().st_size for path in example.ASSET.rglob("*") if path.is_file()) <= 12e6
    run = Run(example.ASSET)
    (checkpoint,) = run.checkpoints()
    assert checkpoint_files.damage(checkpoint) == ""
    assert checkpoint.step == run.config.train.total_steps
    assert checkpoint.weights == [KIND]
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


def test_its_samples_can_be_named() -> None:
    """By the classifier whose features measure quality: chance names a tenth; of real images it names 87 %."""
    wanted = SampleConfig(num_samples=40, steps=15, guidance_scale=3.0, seed=1, precision="fp32")
    opened = loading.open_model(Run(example.ASSET), wanted)
    network = backend.resolve_backend("auto", "fp32", torch.device("cpu")).prepared(opened.network())
    sampled = engine.sample_images(network, resolve_request(opened.config, wanted))
    weights = {name: torch.from_numpy(values).float() for name, values in arrays.read_npz(features.FILE).items()}
    found = feature_net.features(weights, torch.from_numpy(images.to_float(sampled)))
    named = (found @ weights["classifier.weight"].T + weights["classifier.bias"]).argmax(dim=1)
    assert float((named == torch.arange(40) % 10).float().mean()) > 0.5


def test_what_it_lacks_is_said(tmp_path: Path) -> None:
    run = example.provide(tmp_path)
    with raises_error("not-exportable"):
        export_openai.export_checkpoint(run, tmp_path / "openai")
    with raises_error("missing-weights", "ema_0.995", 3000):
        export_openai.export_checkpoint(Run(SHAPES_RUN), tmp_path / "openai")
    assert run.checkpoint().path(KIND).name in run.finished_message
    with raises_error("nothing-left", f"{run.checkpoint().step:,}"):
        main.execute(["train", "--resume", "example", "--runs_dir", str(tmp_path)])
    with raises_error("missing-weights", "'model'", KIND):
        main.execute(["sample", "--run", "example", "--runs_dir", str(tmp_path), "--weights", "model", "--steps", "2"])


def test_only_a_finished_run_is_packed(tmp_path: Path) -> None:
    run = example.provide(tmp_path)
    shutil.copy(run.folder / "status.json", tmp_path / "status.json")
    files.write_json(run.folder / "status.json", {"state": "stopped", "step": 5})
    with raises_error("still-running"):
        pack_example.pack(run, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
    assert Run(example.ASSET).checkpoints(), "the one there is stays"


def test_what_is_packed(tmp_path: Path) -> None:
    source = Run(shutil.copytree(SHAPES_RUN, tmp_path / "run"))
    packed = pack_example.pack(source, tmp_path / "packed", data_dir="mine")
    run = Run(tmp_path / "packed")
    assert run.checkpoint() == packed
    assert (packed.step, packed.weights) == (3000, ["ema_0.995"])
    assert checkpoint_files.damage(packed) == ""
    assert run.config == codec.replace(source.config, {"data_dir": "mine"})
    assert [step for step, _ in run.previews()] == [3000]
    status = run.status()
    assert status is not None
    assert (status.state, status.pid, status.host, status.boot) == ("finished", 0, "", "")
    whole, small = (checkpoint_files.load_weights(of.checkpoint().path("ema_0.995")).tensors for of in (source, run))
    for name, tensor in whole.items():
        assert float((small[name] - tensor).abs().max()) <= float(tensor.abs().max()) / 127, name
    with raises_error("missing-weights", "ema_0.9", "ema_0.995"):
        pack_example.pack(source, tmp_path / "other", "ema_0.9")


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


def test_the_one_there_stays_until_another_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Run(shutil.copytree(SHAPES_RUN, tmp_path / "run"))
    before = pack_example.pack(source, tmp_path / "packed")

    def fails(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(pack_example, "_sampled", fails)
    with pytest.raises(OSError, match="no room"):
        pack_example.pack(source, tmp_path / "packed")
    assert Run(tmp_path / "packed").checkpoint() == before
