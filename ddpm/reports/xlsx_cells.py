"""Cells, header rows and empty sheets of results.xlsx, in one format."""

import math
import re
from typing import Any

import numpy as np
from openpyxl import Workbook
from openpyxl.cell import Cell, WriteOnlyCell
from openpyxl.styles import Alignment, Font, PatternFill
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.properties import PageSetupProperties

FORMATS = {
    "step": "0", "samples": "#,##0", "lr": "0.00E+00", "seconds": "0.0", "steps_per_second": "0.000", "memory_mb": "0",
}  # fmt: skip
DECIMALS = "0.000000"
FONT = "Calibri"  # named in every cell: where none is, each program takes another
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # characters at which a spreadsheet may begin a formula


def number_format(column: str) -> str:
    """Number format of a metric's column."""
    return FORMATS.get(column, DECIMALS)


def new_sheet(book: Workbook, name: str) -> Any:
    """A new sheet that prints one page wide."""
    sheet = book.create_sheet(name)
    sheet.page_setup.orientation, sheet.page_setup.fitToHeight = "landscape", 0
    sheet.sheet_properties.pageSetUpPr = PageSetupProperties(fitToPage=True)
    return sheet


def cell(sheet: Any, value: Any, form: str = "", bold: bool = False) -> Cell:
    """A cell that shows text as text, also text that begins like a formula, and NaN and infinities as words."""
    if isinstance(value, np.generic):
        value = value.item()
    made = WriteOnlyCell(sheet)
    made.font = Font(name=FONT, size=11, bold=bold)
    if isinstance(value, float) and not math.isfinite(value):
        value, made.alignment = not_a_number(value), Alignment(horizontal="right")
        made.font = Font(name=FONT, size=11, color="C00000")
    if isinstance(value, str):
        text = _NOT_XML.sub("", value)
        made.value = text[:32767]
        made.data_type = "s"
        made.quotePrefix = text.startswith(_FORMULA)  # so that it stays text when it is edited
    else:
        made.value = value
    if form:
        made.number_format = form
    return made


def not_a_number(value: float) -> str:
    """NaN, inf or -inf, as a word."""
    return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"


def header(sheet: Any, names: list[str], widths: list[float], texts: int = 0) -> None:
    """Writes the header row, frozen in view; columns after the first `texts` hold numbers and are aligned right."""
    for number, width in enumerate(widths, start=1):
        sheet.column_dimensions[get_column_letter(number)].width = width
    sheet.freeze_panes = "A2"
    cells = [cell(sheet, name, bold=True) for name in names]
    for number, made in enumerate(cells):
        made.fill = PatternFill("solid", start_color="E7EBF3")
        made.alignment = Alignment(horizontal="left" if number < texts else "right")
    sheet.append(cells)
