"""Native charts of results.xlsx: one for each metric, over training steps."""

import math
from typing import Any

import numpy as np
from openpyxl import Workbook
from openpyxl.chart import Reference, ScatterChart, Series
from openpyxl.chart.shapes import GraphicalProperties
from openpyxl.chart.text import RichText
from openpyxl.chart.title import Title
from openpyxl.drawing.line import LineProperties
from openpyxl.drawing.text import CharacterProperties, Font, Paragraph, ParagraphProperties

from ddpm.reports import xlsx_cells
from ddpm.reports.xlsx_log import RunLog
from ddpm.runs import curves

CHARTS = ("grad_norm", "loss", "mse", "vb", "lg_loss_scale")  # metrics with a chart, where the log has them
CHART_POINTS = 2000


def add_charts(sheet: Any, book: Workbook, log: RunLog) -> None:
    """Adds a chart for each metric; its points, downsampled, are written to the sheet "Chart data"."""
    shown = [name for name in CHARTS if np.isfinite(log.column(name)).any()]
    if not shown:
        sheet.append([xlsx_cells.cell(sheet, "No log lines yet: charts appear after the first one.")])
        return
    sheet.page_setup.orientation, sheet.page_setup.fitToHeight = "portrait", 1
    data = xlsx_cells.new_sheet(book, "Chart data")
    lines = [curves.downsample(log.column("step"), log.column(name), CHART_POINTS) for name in shown]
    xlsx_cells.header(data, [text for name in shown for text in ("step", name)], [14.0] * (2 * len(shown)))
    for number in range(max(len(x) for x, _ in lines)):
        row: list[Any] = []
        for x, y in lines:
            point = number < len(x)
            row.append(xlsx_cells.cell(data, x[number] if point else None, "0"))
            finite = point and math.isfinite(y[number])
            row.append(xlsx_cells.cell(data, y[number] if finite else None, xlsx_cells.DECIMALS))
        data.append(row)
    caption = f"Metrics over training steps, with at most {CHART_POINTS:,} points each; every peak is kept."
    sheet.append([xlsx_cells.cell(sheet, caption)])
    for number, name in enumerate(shown):
        x, y = lines[number]
        chart = _chart(data, name, 2 * number + 1, len(x))
        finite = y[np.isfinite(y)]
        if (finite > 0).all():  # whole decades: some programs leave other axes empty
            low, high = math.floor(math.log10(finite.min())), math.ceil(math.log10(finite.max()))
            chart.y_axis.scaling.logBase, chart.y_axis.title = 10, "logarithmic"
            _name_font(chart.y_axis.title)
            chart.y_axis.scaling.min, chart.y_axis.scaling.max = 10.0**low, 10.0 ** max(high, low + 1)
        chart.x_axis.scaling.min, chart.x_axis.scaling.max = min(0.0, x[0]), max(1.0, x[-1])
        sheet.add_chart(chart, f"A{3 + 20 * number}")


def _chart(data: Any, name: str, column: int, points: int) -> ScatterChart:
    """A line chart of `points` rows: `column` holds the training step, the next column the metric."""
    chart = ScatterChart()
    chart.title, chart.legend, chart.scatterStyle = name, None, "lineMarker"
    chart.width, chart.height = 26, 9.5  # centimetres
    chart.x_axis.title, chart.y_axis.title = "step", None
    chart.x_axis.number_format, chart.y_axis.number_format = "0", "General"
    chart.x_axis.majorGridlines = None
    chart.x_axis.delete = chart.y_axis.delete = False
    chart.x_axis.crosses = chart.y_axis.crosses = "min"
    for text in (chart.title, chart.x_axis.title, chart.y_axis.title):
        _name_font(text)
    chart.x_axis.txPr, chart.y_axis.txPr = _labels(), _labels()
    series = Series(
        Reference(data, column + 1, 2, max_row=points + 1), Reference(data, column, 2, max_row=points + 1), title=name
    )
    series.marker.symbol, series.smooth = "none", False
    series.graphicalProperties = GraphicalProperties(ln=LineProperties(w=15875, solidFill="3B6FB6"))
    chart.series.append(series)
    return chart


def _letters(**more: Any) -> CharacterProperties:
    """How letters look that are in the font of the cells."""
    return CharacterProperties(latin=Font(typeface=xlsx_cells.FONT), **more)


def _name_font(title: Title | None) -> None:
    """Gives a title its font; where none is named, each program takes another."""
    text = title.tx.rich if title and title.tx else None
    for paragraph in text.p if text else ():
        paragraph.pPr = ParagraphProperties(defRPr=_letters(b=False))
        for run in paragraph.r or ():
            run.rPr = _letters(b=False)


def _labels() -> RichText:
    """The font of the numbers at an axis."""
    return RichText(p=[Paragraph(pPr=ParagraphProperties(defRPr=_letters(sz=900)), endParaRPr=CharacterProperties())])
