"""Trajectories: the images of each step, the right numbers, and files that play."""

import io
import itertools
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from raising import raises_error
from torch import Tensor

import ddpm
from ddpm import schedules
from ddpm.analysis import trajectory
from ddpm.config import codec
from ddpm.config.model import DiffusionConfig, ModelConfig
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.reports import animation
from ddpm.reports.animation import Frames
from ddpm.runs import example
from ddpm.runs.results import TrajectoryJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.sampling import engine
from ddpm.sampling.request import resolve_request
from ddpm.storage import images

CONFIG = Config(
    model=ModelConfig(image_size=8, num_channels=32, class_cond=True, num_classes=3, cond_drop_prob=0.1),
    diffusion=DiffusionConfig(noise_schedule="cosine", prediction="x_start"),
    class_names=("a", "b", "c"),
)


def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return torch.tanh(x + 0.2 * y[:, None, None, None])


@pytest.mark.parametrize(
    "values",
    [
        dict(sampler="unipc-3", steps=6),
        dict(sampler="ddpm", steps=7),
        dict(sampler="heun", steps=9, churn=10.0),
        dict(sampler="dpm++2m", steps=6, guidance_scale=3.0, analytic_first_step=True),
        dict(task="interpolate", to_seed=9, sampler="ddim", steps=5),
    ],
)
def test_it_is_the_very_image(values: dict[str, Any]) -> None:
    settings = SampleConfig(num_samples=5, seed=4, batch_size=1, **values)
    sampled = [d.step.x[0] for d in engine.sample(network, resolve_request(CONFIG, settings)) if d.finished]
    for number in (0, 3):
        *_, last = trajectory.looks(network, resolve_request(CONFIG, settings), number)
        assert torch.equal(last.after, sampled[number])
        assert last.done == last.total


def test_its_numbers_are_right() -> None:
    """x_t = alpha x_start + sigma eps at every step, and DDIM's next x follows from the two."""
    settings = SampleConfig(num_samples=1, sampler="ddim", steps=8)
    seen = list(trajectory.looks(network, resolve_request(CONFIG, settings)))
    curve = schedules.named("cosine", 1000).curve
    for now, then in itertools.pairwise(seen):
        alpha, sigma = float(curve.alpha(now.t)), float(curve.sigma(now.t))
        torch.testing.assert_close(alpha * now.x_start + sigma * now.eps, now.x, atol=1e-4, rtol=0)
        torch.testing.assert_close(now.after, then.x)
        expected = float(curve.alpha(then.t)) * now.x_start + float(curve.sigma(then.t)) * now.eps
        torch.testing.assert_close(then.x, expected, atol=2e-4, rtol=0)
        assert now.change == pytest.approx(float((then.x - now.x).square().mean().sqrt()) * 127.5, rel=1e-4)
        assert then.x_start_change == pytest.approx(
            float((then.x_start - now.x_start).square().mean().sqrt()) * 127.5, rel=1e-4, abs=1e-5
        )
    assert seen[0].x_start_change is None
    assert [look.t for look in seen] == sorted((look.t for look in seen), reverse=True)


def test_a_image_that_is_not_there() -> None:
    with raises_error("bad-value", 5, 5, 0, 4):
        next(trajectory.looks(network, resolve_request(CONFIG, SampleConfig(num_samples=5, steps=4)), 5))


def test_a_long_walk_keeps_all_numbers_and_some_images() -> None:
    record = trajectory.Record()
    resolved = resolve_request(CONFIG, SampleConfig(num_samples=1, sampler="ddim", steps=1000))
    for look in trajectory.looks(network, resolved):
        record.add(look)
    assert len(record.numbers["t"]) == 1000
    frames = record.frames()
    assert len(frames.x) == len(frames.t) == len(record.calls) == 250
    assert (record.calls[0], record.calls[-1]) == (1, 1000)
    assert frames.t[0] == record.numbers["t"][0]
    assert frames.t[-1] == record.numbers["t"][-1]


@pytest.fixture
def frames() -> Frames:
    rng = np.random.default_rng(0)
    x, x_start, eps = (rng.integers(0, 256, (30, 9, 9, 3), dtype=np.uint8) for _ in range(3))
    return Frames(x, x_start, eps, np.linspace(999, 0, 30))


def test_the_gif_runs_and_holds_its_end(frames: Frames) -> None:
    with Image.open(io.BytesIO(animation.gif(frames))) as moving:
        assert moving.n_frames == 30  # type: ignore[attr-defined]
        assert moving.size == (2 * 9 * (256 // 9), 9 * (256 // 9))
        pauses = []
        for k in range(30):
            moving.seek(k)
            pauses.append(moving.info["duration"])
    assert 4500 < sum(pauses[:-1]) < 5500
    assert pauses[-1] > pauses[0] + 1000


@pytest.mark.slow
def test_the_mp4_can_be_played(frames: Frames, tmp_path: Path) -> None:
    program = animation.writer()
    assert program, "requirements-dev.txt brings one"
    (tmp_path / "film.mp4").write_bytes(animation.mp4(frames))
    said = subprocess.run(
        [program, "-i", str(tmp_path / "film.mp4"), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        capture_output=True,
        check=True,
    )
    height, width = animation.side_by_side(frames).shape[1:3]
    shown = len(said.stdout) / (width * height * 3)
    assert shown >= 30, "every step, and the end for longer"
    assert b"h264" in said.stderr
    first = np.frombuffer(said.stdout, np.uint8)[: width * height * 3].reshape(height, width, 3)
    assert np.abs(first.astype(int) - animation.side_by_side(frames)[0]).mean() < 12


@pytest.mark.slow
def test_without_a_writer_there_is_a_sentence(frames: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animation, "writer", lambda: None)
    assert animation.write(tmp_path, frames) == animation.NO_WRITER
    assert {path.name for path in tmp_path.iterdir()} == {"strip.png", "trajectory.gif"}
    monkeypatch.setattr(animation, "writer", lambda: "false")
    assert "ffmpeg failed" in animation.write(tmp_path, frames)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_strips_of_any_channels(channels: int) -> None:
    x = np.zeros((3, 8, 8, channels), np.uint8)
    strip = animation.strip(Frames(x, x, x, np.array([999.0, 500.0, 0.0])))
    assert strip.shape[2] == 3
    assert images.encode_png(strip)


@pytest.mark.slow
def test_many_steps_make_no_longer_film() -> None:
    x = np.zeros((250, 8, 8, 3), np.uint8)
    x[-1] = 255
    shown = animation.side_by_side(Frames(x, x, x, np.arange(250.0)))
    assert len(shown) == 125
    assert shown[-1].min() == 255


def test_a_stop_keeps_what_was_seen(tmp_path: Path) -> None:
    """The example's own weights, stopped after the third of its calls: files of three, and a sentence."""
    job = TrajectoryJob(tmp_path / "look")
    settings = SampleConfig(num_samples=1, steps=8, seed=3)
    with Worker(job.folder) as worker:
        for look in trajectory.look_source(job.folder, worker, Run(example.ASSET), settings, 0, {}):
            if look.done == 3:
                job.request("stop")
    assert job.state() == "stopped"
    status = job.status()
    assert status
    assert status.message.startswith("Stopped after 3 of 8 calls")
    assert len(job.result["t"]) == 3
    with np.load(job.trajectory) as arrays:
        assert arrays["x"].shape == arrays["eps"].shape == (3, 32, 32, 3)
        assert list(arrays["calls"]) == [1, 2, 3]
    assert (job.folder / "strip.png").exists()
    assert "--steps 8" in job.settings["command"]
    with raises_error("already-exists"):
        next(trajectory.look_source(job.folder, worker, Run(example.ASSET), settings, 0, {}))


def test_one_that_begins_with_noise_alone_is_read_again(tmp_path: Path, tiny: Config) -> None:
    """With zero terminal SNR log(alpha / sigma) is infinite there, and is left out."""
    config = codec.replace(tiny, {"zero_terminal_snr": True, "prediction": "v", "total_steps": 1})
    list(ddpm.train(config, run=tmp_path / "run"))
    job = TrajectoryJob(tmp_path / "look")
    with Worker(job.folder) as worker:
        list(trajectory.look_source(job.folder, worker, Run(tmp_path / "run"), SampleConfig(steps=3), 0, {}))
    assert job.result["lam"][0] is None
    assert None not in job.result["lam"][1:]
