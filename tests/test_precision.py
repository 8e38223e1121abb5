"""Mixed precision: close to fp32, and a loss scale that overflows, recovers and is resumed."""

import csv
from pathlib import Path

import pytest
import torch

from ddpm.compute import precision
from ddpm.config import codec, validation
from ddpm.config.training import Config, TrainConfig
from ddpm.data import datasets
from ddpm.data.datasets import Dataset
from ddpm.host import hardware
from ddpm.training.trainer import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tiny: Config) -> Config:
    settings = dict(attention_resolutions="8", class_cond=True, learn_sigma=True, microbatch=3, batch_size=6, lr=1e-3)
    return datasets.resolve(codec.replace(tiny, settings))


@pytest.fixture
def dataset(config: Config) -> Dataset:
    return datasets.open_dataset(config.data, config.model)


def trainer(config: Config, dataset: Dataset, name: str, **settings: object) -> Trainer:
    """One whose loss scale, if it has one, is past its first overflows: on few pixels a gradient is large."""
    made = Trainer(codec.replace(config, {"precision": name, **settings}), dataset)
    if made.scale:
        made.scale.lg = 10.0
    return made


CPU, GPU = torch.device("cpu"), torch.device("cuda")
CHOICES = [
    (TrainConfig(), CPU, "auto"),
    (TrainConfig(use_fp16=True), CPU, "bf16"),
    (TrainConfig(use_fp16=True), GPU, "fp16"),
    (TrainConfig(precision="fp16"), CPU, "fp16"),
    (TrainConfig(precision="bf16", use_fp16=True), GPU, "bf16"),
]


@pytest.mark.parametrize(("train", "device", "expected"), CHOICES)
def test_what_is_chosen(train: TrainConfig, device: torch.device, expected: str) -> None:
    assert precision.for_training(train, device) == expected


@pytest.mark.parametrize(
    ("isa", "barred"),
    [("AVX2", True), ("avx512_core", True), ("AVX512_CORE_AMX", False), ("ALL", False), (None, False)],
)
def test_bf16_that_torch_may_not_use_is_none(isa: str | None, barred: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if isa:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert hardware.bf16_is_barred() == barred
    if barred:  # past the caches
        assert not precision.has_bf16.__wrapped__()
        assert not hardware.has_bf16.__wrapped__()


def test_a_contradiction_is_reported(tiny: Config) -> None:
    config = codec.replace(tiny, {"precision": "fp32", "use_fp16": True})
    (problem,) = validation.problems(config)
    assert problem.name == "use_fp16"
    assert "contradict each other" in problem.sentence


@pytest.mark.parametrize("name", ["bf16", "fp16"])
@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_the_gradient_is_about_that_of_fp32(config: Config, dataset: Dataset, name: str, use_checkpoint: bool) -> None:
    exact = trainer(config, dataset, "fp32")
    mixed = trainer(config, dataset, name, use_checkpoint=use_checkpoint)
    for _ in range(3):  # the last layers begin as zeros, and pass nothing on
        batch = exact.next_batch()
        one, other = exact.update(batch), mixed.update(batch)
        assert other.applied
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=0.03)
        torch.testing.assert_close(other.losses["loss"], one.losses["loss"], rtol=0.03, atol=1e-3)
    flat = [torch.cat([p.grad.flatten() for p in t.parameters if p.grad is not None]) for t in (exact, mixed)]
    assert float(torch.cosine_similarity(*flat, dim=0)) > 0.99
    assert {p.dtype for p in mixed.parameters} == {torch.float32}
    assert all(not torch.equal(a, b) for a, b in [flat]), "it did compute in another precision"


def test_mixed_precision_trains(config: Config, dataset: Dataset) -> None:
    losses = [float(r.losses["mse"].mean()) for r in trainer(config, dataset, "bf16", lr=3e-3).steps(50)]
    assert sum(losses[-10:]) / 10 < 0.6 * losses[0]


def test_the_scale_climbs_slowly_and_falls_when_a_step_overflows(config: Config, dataset: Dataset) -> None:
    it = trainer(config, dataset, "fp16", fp16_scale_growth=0.25)
    assert it.update(it.next_batch()).lg_loss_scale == 10.25
    before = [p.clone() for p in it.parameters]
    batch = it.next_batch()
    overflow = it.update(batch._replace(noise=batch.noise * float("inf")))
    assert not overflow.applied
    assert not overflow.diverged
    assert overflow.lg_loss_scale == 9.25
    assert all(torch.equal(a, b) for a, b in zip(before, it.parameters, strict=True))
    assert it.step == 2
    assert it.optimizer.adamw.state[it.parameters[0]]["step"] == 1
    after = it.update(it.next_batch())
    assert after.applied
    assert after.lg_loss_scale == 9.5


def test_a_scale_that_is_too_large_comes_down_by_itself(config: Config, dataset: Dataset) -> None:
    it = Trainer(codec.replace(config, {"precision": "fp16", "fp16_scale_growth": 0.0}), dataset)
    assert it.scale is not None
    assert it.scale.lg == 20, "improved-diffusion's"
    it.scale.lg = 40.0
    reports = list(it.steps(30))
    scales = [report.lg_loss_scale for report in reports]
    assert scales[:3] == [39.0, 38.0, 37.0]
    assert scales[-1] == scales[-2]
    assert reports[-1].applied


def test_a_scale_without_end_is_hopeless(config: Config, dataset: Dataset) -> None:
    it = trainer(config, dataset, "fp16")
    assert it.scale is not None
    it.scale.lg = -19.5
    batch = it.next_batch()
    report = it.update(batch._replace(x_start=batch.x_start * float("nan")))
    assert report.lg_loss_scale == -20.5
    assert report.diverged


def test_what_overflows_is_not_trained_about_timesteps(config: Config, dataset: Dataset) -> None:
    it = trainer(config, dataset, "fp16", schedule_sampler="loss-second-moment")
    batch = it.next_batch()
    it.update(batch._replace(x_start=batch.x_start * float("nan")))
    assert it.timesteps.state()["counts"].sum() == 0


def test_the_scale_is_resumed_exactly(config: Config, dataset: Dataset) -> None:
    settings = dict(fp16_scale_growth=0.01, dropout=0.2)
    straight = trainer(config, dataset, "fp16", **settings)
    list(straight.steps(6))
    first = trainer(config, dataset, "fp16", **settings)
    list(first.steps(3))
    saved = (
        {k: {n: t.clone() for n, t in w.items()} for k, w in first.weights().items()},
        first.optimizer.state_dict(),
        first.state(),
    )
    second = trainer(config, dataset, "fp16", **settings)
    second.load(*saved)
    list(second.steps(6))
    assert straight.scale is not None
    assert second.scale is not None
    assert straight.scale.lg == second.scale.lg == pytest.approx(10.06)
    for a, b in zip(straight.parameters, second.parameters, strict=True):
        assert torch.equal(a, b)


def test_the_scale_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Config) -> None:
    from ddpm.runs import runs
    from ddpm.runs.worker import Worker
    from ddpm.training.loop import TrainingLoop

    run = runs.create_run(tmp_path, "mixed", codec.replace(config, {"precision": "fp16", "total_steps": 3}))
    with Worker(run.folder, 3) as worker:
        loop = TrainingLoop(run, worker)
        assert loop.trainer.scale is not None
        loop.trainer.scale.lg = 10.0
        spoil = loop.trainer.next_batch

        def spoiled() -> object:
            batch = spoil()
            return batch._replace(noise=batch.noise * (float("inf") if loop.trainer.step == 1 else 1.0))

        monkeypatch.setattr(loop.trainer, "next_batch", spoiled)
        assert [report.applied for report in loop.train()] == [True, False, True]
    assert run.state() == "finished"
    with open(run.progress_path) as file:
        rows = list(csv.DictReader(file))
    assert [float(row["lg_loss_scale"]) for row in rows] == pytest.approx([10.001, 9.001, 9.002])
    assert [row["grad_norm"] == "" for row in rows] == [False, True, False], "there is none of a step that overflowed"
