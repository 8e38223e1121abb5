"""A training for a time: how many steps that comes to, what of it is decided, and when."""

from collections.abc import Callable
from pathlib import Path

import pytest
from raising import raises_error
from test_learning_rate import logged, planned
from test_training_further import check_same, trained
from waiting import until_finished

import ddpm
from ddpm.cli import main
from ddpm.config import codec
from ddpm.config.learning_rate import cooldown_start, least_total, total_for
from ddpm.config.training import COOLED, Config, TrainConfig
from ddpm.planning import training_cost
from ddpm.runs import extending, launch, runs
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.training import budget, pace, start


class Clock:
    """A clock that only the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 0.0
        monkeypatch.setattr(pace.time, "monotonic", lambda: self.now)


def run_for(clock: Clock, train: TrainConfig, speed: list[tuple[float, float]]) -> tuple[list[int], int]:
    """The expected totals after each step, and the decided one; speed: (from that second on, steps a second)."""
    it, step, found = budget.Budget(train), 0, []
    while True:
        clock.now += 1 / next(rate for since, rate in reversed(speed) if clock.now >= since)
        step += 1
        total, decided = it.after_step(train, step, clock.now)
        found.append(total)
        if decided:
            return found, total
        assert total > step


def test_a_cooldown_takes_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    train = TrainConfig(train_for="1000s", lr_schedule=COOLED, lr_cooldown=0.2, total_steps=30_000)
    totals, end = run_for(Clock(monkeypatch), train, [(0, 10.0)])
    assert end == pytest.approx(10_000, abs=2)
    assert len(totals) == cooldown_start(end, 0.2)
    assert totals[50] == 30_000, "nothing is known yet"
    assert totals[500] == pytest.approx(10_000, abs=2)


def test_it_is_corrected_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half as fast from the middle on: 5,000 steps and 2,500."""
    train = TrainConfig(train_for="1000s", lr_schedule=COOLED, lr_cooldown=0.2, total_steps=5)
    totals, end = run_for(Clock(monkeypatch), train, [(0, 10.0), (500, 5.0)])
    assert totals[20] == total_for(22, 0.2), "more than are done, so that no cooldown begins before the speed is known"
    assert totals[4000] == pytest.approx(10_000, abs=2)
    assert end == pytest.approx(7500, rel=0.03)


def test_a_time_of_years_comes_to_as_many_steps_as_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, train = Clock(monkeypatch), TrainConfig(train_for="9999d", total_steps=30_000)
    it = budget.Budget(train)
    totals = []
    for step in range(1, 300):
        clock.now += 0.1
        totals.append(it.after_step(train, step, clock.now)[0])
    assert totals[-1] == max(totals) == training_cost.MOST_STEPS


def test_a_longer_time_for_steps_that_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """9,500 steps were done in 950 of now 1,000 seconds, and a cooldown of a fifth would take another 2,375."""
    clock, train = Clock(monkeypatch), TrainConfig(train_for="1000s", lr_schedule=COOLED, total_steps=9500)
    it, step, decided = budget.Budget(train), 9500, False
    clock.now = 950.0
    while not decided:
        clock.now += 0.1
        step += 1
        total, decided = it.after_step(train, step, clock.now)
    assert total == pytest.approx(10_000, abs=2)


def test_without_a_cooldown_the_time_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    totals, end = run_for(clock, TrainConfig(train_for="100s", total_steps=5), [(0, 10.0), (50, 2.5)])
    assert (len(totals), end) == (625, 625)
    assert clock.now == pytest.approx(100, abs=0.5)


def test_a_time_that_the_warm_up_does_not_fit_into(monkeypatch: pytest.MonkeyPatch) -> None:
    with raises_error("conflicting-settings", "lr_warmup_steps", "1m"):
        run_for(Clock(monkeypatch), TrainConfig(train_for="1m", lr_warmup_steps=700), [(0, 10.0)])
    for schedule in ("constant", COOLED):
        with raises_error("conflicting-settings", "lr_warmup_steps", "20s"):
            slow = TrainConfig(train_for="20s", lr_warmup_steps=700, lr_schedule=schedule)
            run_for(Clock(monkeypatch), slow, [(0, 1 / 6)])
    run_for(Clock(monkeypatch), TrainConfig(train_for="1m", lr_warmup_steps=500), [(0, 10.0)])


def test_the_least_total_cools_down_later() -> None:
    train = TrainConfig(lr_schedule=COOLED, lr_cooldown=0.5)
    assert [cooldown_start(least_total(train, done), 0.5) for done in (0, 1, 99)] == [1, 2, 100]
    assert least_total(TrainConfig(), 7) == 8


# --- in a run


@pytest.fixture
def config(tiny: Config) -> Config:
    """Trains for a time, with half of it a cooldown."""
    settings = {"train_for": "1h", "lr_schedule": COOLED, "lr_cooldown": 0.5, "save_interval": 5, "lr": 1e-3}
    return codec.replace(tiny, settings)


@pytest.fixture
def decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The speed is such that 30 steps seem to fit into the time, and 8 before the cooldown in the end."""

    def after_step(self: budget.Budget, train: TrainConfig, step: int, used: float) -> tuple[int, bool]:
        return (16, True) if step == 8 else (30, False)

    monkeypatch.setattr(budget.Budget, "after_step", after_step)


@pytest.mark.usefixtures("one_thread", "decides")
def test_what_is_decided_stays(runs_dir: Path, config: Config) -> None:
    """As if it had been planned so: straight on, resumed within the cooldown, and in memory."""
    run = trained(config, runs_dir, "run")
    assert (run.state(), run.config.train.total_steps) == ("finished", 16)
    assert [c.step for c in run.checkpoints()] == [5, 8, 10, 15, 16], "one is saved where the cooldown begins"
    planned_so = trained(codec.replace(config, {"train_for": "", "total_steps": 16}), runs_dir, "planned")
    check_same(run, planned_so, 16)
    assert logged(run) == pytest.approx(planned(planned_so.config))

    training = ddpm.train(config, run="stopped", runs_dir=runs_dir)
    for report in training:
        if report.step == 4:
            assert training.config.train.total_steps == 30
        if report.step == 11:
            break
    training.close()
    stopped = Run(runs_dir / "stopped")
    assert (stopped.state(), stopped.config.train.total_steps) == ("stopped", 16)
    check_same(trained(stopped, runs_dir), planned_so, 16)

    in_memory = list(ddpm.train(config))
    assert [report.lr for report in in_memory] == pytest.approx(logged(run))


@pytest.mark.usefixtures("one_thread", "decides")
def test_it_is_asked_to_cool_down_before_its_time(runs_dir: Path, config: Config) -> None:
    training = ddpm.train(config, run="asked", runs_dir=runs_dir)
    assert training.run is not None
    for report in training:
        if report.step == 3:
            launch.cool_down(training.run)
    assert Run(training.run.folder).config.train.total_steps == 8
    assert len(training.run.metrics) == 8


def test_a_cooldown_is_asked_for_by_the_steps_that_are_expected_now(runs_dir: Path, config: Config) -> None:
    """Those in config.json are the first guess, until a checkpoint is saved."""
    settings = {"total_steps": 2000, "lr_cooldown": 0.2}
    run = runs.create_run(runs_dir, "guessed", codec.replace(config, settings))
    with Worker(run.folder, total_steps=9000) as worker:
        worker.beat(state="running", step=2500, now=True)
        launch.cool_down(run)
        assert list(run.requests()) == ["cooldown"]


@pytest.mark.usefixtures("one_thread", "decides")
def test_longer_by_time_and_by_steps(runs_dir: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(config, runs_dir, "run")
    with raises_error("nothing-left"):
        extending.extend_time(run, "0.001s")
    with raises_error("conflicting-settings"):
        ddpm.train(run, total_steps=20, train_for="2h")
    monkeypatch.setattr(budget.Budget, "after_step", lambda self, train, step, used: (60 - step, step == 20))
    longer = trained(run, runs_dir, train_for="2h")
    assert (longer.config.train.train_for, longer.config.train.total_steps) == ("2h", 40)
    rates = logged(longer)
    assert rates[15] < rates[16] == rates[19] == 1e-3, "the learning rate rises again"
    further = trained(longer, runs_dir, total_steps=44)
    assert (further.config.train.train_for, further.config.train.total_steps) == ("", 44)


@pytest.mark.usefixtures("one_thread", "decides")
def test_a_time_that_was_decided_before_another_length_is_open_again(
    runs_dir: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(config, runs_dir, "run")
    further = trained(run, runs_dir, total_steps=20)
    assert (further.config.train.train_for, further.config.train.total_steps) == ("", 20)
    monkeypatch.setattr(budget.Budget, "after_step", lambda self, train, step, used: (28, step == 22))
    timed = trained(further, runs_dir, train_for="1h")
    assert (timed.config.train.train_for, timed.config.train.total_steps) == ("1h", 28)


def test_steps_are_expected_before_it_starts(config: Config) -> None:
    found = training_cost.with_steps(codec.replace(config, {"train_for": "10h"}))
    half = training_cost.with_steps(codec.replace(config, {"train_for": "5h"}))
    assert found.train.total_steps == pytest.approx(2 * half.train.total_steps, rel=0.01)
    assert training_cost.estimate_training_cost(found).total_seconds == 36_000
    assert "--total_steps" not in codec.to_flags(found)


def test_both_are_refused(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data_dir", "shapes", "--runs_dir", str(runs_dir), "--total_steps", "5", "--train_for", "3h"]
    assert main.main(["train", *flags]) == 2
    assert "train_for" in capsys.readouterr().err
    assert runs.list_runs(runs_dir) == []


@pytest.mark.slow
def test_a_process_trains_for_three_seconds(runs_dir: Path, tiny: Config) -> None:
    config = codec.replace(tiny, {"train_for": "3s", "lr_schedule": COOLED, "save_interval": 10**6, "log_interval": 1})
    run = runs.create_run(runs_dir, "short", start.settle(config))
    launch.start_training(run)
    until_finished(run)
    train, status = Run(run.folder).config.train, run.status()
    assert status is not None
    assert status.step == status.total_steps == train.total_steps
    seconds = list(run.metrics["seconds"])
    at_start = seconds[cooldown_start(train.total_steps, 0.2) - 1]
    assert 1.2 < at_start < 3.5
    assert seconds[-1] > at_start
    assert logged(run) == pytest.approx(planned(Run(run.folder).config))


@pytest.mark.usefixtures("one_thread", "decides")
def test_a_time_for_weights_that_have_steps_behind_them(runs_dir: Path, config: Config) -> None:
    """The steps of the file come before those that fit into the time."""
    before = trained(codec.replace(config, {"train_for": "", "total_steps": 5}), runs_dir, "before")
    begun = codec.replace(config, {"resume_checkpoint": str(before.folder / "model000005.pt")})
    fresh = training_cost.with_steps(config).train.total_steps
    assert training_cost.with_steps(begun).train.total_steps == 5 + fresh
    after = trained(begun, runs_dir, "after")
    assert list(after.metrics["step"]) == [6, 7, 8, *range(9, 17)]

    nameless = runs_dir / "weights.pt"
    (before.folder / "model000005.pt").rename(nameless)
    found, _ = start.prepare(codec.replace(config, {"resume_checkpoint": str(nameless), "train_for": "1s"}))
    assert found.train.total_steps >= least_total(found.train, 5)


def test_a_shorter_run_says_that_its_learning_rate_falls_at_once() -> None:
    wsd = Config(train=TrainConfig(lr=1e-3, lr_schedule=COOLED, lr_cooldown=0.3, total_steps=30_000))
    assert "0.001 to 8.28e-5" in extending.note(wsd, 10_000, 10_500)
    assert "7,350" not in extending.note(wsd, 10_000, 10_500)
    assert "21,700" in extending.note(wsd, 10_000, 31_000)


def test_what_is_prolonged_is_checked_but_for_its_data(fake_run: Callable[..., Run]) -> None:
    """Which a run that was imported without gets when it is resumed."""
    run = fake_run("imported", data_dir="", total_steps=40)
    extending.extend_time(run, "9h")
    assert Run(run.folder).config.train.train_for == "9h"
    warming = fake_run("warming", lr_schedule="cosine", lr_warmup_steps=500, total_steps=1000)
    with raises_error("conflicting-settings", "lr_warmup_steps"):
        extending.extend(warming, 300)


@pytest.mark.usefixtures("one_thread", "decides")
def test_the_same_time_again_changes_nothing(runs_dir: Path, config: Config) -> None:
    training = ddpm.train(config, run="stopped", runs_dir=runs_dir)
    for report in training:
        if report.step == 11:
            break
    training.close()
    run = Run(runs_dir / "stopped")
    extending.extend_time(run, "60m")
    assert Run(run.folder).config == run.config
    assert run.config.train.total_steps == 16
    run.save_config(codec.replace(run.config, {"train_for": "0.001s"}))
    extending.extend_time(run, "0.001s")  # though it is used up: what was decided stands
    run.save_config(codec.replace(run.config, {"train_for": "1h"}))
    again = trained(run, runs_dir, train_for="1h")
    assert (again.state(), len(again.metrics)) == ("finished", 16)
    assert logged(again) == pytest.approx(planned(again.config))


@pytest.mark.usefixtures("one_thread")
def test_a_cooldown_is_not_begun_before_the_file_that_training_begins_with(
    runs_dir: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trained(codec.replace(tiny, {"total_steps": 50, "save_interval": 50}), runs_dir, "before")
    cooled = {"lr_schedule": COOLED, "lr_cooldown": 0.2, "save_interval": 50}
    begun = codec.replace(tiny, {**cooled, "resume_checkpoint": str(before.folder / "model000050.pt")})
    with raises_error("conflicting-settings", "lr_cooldown"):
        start.prepare(codec.replace(begun, {"total_steps": 60}))
    config, _ = start.prepare(codec.replace(begun, {"total_steps": 60, "lr_cooldown": 0.2 * 10 / 60}))
    assert cooldown_start(60, config.train.lr_cooldown) == 58

    train = TrainConfig(train_for="1000s", lr_schedule=COOLED, lr_cooldown=0.2, total_steps=10**6)
    for done, fits in ((3000, True), (500_000, False)):
        clock = Clock(monkeypatch)
        it = budget.Budget(train, began_with=done, warmed_from=done)

        def measured(clock: Clock = clock, it: budget.Budget = it, done: int = done) -> int:
            for step in range(1, 100):
                clock.now += 1.0
                total, decided = it.after_step(train, done + step, clock.now)
                assert not decided
            return total

        if fits:
            assert measured() == pytest.approx(done + 1000, abs=20)
        else:
            with raises_error("conflicting-settings", "lr_cooldown"):
                measured()


def test_a_second_warm_up_may_be_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of an hour that had ended gets ten minutes more: its learning rate rises again."""
    clock = Clock(monkeypatch)
    train = TrainConfig(train_for="70m", lr_schedule=COOLED, lr_cooldown=0.3, lr_warmup_steps=100, total_steps=8000)
    it, step, decided = budget.Budget(train, warmed_from=8000), 8000, False
    clock.now = 3600.0
    while not decided:
        clock.now += 0.45
        step += 1
        total, decided = it.after_step(train, step, clock.now)
    assert total == pytest.approx(9333, abs=5)


def test_a_warm_up_that_a_new_optimiser_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, train = Clock(monkeypatch), TrainConfig(train_for="1m", lr_warmup_steps=700, total_steps=40_000)
    it = budget.Budget(train, began_with=30_000, warmed_from=30_000)
    with raises_error("conflicting-settings", "lr_warmup_steps"):
        for step in range(30_001, 30_400):
            clock.now += 0.1
            it.after_step(train, step, clock.now)
