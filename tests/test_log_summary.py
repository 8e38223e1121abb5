"""What a list shows of a log: the same numbers as the log read whole, at any length, after any resume."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from raising import raises_error

from ddpm.runs import log_summary, metrics, progress_log
from ddpm.runs.log_summary import LEVELS, POINTS, Sketch, SummaryReader


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "progress.csv"


def append(log: Path, rows: Sequence[tuple[int, float]], columns: Sequence[str] = ("loss", "step", "lr")) -> None:
    writer = progress_log.MetricWriter(log, columns)
    for step, loss in rows:
        writer.write({"step": step, "loss": loss, "lr": 1e-4})
    writer.close()


def check(log: Path, reader: SummaryReader) -> None:
    """The summary is what the whole log says."""
    frame, found = metrics.MetricReader(log).read(), reader.read()
    assert found.last["step"] == frame["step"].iloc[-1]
    newest = frame["loss"].iloc[-1]
    assert found.last["loss"] == (newest if math.isfinite(newest) else None)
    finite = frame[np.isfinite(frame["loss"])]
    if len(finite):
        at = finite["loss"].idxmin()
        assert found.lowest["loss"] == (finite["loss"][at], finite["step"][at])
    else:
        assert "loss" not in found.lowest
    assert "step" not in found.lowest
    assert len(found.curve) <= POINTS
    assert all(0 <= height <= LEVELS for height in found.curve)


@pytest.mark.parametrize("block", [200, 2**24], ids=["many blocks", "one block"])
def test_the_numbers_are_those_of_the_log(log: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(metrics, "BLOCK_BYTES", block)
    rng = np.random.default_rng(0)
    reader = SummaryReader(log)
    assert reader.read() == log_summary.EMPTY
    append(log, [(step, float(rng.uniform(0.1, 1))) for step in range(1, 120)])
    check(log, reader)
    append(log, [(step, float(rng.uniform(0.1, 1))) for step in range(120, 200)])
    check(log, reader)
    append(log, [(200, math.nan), (201, math.inf), (202, 0.05), (203, math.nan)])
    check(log, reader)
    # A resumed run goes back: what came after does not count any more, as the lowest value of step 202.
    append(log, [(step, float(rng.uniform(0.2, 1))) for step in range(150, 180)])
    check(log, reader)
    assert reader.read().lowest["loss"].step < 180
    check(log, SummaryReader(log))
    append(log, [(180, 0.01)])
    check(log, reader)
    assert reader.read().lowest["loss"] == (0.01, 180)


def test_only_what_is_new_is_read(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(log, [(step, 1 / step) for step in range(1, 50)])
    reader = SummaryReader(log)
    reader.read()
    read = []
    monkeypatch.setattr(log_summary, "rows_of", lambda lines, columns: read.append(lines) or rows_of(lines, columns))
    reader.read()
    append(log, [(50, 0.5)])
    reader.read()
    assert read == [b"0.5,50,0.0001"]


rows_of = log_summary.rows_of


def test_damaged_lines_and_logs_of_others(log: Path) -> None:
    log.write_bytes(b"loss,step\n0.5,1\nnonsense\n0.25,2\n,3\n0.125,4,9\n0.75,5\n0.1,")
    found = SummaryReader(log).read()
    assert found.last == {"loss": 0.75, "step": 5}
    assert found.lowest == {"loss": (0.25, 2)}
    log.write_bytes(b"loss,mse\n0.5,1\n")
    assert SummaryReader(log).read() == (dict(), dict(), "loss", [])
    log.write_bytes(b"no log at all")
    assert SummaryReader(log).read() == log_summary.EMPTY
    log.unlink()
    log.symlink_to("/dev/zero")
    with raises_error("not-a-file"):
        SummaryReader(log).read()


def test_a_curve_has_the_form_of_the_series() -> None:
    for count in (1, 2, POINTS, 2 * POINTS + 1, 12_345):
        sketch, values = Sketch(), np.exp(-np.arange(count) / count)
        for part in np.array_split(values, 7):
            sketch.add(part)
        heights = sketch.heights()
        assert len(heights) == min(count, POINTS) or POINTS // 2 < len(heights) <= POINTS
        if count > 1:
            assert (heights[0], heights[-1]) == (LEVELS, 0)
            straight = np.linspace(LEVELS, 0, len(heights))
            assert np.abs(np.array(heights) - straight).max() < 5
    assert Sketch().heights() == []
