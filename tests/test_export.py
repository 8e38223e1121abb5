"""results.xlsx: every number, text that stays text, charts and the preview, opened again."""

import datetime
import io
import math
import re
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_run import write as write_run
from openpyxl import Workbook, load_workbook
from openpyxl.worksheet.worksheet import Worksheet
from PIL import Image

from ddpm.config import codec, fields
from ddpm.config.training import Config
from ddpm.reports import xlsx
from ddpm.runs import metrics, progress_log, runs
from ddpm.runs.runs import Run
from ddpm.storage import files

FakeRun = Callable[..., Run]


def opened(run: Run, **limits: Any) -> Workbook:
    return load_workbook(io.BytesIO(xlsx.workbook(run, **limits)))


def table(sheet: Worksheet) -> list[dict[str, Any]]:
    """Rows under the header, as dictionaries."""
    header, *rows = sheet.iter_rows(values_only=True)
    return [dict(zip(header, row, strict=True)) for row in rows]


def facts(book: Workbook) -> dict[str, Any]:
    return {row[0]: row[1] for row in book["Summary"].iter_rows(min_row=2, max_col=2, values_only=True)}


def log_of(run: Run, *lines: str, columns: tuple[str, ...] = ("loss", "mse", "step")) -> None:
    run.progress_path.write_text("\n".join([",".join(columns), *lines, ""]))


def test_every_sheet(fake_run: FakeRun) -> None:
    run = fake_run(steps=40, save_every=20)
    run.describe(title="=1+1 猫", add=["a", "b"], notes="-x\ny")
    book = opened(run)
    assert book.sheetnames == ["Summary", "Config", "Metrics", "Checkpoints", "Charts", "Chart data"]

    known = facts(book)
    assert (known["Title"], known["Tags"], known["Notes"]) == ("=1+1 猫", "a, b", "-x\ny")
    assert known["State"] == "finished"
    assert known["Steps done"] == 40
    assert known["Images seen"] == 160
    assert known["Last loss"] == known["Lowest loss"] == pytest.approx(40**-0.5)
    assert known["Lowest loss at step"] == 40
    assert known["Newest checkpoint"] == "step 40"
    assert known["Data"] == "shapes"
    assert known["Parameters"] > 10_000
    assert known["Command"].startswith("ddpm train --image_size 8 ")
    assert "DDPM Workbench" in known["Exported with"]
    assert known["Begun"] == datetime.datetime.fromtimestamp(run.created_at).replace(microsecond=0), "local time"

    settings = {row["Setting"]: row for row in table(book["Config"])}
    for kind in codec.SECTIONS.values():
        for s in fields.settings(kind):
            assert settings[s.name]["Help"] == s.flag_help
    assert settings["image_size"]["Value"] == 8
    assert settings["use_checkpoint"]["Value"] == "False"
    assert settings["noise_schedule"] | {"Help": ""} == dict(
        Section="diffusion", Setting="noise_schedule", Value="cosine", Help=""
    )

    frame = metrics.MetricReader(run.progress_path).read()
    rows = table(book["Metrics"])
    assert list(rows[0]) == list(progress_log.COLUMNS)
    assert len(rows) == 40
    for row, (_, expected) in zip(rows, frame.iterrows(), strict=True):
        for name, value in expected.items():
            assert (row[name] is None) if math.isnan(value) else (row[name] == value)
    assert book["Metrics"].freeze_panes == "A2"
    assert book["Metrics"].auto_filter.ref == f"A1:{book['Metrics'].cell(1, len(progress_log.COLUMNS)).column_letter}41"
    formats = {cell.value: book["Metrics"].cell(2, cell.column).number_format for cell in book["Metrics"][1]}
    assert (formats["step"], formats["lr"], formats["loss"]) == ("0", "0.00E+00", "0.000000")

    first, second, *_ = table(book["Checkpoints"])
    assert (first["step"], second["step"]) == (20, 40)
    assert first["loss"] == pytest.approx(np.mean([s**-0.5 for s in range(1, 21)]))
    assert second["loss"] == pytest.approx(np.mean([s**-0.5 for s in range(21, 41)]))
    assert (first["samples"], second["samples"]) == (80, 160)
    assert (first["seconds"], second["seconds"]) == (5, 10)
    assert "ema_0.9_000020.pt" in first["files"]
    assert first["loss_q1"] is None

    named = {cell.font.name for sheet in book.worksheets for row in sheet.iter_rows() for cell in row if cell.value}
    assert named == {"Calibri"}


def test_charts_are_native_and_read_the_right_cells(fake_run: FakeRun) -> None:
    run = fake_run(steps=40)
    data = xlsx.workbook(run)
    with zipfile.ZipFile(io.BytesIO(data)) as parts:
        charts = {name: parts.read(name).decode() for name in parts.namelist() if name.startswith("xl/charts/chart")}
    assert len(charts) == 3
    sheet = load_workbook(io.BytesIO(data))["Chart data"]
    sampled = set()
    for chart in charts.values():
        assert "<scatterChart>" in chart
        (x,), (y,) = (re.findall(rf"<{axis}Val><numRef><f>'Chart data'!([^<]+)</f>", chart) for axis in "xy")
        column = sheet[y.replace("$", "")]
        header = sheet[f"{column[0][0].column_letter}1"].value
        sampled.add(header)
        values = [row[header] for row in table(load_workbook(io.BytesIO(data))["Metrics"])]
        assert [cell.value for (cell,) in column] == pytest.approx(values)
        assert [cell.value for (cell,) in sheet[x.replace("$", "")]] == list(range(1, 41))
        assert '<logBase val="10"' in chart
        assert all(
            bound in chart for bound in ('<min val="0.1"', '<max val="1"' if header != "grad_norm" else '<max val="10"')
        )
    assert sampled == {"grad_norm", "loss", "mse"}


def test_what_is_not_above_zero_has_a_linear_axis(runs_dir: Path, tiny: Config) -> None:
    run = runs.create_run(runs_dir, "run", tiny)
    log_of(run, "0,0.5,1", "0.5,0.25,2")
    with zipfile.ZipFile(io.BytesIO(xlsx.workbook(run))) as parts:
        loss, mse = (parts.read(f"xl/charts/chart{number}.xml").decode() for number in (1, 2))
    assert "logBase" not in loss
    assert "logBase" in mse


@pytest.mark.slow
def test_chart_data_is_thinned_and_keeps_the_spike(runs_dir: Path, tiny: Config) -> None:
    run = runs.create_run(runs_dir, "long", tiny)
    spike = 7777
    log_of(run, *(f"{100.0 if step == spike else 0.5},{0.25},{step}" for step in range(1, 20_001)))
    rows = table(opened(run)["Chart data"])
    assert len(rows) <= 2000
    assert 100.0 in [row["loss"] for row in rows]


def test_the_last_preview_is_embedded_enlarged_and_unblurred(
    fake_run: FakeRun, save_preview: Callable[..., None]
) -> None:
    run = fake_run(steps=40, save_every=20)
    save_preview(run, 30)
    with zipfile.ZipFile(io.BytesIO(xlsx.workbook(run))) as parts:
        (name,) = (name for name in parts.namelist() if name.startswith("xl/media/"))
        embedded = Image.open(io.BytesIO(parts.read(name)))
        drawings = [n for n in parts.namelist() if re.fullmatch(r"xl/drawings/drawing\d+\.xml", n)]
    original = Image.open(run.folder / "samples" / "000040.png")
    assert embedded.size == (34 * 15, 34 * 15)
    assert embedded.resize((34, 34), Image.Resampling.NEAREST).tobytes() == original.tobytes()
    assert len(drawings) == 2  # the preview's and the charts'
    assert "The image is the preview of step 40." in [row[1] for row in opened(run)["Summary"].values]


def test_a_broken_preview_is_said_so(fake_run: FakeRun) -> None:
    run = fake_run(steps=40)
    (run.folder / "samples" / "000099.png").write_bytes(b"no picture")
    assert any("preview of step 99 cannot be read" in str(row[1]) for row in opened(run)["Summary"].values)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "#REF!", "1e5"])
def test_text_stays_text(runs_dir: Path, tiny: Config, text: str) -> None:
    config = codec.replace(tiny, dict(data_dir=text, class_names=(text, "b")))
    run = runs.create_run(runs_dir, "run", config)
    files.write_json(run.folder / "status.json", dict(state="failed", message=text))
    book = opened(run)
    (value,) = (row[2] for row in book["Config"].iter_rows(min_row=2) if row[1].value == "data_dir")
    (message,) = (row[1] for row in book["Summary"].iter_rows() if row[0].value == "Message")
    for cell in (value, message):
        assert cell.data_type == "s"
        assert cell.value == text.replace("\r", "\n")  # XML has one kind of line end
        assert cell.quotePrefix == (text[0] in "=+-@\t\r")
    with zipfile.ZipFile(io.BytesIO(xlsx.workbook(run))) as parts:
        assert not any(b"<f>" in parts.read(name) for name in parts.namelist() if name.startswith("xl/worksheets/"))


def test_control_characters_and_endless_text(runs_dir: Path, tiny: Config) -> None:
    run = runs.create_run(runs_dir, "run", codec.replace(tiny, dict(data_dir="a\x00b\x1bc\ud800d\uffff")))
    files.write_json(run.folder / "status.json", dict(state="failed", message="x" * 40_000))
    known = facts(opened(run))
    assert known["Data"] == "abcd"
    assert known["Message"] == "x" * 32_767


def test_nan_is_seen_and_empty_is_empty(runs_dir: Path, tiny: Config) -> None:
    run = runs.create_run(runs_dir, "run", tiny)
    log_of(run, "1,,1", "nan,0.5,2", "inf,NaN,3", "-inf,0.25,4")
    for step in (1, 4):
        (run.folder / f"model{step:06d}.pt").write_bytes(b"")
    book = opened(run)
    rows = table(book["Metrics"])
    assert [row["loss"] for row in rows] == [1, "NaN", "inf", "-inf"]
    assert [row["mse"] for row in rows] == [None, 0.5, "NaN", 0.25]
    first, second, *_ = table(book["Checkpoints"])
    assert (first["loss"], first["mse"]) == (1, None)
    assert (second["loss"], second["mse"]) == ("NaN", "NaN")
    known = facts(book)
    assert (known["Last loss"], known["Lowest loss"], known["Lowest loss at step"]) == ("-inf", 1, 1)
    assert [row["loss"] for row in table(book["Chart data"])] == [1, None, None, None]


def test_counts_without_a_line_at_the_checkpoint(runs_dir: Path, tiny: Config) -> None:
    run = runs.create_run(runs_dir, "run", tiny)
    columns = ("loss", "samples", "lr", "step")
    log_of(run, "1,4,1e-4,1", "1,40,,10", "3,80,2e-4,20", "5,120,nan,30", columns=columns)
    for step in (10, 15, 20, 30, 35):
        (run.folder / f"model{step:06d}.pt").write_bytes(b"")
    rows = table(opened(run)["Checkpoints"])[:5]
    assert [row["samples"] for row in rows] == [40, 60, 80, 120, 140]
    assert [row["lr"] for row in rows] == [None, None, 2e-4, "NaN", None]
    assert [row["loss"] for row in rows] == [1, None, 3, 5, None]


def test_seconds_of_a_checkpoint_after_the_last_line(runs_dir: Path) -> None:
    run = write_run(runs_dir, "run", steps=7, log_interval=5)
    row, *_ = table(opened(run)["Checkpoints"])
    assert (row["step"], row["seconds"]) == (7, 0.7), "as its manifest has them"


def test_a_log_without_steps(runs_dir: Path, tiny: Config) -> None:
    run = runs.create_run(runs_dir, "run", tiny)
    log_of(run, "1,2", columns=("loss", "mse"))
    (run.folder / "model000010.pt").write_bytes(b"")
    first, *_ = table(opened(run)["Checkpoints"])
    assert (first["step"], first["files"]) == (10, "model000010.pt")


def test_a_resumed_run_has_each_step_once(runs_dir: Path, tiny: Config) -> None:
    run = runs.create_run(runs_dir, "run", tiny)
    log_of(run, "1,1,1", "nan,1,2", "3,1,3", "nonsense", "20,2,2", "30,2,3")
    book = opened(run)
    assert [(row["step"], row["loss"]) for row in table(book["Metrics"])] == [(1, 1), (2, 20), (3, 30)]
    assert any("1 line of progress.csv left out" in str(row[1]) for row in book["Summary"].values)


@pytest.mark.slow
def test_more_rows_than_a_sheet_holds(runs_dir: Path, tiny: Config) -> None:
    run = runs.create_run(runs_dir, "run", tiny)
    log_of(run, *(f"{50.0 if step == 333 else 1 / step},0.5,{step}" for step in range(1, 1001)))
    book = opened(run, most_rows=101)
    rows = table(book["Metrics"])
    assert 50 <= len(rows) <= 100
    assert (rows[0]["step"], rows[-1]["step"]) == (1, 1000)
    assert 50.0 in [row["loss"] for row in rows]
    assert any(f"{len(rows)} of 1,000 log lines" in str(row[1]) for row in book["Summary"].values)
    assert facts(opened(run, most_rows=1001))["Log lines"] == 1000
    assert not any("log lines, for" in str(row[1]) for row in opened(run, most_rows=1001)["Summary"].values)


def test_runs_with_little_in_them(runs_dir: Path, tiny: Config, tmp_path: Path) -> None:
    new = opened(runs.create_run(runs_dir, "new", tiny))
    assert "No log lines yet" in str(new["Charts"]["A1"].value)
    assert new["Checkpoints"]["A2"].value == "No checkpoint yet."
    assert facts(new)["State"] == "stopped"
    header_only = runs.create_run(runs_dir, "header", tiny)
    progress_log.MetricWriter(header_only.progress_path).close()
    assert table(opened(header_only)["Metrics"]) == []
    (tmp_path / "bare").mkdir()
    bare = opened(Run(tmp_path / "bare"))
    assert "no config.json" in str(bare["Config"]["A2"].value)


def test_versions_come_from_the_log(fake_run: FakeRun) -> None:
    run = fake_run()
    assert "Trained with" not in facts(opened(run))
    run.log_path.write_text("2026-11-23 09:11:10  DDPM Workbench 0.1.0, Python 3.11.7, torch 2.13.0+cpu\nstep 1\n")
    assert facts(opened(run))["Trained with"] == "DDPM Workbench 0.1.0, Python 3.11.7, torch 2.13.0+cpu"


def test_a_folder_of_improved_diffusion(tmp_path: Path) -> None:
    run = Run(tmp_path / "theirs")
    run.folder.mkdir()
    log_of(run, "0.5,0.4,0.01,3,0", "0.3,0.2,0.02,2,10", columns=("loss", "mse", "vb_q0", "grad_norm", "step"))
    (run.folder / "model000010.pt").write_bytes(b"12345")
    (run.folder / "ema_0.99_000010.pt").write_bytes(b"12345")
    book = opened(run)
    (row,) = (row for row in table(book["Checkpoints"]) if isinstance(row["step"], int))
    assert row["loss"] == pytest.approx(0.4)
    assert row["vb_q0"] == pytest.approx(0.015)
    assert row["files"] == "ema_0.99_000010.pt, model000010.pt"


def test_write_xlsx_replaces_in_one_step(fake_run: FakeRun) -> None:
    run = fake_run(steps=5)
    path = run.folder / "results.xlsx"
    for _ in range(2):
        xlsx.write_xlsx(run, path)
    assert load_workbook(path).sheetnames[0] == "Summary"


@pytest.mark.slow
def test_a_long_log_takes_seconds(runs_dir: Path, tiny: Config) -> None:
    """5,000 lines of all columns; prints the time, for what is too slow shows in the minutes of a hundred thousand."""
    run = runs.create_run(runs_dir, "long", tiny)
    values = ",".join(f"{0.1234567 * (k + 1)!r}" for k in range(len(progress_log.COLUMNS)))
    parts = values.split(",")
    parts[progress_log.COLUMNS.index("step")] = "{step}"
    line = ",".join(parts)
    log_of(run, *(line.format(step=step) for step in range(5_000)), columns=progress_log.COLUMNS)
    start = time.perf_counter()
    data = xlsx.workbook(run)
    print(f"\n5,000 lines: {time.perf_counter() - start:.1f} s, {len(data) / 1e6:.1f} MB")
    sheet = load_workbook(io.BytesIO(data), read_only=True)["Metrics"]
    assert sum(1 for _ in sheet.iter_rows(values_only=True)) == 5_001


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("soffice"), reason="LibreOffice is not installed")
def test_libreoffice_opens_it(fake_run: FakeRun, tmp_path: Path) -> None:
    run = fake_run(steps=40)
    xlsx.write_xlsx(run, tmp_path / "results.xlsx")
    profile = f"-env:UserInstallation=file://{tmp_path / 'profile'}"
    convert = [
        "soffice",
        profile,
        "--headless",
        "--convert-to",
        "pdf",
        "--outdir",
        str(tmp_path),
        str(tmp_path / "results.xlsx"),
    ]
    subprocess.run(convert, check=True, capture_output=True, timeout=120)
    assert (tmp_path / "results.pdf").read_bytes().startswith(b"%PDF")
