"""run/metrics: buckets as numpy computes them, only what is new, and arguments of every kind."""

import math
from pathlib import Path

import fake_run
import numpy as np
import pytest
from asking import OF_A_COLUMN, ask, metrics_of, unpack
from waiting import until

from ddpm.runs import progress_log
from ddpm.runs.runs import Run

pytestmark = pytest.mark.usefixtures("runs_here")


@pytest.fixture
def run(runs_dir: Path) -> Run:
    """One of 300 rows."""
    return fake_run.write(runs_dir, "one", steps=3000, log_interval=10)


def fill(run: Run, rows: int, spike: int = 0, first: int = 1) -> None:
    """Replaces the log by one of `rows` rows, the one of step `spike` far above the others."""
    rng = np.random.default_rng(0)
    lines = [
        f"{40 if step == spike else math.exp(rng.normal(-3, 0.3))},{step * 10},{step * 16},{step * 2.5}"
        for step in range(first, rows + first)
    ]
    header = "loss,step,samples,seconds\n" if first == 1 else ""
    with open(run.progress_path, "w" if first == 1 else "a") as file:
        file.write(header + "\n".join(lines) + "\n")


def test_where_all_rows_fit_they_are_sent(run: Run) -> None:
    head, found = metrics_of(run="one", columns="loss,lr,nothing,loss", width=1000)
    frame = run.metrics
    assert (head["size"], head["rows"], head["from"], head["stop"]) == (1, 300, 0, 300)
    assert (head["columns"], head["axes"]) == (["loss", "lr"], ["step", "seconds", "samples"])
    assert (head["whole"], head["live"]) == (True, False)
    assert {"mse", "grad_norm", "loss_q0", "param_norm"} <= {*head["all"]}
    assert head["newest"]["loss"] == frame["loss"].iloc[-1]
    for name in ("loss", "lr"):
        np.testing.assert_array_equal(found[name], frame[name])
    for axis in head["axes"]:
        np.testing.assert_array_equal(found[f"{axis}.first"], frame[axis])


@pytest.mark.parametrize(("low", "high", "size"), [("", "", 8), (5000, 20_000, 2), (12_000.5, "", 4), ("", 300, 1)])
def test_buckets_hold_what_numpy_finds(run: Run, low: object, high: object, size: int) -> None:
    fill(run, 4000, spike=1500)
    head, found = metrics_of(run="one", columns="loss", width=400, **{"from": low, "to": high})
    frame = run.metrics
    start, stop = head["start"], head["stop"]
    assert (head["size"], head["from"], start % size) == (size, start, 0)
    steps, loss = frame["step"].to_numpy(), frame["loss"].to_numpy()
    inside = np.flatnonzero((steps >= (low or 0)) & (steps <= (high or math.inf)))
    assert max(inside[0] - 2 * size, 0) <= start <= inside[0]
    assert inside[-1] < stop <= min(inside[-1] + 2 * size + 1, 4000)
    if size == 1:
        np.testing.assert_array_equal(found["loss"], loss[start:stop])
        return
    parts = [loss[k : min(k + size, stop)] for k in range(start, stop, size)]
    for name, measure in zip(OF_A_COLUMN, (len, np.min, np.max, np.mean, lambda part: part[0]), strict=True):
        np.testing.assert_allclose(found[f"loss.{name}"], [measure(part) for part in parts], rtol=1e-12)
    np.testing.assert_array_equal(found["step.first"], steps[start:stop:size])
    np.testing.assert_array_equal(
        found["step.last"], [steps[min(k + size, stop) - 1] for k in range(start, stop, size)]
    )
    spikes = head["spikes"]["loss"]
    assert spikes["highest"] == ([[1499, 15_000.0, 40.0]] if start <= 1499 < stop else [])


def test_the_newest_value_is_found_however_long_ago_it_was(run: Run) -> None:
    lines = [f"0.5,{step},{0.25 if step == 100 else ''}" for step in range(1, 2001)]
    run.progress_path.write_text("\n".join(["loss,step,eval_mse", *lines, ""]))
    until(lambda: metrics_of(run="one", columns="eval_mse")[0]["rows"] == 2000)
    assert metrics_of(run="one", columns="loss,eval_mse")[0]["newest"] == {"loss": 0.5, "eval_mse": 0.25}


def test_other_axes_are_ranges_too(run: Run) -> None:
    head, found = metrics_of(run="one", columns="loss", x="seconds", width=100, **{"from": 100, "to": 110})
    assert head["size"] == 1
    assert found["seconds.first"].min() <= 100
    assert found["seconds.first"].max() >= 110
    assert len(found["loss"]) == 11 + 2
    head, found = metrics_of(run="one", columns="loss", **{"from": 10**9})
    assert len(found["loss"]) <= 2


def test_what_is_new_alone_is_sent(run: Run) -> None:
    fill(run, 4000)
    head, old = metrics_of(run="one", columns="loss", width=400)
    known = dict(run="one", columns="loss", width=400, have=head["name"], size=head["size"], since=3999)
    assert ask("/run/metrics", **known).status_code == 204
    fill(run, 21, first=4001)
    until(lambda: ask("/run/metrics", **known).status_code == 200)
    news, found = metrics_of(**known)
    assert (news["from"], news["start"], news["stop"], news["size"]) == (3992, 0, 4021, head["size"])
    whole, everything = metrics_of(run="one", columns="loss", width=400)
    for name, values in everything.items():
        kept = 3992 // head["size"]
        np.testing.assert_array_equal(np.concatenate([old[name][:kept], found[name]]), values)
    assert whole["spikes"] == head["spikes"] == {"loss": {"from": 0, "more": 0, "highest": []}}
    fill(run, 400, first=4022)  # a row more than fits: all of it in larger buckets
    until(lambda: metrics_of(**known)[0]["rows"] == 4421)
    fill(run, 40, first=100)  # a resumed run wrote steps again
    until(lambda: metrics_of(run="one", columns="loss")[0]["rows"] == 139)
    again = metrics_of(**known)[0]
    assert (again["from"], again["rows"]) == (0, 139)


def test_what_is_known_beyond_the_end_is_not_gone_on_from(run: Run) -> None:
    head, _ = metrics_of(run="one", columns="loss")
    have = head["name"].rpartition(".")[0] + ".0"
    news, found = metrics_of(run="one", columns="loss", have=have, size=1, since=300)
    assert (news["from"], len(found["loss"])) == (0, 300)


def test_spikes_near_the_end_are_told_once(run: Run) -> None:
    fill(run, 1000, spike=990)
    head, _ = metrics_of(run="one", columns="loss", width=1000)
    assert head["spikes"]["loss"]["highest"] == [[989, 9900.0, 40.0]]
    fill(run, 5, first=1001)
    known = dict(run="one", columns="loss", width=1000, have=head["name"], size=1, since=999)
    until(lambda: ask("/run/metrics", **known).status_code == 200 and metrics_of(**known)[0]["rows"] == 1005)
    news, _ = metrics_of(**known)
    assert news["from"] == 999
    assert news["spikes"]["loss"] == {"from": 983, "more": 0, "highest": [[989, 9900.0, 40.0]]}


def test_what_is_not_a_number_is_counted_and_sent_as_such(runs_dir: Path) -> None:
    fake_run.write(runs_dir, "nan", steps=100, nan_from=61)
    head, found = metrics_of(run="nan", columns="loss,lr")
    assert (head["lost"]["loss"]["count"], head["lost"]["loss"]["steps"][0]) == (40, 61)
    assert "lr" not in head["lost"]
    assert np.isnan(found["loss"]).sum() == 40
    assert head["newest"] == {"loss": found["loss"][59], "lr": 0.001}


def test_a_log_without_rows_or_steps(runs_dir: Path) -> None:
    empty = fake_run.write(runs_dir, "empty", steps=0)
    head, found = metrics_of(run="empty", columns="loss")
    assert (head["rows"], head["start"], head["stop"]) == (0, 0, 0)
    assert all(len(values) == 0 for values in found.values())
    empty.progress_path.write_text("loss\n0.5\n0.25\n")
    until(lambda: metrics_of(run="empty", columns="loss")[0]["rows"] == 2)
    head, found = metrics_of(run="empty", columns="loss", x="seconds")
    assert (head["axes"], found["step.first"].tolist(), found["loss"].tolist()) == (["step"], [1, 2], [0.5, 0.25])


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 404),
        ("run=nobody", 404),
        ("run=..", 404),
        ("run=../one", 404),
        ("run=" + "a" * 300, 400),
        ("run=one%00", 404),
        ("run=one&x=loss", 400),
        ("run=one&from=nan", 400),
        ("run=one&from=1e999", 400),
        ("run=one&to=0x10", 400),
        ("run=one&to=1;2", 400),
        ("run=one&width=-5", 400),
        ("run=one&width=1e3", 400),
        ("run=one&since=1.5", 400),
        ("run=one&size=abc", 400),
        ("run=one&columns=" + "a" * 5000, 400),
        ("run=one&columns=" + ",".join(f"c{k}" for k in range(65)), 400),
        ("run=one&columns=%3Cscript%3E,../loss,step", 200),
        ("run=one&columns=loss&width=0&size=0&since=999999999999&have=x", 200),
        ("run=one&columns=loss&from=500&to=400", 200),
        ("run=one&columns=loss&from=-1e50&to=1e50", 200),
    ],
)
def test_arguments_of_every_kind(run: Run, query: str, status: int) -> None:
    answer = ask("/run/metrics", query)
    assert answer.status_code == status
    if status == 200:
        head, _ = unpack(bytes(answer.body))
        assert {*head["columns"]} <= {*progress_log.COLUMNS}
        assert answer.headers["cache-control"] == "no-store"


def test_an_axis_that_some_rows_lack_is_left_out(runs_dir: Path) -> None:
    """Another program's log has no training time, and one that goes on has it from there."""
    run = fake_run.write(runs_dir, "theirs", steps=20)
    rows = run.progress_path.read_text().splitlines()
    at = rows[0].split(",").index("seconds")
    for k in range(1, 11):
        values = rows[k].split(",")
        values[at] = ""
        rows[k] = ",".join(values)
    run.progress_path.write_text("\n".join([*rows, ""]))
    _, found = metrics_of(run="theirs", columns="loss")
    assert "seconds.first" not in found
    assert len(found["step.first"]) == len(found["samples.first"]) == 20
