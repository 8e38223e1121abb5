"""Every page of the dashboard and its states: the runs that they need, and the ways to them in a browser.

The check of accessibility and screenshots.py go through the same list.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import fake_run
import numpy as np
from dashboard import Server, wait_until_idle
from PIL import Image
from test_evaluate_page import evaluated
from test_explore_page import compared

from ddpm.config import codec
from ddpm.config.tasks import SampleConfig
from ddpm.runs import example, trash
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
    run.describe(title="Shapes, a title of any characters: α & β", tags=("cosine", "long"), star=True)
    trash.trash_run(fake_run.write(runs_dir, "thrown-away", 20))


def furnish_many(runs_dir: Path, count: int = 205) -> None:
    """More runs than fit on a screen."""
    for k in range(count):
        run = fake_run.write(runs_dir, f"study-{k:03d}", 20, "finished" if k % 3 else "stopped", total=20 + k % 3)
        run.save_config(codec.replace(run.config, {"lr": (1 + k % 5) * 1e-4}))
        run.describe(tags=("cosine",) if k % 2 else ())


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


def write(label: str, text: str) -> Callable[["Page"], None]:
    """Types into the field of that label, and leaves it."""

    def act(page: "Page") -> None:
        field = page.get_by_label(label, exact=True).first
        field.fill(text)
        field.press("Tab")

    return act


def choose(name: str) -> Callable[["Page"], None]:
    """Chooses one of several parts or kinds."""
    return lambda page: page.get_by_test_id("stMain").get_by_role("radio", name=name).first.click()


MORE = re.compile(r"\bMore$")


def menu(button: str | re.Pattern[str], item: str = "") -> Callable[["Page"], None]:
    """Opens a menu, and chooses in it."""

    def act(page: "Page") -> None:
        page.get_by_role("button", name=button).locator("visible=true").first.click()
        page.get_by_role("menu").first.wait_for()
        if item:
            page.get_by_role("menuitem", name=item).first.click()

    return act


def tick(*names: str) -> Callable[["Page"], None]:
    """Selects runs of the table."""

    def act(page: "Page") -> None:
        for name in names:
            page.get_by_role("checkbox", name=f"Select {name}").click()

    return act


def unfold(*titles: str) -> Callable[["Page"], None]:
    """Opens folds by their titles."""

    def act(page: "Page") -> None:
        for title in titles:
            page.locator("summary", has_text=title).first.click()
            wait_until_idle(page)

    return act


WELCOME = Screen("welcome")  # while there is no run
EMPTY = tuple(Screen(f"{page}-without-runs", page) for page in ("monitor", "sample", "evaluate", "explore", "compare"))
CARDS = Screen("home-cards")  # while there are at most three
MANY = (
    Screen("home-many"),
    Screen("home-filter", reach=write("Filter runs", "lr>2e-4 tag:cosine state:finished")),
    Screen("home-filter-wrong", reach=write("Filter runs", "lr>>fast")),
)
SCREENS = (
    Screen("home"),
    Screen("home-import", reach=unfold("Import")),
    Screen("home-menu", reach=menu("Actions of")),
    Screen("home-selected", reach=tick("failed", "stopped")),
    Screen("home-columns", reach=press("Columns")),
    Screen("home-delete", reach=menu("Actions of", "Delete")),
    Screen("home-describe", reach=menu("Actions of", "Title, tags, notes")),
    Screen("home-bin", reach=press("Bin")),
    Screen("home-keys", reach=lambda page: page.keyboard.press("?")),
    Screen("train", "train"),
    Screen("train-again", "train", {"like": "failed"}),
    Screen("train-wrong", "train", reach=write("Channels", "50")),
    Screen("train-download", "train", reach=lambda page: page.locator(".st-key-choose_cifar10-cpu button").click()),
    Screen("monitor", "monitor", {"run": "shapes"}),
    Screen("monitor-commands", "monitor", {"run": "shapes"}, unfold("Shell commands")),
    Screen("monitor-menu", "monitor", {"run": "shapes"}, menu(MORE)),
    Screen("monitor-more", "monitor", {"run": "shapes"}, press("Train more")),
    Screen("monitor-delete", "monitor", {"run": "shapes"}, menu(MORE, "Delete")),
    Screen("monitor-clean", "monitor", {"run": "shapes"}, menu(MORE, "Remove old checkpoints")),
    Screen("monitor-continue", "monitor", {"run": "shapes"}, menu(MORE, "Continue from")),
    Screen("monitor-failed", "monitor", {"run": "failed"}),
    Screen("monitor-lost", "monitor", {"run": "lost"}),
    Screen("monitor-empty", "monitor", {"run": "unsaved"}),
    Screen("monitor-missing", "monitor", {"run": "not-there"}),
    Screen("sample", "sample", {"run": "example"}),
    Screen(
        "sample-large", "sample", {"run": "example"}, lambda page: page.locator(".st-key-samples .tile").nth(2).click()
    ),
    Screen("sample-interpolate", "sample", {"run": "example"}, choose("Interpolate")),
    Screen("sample-vary", "sample", {"run": "example"}, choose("Vary")),
    Screen("sample-inpaint", "sample", {"run": "example"}, choose("Inpaint")),
    Screen("sample-nothing-yet", "sample", {"run": "shapes"}),
    Screen("sample-no-checkpoint", "sample", {"run": "unsaved"}),
    Screen("evaluate", "evaluate", {"run": "shapes"}),
    Screen("evaluate-nothing-yet", "evaluate", {"run": "example"}),
    Screen("compare", "compare", {"runs": "shapes,stopped"}),
    Screen("explore", "explore", {"run": "shapes"}),
    Screen("explore-trajectory", "explore", {"run": "example"}, lambda page: page.get_by_text("Trajectory").click()),
    Screen("explore-matrix", "explore", {"run": "example"}, lambda page: page.get_by_text("Matrix").first.click()),
)
