"""Every page of the dashboard and its states: the runs that they need, and the ways to them in a browser.

The check of accessibility and screenshots.py go through the same list.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import fake_run
import numpy as np
from dashboard import Server, wait_until_idle
from PIL import Image
from test_evaluate_page import evaluated
from test_explore_page import compared

from ddpm.config.tasks import SampleConfig
from ddpm.runs import example
from ddpm.runs.jobs import Status
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.storage import files, images

if TYPE_CHECKING:
    from playwright.sync_api import Page

TILE, GAP = 32, 2  # pixels of an image of the example, and between two in its previews
LONG_NAME = "a-run-with-a-name-of-sixty-four-characters-as-long-as-may-be-typed"[:64]


def furnish(runs_dir: Path) -> None:
    """Runs in every state that stays, and results of every kind."""
    run = example.provide(runs_dir)
    sampled(run, "20260102-030405", 16)
    sampled(run, "20260103-101500", 4)
    for state, steps in (("failed", 120), ("lost", 200), ("stopped", 300)):
        message = (
            "The loss is not a number since step 30: lower lr, or set grad_clip to 1." if state == "failed" else ""
        )
        fake_run.write(runs_dir, state, steps, "running" if state == "lost" else state, total=400, message=message)
    fake_run.write(runs_dir, LONG_NAME, 60)
    fake_run.write(runs_dir, "unsaved", 0, "stopped", total=400)
    run = fake_run.write(runs_dir, "shapes", 400)
    evaluated(run, "20260102-030405")
    evaluated(run, "20260104-030405", mean=3.2)
    compared(run, "20260102-030405")


def sampled(run: Run, name: str, count: int) -> SampleJob:
    """Samples as `ddpm sample` leaves them, cut from the newest preview of the run."""
    job = SampleJob(run.folder / "samples" / name)
    checkpoint = run.checkpoint()
    about = dict(step=checkpoint.step, weights=next(iter(checkpoint.files)).removesuffix(f"_{checkpoint.step:06d}.pt"))
    sample = SampleConfig(num_samples=count, sampler="ddim", steps=10)
    reported = dict(sample=dataclasses.asdict(sample), checkpoint=about, command="ddpm sample --seed 3", class_names=[])
    files.write_json(job.folder / "settings.json", reported)
    grid = np.asarray(Image.open(run.previews()[-1][1]).convert("RGB"))
    starts = range(0, len(grid) - TILE + 1, TILE + GAP)
    pixels = np.stack([grid[y : y + TILE, x : x + TILE] for y in starts for x in starts][:count])
    for k, image in enumerate(pixels):
        images.save_png(job.folder / "images" / f"{k:05d}.png", image, reported)
    images.save_png(job.grid, images.grid(pixels))
    status = Status("finished", step=10, total_steps=10, steps_per_second=5.0, pid=1)  # type: ignore[arg-type]
    files.write_json(job.folder / "status.json", dataclasses.asdict(status))
    return job


class Screen(NamedTuple):
    """A page in one state: its address, and what to do there to reach the state."""

    name: str
    page: str = ""
    query: dict[str, str] = {}  # noqa: RUF012
    reach: Callable[["Page"], None] | None = None

    def open(self, page: "Page", server: Server) -> None:
        """Goes there, and returns when the page is at rest."""
        page.goto(server.address(self.page, **self.query))
        wait_until_drawn(page)
        if self.reach:
            self.reach(page)
            wait_until_drawn(page)


def wait_until_drawn(page: "Page") -> None:
    """Returns once the page is at rest, and all parts that the browser loads later are there."""
    wait_until_idle(page)
    page.wait_for_function(
        "() => !document.querySelector('[data-testid=stSkeleton]') && document.querySelector('[data-testid=stApp] h1,"
        " [data-testid=stApp] [data-testid=stAlert], [data-testid=stApp] button')"
    )
    wait_until_idle(page)


def press(name: str) -> Callable[["Page"], None]:
    """Presses the first button of that name."""
    return lambda page: page.get_by_role("button", name=name).first.click()


def unfold(*titles: str) -> Callable[["Page"], None]:
    """Opens folds by their titles."""

    def act(page: "Page") -> None:
        for title in titles:
            page.locator("summary", has_text=title).first.click()
            wait_until_idle(page)

    return act


WELCOME = Screen("welcome")  # while there is no run
EMPTY = tuple(Screen(f"{page}-without-runs", page) for page in ("monitor", "sample", "evaluate", "explore"))
SCREENS = (
    Screen("home"),
    Screen("home-import", reach=unfold("Import")),
    Screen("train", "train"),
    Screen("monitor", "monitor", {"run": "shapes"}),
    Screen("monitor-commands", "monitor", {"run": "shapes"}, unfold("Shell commands")),
    Screen("monitor-failed", "monitor", {"run": "failed"}),
    Screen("monitor-lost", "monitor", {"run": "lost"}),
    Screen("monitor-empty", "monitor", {"run": "unsaved"}),
    Screen("monitor-missing", "monitor", {"run": "not-there"}),
    Screen("sample", "sample", {"run": "example"}),
    Screen("sample-nothing-yet", "sample", {"run": "shapes"}),
    Screen("sample-no-checkpoint", "sample", {"run": "unsaved"}),
    Screen("evaluate", "evaluate", {"run": "shapes"}),
    Screen("evaluate-nothing-yet", "evaluate", {"run": "example"}),
    Screen("compare", "compare", {"runs": "shapes,stopped"}),
    Screen("explore", "explore", {"run": "shapes"}),
    Screen("explore-trajectory", "explore", {"run": "example"}, lambda page: page.get_by_text("Trajectory").click()),
)
