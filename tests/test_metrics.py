"""progress.csv: what is written is read, at any moment and after any accident."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpm.runs import metrics, progress_log
from ddpm.runs.curves import downsample
from ddpm.runs.metrics import MetricReader, at_checkpoints, newest_lines
from ddpm.runs.progress_log import COLUMNS, MetricWriter
from ddpm.runs.runs import Run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "progress.csv"


def put(path: Path, *lines: str, end: str = "\n", header: str = "loss,step") -> None:
    path.write_text("\n".join([header, *lines]) + end)


def add(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


def pairs(frame: pd.DataFrame) -> list[tuple[float, float]]:
    return list(zip(frame["step"], frame["loss"], strict=True))


# --- writing and reading


def test_what_is_written_is_read(path: Path) -> None:
    writer = MetricWriter(path)
    values = dict(loss=0.1, mse=1 / 3, grad_norm=1e-300, step=7, samples=2**40, lr=1e-4, seconds=0.1 + 0.2)
    assert writer.write(values)
    assert writer.sync() == path.stat().st_size
    writer.close()
    frame = MetricReader(path).read()
    assert tuple(frame.columns) == COLUMNS
    for name in COLUMNS:
        value = float(frame[name].iloc[0])
        assert value == pytest.approx(values[name], rel=1e-15) if name in values else math.isnan(value)
    assert ",1099511627776,7,0.0001,0.30000000000000004,," in path.read_text()


def test_columns_begin_as_improved_diffusion_s() -> None:
    assert COLUMNS[:4] == ("grad_norm", "loss", "loss_q0", "loss_q1")
    assert COLUMNS[COLUMNS.index("samples") + 1] == "step"
    assert set(progress_log.HELP) <= set(
        progress_log.columns_for(("loss", "mse", "vb"), scale=True, held_out=progress_log.held_out_columns(()))
    )


def test_a_log_of_other_columns_is_continued_as_it_began(path: Path) -> None:
    """A run begun by another version, resumed by this one."""
    put(path, "0.5,1", header="loss,step")
    writer = MetricWriter(path)
    writer.write(dict(step=2, loss=0.25, mse=9.0, lr=1.0))
    writer.close()
    assert path.read_text() == "loss,step\n0.5,1\n0.25,2\n"


def test_a_byte_order_mark_is_no_part_of_a_name(path: Path) -> None:
    path.write_text("loss,step\r\n0.5,1\r\n", encoding="utf-8-sig", newline="")
    assert pairs(MetricReader(path).read()) == [(1, 0.5)]
    assert progress_log.columns_of(path) == ("loss", "step")
    writer = MetricWriter(path)
    writer.write(dict(step=2, loss=0.25))
    writer.close()
    assert pairs(MetricReader(path).read()) == [(1, 0.5), (2, 0.25)]
    assert newest_lines(path).frame["loss"].tolist() == [0.5, 0.25]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_a_number_survives(path: Path, value: float) -> None:
    writer = MetricWriter(path)
    writer.write(dict(step=1, loss=value))
    writer.write(dict(step=2, loss=0.5))
    writer.close()
    assert MetricReader(path).read()["loss"].iloc[0] == pytest.approx(value, nan_ok=True)
    assert newest_lines(path).lines[0].split(b",")[1] == str(value).encode()


def test_no_file_no_header_no_line(path: Path) -> None:
    reader = MetricReader(path)
    assert reader.read().empty
    path.write_text("")
    assert reader.read().empty
    path.write_text("loss,st")
    assert reader.read().empty
    path.write_text("loss,step\n")
    assert list(reader.read().columns) == ["loss", "step"]
    revision = reader.revision
    assert reader.read().empty
    assert reader.revision == revision
    path.unlink()
    assert reader.read().empty
    assert reader.revision > revision


def test_a_torn_line_is_not_there_yet(path: Path) -> None:
    put(path, "0.5,1", "0.4", end="")
    reader = MetricReader(path)
    assert pairs(reader.read()) == [(1, 0.5)]
    add(path, ",2")
    assert pairs(reader.read()) == [(1, 0.5)]
    add(path, "3\n0.3,24\n0.")
    assert pairs(reader.read()) == [(1, 0.5), (23, 0.4), (24, 0.3)]


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_read_at_any_byte_it_comes_to_the_same(path: Path, cut: int) -> None:
    put(path, "0.5,1", "nan,2", "0.25,3", "0.2,2", "0.1,3")
    whole = path.read_bytes()
    expected = MetricReader(path).read()
    path.write_bytes(whole[:cut])
    reader = MetricReader(path)
    reader.read()
    with open(path, "ab") as file:
        file.write(whole[cut:])
    pd.testing.assert_frame_equal(reader.read(), expected)
    assert reader.bad_lines == 0


def test_reading_nothing_new_gives_the_same_frame(path: Path) -> None:
    put(path, "0.5,1")
    reader = MetricReader(path)
    first, revision = reader.read(), reader.revision
    assert reader.read() is first
    assert reader.revision == revision


def test_resumed_runs_go_over_steps_again(path: Path) -> None:
    put(path, "0.5,1", "0.4,2", "0.3,3", "0.2,4")
    reader = MetricReader(path)
    reader.read()
    add(path, "9,3\n")
    assert pairs(reader.read()) == [(1, 0.5), (2, 0.4), (3, 9)]
    add(path, "8,4\n7,5\n")
    assert pairs(reader.read()) == [(1, 0.5), (2, 0.4), (3, 9), (4, 8), (5, 7)]
    add(path, "6,0\n")
    assert pairs(reader.read()) == [(0, 6)]


@given(st.lists(st.integers(0, 9), max_size=30))
def test_newer_rows_win(steps: list[int]) -> None:
    """As if each row took the place of all that are not before it."""
    kept: list[tuple[int, int]] = []
    for number, step in enumerate(steps):
        while kept and kept[-1][0] >= step:
            kept.pop()
        kept.append((step, number))
    frame = pd.DataFrame({"step": np.array(steps, dtype=float), "loss": np.arange(len(steps), dtype=float)})
    assert pairs(metrics.newest_rows(frame)) == kept


def test_a_new_header_starts_over(path: Path) -> None:
    """improved-diffusion writes the file anew when a column appears."""
    put(path, "0.5,1")
    reader = MetricReader(path)
    reader.read()
    put(path, "0.5,,1", "0.4,0.1,2", header="loss,vb,step")
    frame = reader.read()
    assert list(frame.columns) == ["loss", "vb", "step"]
    assert len(frame) == 2


def test_a_shorter_file_starts_over(path: Path) -> None:
    put(path, "0.5,1", "0.4,2")
    reader = MetricReader(path)
    reader.read()
    put(path, "0.7,1")
    assert pairs(reader.read()) == [(1, 0.7)]


def test_another_file_of_that_name_starts_over(path: Path, tmp_path: Path) -> None:
    put(path, "0.5,1")
    reader = MetricReader(path)
    reader.read()
    other = tmp_path / "other.csv"
    put(other, "0.9,1", "0.8,2")
    other.replace(path)
    assert pairs(reader.read()) == [(1, 0.9), (2, 0.8)]


BAD = ["nonsense", "0.1", "0.1,2,3", "0.1,", ",", "", "1_0,5", '"1",5', "NA,5", "0.1;5", "0x1,5", "0.1,5 \x00"]


@pytest.mark.parametrize("bad", BAD)
def test_lines_that_are_no_rows_are_left_out(path: Path, bad: str) -> None:
    put(path, "0.5,1", bad, "0.25,9")
    reader = MetricReader(path)
    assert pairs(reader.read()) == [(1, 0.5), (9, 0.25)]
    assert reader.bad_lines == 1
    assert newest_lines(path).lines == [b"0.5,1", b"0.25,9"]
    assert newest_lines(path).bad == 1


def test_a_long_and_a_short_line_do_not_make_up_for_each_other(path: Path) -> None:
    put(path, "0.5,1", "0.4", "0.1,2,3", "0.25,9")
    assert pairs(MetricReader(path).read()) == [(1, 0.5), (9, 0.25)]
    put(path, "0.1,2,3", "0.4", "0.25,9")
    assert pairs(MetricReader(path).read()) == [(9, 0.25)]


@pytest.mark.slow
@given(st.lists(st.tuples(st.floats() | st.none(), st.integers(0, 50)), max_size=20))
def test_lines_and_frame_are_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float | None, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    path.unlink(missing_ok=True)
    writer = MetricWriter(path)
    for loss, step in rows:
        writer.write(dict(step=step) if loss is None else dict(step=step, loss=loss))
    writer.close()
    reader = MetricReader(path)
    frame, lines, bad = newest_lines(path)
    pd.testing.assert_frame_equal(reader.read(), frame)
    assert bad == reader.bad_lines == 0
    assert len(lines) == len(frame)
    for line, step in zip(lines, frame["step"], strict=True):
        assert float(line.split(b",")[COLUMNS.index("step")]) == step


def test_large_and_small_files_are_read_alike(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long logs take a faster parser, in blocks."""
    rng = np.random.default_rng(0)
    lines = [f"{loss!r},{step}" for step, loss in enumerate(rng.lognormal(size=500).tolist())]
    lines[10], lines[20], lines[30] = "nan,10", ",20", "-inf,30"
    put(path, *lines)
    expected = MetricReader(path).read()
    monkeypatch.setattr(metrics, "MANY_BYTES", 100)
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 1000)
    pd.testing.assert_frame_equal(MetricReader(path).read(), expected, check_exact=False, rtol=1e-15)
    add(path, "word,500\n0.5,501\n")
    reader = MetricReader(path)
    assert len(reader.read()) == 501
    assert reader.bad_lines == 1


@pytest.mark.slow
def test_a_million_lines(path: Path) -> None:
    """Prints how long they take; the bench measures it up to the chart."""
    block = "".join(f"1.5,0.{n:04d},,,0.3,0.2,0.1234567,,,0.3,0.2,{{}},1e-4,12.5,3.5,60,812\n" for n in range(1000))
    header = ",".join(c for c in COLUMNS if c != "samples")
    lines = 1_000_000
    with open(path, "w") as file:
        file.write(header + "\n")
        for start in range(0, lines, 1000):
            file.write(block.format(*range(start, start + 1000)))
    begin = time.perf_counter()
    frame = MetricReader(path).read()
    read = time.perf_counter() - begin
    x, _ = downsample(frame["step"].to_numpy(), frame["loss"].to_numpy())
    print(f"\n{len(frame):,} lines read in {read:.1f} s, thinned in {time.perf_counter() - begin - read:.2f} s")
    assert len(frame) == lines
    assert len(x) <= 2000


def test_measurements_are_means_since_the_checkpoint_before() -> None:
    frame = pd.DataFrame({"loss": [1.0, 2.0, np.nan, 4.0, 100.0], "step": [1.0, 2.0, 3.0, 4.0, 5.0]})
    found = at_checkpoints(frame, [2, 3, 4, 9])
    assert found["step"].tolist() == [2, 3, 4, 9]
    assert found["loss"].tolist() == pytest.approx([1.5, np.nan, 4.0, 100.0], nan_ok=True)
    assert at_checkpoints(frame, []).empty
    assert at_checkpoints(pd.DataFrame(), [1, 2])["step"].tolist() == [1, 2]
    assert list(at_checkpoints(frame, [1]).columns) == ["loss", "step"]


def test_counts_and_states_are_as_they_were_at_the_checkpoint() -> None:
    frame = pd.DataFrame(
        {
            "samples": [4.0, 40.0, 80.0, 120.0],
            "lr": [1e-5, 1e-4, 2e-4, 1e-4],
            "seconds": [1.0, 10.0, 30.0, 40.0],
            "param_norm": [7.0, np.inf, np.nan, 9.0],
            "steps_per_second": [1.0, 2.0, 4.0, 6.0],
            "step": [1.0, 10.0, 20.0, 30.0],
        }
    )
    found = at_checkpoints(frame, [10, 15, 20, 30, 35])
    assert found["samples"].tolist() == pytest.approx([40, 60, 80, 120, 140])
    assert found["lr"].tolist() == pytest.approx([1e-4, 1.5e-4, 2e-4, 1e-4, np.nan], nan_ok=True)
    assert found["seconds"].tolist() == pytest.approx([10, 20, 30, 40, np.nan], nan_ok=True)
    assert found["param_norm"].tolist() == pytest.approx([np.inf, np.nan, np.nan, 9, np.nan], nan_ok=True)
    assert found["steps_per_second"].tolist() == pytest.approx([1.5, np.nan, 4, 6, np.nan], nan_ok=True)
    assert set(progress_log.OUR_COLUMNS) - set(progress_log.AT_STEP) == {"steps_per_second"}


def test_sketch_of_a_short_and_a_long_log(fake_run: Callable[..., Run], path: Path) -> None:
    run = fake_run(steps=40)
    assert metrics.sparkline(run.progress_path, "loss") == pytest.approx([s**-0.5 for s in range(1, 41)])
    assert metrics.sparkline(path, "loss") == []
    put(path, *(f"{step / 50_000},{step}" for step in range(50_000)))
    sketch = metrics.sparkline(path, "loss", points=20)
    assert len(sketch) == 20
    assert sketch == sorted(sketch)
    assert metrics.sparkline(path, "unknown") == []


@pytest.mark.parametrize("fast", [False, True])
def test_a_part_of_the_columns(path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    """The charts read a long log's own columns only; rows are the same."""
    put(path, "0.5,9,1", "word,9,2", "0.4,,3", "0.3,8", "0.2,nan,2", header="loss,mse,step")
    monkeypatch.setattr(metrics, "MANY_BYTES", 10 if fast else 10**9)
    whole, part = MetricReader(path), MetricReader(path, only=("loss", "lr"))
    pd.testing.assert_frame_equal(part.read(), whole.read()[["loss", "step"]])
    assert pairs(part.read()) == [(1, 0.5), (2, 0.2)]
    assert part.bad_lines == whole.bad_lines == 2
    add(path, "0.1,7,3\n")
    assert pairs(part.read()) == pairs(whole.read()) == [(1, 0.5), (2, 0.2), (3, 0.1)]
