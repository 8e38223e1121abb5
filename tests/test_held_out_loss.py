"""The loss on held-out images while a model trains: what it is, what it costs, and that it changes nothing else."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from raising import raises_error

import ddpm
from ddpm import schedules
from ddpm.config import codec
from ddpm.config.training import Config, TrainConfig
from ddpm.data import datasets
from ddpm.data.datasets import Dataset
from ddpm.diffusion import process
from ddpm.diffusion.losses import Batch, eps_errors, training_losses
from ddpm.planning import held_out as arithmetic
from ddpm.planning.training_cost import estimate_training_cost
from ddpm.runs import metrics, progress_log, runs
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.training import held_out, preview
from ddpm.training.held_out import HeldOutLoss
from ddpm.training.loop import TrainingLoop
from ddpm.training.trainer import Trainer

MEASURED = dict(eval_interval=3, eval_images=12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """48 images of noise in two classes."""
    rng = np.random.default_rng(0)
    for k in range(48):
        path = tmp_path / "images" / "ab"[k % 2] / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def settled(tiny: Config, folder: Path) -> Callable[..., Config]:
    def make(**settings: object) -> Config:
        wanted = {
            "data_dir": str(folder),
            "hold_out": 0.4,
            "total_steps": 8,
            "save_interval": 4,
            **MEASURED,
            **settings,
        }
        return datasets.resolve(codec.replace(tiny, wanted))

    return make


def measuring(config: Config) -> tuple[Trainer, HeldOutLoss, Dataset]:
    part = held_out.open_part(config)
    assert part is not None
    trainer = Trainer(config, datasets.open_dataset(config.data, config.model, seed=config.train.seed))
    return trainer, HeldOutLoss(trainer, part), part


def train(run: Run, until: int = 0) -> TrainingLoop:
    with Worker(run.folder, run.config.train.total_steps) as worker:
        loop = TrainingLoop(run, worker)
        for report in loop.train():
            if report.step == until - 1:
                run.request("stop")
    return loop


def rows(run: Run) -> pd.DataFrame:
    return metrics.MetricReader(run.progress_path).read()


# --- what it is


@pytest.mark.parametrize("prediction", ["eps", "v", "x_start", "x_prev"])
def test_an_error_is_that_of_the_noise_whatever_is_predicted(tiny: Config, prediction: str) -> None:
    """A network that is wrong by a known error of eps, said in four ways, has that error."""
    config = codec.replace(tiny, {"prediction": prediction, "diffusion_steps": 100})
    schedule = schedules.named("cosine", 100)
    random = torch.Generator().manual_seed(0)
    x_start, noise, wrong = (torch.randn(20, 3, 4, 4, generator=random, dtype=torch.float64) for _ in range(3))
    t = torch.arange(3, 100, 5)[:20]
    eps = noise + 0.1 * wrong
    x_t = process.q_sample(schedule, x_start, t, noise)
    guess = process.x_start_from_eps(schedule, x_t, t, eps)
    said = {
        "eps": eps,
        "x_start": guess,
        "v": process.v_of(schedule, guess, t, eps),
        "x_prev": process.q_posterior_mean(schedule, guess, x_t, t),
    }[prediction]
    found = eps_errors(lambda *_: said, schedule, config.diffusion, Batch(x_start, t, noise))
    torch.testing.assert_close(found, 0.01 * wrong.square().flatten(1).mean(dim=1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("more", [{}, {"class_cond": True}, {"small_size": 4}, {"learn_sigma": True}])
def test_it_is_the_loss_of_training_on_the_same_triples(
    settled: Callable[..., Config], more: dict[str, object]
) -> None:
    config = settled(ema_rate="0.9", **more)
    trainer, loss, part = measuring(config)
    for _ in trainer.steps(5):
        pass
    found = loss.measure()
    assert {*found} == {*loss.columns}
    network = trainer.network("model")
    every = loss._batch(loss._held_out, torch.arange(12))
    direct = training_losses(network, trainer.schedule, trainer.full, config, every)["mse"].double()
    assert found["eval_mse"] == pytest.approx(float(direct.detach().mean()), rel=1e-5)
    quarters = 4 * loss.t // 20
    assert torch.bincount(quarters).tolist() == [3, 3, 3, 3]
    for k in range(4):
        assert found[f"eval_mse_q{k}"] == pytest.approx(float(direct[quarters == k].detach().mean()), rel=1e-5)
    averaged = training_losses(trainer.network("ema_0.9"), trainer.schedule, trainer.full, config, every)["mse"]
    assert found["eval_ema_0.9_mse"] == pytest.approx(float(averaged.detach().mean()), rel=1e-5)
    assert found["eval_gap"] == pytest.approx(found["eval_mse"] - found["eval_train_mse"])
    kept, labels = part.take(np.arange(len(part)))
    numbers = [next(k for k, image in enumerate(kept) if np.array_equal(image, one)) for one in loss._held_out.pixels]
    assert len({*numbers}) == 12
    if config.model.class_cond:
        assert labels is not None
        assert np.array_equal(loss._held_out.labels, labels[numbers])


def test_the_triples_are_the_same_in_every_run_of_a_seed(settled: Callable[..., Config]) -> None:
    """Whatever is predicted, at whatever batch size: runs compare."""
    ours, theirs = (
        measuring(settled(prediction=prediction, batch_size=size))[1] for prediction, size in (("eps", 2), ("v", 16))
    )
    one, other = (loss._batch(loss._held_out, torch.arange(12)) for loss in (ours, theirs))
    for name in ("x_start", "t", "noise"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert torch.equal(ours.t, ours.t.sort().values)


# --- it changes nothing else


def test_a_training_is_the_same_with_it_and_without(runs_dir: Path, settled: Callable[..., Config]) -> None:
    """Resumed in between, too: weights, averages and log, to the last bit."""
    finished = {}
    for name, settings, stop in (("with", {}, 0), ("resumed", {}, 5), ("without", {"eval_images": 0}, 0)):
        run = runs.create_run(runs_dir, name, settled(dropout=0.1, **settings))
        train(run, until=stop)
        if stop:
            assert Run(run.folder).checkpoints()[-1].step == stop
            train(Run(run.folder))
        finished[name] = Run(run.folder)
    logs = {name: rows(run) for name, run in finished.items()}
    assert logs["with"]["step"][logs["with"]["eval_mse"].notna()].tolist() == [3, 6, 8]
    same = [name for name in logs["with"] if name not in (*progress_log.OUR_COLUMNS, "memory_mb")]
    pd.testing.assert_frame_equal(logs["with"][same], logs["resumed"][same], check_exact=True)
    plain = [name for name in same if not progress_log.is_of_held_out(name)]
    pd.testing.assert_frame_equal(logs["with"][plain], logs["without"][plain], check_exact=True)
    assert not any(map(progress_log.is_of_held_out, logs["without"]))
    for kind in ("model", "ema_0.9", "ema_0.99"):
        files = [torch.load(run.checkpoint(8).path(kind), weights_only=True) for run in finished.values()]
        assert all(torch.equal(files[0][name], other[name]) for other in files[1:] for name in files[0])


def test_a_stop_is_answered_while_it_is_measured(
    runs_dir: Path, settled: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.create_run(runs_dir, "mine", settled())
    calls = []

    def errors(*given: object) -> torch.Tensor:
        calls.append(1)
        run.request("stop")
        return eps_errors(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(held_out, "eps_errors", errors)
    train(run)
    assert len(calls) == 1
    assert Run(run.folder).checkpoints()[-1].step == 3
    assert rows(run)["eval_mse"].isna().all()


def test_a_run_whose_log_was_begun_without_it_goes_on_without(runs_dir: Path, settled: Callable[..., Config]) -> None:
    run = runs.create_run(runs_dir, "mine", settled(eval_images=0))
    train(run, until=5)
    run.save_config(codec.replace(run.config, {"eval_images": 12}))
    assert train(Run(run.folder)).held_out is None
    assert rows(run)["step"].tolist() == [*range(1, 9)]


def test_it_is_in_the_reports_and_in_the_status(runs_dir: Path, settled: Callable[..., Config]) -> None:
    config = settled(total_steps=4)
    in_memory = [report.held_out for report in ddpm.train(config)]
    assert [bool(found) for found in in_memory] == [False, False, True, True]
    in_run = [report.held_out for report in ddpm.train(config, run="mine", runs_dir=runs_dir)]
    assert in_run == in_memory
    status = Run(runs_dir / "mine").status()
    assert status is not None
    assert status.metrics["eval_gap"] == in_memory[-1]["eval_gap"]


def test_an_overfitted_network_has_a_growing_gap(tiny: Config) -> None:
    """Noise cannot be guessed from other noise: what is learnt of four images is of no use for others."""
    config = codec.replace(tiny, dict(lr=1e-2, batch_size=8, total_steps=100, eval_interval=50, eval_images=24))
    four, others = (
        Dataset(np.random.default_rng(n).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8), None, (), ()) for n in (4, 24)
    )
    trainer = Trainer(config, four)
    loss = HeldOutLoss(trainer, others)
    found = [loss.measure() for report in trainer.steps(100) if report.step == 1 or loss.is_due(report.step)]
    gaps = [one["eval_gap"] / one["eval_mse"] for one in found]
    assert len(gaps) == 3
    assert abs(gaps[0]) < 0.05
    assert gaps[0] + 0.2 < gaps[1]
    assert gaps[1] + 0.1 < gaps[2]


@pytest.mark.parametrize(
    ("average", "raw", "shown"), [(0.2, 0.1, "model"), (0.104, 0.1, "ema_0.9"), (0.05, 0.1, "ema_0.9")]
)
def test_a_preview_is_of_an_average_that_does_not_lag_behind(average: float, raw: float, shown: str) -> None:
    measured = {"eval_mse": raw, "eval_ema_0.9_mse": average, "eval_ema_0.99_mse": 1.0}
    assert preview.shown_weights(["model", "ema_0.9", "ema_0.99"], measured) == shown
    assert preview.shown_weights(["model", "ema_0.9"], {}) == "ema_0.9"
    assert preview.shown_weights(["model"], measured) == "model"


def test_what_was_measured_last_is_known_after_resuming(runs_dir: Path, settled: Callable[..., Config]) -> None:
    run = runs.create_run(runs_dir, "mine", settled())
    before = train(run, until=5).last_held_out
    with Worker(run.folder, 8) as worker:
        assert TrainingLoop(Run(run.folder), worker).last_held_out == before
    assert before["eval_mse"] == rows(run)["eval_mse"].dropna().iloc[-1]


# --- what it costs


@pytest.mark.parametrize("total", [100, 2_000, 30_001, 500_000])
@pytest.mark.parametrize("batch", [1, 8, 128])
@pytest.mark.parametrize("averages", ["", "0.999,0.9999"])
def test_left_to_itself_it_takes_three_percent_at_most(total: int, batch: int, averages: str) -> None:
    train = TrainConfig(total_steps=total, batch_size=batch, ema_rate=averages, log_interval=10)
    every = arithmetic.interval(train, 256)
    count = arithmetic.occasions(train, every)
    assert count * arithmetic.cost_in_steps(train, 256) <= 0.03 * total
    if every:
        assert every % 10 == 0
        oftener = arithmetic.occasions(train, every - 10) or total
        assert oftener * arithmetic.cost_in_steps(train, 256) > 0.03 * total
    else:
        assert arithmetic.cost_in_steps(train, 256) > 0.03 * total


def test_the_cost_is_that_of_the_forward_passes() -> None:
    """256 held-out and 256 training images, and 256 held-out ones by an average: 768 / 3 images of training, of 8."""
    train = TrainConfig(total_steps=32_000, batch_size=8, ema_rate="0.9999")
    assert arithmetic.cost_in_steps(train, 256) == pytest.approx(32)
    assert arithmetic.interval(train, 256) == 1070  # of 1066.7 steps at least
    assert arithmetic.interval(dataclasses.replace(train, eval_interval=500), 256) == 500
    assert arithmetic.interval(train, 0) == 0
    assert arithmetic.cost_in_steps(train, 256, processes=2, exact=2.0) == pytest.approx(32)


def test_the_estimate_has_it(tiny: Config) -> None:
    config = codec.replace(tiny, {"eval_interval": 5, "total_steps": 22, "eval_images": 10})
    assert estimate_training_cost(config, 40, 10).measurements == 5
    assert estimate_training_cost(config, 40, 0).measurements == 0
    assert estimate_training_cost(codec.replace(config, {"eval_images": 0}), 40, 10).measurements == 0


# --- what cannot be measured


def test_without_held_out_images(settled: Callable[..., Config]) -> None:
    assert held_out.open_part(settled(hold_out=0.0, eval_interval=0)) is None
    assert held_out.open_part(settled(eval_images=0)) is None
    with raises_error("no-test-part", 3):
        ddpm.train(settled(hold_out=0.0))


def test_too_few_held_out_images(settled: Callable[..., Config]) -> None:
    with raises_error("too-few-images", 40):
        ddpm.train(settled(eval_images=40))
    _, loss, part = measuring(settled(eval_images=256, eval_interval=0, total_steps=10**6))
    assert len(loss) == len(part) < 40
    assert math.isfinite(loss.measure()["eval_mse"])
