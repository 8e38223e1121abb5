"""The formats of a run's log: what a training leaves, after a resume too, and when writing fails."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddpm.config import codec, validation
from ddpm.config.training import Config
from ddpm.runs import log_file, metrics, runs
from ddpm.runs.progress_log import COLUMNS
from ddpm.runs.worker import Worker
from ddpm.storage import files, line_log
from ddpm.training import log_writers, start
from ddpm.training.log_writers import RunLog
from ddpm.training.loop import TrainingLoop

ALL = ("csv", "json", "tensorboard")


def row(step: int, loss: float = 0.5) -> dict[str, float]:
    return dict(grad_norm=1.0, loss=loss, samples=4 * step, step=step)


def lines(folder: Path) -> list[dict[str, Any]]:
    """progress.json, strictly."""

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    text = (folder / "progress.json").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tb"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


@pytest.mark.slow
def test_a_training_leaves_all_of_them_and_a_resume_goes_on(runs_dir: Path, tiny: Config) -> None:
    config = codec.replace(tiny, dict(log_format="csv, json,tensorboard", total_steps=6, save_interval=2))
    run = runs.create_run(runs_dir, "logged", config)
    with Worker(run.folder) as worker:
        for report in TrainingLoop(run, worker).train():
            if report.step == 5:
                break  # as if it had been killed; the newest checkpoint is that of step 4
    with Worker(run.folder) as worker:
        list(TrainingLoop(run, worker).train())
    assert run.state() == "finished"
    frame = metrics.MetricReader(run.progress_path).read()
    assert frame["step"].tolist() == [1, 2, 3, 4, 5, 6]
    found = lines(run.folder)
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    assert set(found[-1]) <= set(frame.columns)
    assert isinstance(found[-1]["step"], int)
    assert found[-1]["loss"] == frame["loss"].iloc[-1]
    shown = scalars(run.folder, "loss")
    assert [step for step, _ in shown] == [1, 2, 3, 4, 5, 6], "what the resumed run goes over again is shown once"
    assert [value for _, value in shown] == pytest.approx(frame["loss"].tolist())


def test_only_csv_unless_asked_for(tmp_path: Path) -> None:
    log = RunLog(tmp_path, COLUMNS, Config().train.log_formats, 0)
    assert log.write(row(1)) == ""
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["progress.csv"]


def test_what_comes_again_is_in_progress_json_once(tmp_path: Path) -> None:
    def write(first: int, last: int) -> None:
        log = RunLog(tmp_path, COLUMNS, ALL, first - 1)
        for step in range(first, last + 1):
            log.write(row(step, loss=first))
        log.close()

    write(1, 2000)  # more than is looked through at a time
    write(3, 5)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(1, 1), (2, 1), (3, 3), (4, 3), (5, 3)]
    write(1, 1)
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_what_is_not_a_number_is_null(tmp_path: Path) -> None:
    log = RunLog(tmp_path, COLUMNS, ALL, 0)
    log.write(row(1, float("nan")))
    log.write(row(2, float("inf")))
    log.close()
    assert [line["loss"] for line in lines(tmp_path)] == [None, None]


def test_a_full_disk_makes_lines_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunLog(tmp_path, COLUMNS, ("json",), 0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(line_log.LineLog, "_drain", full)
        assert "The disk is full" in log.write(row(1))
    assert log.write(row(2)) == ""
    log.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert metrics.MetricReader(tmp_path / "progress.csv").read()["step"].tolist() == [1, 2]


def test_a_disk_that_fails_makes_lines_wait_and_a_checkpoint_is_saved_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLog(tmp_path, COLUMNS, (), 0)
    log.write(row(1))
    before = log.sync()

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(line_log.LineLog, "_drain", broken)
        assert "progress.csv" in log.write(row(2))
        assert log.sync() == before
    assert log.write(row(3)) == ""
    assert log.sync().sha256 == files.sha256(tmp_path / "progress.csv")
    log.close()
    assert metrics.MetricReader(tmp_path / "progress.csv").read()["step"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("writer", "name"), [("JsonWriter", "progress.json"), ("TensorBoardWriter", "tb")])
def test_a_writer_that_fails_ends_alone_and_says_so_once(
    tmp_path: Path, writer: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, row: Mapping[str, float]) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(getattr(log_writers, writer), "write", fail)
    said: list[str] = []
    monkeypatch.setattr(log_writers.log, "warning", said.append)
    log = RunLog(tmp_path, COLUMNS, ALL, 0)
    assert f"{name} could not be written" in log.write(row(1))
    assert [log.write(row(step)) for step in (2, 3)] == ["", ""]
    log.close()
    assert len(said) == 1
    assert metrics.MetricReader(tmp_path / "progress.csv").read()["step"].tolist() == [1, 2, 3]


def test_a_folder_in_the_way_is_reported_and_survived(tmp_path: Path) -> None:
    (tmp_path / "progress.json").mkdir()
    (tmp_path / "tb").write_bytes(b"")
    log = RunLog(tmp_path, COLUMNS, ALL, 0)
    assert log.write(row(1)) == ""
    log.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_what_the_thread_of_tensorboard_runs_into(tmp_path: Path) -> None:
    """/dev/full takes nothing."""
    log = RunLog(tmp_path, COLUMNS, ALL, 0)
    writer = log._others["tb"]._writer._get_file_writer().event_writer._async_writer._writer  # type: ignore[attr-defined]
    with open("/dev/full", "wb", buffering=0) as full:
        writer._writer = full
        said = [log.write(row(step)) for step in range(1, 200)]
        log.close()
    assert sum("tb could not be written" in sentence for sentence in said) == 1
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 200))


def problems(log_format: str) -> list[str]:
    config = codec.replace(Config(), dict(data_dir="shapes", log_format=log_format))
    return [problem.sentence for problem in validation.problems(config)]


def test_formats_that_there_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems("json,csv,json,") == []
    assert problems("json,wandb") == [
        "log_format 'wandb' is unknown: choose among csv, json, tensorboard, separated by commas."
    ]
    assert problems("tensorboard") == []
    monkeypatch.setattr(validation, "find_spec", lambda name: None)
    (sentence,) = problems("csv,tensorboard")
    assert "run pip install tensorboard" in sentence
    assert problems("csv,json") == []


def test_no_work_ends_for_want_of_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / "log.txt"))

    monkeypatch.setattr(log_file, "LogFile", refuse)
    assert log_file.opened(tmp_path / "log.txt") is None
    with start.log_to_file(tmp_path / "log.txt"):
        pass
