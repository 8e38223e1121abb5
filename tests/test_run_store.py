"""The run store: counts changes, ignores what it reads itself, falls back to polling."""

import errno
import os
import shutil
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_run
import numpy as np
import pandas as pd
import pytest
from waiting import until
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from ddpm.config import codec
from ddpm.runs import footprint, progress_log
from ddpm.runs.runs import Run
from ddpm.storage import files
from pages.ui.frame import metric_rows, run_store


@pytest.fixture
def store(runs_dir: Path) -> Iterator[run_store.Store]:
    made = run_store.Store(runs_dir)
    yield made
    made.close()


def poll_requests(store: run_store.Store) -> None:
    """Wait until all that happened so far is counted: events come in their order, and this one is the last."""
    last = store.runs_dir / f"last-{time.monotonic_ns()}"
    last.touch()
    until(lambda: store.revisions.of(last.name))


def append(run: Run, *steps: int) -> None:
    writer = progress_log.MetricWriter(run.progress_path)
    for step in steps:
        writer.write({"step": step, "loss": 1 / step, "samples": step, "seconds": step})
    writer.close()


def test_a_new_line_raises_the_revision_of_its_run_alone(runs_dir: Path, store: run_store.Store) -> None:
    one, other = (fake_run.write(runs_dir, name, steps=4) for name in ("one", "other"))
    poll_requests(store)
    assert store.revisions.of(other.name, "saves") > 0
    before, quiet = store.revisions.of("one", "progress.csv"), store.revisions.of("other")
    append(one, 5)
    poll_requests(store)
    assert store.revisions.of("one", "progress.csv") > before
    assert store.revisions.of("other") == quiet


def test_folders_that_come_all_at_once_are_heard_without_a_warning(runs_dir: Path) -> None:
    """While the watcher looks through one, the next appear in it: it meets them twice."""
    folders = [runs_dir / f"run{k}" / "samples" / "one" / "images" for k in range(300)]
    with warnings.catch_warnings(record=True) as warned:
        warnings.resetwarnings()
        store = run_store.Store(runs_dir)
        for folder in folders:
            folder.mkdir(parents=True)
        poll_requests(store)
        before = [store.revisions.of(f"run{k}", "samples") for k in range(300)]
        for folder in folders:
            (folder / "00000.png").touch()
        poll_requests(store)
        store.close()
    assert all(before)
    assert all(store.revisions.of(f"run{k}", "samples") > before[k] for k in range(300))
    assert not [w for w in warned if "watchdog" in w.filename]


def test_a_replaced_file_counts_and_a_temporary_one_does_not(runs_dir: Path, store: run_store.Store) -> None:
    run = fake_run.write(runs_dir, "one", steps=2)
    poll_requests(store)
    before = store.revisions.of("one", "status.json")
    files.write_json(run.folder / "status.json", {"state": "stopped"})
    poll_requests(store)
    assert store.revisions.of("one", "status.json") > before
    assert not [parts for parts in store.revisions._counts if parts[-1].startswith(files.TEMPORARY)]


def test_our_own_reading_makes_no_event(runs_dir: Path, store: run_store.Store) -> None:
    run = fake_run.write(runs_dir, "one", steps=4)
    (run.folder / "run.lock").touch()
    poll_requests(store)
    before = store.revisions.of("one")
    for _ in range(5):
        view = run_store.RunView(run, store.revisions, store.pulse)
        (
            view.rows(["loss"]),
            view.state(),
            view.status(),
            view.previews(),
            view.checkpoints(),
            view.log_lines(),
            view.log_lines(5),
        )
    poll_requests(store)
    assert store.revisions.of("one") == before


def test_what_did_not_change_is_not_read_again(
    runs_dir: Path, store: run_store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fake_run.write(runs_dir, "one", steps=20)
    view = store.view(run)
    poll_requests(store)
    first = view.rows(["loss"])
    reads = []
    monkeypatch.setattr(view._rows, "read", lambda columns: reads.append(1))
    assert all(view.rows(["loss", "lr"]) is first for _ in range(10))
    assert not reads
    monkeypatch.undo()
    append(run, 21)
    until(lambda: view.rows(["loss"]) is not first)
    now = view.rows(["loss"])
    assert (now.epoch, len(now.frame), len(first.frame)) == (first.epoch, 21, 20)
    assert now.revision > first.revision


def test_without_events_it_looks_again_after_a_while(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run.write(runs_dir, "one", steps=4)
    deaf = run_store.Revisions(runs_dir)
    view = run_store.RunView(run, deaf, run_store.Pulse())
    assert len(view.rows(["loss"]).frame) == 4
    append(run, 5)
    assert len(view.rows(["loss"]).frame) == 4
    monkeypatch.setattr(run_store, "SAFETY", 0.0)
    assert len(view.rows(["loss"]).frame) == 5


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_polling_where_there_are_no_events_left(runs_dir: Path, number: int) -> None:
    class Exhausted(Observer):  # type: ignore[misc, valid-type]
        def start(self) -> None:
            raise OSError(number, os.strerror(number))

    revisions = run_store.Revisions(runs_dir)
    observer: BaseObserver = run_store.observe(runs_dir, revisions, Exhausted)
    try:
        assert isinstance(observer, PollingObserver)
        (runs_dir / "one").mkdir()
        (runs_dir / "one" / "status.json").write_text("{}")
        until(lambda: revisions.of("one"))
    finally:
        observer.stop()


def test_other_errors_are_not_hidden(runs_dir: Path) -> None:
    class Broken(Observer):  # type: ignore[misc, valid-type]
        def start(self) -> None:
            raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"):
        run_store.observe(runs_dir, run_store.Revisions(runs_dir), Broken)


def test_a_new_run_of_an_old_name_is_read_from_the_beginning(runs_dir: Path, store: run_store.Store) -> None:
    old = fake_run.write(runs_dir, "one", steps=30)
    assert len(store.view(old).rows(["loss"]).frame) == 30
    shutil.rmtree(old.folder)
    new = fake_run.write(runs_dir, "one", steps=3)
    os.utime(new.folder / "config.json", (1, 1))
    assert len(store.view(new).rows(["loss"]).frame) == 3


def test_a_run_that_was_made_longer_is_seen_to_be(runs_dir: Path) -> None:
    """What is killed after that is not finished."""
    run = fake_run.write(runs_dir, "one", steps=40)
    seen, stamp = Run(run.folder), footprint.stamp(run.folder)
    assert seen.is_complete()
    Run(run.folder).save_config(codec.replace(run.config, {"total_steps": 80}))
    assert not seen.is_complete()
    assert footprint.stamp(run.folder) != stamp


def test_only_a_few_logs_stay_in_memory(
    runs_dir: Path, store: run_store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_store, "KEPT_RUNS", 4)
    for k in range(run_store.KEPT_RUNS + 3):
        store.view(fake_run.write(runs_dir, f"run{k}", steps=1)).rows(["loss"])
    assert len(store._views) == run_store.KEPT_RUNS


def test_one_thread_however_often_it_is_asked_for(runs_dir: Path) -> None:
    run_store.store.clear()
    first = run_store.store(runs_dir)
    count = threading.active_count()
    assert all(run_store.store(runs_dir) is first for _ in range(20))
    assert threading.active_count() == count
    run_store.store.clear()  # as the menu does
    until(lambda: not first.alive())
    second = run_store.store(runs_dir)
    assert second is not first
    assert second.alive()
    run_store.store.clear()


def test_a_long_log_is_sketched_until_it_is_read(
    runs_dir: Path, store: run_store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_rows, "SHORT", 10_000)
    run = fake_run.write(runs_dir, "one", steps=2000)
    begun, read = threading.Event(), metric_rows.MetricReader.read
    monkeypatch.setattr(metric_rows.MetricReader, "read", lambda self: (begun.wait(10), read(self))[1])
    view = store.view(run)
    sketch = view.rows(["loss"])
    assert not sketch.whole
    whole = run.metrics
    assert set(sketch.frame["step"]) <= set(whole["step"])
    assert len(sketch.frame) > 100
    at = sketch.frame["step"].to_numpy().astype(int) - 1
    np.testing.assert_array_equal(sketch.frame["loss"], whole["loss"].to_numpy()[at])
    begun.set()
    until(lambda: view.rows(["loss"]).whole)
    frame = view.rows(["loss"]).frame
    pd.testing.assert_frame_equal(frame, whole[list(frame.columns)])
    assert {"loss", "seconds", "samples"} <= {*frame.columns} < {*whole.columns}
    until(lambda: view.rows(["param_norm"]).whole)  # another one is read anew
    assert view.rows(["param_norm", "loss"]).frame["param_norm"].tolist() == whole["param_norm"].tolist()


def test_runs_not_looked_at_make_room(runs_dir: Path, store: run_store.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [fake_run.write(runs_dir, f"run{k}", steps=50) for k in range(3)]
    store.rows(made[0], ["loss"])
    monkeypatch.setattr(run_store, "ROOM", store.view(made[0]).row_bytes * 2)
    for run in made[1:]:
        store.rows(run, ["loss"])
    assert [store.view(run).row_bytes > 0 for run in made] == [False, True, True]
    assert len(store.rows(made[0], ["loss"]).frame) == 50


@pytest.mark.parametrize("short", [metric_rows.SHORT, 0])
def test_no_two_readers_have_an_epoch_in_common(runs_dir: Path, monkeypatch: pytest.MonkeyPatch, short: int) -> None:
    """A new run of the same name has another reader, and what a browser has of the old one is no part of it."""
    monkeypatch.setattr(metric_rows, "SHORT", short)
    path = fake_run.write(runs_dir, "one", steps=20).progress_path
    one, other = (metric_rows.RowReader(path) for _ in range(2))
    assert one.read(["loss"]).epoch != other.read(["loss"]).epoch
    until(lambda: one.read(["loss"]).whole and other.read(["loss"]).whole)
    assert one.read(["loss"]).epoch == one.read(["loss"]).epoch != other.read(["loss"]).epoch


def test_a_read_that_failed_in_the_background_is_tried_again(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run.write(runs_dir, "one", steps=20)
    monkeypatch.setattr(metric_rows, "SHORT", 0)
    read, tries = metric_rows.MetricReader.read, 0

    def sometimes(self: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("stale")
        return read(self)

    monkeypatch.setattr(metric_rows.MetricReader, "read", sometimes)
    rows = metric_rows.RowReader(run.progress_path)

    def failed() -> bool:
        try:
            rows.read(["loss"])
        except OSError:
            return True
        return False

    until(failed)
    until(lambda: rows.read(["loss"]).whole)
