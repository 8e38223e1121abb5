"""results.xlsx: a run as a workbook, with native charts and the last preview.

openpyxl writes everything except the rows of the log, for which it takes three times as long: those are written as
XML into the finished workbook.
"""

import datetime
import importlib.metadata
import io
import math
import platform
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from openpyxl import Workbook
from openpyxl.drawing.image import Image
from openpyxl.styles import Alignment
from openpyxl.utils import get_column_letter
from PIL import Image as Pillow

import ddpm
from ddpm.config import codec, fields
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import architecture
from ddpm.reports import xlsx_cells, xlsx_charts
from ddpm.reports.xlsx_log import RunLog
from ddpm.runs import progress_log
from ddpm.runs.runs import Run
from ddpm.storage import files, image_files, untrusted

EXCEL_ROWS = 1_048_576  # most rows of a sheet, the header included
PREVIEW_PIXELS = 512  # size to which an embedded preview is enlarged, about

_DURATION = "[h]:mm:ss"  # format of a number of days


def write_xlsx(run: Run, path: Path) -> None:
    """Writes the workbook of `run` to `path`, replacing the file in one step."""
    files.write_bytes(path, workbook(run))


def workbook(run: Run, most_rows: int = EXCEL_ROWS) -> bytes:
    """The bytes of an .xlsx file.

    A log that does not fit in `most_rows` rows is downsampled, and a note on the first sheet says so.
    """
    log = RunLog.read(run, most_rows)
    book = Workbook(write_only=True)
    sheets = {
        name: xlsx_cells.new_sheet(book, name) for name in ("Summary", "Config", "Metrics", "Checkpoints", "Charts")
    }
    _summary(sheets["Summary"], run, log)
    _config(sheets["Config"], run)
    rows = _metrics(sheets["Metrics"], log)
    _checkpoints(sheets["Checkpoints"], run, log)
    xlsx_charts.add_charts(sheets["Charts"], book, log)
    file = io.BytesIO()
    book.save(file)
    return _with_rows(file.getvalue(), "xl/worksheets/sheet3.xml", rows)


# --- sheets


def _summary(sheet: Any, run: Run, log: RunLog) -> None:
    sheet.column_dimensions["A"].width, sheet.column_dimensions["B"].width = 24, 58
    grid = _last_grid(run)
    if grid is not None:
        caption, image = grid
        log.notes.append(caption)
        if image:
            sheet.add_image(image, "D2")
    sheet.append([xlsx_cells.cell(sheet, f"Run {run.name}", bold=True)])
    facts = [*_facts(run, log), *(("Note", note, "") for note in log.notes)]
    for number, (label, value, form) in enumerate([fact for fact in facts if fact[1] is not None], start=2):
        cells = [xlsx_cells.cell(sheet, label), xlsx_cells.cell(sheet, value, form)]
        for cell in cells:
            cell.alignment = Alignment(horizontal="left", vertical="top", wrap_text=isinstance(value, str))
        if isinstance(value, str):
            sheet.row_dimensions[number].height = 15 * math.ceil(max(len(value), 1) / 58)
        sheet.append(cells)


def _facts(run: Run, log: RunLog) -> Iterator[tuple[str, Any, str]]:
    """(label, value, number format) of each row of the summary; a value of None leaves the row out."""
    status, config = run.status(), _config_of(run)
    loss, step = log.column("loss"), log.column("step")
    seconds, about = log.last("seconds"), run.about()
    yield "Title", about.title or None, ""
    yield "Tags", ", ".join(about.tags) or None, ""
    yield "Notes", about.notes or None, ""
    yield "State", run.state(), ""
    yield "Message", (status.message or None) if status else None, ""
    yield "Warning", (status.warning or None) if status else None, ""
    yield "Steps done", int(max(status.step if status else 0, log.last("step") or 0)), "#,##0"
    yield "Steps in all", (status.total_steps or None) if status else None, "#,##0"
    yield "Images seen", log.last("samples"), "#,##0"
    yield "Training time", seconds / 86400 if seconds is not None else None, _DURATION
    yield "Steps per second", status.steps_per_second if status else None, "0.000"
    yield "Last loss", log.last("loss"), xlsx_cells.DECIMALS
    if np.isfinite(loss).any():
        best = int(np.nanargmin(np.where(np.isfinite(loss), loss, np.nan)))
        yield "Lowest loss", loss[best], xlsx_cells.DECIMALS
        yield "Lowest loss at step", step[best], "#,##0"
    yield "Log lines", len(log.frame), "#,##0"
    steps = _checkpoint_steps(run)
    yield "Checkpoints", len(steps), "0"
    yield "Newest checkpoint", f"step {steps[-1]}" if steps else None, ""
    if config:
        yield "Data", config.data.data_dir, ""
        yield "Classes", ", ".join(config.class_names) or None, ""
        yield "Image size", f"{config.model.image_size} x {config.model.image_size}", ""
        yield "Parameters", architecture.parameters(config.model), "#,##0"
        yield "Command", run.restart_command(), ""
        yield "Begun", _local(run.created_at), "yyyy-mm-dd hh:mm:ss"
    yield (
        "Last sign of life",
        _local(status.updated_at) if status and status.updated_at else None,
        "yyyy-mm-dd hh:mm:ss",
    )
    yield "Times are in", time.strftime("%Z (UTC%z)"), ""
    yield "Trained with", _trained_with(run), ""
    yield (
        "Exported with",
        (
            f"DDPM Workbench {ddpm.__version__}, Python {platform.python_version()}, openpyxl"
            f" {importlib.metadata.version('openpyxl')}"
        ),
        "",
    )


def _config(sheet: Any, run: Run) -> None:
    xlsx_cells.header(sheet, ["Section", "Setting", "Value", "Help"], [12, 24, 30, 110], texts=4)
    config = _config_of(run)
    if not config:
        sheet.append([xlsx_cells.cell(sheet, "This folder has no config.json that can be read.")])
        return
    for section, kind in codec.SECTIONS.items():
        for s in fields.settings(kind):
            value = getattr(getattr(config, section), s.name)
            shown = str(value) if isinstance(value, bool) else value  # as the command line reads it
            cells = [xlsx_cells.cell(sheet, v) for v in (section, s.name, shown, s.flag_help)]
            cells[2].alignment = Alignment(horizontal="left")
            sheet.append(cells)
    names = ", ".join(config.class_names)
    sheet.append(
        [xlsx_cells.cell(sheet, v) for v in ("data", "class_names", names, "Names of the classes, in label order.")]
    )


def _metrics(sheet: Any, log: RunLog) -> Iterator[bytes]:
    """Writes the header; returns the rows, to be inserted into the finished workbook."""
    styles = {}
    for name in [*log.columns, "NaN"]:
        cell = xlsx_cells.cell(sheet, math.nan if name == "NaN" else 0.0, xlsx_cells.number_format(name))
        styles[name] = cell.style_id
    if log.lines:
        sheet.auto_filter.ref = f"A1:{get_column_letter(len(log.columns))}{len(log.lines) + 1}"
    xlsx_cells.header(sheet, log.columns or ["No log lines yet."], [14.0] * max(1, len(log.columns)))
    return _row_texts(log, [styles[name] for name in log.columns], styles["NaN"])


def _row_texts(log: RunLog, styles: list[int], nan_style: int) -> Iterator[bytes]:
    """Rows 2, 3, ... of the Metrics sheet as SpreadsheetML."""
    columns = [(get_column_letter(i), style) for i, style in enumerate(styles, start=1)]
    for number, line in enumerate(log.lines, start=2):
        cells = []
        for (letter, style), text in zip(columns, line.split(b","), strict=True):
            if text.strip():
                value = float(text)
                cells.append(
                    f'<c r="{letter}{number}" s="{style}"><v>{value!r}</v></c>'
                    if math.isfinite(value)
                    else (
                        f'<c r="{letter}{number}" s="{nan_style}"'
                        f' t="inlineStr"><is><t>{xlsx_cells.not_a_number(value)}</t></is></c>'
                    )
                )
        yield f'<row r="{number}">{"".join(cells)}</row>'.encode()


def _with_rows(book: bytes, sheet: str, rows: Iterator[bytes]) -> bytes:
    """Returns the workbook `book` with `rows` appended to the rows of the part `sheet`."""
    target = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(book)) as before,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as after,
    ):
        for name in before.namelist():
            top, end, rest = before.read(name).partition(b"</sheetData>")
            with after.open(name, "w") as part:
                part.write(top)
                if name == sheet:
                    for row in rows:
                        part.write(row)
                part.write(end + rest)
    return target.getvalue()


def _checkpoints(sheet: Any, run: Run, log: RunLog) -> None:
    columns = [name for name in log.columns if name != "step"] if "step" in log.columns else []
    xlsx_cells.header(sheet, ["step", "megabytes", *columns, "files"], [10.0, 12.0, *[14.0] * len(columns), 80.0])
    steps = _checkpoint_steps(run)
    if not steps:
        sheet.append([xlsx_cells.cell(sheet, "No checkpoint yet.")])
        return
    rows = log.at_checkpoints(steps) if columns else pd.DataFrame()
    if "seconds" in columns:  # the checkpoint stores it, also where no later line was logged
        known = pd.Series(steps).map({c.step: c.seconds for c in run.checkpoints() if c.seconds}).astype(object)
        rows["seconds"] = known.where(known.notna(), rows["seconds"])
    for number, step in enumerate(steps):
        found = _checkpoint_files(run, step)
        megabytes = sum(path.stat().st_size for path in found) / 1e6
        row = [xlsx_cells.cell(sheet, rows[c].iloc[number], xlsx_cells.number_format(c)) for c in columns]
        names = ", ".join(p.name for p in found)
        sheet.append(
            [
                xlsx_cells.cell(sheet, step, "0"),
                xlsx_cells.cell(sheet, megabytes, "0.00"),
                *row,
                xlsx_cells.cell(sheet, names),
            ]
        )
    sheet.append([])
    states = ", ".join(name for name in columns if name in progress_log.AT_STEP)
    at_step = (
        f"{states} are the values at that step, some of them empty if nothing was logged later. " if states else ""
    )
    means = "The other metrics are means over the log lines since the previous checkpoint."
    sheet.append([xlsx_cells.cell(sheet, f"{at_step}{means}")])


# --- files of the run


def _config_of(run: Run) -> Config | None:
    try:
        return run.config
    except UserError:
        return None


def _checkpoint_steps(run: Run) -> list[int]:
    """Training steps of the complete checkpoints; without any, of improved-diffusion's model files."""
    committed = [c.step for c in run.checkpoints()]
    found = (re.fullmatch(r"model(\d+)\.pt", path.name) for path in run.folder.glob("model*.pt"))
    return committed or sorted(int(match[1]) for match in found if match)


def _checkpoint_files(run: Run, step: int) -> list[Path]:
    return sorted(
        p for p in run.folder.glob(f"*{step:06d}.pt") if re.fullmatch(rf"(model|ema_.*_|opt|state)0*{step}\.pt", p.name)
    )


def _last_grid(run: Run) -> tuple[str, Image | None] | None:
    """A sentence about the newest preview, and its image, enlarged without interpolation."""
    previews = run.previews()
    if not previews:
        return None
    step, path = previews[-1]
    try:
        preview = image_files.decode(run.read(path), str(path))
    except (OSError, UserError) as error:
        return f"The preview of step {step} cannot be read ({error}).", None
    factor = max(1, round(PREVIEW_PIXELS / max(preview.size)))
    enlarged = preview.resize((preview.width * factor, preview.height * factor), Pillow.Resampling.NEAREST)
    file = io.BytesIO()
    enlarged.save(file, "PNG")
    return f"The image is the preview of step {step}.", Image(file)


def _trained_with(run: Run) -> str | None:
    """The versions with which the run was trained, from log.txt."""
    try:
        with run.open_file(run.log_path, untrusted.MOST_BYTES) as file:
            beginning = file.read(65536).decode(errors="replace")
    except (OSError, UserError):
        return None
    found = re.search(r"DDPM Workbench .*, torch \S+", beginning)
    return found[0] if found else None


def _local(seconds: float) -> datetime.datetime:
    """A Unix time in this computer's zone; a cell of a workbook has no zone."""
    return datetime.datetime.fromtimestamp(seconds).replace(microsecond=0)
