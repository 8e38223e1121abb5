"""Training: what it computes, that it can be continued to the last bit, and what its averages hold."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.checkpoints import checkpoint_files
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.data.datasets import Dataset
from ddpm.runs import runs
from ddpm.runs.worker import Worker
from ddpm.storage import images
from ddpm.training import log_writers, loop, pace
from ddpm.training.optimizer import Ema
from ddpm.training.trainer import Means, Report, Trainer


@pytest.fixture
def dataset(tiny: Config) -> Dataset:
    return datasets.open_dataset(tiny.data, tiny.model)


def rough(config: Config, **settings: Any) -> Config:
    """Settings in which everything that could be forgotten at a resume is at work."""
    return datasets.resolve(
        codec.replace(
            config,
            dict(
                dropout=0.3,
                random_flip=True,
                class_cond=True,
                lr_warmup_steps=5,
                weight_decay=0.01,
                grad_clip=0.5,
                batch_size=5,
                microbatch=2,
                **settings,
            ),
        )
    )


def flat(content: Any) -> list[Tensor]:
    if isinstance(content, Tensor):
        return [content]
    if isinstance(content, Mapping):
        return [t for key in content for t in flat(content[key])]
    if isinstance(content, list | tuple):
        return [t for item in content for t in flat(item)]
    return [torch.tensor(content)] if isinstance(content, int | float) else []


def everything(trainer: Trainer) -> list[Tensor]:
    return flat([trainer.weights(), trainer.optimizer.state_dict(), trainer.state()])


@pytest.mark.slow
def test_continuing_is_never_having_stopped(tiny: Config, dataset: Dataset) -> None:
    config = rough(tiny)
    straight = Trainer(config, dataset)
    straight_reports = list(straight.steps(20))

    first = Trainer(config, dataset)
    list(first.steps(10))
    saved = (
        {k: {n: t.clone() for n, t in w.items()} for k, w in first.weights().items()},
        first.optimizer.state_dict(),
        first.state(),
    )
    torch.manual_seed(999)  # another process has another random state
    second = Trainer(codec.replace(config, {}), dataset)
    second.load(*saved)
    second_reports = list(second.steps(20))

    for a, b in zip(everything(straight), everything(second), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(straight_reports[10:], second_reports, strict=True):
        assert (a.step, a.grad_norm, a.lr) == (b.step, b.grad_norm, b.lr)
        assert torch.equal(a.losses["loss"], b.losses["loss"])


def test_the_seed_decides_everything(tiny: Config, dataset: Dataset) -> None:
    def weights(seed: int) -> list[Tensor]:
        trainer = Trainer(rough(tiny, seed=seed), dataset)
        list(trainer.steps(3))
        return flat(trainer.weights())

    assert all(torch.equal(a, b) for a, b in zip(weights(1), weights(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(1), weights(2), strict=True))


@pytest.mark.parametrize("microbatch", [1, 2, 3, 5])
def test_microbatches_do_not_change_the_gradient(tiny: Config, dataset: Dataset, microbatch: int) -> None:
    whole = Trainer(codec.replace(tiny, {"batch_size": 6}), dataset)
    split = Trainer(codec.replace(tiny, {"batch_size": 6, "microbatch": microbatch}), dataset)
    one, other = whole.update(whole.next_batch()), split.update(split.next_batch())
    assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
    torch.testing.assert_close(other.losses["loss"], one.losses["loss"], rtol=1e-5, atol=0)


def test_clipping_scales_the_gradient_and_logs_it_whole(tiny: Config, dataset: Dataset) -> None:
    free = Trainer(tiny, dataset)
    clipped = Trainer(codec.replace(tiny, {"grad_clip": 0.01}), dataset)
    batch = free.next_batch()
    norm = free.update(batch).grad_norm
    assert norm > 0.01
    assert clipped.update(batch).grad_norm == norm
    (group,) = clipped.optimizer.adamw.param_groups
    taken = [
        clipped.optimizer.adamw.state[p]["exp_avg"] / (1 - group["betas"][0]) for p in clipped.parameters
    ]  # its first
    assert float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(taken)))) == pytest.approx(0.01, rel=1e-5)


def test_a_gradient_that_is_not_a_number_is_not_applied(tiny: Config, dataset: Dataset) -> None:
    trainer = Trainer(tiny, dataset)
    before = [p.clone() for p in trainer.parameters]
    batch = trainer.next_batch()
    report = trainer.update(batch._replace(x_start=batch.x_start * float("nan")))
    assert not report.applied
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))


def test_training_trains(tiny: Config, dataset: Dataset) -> None:
    trainer = Trainer(codec.replace(tiny, {"lr": 3e-3, "batch_size": 16}), dataset)
    losses = [float(report.losses["loss"].mean()) for report in trainer.steps(60)]
    assert np.mean(losses[:3]) > 0.8
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])


class One(torch.nn.Module):
    def __init__(self, value: float):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([value]))


def averaged(rate: str, warmup: bool, updates: int) -> float:
    """An average that began at 1, after the weights have been 0 for so many updates."""
    model = One(1.0)
    ema = Ema(model, (rate,), warmup)
    model.w.data.zero_()
    for _ in range(updates):
        ema.update()
    return float(ema.weights(rate)["w"])


def test_ema_without_warmup_is_the_references() -> None:
    assert averaged("0.9", False, 3) == pytest.approx(0.9**3)
    assert averaged("0.9999", False, 7000) == pytest.approx(0.4966, abs=1e-3), "half of the random start"


def test_ema_with_warmup_forgets_the_start_at_once() -> None:
    assert averaged("0.9999", True, 100) < 1e-8
    model = One(0.0)
    ema = Ema(model, ("0.9999",), warmup=True)
    for step in range(1, 101):
        model.w.data.fill_(float(step))
        ema.update()
    assert 85 < float(ema.weights("0.9999")["w"]) < 95, "it averages about the last tenth"


def test_means_per_quarter() -> None:
    means = Means(1000)
    t = torch.tensor([0, 249, 250, 999])
    losses = {"loss": torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)}
    means.add(Report(1, losses, t, 5.0, 1e-4, 0.1, True))
    kept = Means(1000)
    kept.load(means.state())
    row = kept.take()
    assert row == {"grad_norm": 5.0, "loss": 2.5, "loss_q0": 1.5, "loss_q1": 3.0, "loss_q3": 4.0, "step_seconds": 0.1}
    assert kept.take() == {}


def test_speed_and_time_left_are_one_estimate_and_a_resumed_run_says_where_it_goes_on(
    tiny: Config, runs_dir: Path
) -> None:
    run = runs.create_run(runs_dir, "r", datasets.resolve(codec.replace(tiny, dict(total_steps=5))))
    with Worker(run.folder, 5) as worker:
        for report in loop.TrainingLoop(run, worker).train():
            said = worker.status
            assert said.steps_per_second is not None
            assert said.seconds_left is not None
            assert said.seconds_left * said.steps_per_second == pytest.approx(5 - report.step)
            if report.step == 2:
                run.request("stop")
    assert [saved.step for saved in run.checkpoints()] == [3]
    again = runs.Run(run.folder)
    with Worker(run.folder, 5) as worker:
        worker.beat(step=4)  # of a process that was killed there
        loop.TrainingLoop(again, worker)
        assert (worker.status.state, worker.status.step, worker.status.saved) == ("starting", 3, 3)


def test_the_pace_is_that_of_the_last_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    measured = pace.Pace()
    for took in [0.5] * 1000:
        now += took
        measured.step()
    assert measured.per_second == pytest.approx(2)
    assert measured.seconds_for(10) == pytest.approx(5)
    now += 30  # a checkpoint
    measured.step()
    assert 1.5 < measured.per_second < 2
    for took in [2.0] * 300:
        now += took
        measured.step()
    assert measured.per_second == pytest.approx(0.5, rel=0.02)


def test_the_warning_goes_when_lines_that_waited_are_written(
    tiny: Config, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dict(total_steps=4, log_interval=1, save_interval=100, sample_interval=100)
    run = runs.create_run(runs_dir, "r", datasets.resolve(codec.replace(tiny, settings)))
    write, warnings, calls = log_writers.MetricWriter.write, {}, []

    def fails_second(self: log_writers.MetricWriter, row: Any) -> bool:
        calls.append(row)
        return len(calls) != 2 and write(self, row)

    monkeypatch.setattr(log_writers.MetricWriter, "write", fails_second)
    with Worker(run.folder) as worker:
        for report in loop.TrainingLoop(run, worker).train():
            warnings[report.step] = worker.status.warning
    assert [bool(warnings[step]) for step in (1, 2, 3)] == [False, True, False]


def test_a_disk_that_is_away_for_a_while_ends_no_training(
    tiny: Config, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dict(total_steps=4, save_interval=2, sample_interval=2, keep_checkpoints=1)
    run = runs.create_run(runs_dir, "r", datasets.resolve(codec.replace(tiny, settings)))
    save, warnings, failed = checkpoint_files.save, {}, []

    def once(run: runs.Run, step: int, *rest: Any, **others: Any) -> Any:
        if not failed:
            failed.append(step)
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(run.folder / f"model{step:06d}.pt"))
        return save(run, step, *rest, **others)

    def refuse(*arguments: Any, **settings: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "old")

    monkeypatch.setattr(checkpoint_files, "save", once)
    monkeypatch.setattr(checkpoint_files, "prune", refuse)
    monkeypatch.setattr(images, "save_png", refuse)
    monkeypatch.setattr(loop, "SAVE_RETRY", 0.0)
    with Worker(run.folder) as worker:
        for report in loop.TrainingLoop(run, worker).train():
            warnings[report.step] = worker.status.warning
    assert failed == [2]
    assert "model000002.pt cannot be used" in warnings[2]
    assert run.state() == "finished"
    assert [saved.step for saved in run.checkpoints()] == [3, 4]
