"""A hostile run folder: it shows one error, hangs nothing, and nothing outside of it is read, changed or removed."""

import contextlib
import io
import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from unittest import mock

import app_page

from ddpm.cli import main
from ddpm.errors import UserError, user_errors
from ddpm.runs import launch
from ddpm.runs.log_file import LogFile
from ddpm.runs.runs import Run
from faults import hostile_folders
from faults.hostile_folders import Case
from faults.table import Row

EXAMPLES = 10
SECONDS = 2.0  # of the processor, for each thing that is done with a folder
PATIENCE = 30  # seconds until something hangs


class Hangs(Exception):
    """Something waits for what never comes."""


class Printed(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str


def command(*words: str | Path) -> Printed:
    """Runs a command of the shell in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main.main([str(word) for word in words])
    return Printed(code, out.getvalue(), err.getvalue())


def timed(call: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Calls it; raises Hangs if it does not return, or takes more of the processor than it may."""

    def alarm(number: int, frame: FrameType | None) -> None:
        raise Hangs(f"after {PATIENCE} s")

    before, began = signal.signal(signal.SIGALRM, alarm), time.thread_time()
    signal.alarm(math.ceil(PATIENCE + seconds))
    try:
        result = call()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if (took := time.thread_time() - began) > seconds:
        raise Hangs(f"for {took:.1f} s of the processor")
    return result


def ends_in_one_error(printed: Printed) -> bool:
    """True for a result, or for one sentence of an error."""
    last = printed.err.splitlines()[-1:]
    return printed.code == 0 or (printed.code == 2 and last != [] and last[0].startswith("ddpm: "))


def resume(run: Run) -> str:
    """What Resume does up to the first step, in the server and then in the process; returns the code of its error."""
    from ddpm.runs import lost_checkpoints
    from ddpm.runs.worker import Worker
    from ddpm.training import resume
    from ddpm.training.log_writers import RunLog

    try:
        with user_errors():
            process = mock.Mock(pid=2**22 + 1, poll=lambda: 0, wait=lambda: 0)
            with mock.patch.object(subprocess, "Popen", return_value=process):
                launch.start_training(run)
            run = Run(run.folder).with_config()
            with Worker(run.folder, run.config.train.total_steps) as worker:
                LogFile(run.log_path).close()
                lost_checkpoints.check(run)
                lost_checkpoints.report_saved(run, worker)
                resume.newest(run)
                RunLog(run.folder, ("step", "loss"), ("csv", "json"), 0).close()
    except UserError as error:
        return error.code
    return ""


def play(case: Case, base: Path, folder: Path) -> str:
    """Tries everything on the run of a case, beside a healthy one; returns what is wrong, or nothing."""
    runs_dir = folder / "runs"
    runs_dir.mkdir(parents=True)
    other = hostile_folders.outside(folder / "outside")
    good = hostile_folders.healthy(runs_dir)
    run = hostile_folders.build(runs_dir, base, case, other)
    before, untouched = hostile_folders.snapshot(other), hostile_folders.snapshot(good.folder)
    where = ("--runs_dir", runs_dir)

    def wrong() -> str:
        listed = timed(lambda: command("runs", *where))
        if listed.code or "healthy" not in listed.out:
            return f"ddpm runs: {listed}"
        if (hostile_folders.expected_in_list(case)) != (case.name in listed.out):
            return f"ddpm runs lists {listed.out}"
        printed = timed(lambda: command("runs", "healthy", *where))
        if printed.code:
            return f"ddpm runs healthy: {printed}"
        sampling = ("sample", *("--num_samples", "1", "--steps", "1", "--out", folder / "out"))
        for words in (("runs", case.name), ("metrics", case.name), (*sampling, "--run", case.name)):
            printed = timed(lambda words=words: command(*words, *where))  # type: ignore[misc]
            if not ends_in_one_error(printed):
                return f"ddpm {words[0]}: {printed}"
        timed(run.problem)
        timed(run.log_tail)
        timed(lambda: resume(run))
        return ""

    try:
        if found := wrong():
            return found
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}"
    if hostile_folders.snapshot(other) != before:
        return "what is outside was changed"
    return "" if hostile_folders.snapshot(good.folder) == untouched else "the other run was changed"


PAGES = ("pages/monitor.py", "pages/sample.py", "pages/evaluate.py", "pages/explore.py")


def page_of(case: Case, page: str) -> str:
    """Opens a page of the run of a case; returns what is wrong, or nothing."""
    try:
        at = timed(lambda: app_page.open_page(page, run=case.name), seconds=60)
    except Hangs as error:
        return f"{page} hangs {error}"
    if at.exception:
        return f"{page}: {at.exception[0].value}"
    return f"{page} shows what is outside" if "a secret" in app_page.said(at) else ""


def pages(seconds: float) -> Row:
    """The pages of every run, beside all the others."""
    from pages.ui.frame import run_store

    began, tried, lost = time.monotonic(), 0, []
    with tempfile.TemporaryDirectory() as work:
        base, other = hostile_folders.healthy(Path(work) / "base").folder, hostile_folders.outside(Path(work) / "out")
        runs_dir = Path(work) / "runs"
        runs_dir.mkdir()
        cases = list(hostile_folders.cases())
        for case in cases:
            hostile_folders.build(runs_dir, base, case, other)
        before = hostile_folders.snapshot(other)
        with mock.patch.dict(os.environ, DDPM_RUNS=str(runs_dir)):
            for case in filter(hostile_folders.expected_in_list, cases):
                tried += 1
                if wrong := " ".join(filter(None, (page_of(case, page) for page in PAGES))):
                    lost.append(f"{case.name}: {wrong[:1500]}")
                if time.monotonic() - began > seconds:
                    break
            run_store.store.clear()
        if hostile_folders.snapshot(other) != before:
            lost.append("what is outside was changed")
    return Row("Its pages open, and show nothing from outside of it", tried, len(lost), tuple(lost[:EXAMPLES]))


def rows(seconds: float) -> Iterator[Row]:
    """The promises about hostile folders: all cases, or as many as there is time for."""
    yield folders(0.4 * seconds)
    yield pages(0.6 * seconds)


def folders(seconds: float) -> Row:
    """What the shell and a resume do with each."""
    began, tried, lost = time.monotonic(), 0, []
    with tempfile.TemporaryDirectory() as work:
        base = hostile_folders.healthy(Path(work) / "base").folder
        for case in hostile_folders.cases():
            tried += 1
            if wrong := play(case, base, Path(work) / f"{tried}"):
                lost.append(f"{case.name}: {wrong[:1500]}")
            if time.monotonic() - began > seconds:
                break
    return Row(
        "A hostile run folder shows one error and touches nothing else", tried, len(lost), tuple(lost[:EXAMPLES])
    )
