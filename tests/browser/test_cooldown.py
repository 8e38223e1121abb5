"""A training in a real browser that is ended early, with its cooldown."""

import pytest
from playwright.sync_api import Page, expect
from waiting import until

from ddpm.config import codec
from ddpm.config.learning_rate import learning_rate
from ddpm.config.training import COOLED, Config
from ddpm.data import datasets
from ddpm.runs import launch, runs
from ddpm.runs.runs import Run

pytestmark = pytest.mark.browser


def test_cool_down_and_finish(page: Page, server, tiny: Config) -> None:  # type: ignore[no-untyped-def]
    config = datasets.resolve(codec.replace(tiny, {"total_steps": 10**6, "save_interval": 10**6, "log_interval": 1}))
    run = runs.create_run(server.runs_dir, "endless", config)
    launch.start_training(run)
    until(lambda: (status := run.status()) and status.step > 20)
    page.goto(server.address("monitor", run=run.name))
    page.get_by_role("button", name="Cool down and finish").click()
    expect(page.get_by_role("button", name="Train more …")).to_be_enabled()
    train = Run(run.folder).config.train
    start, end = (checkpoint.step for checkpoint in run.checkpoints())
    assert (train.lr_schedule, train.total_steps) == (COOLED, end)
    assert end == pytest.approx(start * 1.25, abs=1)
    rates = dict(zip(run.metrics["step"], run.metrics["lr"], strict=True))
    assert [rates[n] for n in range(start, end + 1)] == pytest.approx(
        [learning_rate(train, n - 1) for n in range(start, end + 1)]
    )
    assert rates[end] < 0.1 * rates[start]
