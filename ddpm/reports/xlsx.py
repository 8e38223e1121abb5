"""results.xlsx: a run as a workbook, with native charts and the last preview.  No torch.

openpyxl writes everything but the rows of the log, which it would take three times as long over: they are
put into its finished workbook as text.
"""

import datetime
import importlib.metadata
import io
import math
import platform
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from openpyxl import Workbook
from openpyxl.cell import Cell, WriteOnlyCell
from openpyxl.chart import Reference, ScatterChart, Series
from openpyxl.chart.shapes import GraphicalProperties
from openpyxl.drawing.image import Image
from openpyxl.drawing.line import LineProperties
from openpyxl.styles import Alignment, Font, PatternFill
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.properties import PageSetupProperties
from PIL import Image as Pillow

import ddpm
from ddpm.config import codec, fields
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.planning import architecture
from ddpm.runs import metrics
from ddpm.runs.runs import Run
from ddpm.storage import files

EXCEL_ROWS = 1_048_576  # of a sheet, the header among them
CHARTS = ("grad_norm", "loss", "mse", "vb", "lg_loss_scale")  # those that the log has
CHART_POINTS = 2000
PICTURE_PIXELS = 512  # an embedded grid is enlarged to about so many

_FORMATS = {"step": "0", "samples": "#,##0", "lr": "0.00E+00", "seconds": "0.0", "steps_per_second": "0.000"}
_FORMAT = "0.000000"
_DURATION = "[h]:mm:ss"  # of days
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet may take for the beginning of a formula


def write_xlsx(run: Run, path: Path) -> None:
    """Put the workbook of `run` at `path`, whole or not at all."""
    files.write_bytes(path, workbook(run))


def workbook(run: Run, most_rows: int = EXCEL_ROWS) -> bytes:
    """The bytes of an .xlsx file.  A log of more lines than `most_rows` is thinned, and says so."""
    log = _Log.of(run, most_rows)
    book = Workbook(write_only=True)
    sheets = {name: _sheet(book, name) for name in ("Summary", "Config", "Metrics", "Checkpoints", "Charts")}
    _summary(sheets["Summary"], run, log)
    _config(sheets["Config"], run)
    rows = _metrics(sheets["Metrics"], log)
    _checkpoints(sheets["Checkpoints"], run, log)
    _charts(sheets["Charts"], book, log)
    file = io.BytesIO()
    book.save(file)
    return _with_rows(file.getvalue(), "xl/worksheets/sheet3.xml", rows)


@dataclass
class _Log:
    """progress.csv, as numbers and as it is written."""

    frame: pd.DataFrame
    lines: list[bytes]  # of the Metrics sheet; as many as the frame has, or fewer
    nan: pd.DataFrame  # what is a NaN in the file, where `frame` has one for an empty cell too
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, run: Run, most_rows: int) -> "_Log":
        frame, lines, bad = metrics.newest_lines(run.progress_path)
        nan = np.zeros(frame.shape)
        for number, line in enumerate(lines):
            if b"n" in line:  # nan, or inf
                nan[number] = [b"nan" in cell.lower() for cell in line.split(b",")]
        log = cls(frame, lines, pd.DataFrame(nan, columns=frame.columns))
        if bad:
            log.notes.append(f"Left out of progress.csv, as no numbers can be read from it: {plural(bad, 'line')}.")
        if len(lines) > most_rows - 1:
            kept = metrics.downsample_indices(log.column("loss"), most_rows - 1)
            log.lines = [lines[i] for i in kept]
            log.notes.append(
                f"Metrics has {len(kept):,} of {len(lines):,} log lines, for a sheet holds {most_rows:,} rows: "
                "of each stretch, the two with the least and the greatest loss. progress.csv has all of them."
            )
        return log

    @property
    def columns(self) -> list[str]:
        return list(self.frame.columns)

    def column(self, name: str) -> np.ndarray:
        """Its values; NaN where the log has no such column."""
        return self.frame[name].to_numpy() if name in self.frame else np.full(len(self.frame), np.nan)

    def last(self, name: str) -> float | None:
        """The value on the last line; None where it is empty."""
        if not len(self.frame) or name not in self.frame:
            return None
        value = float(self.frame[name].iloc[-1])
        return None if math.isnan(value) and not self.nan[name].iloc[-1] else value

    def at_checkpoints(self, steps: list[int]) -> pd.DataFrame:
        """metrics.at_checkpoints, with a NaN only where not-a-numbers were logged; None where nothing was."""
        step = self.frame["step"]
        found = metrics.at_checkpoints(self.frame, steps)
        nans = metrics.at_checkpoints(self.nan.assign(step=step), steps) > 0
        infinities = (
            metrics.at_checkpoints(self.frame.isin([math.inf, -math.inf]).astype(float).assign(step=step), steps) > 0
        )
        spoilt = nans | (infinities & found.isna())  # by a NaN, or by infinities of both signs
        return found.astype(object).where(found.notna(), None).mask(spoilt[found.columns], math.nan)


# --- cells


def _cell(sheet: Any, value: Any, form: str = "", bold: bool = False) -> Cell:
    """A cell in which text is text, whatever it begins with, and a NaN is seen."""
    if isinstance(value, np.generic):
        value = value.item()
    cell = WriteOnlyCell(sheet)
    if isinstance(value, float) and not math.isfinite(value):
        value, cell.alignment, cell.font = _not_a_number(value), Alignment(horizontal="right"), Font(color="C00000")
    if isinstance(value, str):
        text = _NOT_XML.sub("", value)
        cell.value = text[:32767]
        cell.data_type = "s"
        cell.quotePrefix = text.startswith(_FORMULA)  # so that it stays text when somebody edits it
    else:
        cell.value = value
    if form:
        cell.number_format = form
    if bold:
        cell.font = Font(bold=True)
    return cell


def _not_a_number(value: float) -> str:
    return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _header(sheet: Any, names: list[str], widths: list[float], texts: int = 0) -> None:
    """The first row, which stays in sight; after the first `texts` columns come numbers."""
    for number, width in enumerate(widths, start=1):
        sheet.column_dimensions[get_column_letter(number)].width = width
    sheet.freeze_panes = "A2"
    cells = [_cell(sheet, name, bold=True) for name in names]
    for number, cell in enumerate(cells):
        cell.fill = PatternFill("solid", start_color="E7EBF3")
        cell.alignment = Alignment(horizontal="left" if number < texts else "right")
    sheet.append(cells)


# --- sheets


def _sheet(book: Workbook, name: str) -> Any:
    """A new sheet that prints as wide as a page."""
    sheet = book.create_sheet(name)
    sheet.page_setup.orientation, sheet.page_setup.fitToHeight = "landscape", 0
    sheet.sheet_properties.pageSetUpPr = PageSetupProperties(fitToPage=True)
    return sheet


def _summary(sheet: Any, run: Run, log: _Log) -> None:
    sheet.column_dimensions["A"].width, sheet.column_dimensions["B"].width = 24, 58
    grid = _last_grid(run)
    if grid is not None:
        caption, picture = grid
        log.notes.append(caption)
        if picture:
            sheet.add_image(picture, "D2")
    sheet.append([_cell(sheet, f"Run {run.name}", bold=True)])
    facts = [*_facts(run, log), *(("Note", note, "") for note in log.notes)]
    for number, (label, value, form) in enumerate([fact for fact in facts if fact[1] is not None], start=2):
        cells = [_cell(sheet, label), _cell(sheet, value, form)]
        for cell in cells:
            cell.alignment = Alignment(horizontal="left", vertical="top", wrap_text=isinstance(value, str))
        if isinstance(value, str):
            sheet.row_dimensions[number].height = 15 * math.ceil(max(len(value), 1) / 58)
        sheet.append(cells)


def _facts(run: Run, log: _Log) -> Iterator[tuple[str, Any, str]]:
    """(label, value, number format) of everything worth knowing at a glance; None is not known."""
    status, config = run.status(), _config_of(run)
    loss, step = log.column("loss"), log.column("step")
    seconds = log.last("seconds")
    yield "State", run.state(), ""
    yield "Message", (status.message or None) if status else None, ""
    yield "Warning", (status.warning or None) if status else None, ""
    yield "Steps done", int(max(status.step if status else 0, log.last("step") or 0)), "#,##0"
    yield "Steps in all", (status.total_steps or None) if status else None, "#,##0"
    yield "Images seen", log.last("samples"), "#,##0"
    yield "Training time", seconds / 86400 if seconds is not None else None, _DURATION
    yield "Steps per second", status.steps_per_second if status else None, "0.000"
    yield "Last loss", log.last("loss"), _FORMAT
    if np.isfinite(loss).any():
        best = int(np.nanargmin(np.where(np.isfinite(loss), loss, np.nan)))
        yield "Lowest loss", loss[best], _FORMAT
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
        yield "Begun (UTC)", _utc(run.created_at), "yyyy-mm-dd hh:mm:ss"
    yield (
        "Last sign of life (UTC)",
        _utc(status.updated_at) if status and status.updated_at else None,
        "yyyy-mm-dd hh:mm:ss",
    )
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
    _header(sheet, ["Section", "Setting", "Value", "Help"], [12, 24, 30, 110], texts=4)
    config = _config_of(run)
    if not config:
        sheet.append([_cell(sheet, "This folder has no config.json that could be read.")])
        return
    for section, kind in codec.SECTIONS.items():
        for s in fields.settings(kind):
            value = getattr(getattr(config, section), s.name)
            shown = str(value) if isinstance(value, bool) else value  # as the command line takes it
            cells = [_cell(sheet, v) for v in (section, s.name, shown, s.help)]
            cells[2].alignment = Alignment(horizontal="left")
            sheet.append(cells)
    names = ", ".join(config.class_names)
    sheet.append([_cell(sheet, v) for v in ("data", "class_names", names, "Names of the classes, in label order.")])


def _metrics(sheet: Any, log: _Log) -> Iterator[bytes]:
    """The header, and the rows to put in once the workbook is made."""
    styles = {}
    for name in [*log.columns, "NaN"]:
        cell = _cell(sheet, math.nan if name == "NaN" else 0.0, _FORMATS.get(name, _FORMAT))
        styles[name] = cell.style_id
    if log.lines:
        sheet.auto_filter.ref = f"A1:{get_column_letter(len(log.columns))}{len(log.lines) + 1}"
    _header(sheet, log.columns or ["No log lines yet."], [14.0] * max(1, len(log.columns)))
    return _row_texts(log, [styles[name] for name in log.columns], styles["NaN"])


def _row_texts(log: _Log, styles: list[int], nan_style: int) -> Iterator[bytes]:
    """Rows 2, 3, ... of the Metrics sheet in SpreadsheetML."""
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
                        f' t="inlineStr"><is><t>{_not_a_number(value)}</t></is></c>'
                    )
                )
        yield f'<row r="{number}">{"".join(cells)}</row>'.encode()


def _with_rows(book: bytes, sheet: str, rows: Iterator[bytes]) -> bytes:
    """`book` with rows put after those that its sheet has."""
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


def _checkpoints(sheet: Any, run: Run, log: _Log) -> None:
    columns = [name for name in log.columns if name != "step"] if "step" in log.columns else []
    _header(sheet, ["step", "megabytes", *columns, "files"], [10.0, 12.0, *[14.0] * len(columns), 80.0])
    steps = _checkpoint_steps(run)
    if not steps:
        sheet.append([_cell(sheet, "No checkpoint yet.")])
        return
    rows = log.at_checkpoints(steps) if columns else pd.DataFrame()
    if "seconds" in columns:  # which a checkpoint knows itself, also where no line was logged from then on
        known = pd.Series(steps).map({c.step: c.seconds for c in run.checkpoints() if c.seconds}).astype(object)
        rows["seconds"] = known.where(known.notna(), rows["seconds"])
    for number, step in enumerate(steps):
        found = _checkpoint_files(run, step)
        megabytes = sum(path.stat().st_size for path in found) / 1e6
        row = [_cell(sheet, rows[c].iloc[number], _FORMATS.get(c, _FORMAT)) for c in columns]
        names = ", ".join(p.name for p in found)
        sheet.append([_cell(sheet, step, "0"), _cell(sheet, megabytes, "0.00"), *row, _cell(sheet, names)])
    sheet.append([])
    states = ", ".join(name for name in columns if name in metrics.AT_STEP)
    said = (
        f"{states} are as they were at that step, some empty where no line was logged from then on. " if states else ""
    )
    sheet.append([_cell(sheet, f"{said}The other metrics are means over the log lines since the checkpoint before.")])


def _charts(sheet: Any, book: Workbook, log: _Log) -> None:
    """A chart for each metric, over thinned copies of its column in a sheet of their own."""
    drawn = [name for name in CHARTS if np.isfinite(log.column(name)).any()]
    if not drawn:
        sheet.append([_cell(sheet, "No log lines yet: the charts come with the first one.")])
        return
    sheet.page_setup.orientation, sheet.page_setup.fitToHeight = "portrait", 1
    data = _sheet(book, "Chart data")
    lines = [metrics.downsample(log.column("step"), log.column(name), CHART_POINTS) for name in drawn]
    _header(data, [text for name in drawn for text in ("step", name)], [14.0] * (2 * len(drawn)))
    for number in range(max(len(x) for x, _ in lines)):
        row: list[Any] = []
        for x, y in lines:
            point = number < len(x)
            row.append(_cell(data, x[number] if point else None, "0"))
            row.append(_cell(data, y[number] if point and math.isfinite(y[number]) else None, _FORMAT))
        data.append(row)
    sheet.append([_cell(sheet, f"Over training steps, at most {CHART_POINTS:,} points each; every peak is kept.")])
    for number, name in enumerate(drawn):
        x, y = lines[number]
        chart = _chart(data, name, 2 * number + 1, len(x))
        finite = y[np.isfinite(y)]
        if (finite > 0).all():  # whole decades: some programs leave empty ones
            low, high = math.floor(math.log10(finite.min())), math.ceil(math.log10(finite.max()))
            chart.y_axis.scaling.logBase, chart.y_axis.title = 10, "logarithmic"
            chart.y_axis.scaling.min, chart.y_axis.scaling.max = 10.0**low, 10.0 ** max(high, low + 1)
        chart.x_axis.scaling.min, chart.x_axis.scaling.max = min(0.0, x[0]), max(1.0, x[-1])
        sheet.add_chart(chart, f"A{3 + 20 * number}")


def _chart(data: Any, name: str, column: int, points: int) -> ScatterChart:
    """A line of the `points` rows of `column` (step) and the one after it."""
    chart = ScatterChart()
    chart.title, chart.legend, chart.scatterStyle = name, None, "lineMarker"
    chart.width, chart.height = 26, 9.5  # centimetres
    chart.x_axis.title, chart.y_axis.title = "step", None
    chart.x_axis.number_format, chart.y_axis.number_format = "0", "General"
    chart.x_axis.majorGridlines = None
    chart.x_axis.delete = chart.y_axis.delete = False
    chart.x_axis.crosses = chart.y_axis.crosses = "min"
    series = Series(
        Reference(data, column + 1, 2, max_row=points + 1), Reference(data, column, 2, max_row=points + 1), title=name
    )
    series.marker.symbol, series.smooth = "none", False
    series.graphicalProperties = GraphicalProperties(ln=LineProperties(w=15875, solidFill="3B6FB6"))
    chart.series.append(series)
    return chart


# --- what the folder holds


def _config_of(run: Run) -> Config | None:
    try:
        return run.config
    except UserError:
        return None


def _checkpoint_steps(run: Run) -> list[int]:
    """Of committed sets; in a folder without any, of improved-diffusion's model files."""
    committed = [c.step for c in run.checkpoints()]
    found = (re.fullmatch(r"model(\d+)\.pt", path.name) for path in run.folder.glob("model*.pt"))
    return committed or sorted(int(match[1]) for match in found if match)


def _checkpoint_files(run: Run, step: int) -> list[Path]:
    return sorted(
        p for p in run.folder.glob(f"*{step:06d}.pt") if re.fullmatch(rf"(model|ema_.*_|opt|state)0*{step}\.pt", p.name)
    )


def _last_grid(run: Run) -> tuple[str, Image | None] | None:
    """A sentence about the newest preview, and the picture, enlarged without blur."""
    previews = run.previews()
    if not previews:
        return None
    step, path = previews[-1]
    try:
        with Pillow.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError) as error:
        return f"The preview of step {step} cannot be read ({error}).", None
    times = max(1, round(PICTURE_PIXELS / max(picture.size)))
    enlarged = picture.resize((picture.width * times, picture.height * times), Pillow.Resampling.NEAREST)
    file = io.BytesIO()
    enlarged.save(file, "PNG")
    return f"The picture is the preview of step {step}.", Image(file)


def _trained_with(run: Run) -> str | None:
    """What log.txt says about the versions that trained."""
    try:
        with open(run.log_path, encoding="utf-8", errors="replace") as file:
            beginning = file.read(65536)
    except OSError:
        return None
    found = re.search(r"DDPM Workbench .*, torch \S+", beginning)
    return found[0] if found else None


def _utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(tzinfo=None, microsecond=0)
