"""Charts: which rows they draw, as plain JSON."""

import json
import random

import numpy as np
import pandas as pd
import pytest
from fake_run import row

from pages.ui.components import figures
from pages.ui.components.figures import ChartOptions


def rows(count: int, **columns: object) -> pd.DataFrame:
    rng = random.Random(1)
    return pd.DataFrame([row(step, rng) for step in range(1, count + 1)]).assign(**columns)


def traces(figure: figures.Figure, role: str) -> dict[str, dict]:
    return {trace["uid"].split("-")[0]: trace for trace in figure["data"] if trace["role"] == role}


def test_a_panel_for_each_metric_on_a_common_x() -> None:
    figure = figures.panels(rows(100), ChartOptions(smoothing=0.5))
    assert set(traces(figure, "smooth")) == set(traces(figure, "raw")) == {"grad_norm", "loss", "mse"}
    assert [traces(figure, "smooth")[name]["yaxis"] for name in ("grad_norm", "loss", "mse")] == ["y", "y2", "y3"]
    assert all("xaxis" not in trace for trace in figure["data"])  # so all of them have the first
    domains = [figure["layout"][key]["domain"] for key in ("yaxis", "yaxis2", "yaxis3")]
    assert domains[0][1] == 1
    assert domains[2][0] == pytest.approx(0, abs=1e-6)
    assert domains[0][0] > domains[1][1] > domains[1][0] > domains[2][1]


def test_a_metric_that_is_logged_has_a_panel_and_one_that_is_not_has_none() -> None:
    figure = figures.panels(rows(100, vb=0.01, lg_loss_scale=20.0), ChartOptions())
    assert list(traces(figure, "smooth")) == ["grad_norm", "loss", "mse", "vb", "lg_loss_scale"]
    bound_only = figures.panels(rows(100).drop(columns="mse"), ChartOptions())
    assert list(traces(bound_only, "smooth")) == ["grad_norm", "loss"]


def test_the_quarters_of_a_part_of_the_loss() -> None:
    frame = rows(40, **dict.fromkeys(figures.quarters("vb"), 0.5))
    figure = figures.overlay(frame, ChartOptions(smoothing=0), figures.quarters("vb"))
    assert [trace["uid"] for trace in figure["data"]] == [f"vb_q{k}-smooth" for k in range(4)]


def test_what_keeps_the_view() -> None:
    small, large = figures.panels(rows(50), ChartOptions()), figures.panels(rows(5000), ChartOptions())
    assert small["layout"]["uirevision"] == large["layout"]["uirevision"]
    assert small["layout"]["xaxis"]["uirevision"] == large["layout"]["xaxis"]["uirevision"]
    assert [t["uid"] for t in small["data"]] == [t["uid"] for t in large["data"]]
    images = figures.panels(rows(50), ChartOptions(x="images"))
    assert images["layout"]["xaxis"]["uirevision"] != small["layout"]["xaxis"]["uirevision"]
    linear = figures.panels(rows(50), ChartOptions(log=False))
    assert linear["layout"]["yaxis"]["uirevision"] != small["layout"]["yaxis"]["uirevision"]


@pytest.mark.slow
def test_few_points_and_no_spike_lost() -> None:
    frame = rows(50_000)
    frame.loc[31_234, "loss"] = 77.0
    figure = figures.panels(frame, ChartOptions())
    assert all(len(trace["x"]) == len(trace["y"]) <= 2000 for trace in figure["data"])
    assert 77 in traces(figure, "raw")["loss"]["y"]
    assert len(json.dumps(figure)) < 250_000


def test_nan_is_a_gap_and_is_marked() -> None:
    frame = rows(60)
    frame.loc[30:34, "loss"] = [np.nan, np.inf, -np.inf, np.nan, np.nan]
    figure = figures.panels(frame, ChartOptions())
    json.dumps(figure, allow_nan=False)
    assert traces(figure, "smooth")["loss"]["y"][30:35] == [None] * 5
    marks = traces(figure, "nan")
    assert list(marks) == ["loss"]
    assert marks["loss"]["x"] == [31, 32, 33, 34, 35]
    assert marks["loss"]["y"] == pytest.approx([frame.loc[29, "loss"]] * 5, rel=1e-4)
    assert any("not a number in 5 rows" in note["text"] for note in figure["layout"]["annotations"])


def test_nothing_but_nan_is_marked_too() -> None:
    figure = figures.panels(rows(10, loss=np.nan), ChartOptions())
    json.dumps(figure, allow_nan=False)
    assert len(traces(figure, "nan")["loss"]["x"]) == 10


def test_a_logarithmic_axis_leaves_out_zero_and_less() -> None:
    frame = rows(20)
    frame.loc[3:4, "mse"] = [0.0, -1.0]
    figure = figures.panels(frame, ChartOptions(log=True))
    assert traces(figure, "smooth")["mse"]["y"][3:5] == [None, None]
    assert traces(figure, "nan") == {}
    assert traces(figures.panels(frame, ChartOptions(log=False)), "raw")["mse"]["y"][3:5] == [0, -1]


def test_the_newest_value_is_reported_at_its_line() -> None:
    frame = rows(20, mse=0.25)
    marks = {
        a["yref"]: a
        for a in figures.panels(frame, ChartOptions(log=True))["layout"]["annotations"]
        if a["role"] == "last"
    }
    assert marks["y3"]["text"] == "0.25"
    assert marks["y3"]["y"] == pytest.approx(np.log10(0.25))
    marks = {
        a["yref"]: a
        for a in figures.panels(frame, ChartOptions(log=False))["layout"]["annotations"]
        if a["role"] == "last"
    }
    assert marks["y3"]["y"] == pytest.approx(0.25)


def test_no_smoothing_is_one_line() -> None:
    figure = figures.panels(rows(30), ChartOptions(smoothing=0))
    assert len(figure["data"]) == 3


@pytest.mark.parametrize(
    ("seconds", "title", "first"),
    [(100, "seconds", 100), (600, "minutes", 10), (86400, "hours", 24), (864000, "days", 10)],
)
def test_time_in_a_fitting_unit(seconds: float, title: str, first: float) -> None:
    axis = figures.axis(pd.DataFrame({"step": [1.0], "seconds": [float(seconds)]}), "time")
    assert axis.title == f"training time, {title}"
    assert axis.values[0] == pytest.approx(first)


def test_a_log_without_time_shows_steps() -> None:
    frame = rows(5).drop(columns=["seconds", "samples"])
    assert figures.axis(frame, "time").title == figures.axis(frame, "images").title == "step"


def test_an_empty_log_and_one_without_these_metrics() -> None:
    for frame in (rows(0), pd.DataFrame({"step": [1.0, 2.0], "lr": [0.1, 0.1]})):
        assert figures.panels(frame, ChartOptions())["data"] == []
        assert figures.overlay(frame, ChartOptions(), figures.quarters("loss"))["data"] == []


def test_the_quarters_share_a_panel_and_skip_rows_without_one() -> None:
    frame = rows(40)
    frame.loc[::2, "loss_q1"] = np.nan
    figure = figures.overlay(frame, ChartOptions(smoothing=0), figures.quarters("loss"))
    assert [trace["name"] for trace in figure["data"]] == list(figures.QUARTER_LABELS)
    assert len(figure["data"][1]["x"]) == 20
    assert {trace["yaxis"] for trace in figure["data"]} == {"y"}


def test_numbers_as_json_has_them() -> None:
    found = figures.numbers(np.array([1.0, 0.0, np.nan, np.inf, 1.23456789e-7, 123456789.0, -0.333333333]))
    assert found == [1, 0, None, None, 1.23457e-7, 123456789, -0.333333]
    assert isinstance(found[0], int)
