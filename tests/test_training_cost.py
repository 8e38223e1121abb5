"""The estimated cost of a training, before and after its speed was measured."""

import dataclasses
import time
from pathlib import Path

import pytest

from ddpm.config import codec
from ddpm.config.presets import PRESETS
from ddpm.planning import architecture, memory, starting
from ddpm.planning.training_cost import estimate_training_cost
from ddpm.runs import launch
from ddpm.runs.jobs import Status
from ddpm.storage import files


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_without_a_measurement() -> None:
    config = codec.replace(PRESETS["quick-start"].config, dict(total_steps=100, sample_interval=30, batch_size=16))
    cost = estimate_training_cost(config, num_images=400)
    assert cost.parameters == architecture.parameters(config.model)
    assert cost.memory_bytes == memory.training_bytes(config.model, config.train)
    assert (cost.previews, cost.epochs) == (4, 4.0), "one of the previews is of the last step"
    assert (cost.memory_measured, cost.seconds_per_step, cost.total_seconds, cost.finish_time) == (False, *[None] * 3)
    assert estimate_training_cost(config).epochs is None


def test_with_a_measurement() -> None:
    config = codec.replace(PRESETS["quick-start"].config, dict(total_steps=100, sample_interval=30))
    metrics = dict(seconds_per_step=0.5, seconds_per_preview=10.0, peak_bytes=4e8)
    status = dataclasses.asdict(Status("finished", metrics=metrics, pid=1))
    files.write_json(launch.cost_job(config).folder / "status.json", status)
    cost = estimate_training_cost(config)
    assert (cost.seconds_per_step, cost.total_seconds) == (0.5, 90.0)
    assert (cost.memory_bytes, cost.memory_measured) == (4e8, True)
    assert cost.finish_time is not None
    assert abs(cost.finish_time - time.time() - 90) < 5


def test_old_measurements_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MEASURED", 2)
    monkeypatch.setattr(launch, "_spawn", lambda *_: None)
    base = PRESETS["quick-start"].config
    jobs = [launch.start_measuring(codec.replace(base, dict(batch_size=size))) for size in (1, 2, 3)]
    assert [job.folder.exists() for job in jobs] == [False, True, True]


def test_too_little_memory() -> None:
    cost = estimate_training_cost(PRESETS["quick-start"].config)
    assert dataclasses.replace(cost, memory_bytes=0.8e9, available_bytes=10**9).fits
    assert not dataclasses.replace(cost, memory_bytes=0.95e9, available_bytes=10**9).fits


def test_steps_that_the_file_has_behind_it_cost_nothing(tmp_path: Path) -> None:
    settings = dict(
        total_steps=500, sample_interval=100, save_interval=50, resume_checkpoint=str(tmp_path / "model000440.pt")
    )
    config = codec.replace(PRESETS["quick-start"].config, settings)
    cost = estimate_training_cost(config, num_images=60)
    assert (cost.previews, cost.epochs) == (1, config.train.batch_size)
    assert starting.checkpoints(config) == 2
