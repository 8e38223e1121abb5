"""Several runs as one workbook: a row each, the settings that differ among them, and their loss at the same steps."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from openpyxl import Workbook
from openpyxl.utils import get_column_letter

from ddpm.config import codec, fields
from ddpm.config.training import Config
from ddpm.reports import xlsx_cells
from ddpm.runs.log_summary import COUNTERS, LogSummary, SummaryReader
from ddpm.runs.metrics import MetricReader
from ddpm.runs.runs import Run

STEPS = 200  # rows of the sheet Loss


def workbook_of_runs(runs: Sequence[Run]) -> bytes:
    """The bytes of an .xlsx file.  Raises UserError if a run has settings or a log that cannot be read."""
    book = Workbook(write_only=True)
    _runs(xlsx_cells.new_sheet(book, "Runs"), runs, [SummaryReader(run.progress_path).read() for run in runs])
    _loss(xlsx_cells.new_sheet(book, "Loss"), runs)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _runs(sheet: Any, runs: Sequence[Run], logs: Sequence[LogSummary]) -> None:
    metrics = list(dict.fromkeys(name for log in logs for name in log.last if name not in COUNTERS))
    configs = [run.config for run in runs]
    differing = [name for name in _names() if len({str(_setting(config, name)) for config in configs}) > 1]
    names = ["run", "title", "tags", "state", "step", "steps in all", "seconds"]
    names += [name for metric in metrics for name in (metric, f"lowest {metric}", "at step")] + differing
    sheet.auto_filter.ref = f"A1:{get_column_letter(len(names))}{len(runs) + 1}"
    xlsx_cells.header(sheet, names, [24.0, 24.0, 16.0, 11.0] + [max(11.0, len(name) + 3.0) for name in names[4:]], 4)
    for run, log, config in zip(runs, logs, configs, strict=True):
        about, status = run.about(), run.status()
        done = status.step if status else log.last.get("step") or 0
        values: list[tuple[Any, str]] = [(text, "") for text in (run.name, about.title, " ".join(about.tags))]
        values += [(run.state(), ""), (done, "#,##0"), (config.train.total_steps, "#,##0")]
        values += [(log.last.get("seconds"), "#,##0.0")]
        for metric in metrics:
            form, lowest = xlsx_cells.number_format(metric), log.lowest.get(metric)
            values += [(log.last.get(metric), form), (lowest and lowest.value, form), (lowest and lowest.step, "#,##0")]
        values += [(_setting(config, name), "") for name in differing]
        sheet.append([xlsx_cells.cell(sheet, value, form) for value, form in values])


def _loss(sheet: Any, runs: Sequence[Run]) -> None:
    """The loss of all runs, interpolated at the same steps, and empty before and after what a run logged."""
    frames = [MetricReader(run.progress_path, ("loss",)).read() for run in runs]
    known = [frame[np.isfinite(frame["loss"])] if "loss" in frame and len(frame) else None for frame in frames]
    longest = max((float(frame["step"].iloc[-1]) for frame in known if frame is not None and len(frame)), default=0.0)
    xlsx_cells.header(sheet, ["step", *(run.name for run in runs)], [10.0, *[16.0] * len(runs)])
    if not longest:
        sheet.append([xlsx_cells.cell(sheet, "No loss is logged yet.")])
        return
    steps = np.unique(np.linspace(1, longest, STEPS).round())
    columns = [
        np.interp(steps, frame["step"], frame["loss"], left=np.nan, right=np.nan)
        if frame is not None and len(frame)
        else np.full(len(steps), np.nan)
        for frame in known
    ]
    for number, step in enumerate(steps):
        values = [None if np.isnan(column[number]) else column[number] for column in columns]
        cells = [xlsx_cells.cell(sheet, value, xlsx_cells.number_format("loss")) for value in values]
        sheet.append([xlsx_cells.cell(sheet, int(step), "#,##0"), *cells])


def _names() -> list[str]:
    return [s.name for cls in codec.SECTIONS.values() for s in fields.settings(cls)]


def _setting(config: Config, name: str) -> Any:
    section = next(section for section, cls in codec.SECTIONS.items() if name in {s.name for s in fields.settings(cls)})
    value = getattr(getattr(config, section), name)
    return str(value) if isinstance(value, bool) else value  # as the command line reads it
