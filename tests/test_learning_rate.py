"""The learning rate: exact values of each schedule, and a cooldown that begins when it is asked for."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from raising import raises_error
from test_training_further import check_same, trained

import ddpm
from ddpm.config import codec
from ddpm.config.learning_rate import cooldown_start, cooled_from, learning_rate, total_for
from ddpm.config.training import COOLED, Config, TrainConfig
from ddpm.runs import copying, extending, launch
from ddpm.runs.runs import Run

CONSTANT = TrainConfig(lr=1.0, total_steps=10)


def rates(**settings: object) -> list[float]:
    train = dataclasses.replace(CONSTANT, **settings)  # type: ignore[arg-type]
    return [learning_rate(train, n) for n in range(train.total_steps)]


def test_constant_and_linear() -> None:
    assert rates() == [1.0] * 10
    assert rates(lr_anneal_steps=4)[:5] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert rates(lr_warmup_steps=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates(lr_warmup_steps=2, lr_anneal_steps=4)[:3] == [0.5, 0.75, 0.5]


def test_cosine_falls_from_the_warm_up_to_the_last_step() -> None:
    found = rates(lr_schedule="cosine", lr_warmup_steps=2)
    assert found[:3] == [0.5, 1.0, 1.0]
    assert found[2:] == pytest.approx([math.cos(math.pi * k / 16) ** 2 for k in range(8)], abs=1e-15)
    assert learning_rate(dataclasses.replace(CONSTANT, lr_schedule="cosine"), 10) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("shape", "end"),
    [("linear", [1.0, 0.75, 0.5, 0.25]), ("1-sqrt", [1.0, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75)])],
)
def test_the_cooldown_is_at_the_end(shape: str, end: list[float]) -> None:
    assert rates(lr_schedule=COOLED, lr_cooldown=0.4, lr_cooldown_shape=shape) == pytest.approx([1.0] * 6 + end)
    half = learning_rate(TrainConfig(lr=3e-4, lr_schedule=COOLED, total_steps=1000, lr_cooldown_shape=shape), 850)
    assert half == pytest.approx(3e-4 * (0.75 if shape == "linear" else 0.5))


@pytest.mark.parametrize("share", [0.01, 0.2, 1 / 3, 0.5, 0.9])
def test_a_training_of_some_length_has_its_cooldown_at_any_step(share: float) -> None:
    for start in [*range(300), 12_345, 10**8 + 1]:
        total = total_for(start, share)
        assert cooldown_start(total, share) == start
        assert total == start + 1 or cooldown_start(total - 1, share) == start - 1
        assert abs((total - start) - share * total) <= max(0.5, 1 - share * total)


def test_cooled_from_now() -> None:
    train = dataclasses.replace(CONSTANT, total_steps=1000)
    ended = cooled_from(train, 400)
    assert (ended.lr_schedule, ended.total_steps) == (COOLED, 500)
    assert cooled_from(dataclasses.replace(ended, total_steps=1000), 400) == ended
    for falling in (dict(lr_anneal_steps=1000), dict(lr_schedule="cosine"), dict(lr_schedule=COOLED, total_steps=450)):
        with raises_error("not-applicable"):
            cooled_from(dataclasses.replace(train, **falling), 400)  # type: ignore[arg-type]


# --- in a run


@pytest.fixture
def config(tiny: Config) -> Config:
    return codec.replace(tiny, {"total_steps": 20, "lr": 1e-3, "save_interval": 7, "lr_warmup_steps": 2})


def logged(run: Run) -> list[float]:
    return list(run.metrics["lr"])


def planned(config: Config) -> list[float]:
    return [learning_rate(config.train, n) for n in range(config.train.total_steps)]


def cooled_at(step: int, config: Config | Run, runs_dir: Path, name: str | None = None) -> Run:
    """Trains a run that is asked at that step to cool down and finish."""
    training = ddpm.train(config, run=name, runs_dir=runs_dir)
    assert training.run is not None
    for report in training:
        if report.step == step - 1:  # the next step finds the request
            launch.cool_down(training.run)
    return Run(training.run.folder)


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_is_asked_to_cools_down_and_finishes(runs_dir: Path, config: Config) -> None:
    run = cooled_at(8, config, runs_dir, "asked")
    assert run.state() == "finished"
    assert run.config == codec.replace(
        config, {"lr_schedule": COOLED, "total_steps": 10, "class_names": run.config.class_names}
    )
    assert logged(run) == pytest.approx(planned(run.config))
    assert [c.step for c in run.checkpoints()] == [7, 8, 10], "one is saved where the cooldown begins"
    status = run.status()
    assert status is not None
    assert (status.step, status.total_steps, status.warning) == (10, 10, "")

    # As if it had been planned so, and from a checkpoint before that was decided too.
    straight = trained(codec.replace(config, {"lr_schedule": COOLED, "total_steps": 10}), runs_dir, "straight")
    check_same(run, straight, 10)
    check_same(trained(copying.copy_run(run, "copy", 7), runs_dir), straight, 10)
    with raises_error("not-running"):
        launch.cool_down(run)


@pytest.mark.usefixtures("one_thread")
def test_a_run_is_prolonged_before_its_cooldown(runs_dir: Path, config: Config) -> None:
    """Stopped within the cooldown, and gone on from where it began: as if it had been planned longer."""
    config = codec.replace(config, {"lr_schedule": COOLED, "lr_cooldown": 0.5, "ema_rate": "0.9,0.99"})
    longer = trained(codec.replace(config, {"total_steps": 24}), runs_dir, "longer")
    run = trained(config, runs_dir, "run")
    assert [c.step for c in run.checkpoints()] == [7, 10, 14, 20]
    assert "12" in extending.note(run.config, 10, 24)
    further = trained(copying.copy_run(run, "further", 10), runs_dir, total_steps=24)
    check_same(further, longer, 24)
    assert logged(further) == pytest.approx(planned(longer.config))


@pytest.mark.usefixtures("one_thread")
def test_a_run_whose_rate_fell_warms_up_again(runs_dir: Path, config: Config) -> None:
    config = codec.replace(config, {"lr_schedule": COOLED, "lr_cooldown": 0.5, "total_steps": 8})
    run = trained(config, runs_dir, "run")
    assert "best from the checkpoint of step 4" in extending.note(run.config, 8, 16)
    further = trained(run, runs_dir, total_steps=16)
    now = further.config.train
    again = [learning_rate(now, n, warmed_from=8) for n in range(8, 16)]
    assert again[:2] == pytest.approx([0.5e-3, 1e-3 * (1 - math.sqrt(1 / 8))])
    assert logged(further) == pytest.approx(planned(config) + again)

    # The warm-up goes on from where it is, in a resume that changes nothing, and after it.
    stopped = copying.copy_run(further, "stopped", 14)
    check_same(trained(stopped, runs_dir), further, 16)


def test_annealing_goes_on_along_its_new_line(fake_run: Callable[..., Run]) -> None:
    run = fake_run(lr_schedule="cosine", lr=1e-3)
    assert "5e-4" in extending.note(run.config, 40, 80)
    assert extending.note(run.config, 0, 80) == ""
