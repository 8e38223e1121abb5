"""A hostile result of a run: its page shows one error or leaves it out, and shows nothing from outside of the run."""

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import app_page
from PIL import Image
from streamlit.runtime.media_file_manager import MediaFileManager

from ddpm.errors import UserError
from ddpm.runs.runs import Run
from faults import hostile_folders, hostile_results
from faults.hostile_results import ResultCase
from faults.promise_folders import EXAMPLES, timed
from faults.table import Row

SECONDS = 10.0  # of the processor, for a page


class Shown:
    """Bytes that pages sent to the browser: images, films, and every download."""

    def __init__(self) -> None:
        self.all: list[bytes] = []
        self._add, self._defer = MediaFileManager.add, MediaFileManager.add_deferred

    def watching(self) -> contextlib.ExitStack:
        """Records them in the block."""

        def add(manager: MediaFileManager, data: bytes | str, *more: Any, **named: Any) -> str:
            self.all.append(Path(data).read_bytes() if isinstance(data, str) else bytes(data))
            return self._add(manager, data, *more, **named)

        def defer(manager: MediaFileManager, data: Callable[[], Any], *more: Any, **named: Any) -> str:
            with contextlib.suppress(UserError, FileNotFoundError):
                content = data()
                self.all.append(content if isinstance(content, bytes) else content.read())
            return self._defer(manager, data, *more, **named)

        stack = contextlib.ExitStack()
        stack.enter_context(mock.patch.object(MediaFileManager, "add", add))
        stack.enter_context(mock.patch.object(MediaFileManager, "add_deferred", defer))
        return stack

    def holds_secret(self, other: Path) -> bool:
        """True if something of the folder `other` is among them."""
        secrets = [path.read_bytes() for path in other.iterdir() if path.is_file() and path.stat().st_size > 3]
        return any(any(secret in data for secret in secrets) or _is_secret(data) for data in self.all)


def _is_secret(data: bytes) -> bool:
    with contextlib.suppress(OSError), Image.open(io.BytesIO(data)) as image:
        return hostile_folders.SECRET_COLOUR in {colour for _, colour in image.convert("RGB").getcolors(2**24) or []}
    return False


def play(case: ResultCase, base: Path, folder: Path) -> str:
    """Opens the page of a case, and takes what it offers; returns what is wrong, or nothing."""
    runs_dir = folder / "runs"
    runs_dir.mkdir(parents=True)
    other = hostile_folders.outside(folder / "outside")
    run = hostile_folders.build(runs_dir, base, case.case, other)
    before, shown = hostile_folders.snapshot(other), Shown()

    def page() -> str:
        at = app_page.new_page(case.place.page, run=run.name)
        if case.place.tab:
            at.session_state["explore_part"] = case.place.tab
        at.run()
        if at.exception:
            return f"{case.place.page}: {at.exception[0].message}"
        return "it is shown what is outside" if "a secret" in app_page.said(at) else ""

    try:
        with mock.patch.dict(os.environ, DDPM_RUNS=str(runs_dir)), shown.watching():
            if wrong := timed(page, SECONDS) or timed(lambda: _headless(Run(run.folder), shown), SECONDS):
                return str(wrong)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}"
    if shown.holds_secret(other):
        return "it is shown what is outside"
    return "" if hostile_folders.snapshot(other) == before else "what is outside was changed"


def _headless(run: Run, shown: Shown) -> str:
    """What the package itself makes of the files of results, without a page."""
    from ddpm.reports import downloads, xlsx
    from ddpm.sampling import job as sampling_job

    with contextlib.suppress(UserError):
        shown.all.append(xlsx.workbook(run))
    with contextlib.suppress(UserError):
        for job in run.sample_jobs():
            shown.all.append(downloads.samples_zip(job))
            sampling_job.with_copies(job, job.config)
    with contextlib.suppress(UserError):
        for evaluation in run.evaluation_jobs():
            shown.all.append(downloads.terms_csv(evaluation))
    return ""


def rows(seconds: float) -> Iterator[Row]:
    """The promise about hostile results: all cases, or as many as there is time for."""
    began, tried, lost = time.monotonic(), 0, []
    with tempfile.TemporaryDirectory() as work:
        base = hostile_results.healthy(Path(work) / "base").folder
        for case in hostile_results.cases():
            tried += 1
            if wrong := play(case, base, Path(work) / f"{tried}"):
                lost.append(f"{case.case.name}: {wrong[:1500]}")
            if time.monotonic() - began > seconds:
                break
    yield Row(
        "A hostile result shows one error or nothing, and nothing from outside",
        tried,
        len(lost),
        tuple(lost[:EXAMPLES]),
    )
