"""The workbook of an evaluation of sample quality: figures, what they were measured with, spectra."""

import io
from typing import Any

from openpyxl import Workbook

from ddpm.planning.quality_figures import FIGURES, ROWS
from ddpm.reports import xlsx_cells
from ddpm.runs.results import QualityJob


def workbook(job: QualityJob) -> bytes:
    """Returns the bytes of an .xlsx file of a finished evaluation."""
    result, book = job.result, Workbook(write_only=True)
    figures, about, spectra = (xlsx_cells.new_sheet(book, name) for name in ("Quality", "Measured with", "Spectra"))
    _append(figures, ["Set", "Images", "Figure", "Unit", "Value", "95 % from", "to", "Better"], bold=True)
    figures.column_dimensions["A"].width = figures.column_dimensions["C"].width = 24
    for row in sorted(result["rows"], key=lambda row: [*ROWS].index(row["name"]) if row["name"] in ROWS else len(ROWS)):
        for key, figure in FIGURES.items():
            values = row["figures"].get(key, [None] * 3)
            _append(
                figures,
                [ROWS.get(row["name"], row["name"]), row["n"], figure.title, figure.unit, *values, figure.better],
            )
    about.column_dimensions["A"].width, about.column_dimensions["B"].width = 24, 80
    for name, value in result["about"].items():
        _append(about, [name, value if isinstance(value, int | float) else str(value)])
    _append(spectra, ["Band, lowest frequency first", *result["spectra"]], bold=True)
    for band, powers in enumerate(zip(*result["spectra"].values(), strict=False)):
        _append(spectra, [band, *powers])
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _append(sheet: Any, values: list[Any], bold: bool = False) -> None:
    sheet.append([xlsx_cells.cell(sheet, value, bold=bold) for value in values])
