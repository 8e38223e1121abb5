"""What an evaluation of samples measures beside its panel: near-copies of training images, and FID."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_page import new_page, said

from ddpm.checkpoints import loading
from ddpm.cli import main
from ddpm.config import codec
from ddpm.config.quality import QualityConfig
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.errors import UserError
from ddpm.planning import quality_figures
from ddpm.quality import distances, evaluation, further, memorisation
from ddpm.runs import near_copies
from ddpm.runs.results import QualityJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker

pytestmark = pytest.mark.usefixtures("runs_here", "threads_afterwards")
N = quality_figures.LEAST


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """References are small: they are not what is looked at."""
    monkeypatch.setattr(distances, "RESAMPLES", 2)
    monkeypatch.setattr(distances, "GROUPS", 2)
    monkeypatch.setattr(evaluation, "MOST_REFERENCE", 260)
    monkeypatch.setattr(memorisation, "MOST_UNSEEN", 100)


@pytest.fixture
def noise(tiny: Config, tmp_path: Path, runs_dir: Path) -> tuple[Run, np.ndarray, np.ndarray]:
    """A run on images of noise, of which a part is held out; training and held-out images."""
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=pixels)
    wanted = {"data_dir": str(tmp_path / "noise.npz"), "hold_out": 0.6, "total_steps": 1, "save_interval": 1}
    flags = codec.to_flags(codec.replace(tiny, wanted))
    assert main.main(["train", *flags, "--run", "one", "--runs_dir", str(runs_dir)]) == 0
    run = Run(runs_dir / "one")
    parts = (datasets.open_dataset(run.config.data, run.config.model, split=split) for split in ("train", "test"))
    training, held_out = (part.take(np.arange(len(part)))[0] for part in parts)
    return run, training, held_out


def measure(source: Run | None, folder: Path, samples: np.ndarray, **settings: Any) -> dict[str, Any]:
    np.savez(folder.with_suffix(".npz"), images=samples)
    asked = QualityConfig(
        samples=str(folder.with_suffix(".npz")), num_samples=len(samples), **{"threads": 1, **settings}
    )
    with Worker(folder) as worker:
        list(evaluation.measure_source(folder, worker, source, asked, {}))
        worker.beat(state="finished", now=True)
    return QualityJob(folder).result


def test_near_copies_are_counted_and_shown(noise: tuple[Run, np.ndarray, np.ndarray]) -> None:
    run, training, _ = noise
    samples = np.random.default_rng(1).integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)
    samples[10:30] = training[40:60, :, ::-1]
    folder = run.folder / "qualities" / "20260102-030405"
    folder.parent.mkdir()
    found = measure(run, folder, samples)["copies"]
    assert (found["checked"], found["copied"]) == (N, 20)
    assert (found["training"], found["unseen"], found["held_out"]) == (len(training), 100, True)
    assert found["excess"][1] > 0.03
    assert found["by_pixels"] == [20, 0]
    assert found["by_features"][0] >= 1
    assert {(pair["sample"], pair["training"]) for pair in found["pairs"][:20]} == {(10 + k, 40 + k) for k in range(20)}
    assert all(pair["copied"] and pair["mirrored"] for pair in found["pairs"][:20])
    at = new_page("pages/evaluate.py")
    at.session_state["evaluate_part"] = ":material/compare: Sample quality"
    at.run()
    assert "20 of 256 samples are near-copies" in said(at)
    alts = [one.alt for image in at.get("image") for one in image.proto.imgs]
    pair = found["pairs"][0]
    assert f"Sample {pair['sample']} beside training image {pair['training']}, mirrored" in alts
    (folder / near_copies.PAIRS).unlink()
    at.run()
    assert near_copies.PAIRS in "".join(error.value for error in at.error)


def measured(
    run: Run | None, config: Config, folder: Path, samples: np.ndarray, net: Any = None, **settings: Any
) -> dict[str, Any]:
    """What is measured beside the panel."""
    asked = QualityConfig(num_samples=len(samples), **settings)
    opened = loading.open_model(run, asked) if run else None
    with Worker(folder) as worker:
        *_, last = further.measure(QualityJob(folder), worker, opened, config, asked, samples, samples[::2], net)
        worker.beat(state="finished", now=True)
    assert last.result is not None
    return last.result


def test_where_near_copies_cannot_be_looked_for_it_says_so(
    noise: tuple[Run, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    run, _, held_out = noise
    config = run.config
    assert measured(None, config, tmp_path / "a", held_out[:20]) == {"copies_note": further.UNKNOWN}
    assert measured(run, config, tmp_path / "b", held_out[:20], copies=False) == {}
    assert "copies" in measured(run, config, tmp_path / "c", held_out[:20])
    Path(config.data.data_dir).rename(tmp_path / "elsewhere.npz")
    moved = measured(run, config, tmp_path / "d", held_out[:20])
    assert moved.keys() == {"copies_note"}
    assert "noise.npz" in moved["copies_note"]


def test_fid_is_the_distance_of_inception_features(noise: tuple[Run, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    class Net:
        """Eight features of an image, which the resizing scales."""

        sha256 = "6726825d" + "0" * 56

        def features(self, pixels: np.ndarray, resizing: str) -> np.ndarray:
            return pixels.reshape(len(pixels), -1)[:, :8] * np.float32(2 if resizing == "legacy" else 1)

    run, _, held_out = noise
    result = measured(run, run.config, tmp_path / "a", held_out[:200], Net(), copies=False)
    both = [distances.gaussian(images.reshape(len(images), -1)[:, :8]) for images in (held_out[:200], held_out[:200:2])]
    expected = distances.frechet(both[0], both[1])
    assert result["inception"]["sha256"] == Net.sha256
    assert result["inception"]["fid"] == pytest.approx({"clean": expected, "legacy": 4 * expected}, rel=1e-4)
    assert "6726825d" in " ".join(quality_figures.further(result))


def test_fid_is_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    other.write_bytes(b"something else")
    with pytest.raises(UserError) as refused:
        quality_figures.check(QualityConfig(num_samples=2048, inception=str(other)))
    assert refused.value.code == "too-few-images"
    asked = QualityConfig(num_samples=2049, inception=str(other))
    quality_figures.check(asked)
    for count, code in ((2048, "too-few-images"), (2049, "wrong-checksum")):
        with pytest.raises(UserError) as refused:
            further.read_inception(asked, count)
        assert refused.value.code == code
