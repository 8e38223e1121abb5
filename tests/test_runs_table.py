"""The table of runs, without a browser: its rows, what has changed since, and what the routes answer."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import app_page
import fake_run
import openpyxl
import pytest
from asking_routes import Answer, ask
from faults import hostile_folders
from waiting import until

from ddpm.config import codec
from ddpm.config.tasks import SampleConfig
from ddpm.runs import launch, runs, trash
from ddpm.runs.worker import Worker
from pages.server import runs_route
from pages.ui.frame import run_files, run_store, tour
from pages.ui.results import runs_table

pytestmark = pytest.mark.usefixtures("runs_here")


def get(path: str, query: dict[str, str] | str = "", method: str = "GET") -> Answer:
    return ask(runs_route.ROUTES, path, query, method)


class Table:
    """The table as a browser keeps it."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.revision = ""
        self.answers: list[dict[str, Any]] = []

    def ask(self) -> dict[str, Any]:
        answer = get("/data/runs", {"since": self.revision})
        assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
        found = answer.json
        self.answers.append(found)
        if not found.get("same"):
            if found.get("whole"):
                self.rows = {}
            self.revision = found["revision"]
            self.rows |= {row["name"]: row for row in found["rows"]}
            for name in found.get("gone", ()):
                del self.rows[name]
        return found

    def settle(self) -> None:
        """Until nothing more is on its way."""
        until(lambda: self.ask().get("same") and not self.answers[-1]["soon"])
        until(lambda: self.ask() and all("disk" in row or "problem" in row for row in self.rows.values()))


@pytest.fixture
def table() -> Table:
    return Table()


def test_a_row_says_what_the_run_says(runs_dir: Path, table: Table) -> None:
    run = fake_run.write(runs_dir, "one", steps=40, total=100, state="stopped", warning="The disk is nearly full.")
    run.save_config(codec.replace(run.config, {"lr": 5e-4}))
    run.describe(title="Größer <b>", tags=["a", "b"], star=True)
    table.settle()
    row = table.rows["one"]
    assert (row["state"], row["step"], row["total"], row["warning"]) == ("stopped", 40, 100, "The disk is nearly full.")
    assert (row["title"], row["tags"], row["star"]) == ("Größer <b>", ["a", "b"], True)
    assert row["settings"]["lr"] == 5e-4
    assert "seed" not in row["settings"], "a default"
    assert row["last"]["loss"] == pytest.approx(run.metrics["loss"].iloc[-1], rel=1e-9)
    lowest = run.metrics["loss"].idxmin()
    assert row["lowest"]["loss"] == [pytest.approx(run.metrics["loss"][lowest], rel=1e-9), run.metrics["step"][lowest]]
    assert row["preview"][0] == 40
    assert row["disk"] == sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file())
    assert (row["speed"], row["texts"]["speed"], row["texts"]["trained"]) == (10.0, "10 it/s", "4.0 s")
    assert 2 < len(row["curve"]) <= 48
    legend = {name: (label, default) for name, label, default, _ in table.answers[0]["settings"]}
    assert legend["lr"] == ("Learning rate", 1e-4)


def test_only_what_changed_is_sent(runs_dir: Path, table: Table) -> None:
    for name in ("one", "two", "three"):
        fake_run.write(runs_dir, name, steps=4)
    table.settle()
    assert set(table.rows) == {"one", "two", "three"}
    assert table.ask() == {"same": True, "soon": False}
    before = len(table.answers)
    runs.find_run(runs_dir, "two").describe(title="Second")
    until(lambda: table.ask() and table.rows["two"].get("title") == "Second")
    trash.trash_run(runs.find_run(runs_dir, "three"))
    until(lambda: table.ask() and set(table.rows) == {"one", "two"})
    shutil.copytree(runs_dir / "one", runs_dir / "four")
    until(lambda: table.ask() and set(table.rows) == {"one", "two", "four"})
    sent = {row["name"] for answer in table.answers[before:] for row in answer.get("rows", ())}
    assert sent == {"two", "four"}
    assert not [answer for answer in table.answers[1:] if "whole" in answer]


def test_a_process_that_dies_is_noticed_without_an_event(runs_dir: Path, table: Table) -> None:
    run = fake_run.write(runs_dir, "live", steps=40, state="running", total=100)
    with Worker(run.folder, 100) as worker:
        worker.beat(state="running", step=40, steps_per_second=4.0, seconds_left=15.0, now=True)
        table.ask()
        assert table.rows["live"]["state"] == "running"
        assert table.rows["live"]["texts"]["left"] == "15 s"
        table.settle()
    # What it left does not say so: its lock is free, and that is all.
    fake_run.files.write_json(run.folder / "status.json", json.loads((run.folder / "status.json").read_text()))
    until(lambda: table.ask() and table.rows["live"]["state"] == "lost")


def test_an_answer_of_another_server_is_no_revision_here(runs_dir: Path, table: Table) -> None:
    fake_run.write(runs_dir, "one", steps=4)
    table.settle()
    run_store.store.clear()
    assert table.ask()["whole"]


def test_a_row_cannot_become_longer_than_a_screen(runs_dir: Path, table: Table) -> None:
    run = fake_run.write(runs_dir, "one", steps=4, state="failed", message="x" * 10_000)
    run.save_config(codec.replace(run.config, {"data_dir": "/nowhere/caf\udce9/" + "y" * 3000}))
    names = ",".join(f"metric{k}-{'z' * 100}" for k in range(150))
    run.progress_path.write_text(f"step,{names}\n" + ",".join(["1"] * 151) + "\n")
    table.settle()
    assert len(json.dumps(table.rows["one"])) < 40_000
    assert table.rows["one"]["settings"]["data_dir"].startswith("/nowhere/caf\\xe9/")


@pytest.mark.parametrize("page", ["home.py"])
def test_home_shows_many_runs_as_a_table(page: str, runs_dir: Path) -> None:
    for k in range(3):
        runs.create_run(runs_dir, f"run{k}", fake_run.config(10))
    assert len([m for m in app_page.open_page(page).markdown if m.value.startswith("**run")]) == 3
    runs.create_run(runs_dir, "run3", fake_run.config(10))
    at = app_page.open_page(page)
    assert not [m for m in at.markdown if m.value.startswith("**run")]
    shown = [json.loads(element.proto.json) for element in at.get("bidi_component")]
    assert len([part for part in shown if "actions" in (part.get("data") or {})]) == 1


def test_what_the_browser_sends_is_judged() -> None:
    assert runs_table.read({"what": "delete", "runs": ["a", "ä (2)"]}) == ("delete", ("a", "ä (2)"), "")
    opened = runs_table.read({"what": "open", "runs": ["a"], "page": "sample"})
    assert opened == ("open", ("a",), "pages/sample.py")
    for wrong in (
        None,
        "delete",
        {"what": "delete", "runs": []},
        {"what": "delete", "runs": "a"},
        {"what": "delete", "runs": ["a", 1]},
        {"what": "delete", "runs": ["../a"]},
        {"what": "delete", "runs": [".trash"]},
        {"what": "erase", "runs": ["a"]},
        {"what": ["delete"], "runs": ["a"]},
        {"what": "open", "runs": ["a"], "page": "home"},
        {"what": "open", "runs": ["a"], "page": ["monitor"]},
        {"what": "delete", "runs": ["a"] * 10_001},
        {"what": "rename", "runs": ["a", "b"]},
    ):
        assert runs_table.read(wrong) is None, wrong


def test_runs_are_compared_together() -> None:
    sent = {"what": "compare", "runs": ["a", "b"]}
    assert [action["what"] for action in runs_table.actions()].count("compare") == 1
    assert runs_table.read(sent) == ("compare", ("a", "b"), "")
    assert runs_table.read({**sent, "runs": ["a"]}) is None


# --- the routes


def test_arguments_are_judged(runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "one", steps=4)
    at = str(run.changed_at(run.previews()[-1][1]))
    right = {"run": "one", "step": "4", "at": at, "side": "80"}
    answer = get("/data/preview", right)
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert "immutable" in answer.headers["cache-control"]
    for changed in (
        {"run": "../one"},
        {"run": ".trash"},
        {"run": "one/"},
        {"run": ""},
        {"run": "one\x00"},
        {"step": "4.0"},
        {"step": "-4"},
        {"step": "٤"},
        {"step": "9" * 16},
        {"at": "now"},
        {"side": "81"},
        {"side": "100000"},
        {"more": "1"},
    ):
        refused = get("/data/preview", {**right, **changed})
        assert (refused.status, refused.headers["cache-control"]) == (400, "no-store"), changed
    assert get("/data/preview", {**right, "run": "two"}).status == 404
    assert get("/data/preview", {**right, "step": "5"}).status == 404
    assert get("/data/preview", "run=one&run=one&step=4&at=1&side=80").status == 400
    for since in ("1", "0123456789.1", "0123456g.1", "01234567.x", "01234567.1 ", "01234567.٤", "9" * 100):
        assert get("/data/runs", {"since": since}).status == 400, since
    assert get("/data/runs").status == 400
    assert get("/data/runs", {"since": "", "token": "x"}).status == 400
    for method in ("POST", "PUT", "DELETE"):
        assert get("/data/runs", {"since": ""}, method).status == 405


def test_a_folder_of_runs_that_cannot_be_made_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DDPM_RUNS", str(tmp_path / "file" / "runs"))
    answer = get("/data/runs", {"since": ""})
    assert answer.status == 404
    assert str(tmp_path / "file") in answer.text


@pytest.mark.skipif(os.name == "nt", reason="Windows has other links, and no named pipes")
def test_hostile_runs_are_a_row_with_their_sentence(runs_dir: Path, tmp_path: Path, table: Table) -> None:
    """All of them beside a healthy one; nothing outside of them is read or changed."""
    base, other = hostile_folders.healthy(tmp_path / "base").folder, hostile_folders.outside(tmp_path / "outside")
    cases = list(hostile_folders.cases())
    for case in cases:
        hostile_folders.build(runs_dir, base, case, other)
    hostile_folders.healthy(runs_dir)
    before = hostile_folders.snapshot(other)
    until(lambda: not table.ask()["soon"])
    assert table.rows["healthy"]["state"] == runs.Run(runs_dir / "healthy").state()
    assert "problem" not in table.rows["healthy"]
    expected = {case.name for case in cases if hostile_folders.expected_in_list(case)}
    assert table.rows.keys() >= expected | {"healthy"}
    assert table.rows.keys() <= {path.name for path in runs_dir.iterdir()}
    for case in cases:
        row = table.rows.get(case.name, {})
        problem = runs.Run(runs_dir / case.name).problem() if row else ""
        assert bool(row.get("problem")) == bool(problem), case.name
        assert "\n" not in row.get("problem", "")
        if shows := row.get("preview"):
            query = {"run": case.name, "step": str(shows[0]), "at": shows[1], "side": "80"}
            answer = get("/data/preview", query)
            assert answer.status in (200, 404), case.name
            assert answer.status == 404 or answer.body.startswith(b"\x89PNG"), case.name
    index = run_store.store(runs_dir).index
    while index.work():
        pass
    assert "a secret" not in json.dumps([table.answers, index.rows()])
    assert hostile_folders.snapshot(other) == before


def test_several_runs_are_one_workbook(runs_dir: Path) -> None:
    """Numbers as numbers, what differs as columns, names that begin like formulas as text."""
    found = [fake_run.write(runs_dir, "one", steps=40), fake_run.write(runs_dir, "two", steps=20, nan_from=15)]
    found[1].save_config(codec.replace(found[1].config, {"lr": 5e-4}))
    found[0].describe(title="=1+1", tags=["a", "b"])
    book = openpyxl.load_workbook(io.BytesIO(run_files.workbook_of_runs(found)))
    head, *rows = book["Runs"].iter_rows(values_only=True)
    one, two = (dict(zip(head, row, strict=True)) for row in rows)
    assert (one["run"], one["title"], one["tags"], one["state"], one["step"]) == ("one", "=1+1", "a b", "finished", 40)
    assert (one["lr"], two["lr"]) == (1e-3, 5e-4)
    assert "seed" not in head, "it is the same in both"
    assert one["lowest loss"] == pytest.approx(found[0].metrics["loss"].min())
    assert two["loss"] is None, "not a number there"
    head, *rows = book["Loss"].iter_rows(values_only=True)
    assert head == ("step", "one", "two")
    assert [row[0] for row in rows] == list(range(1, 41))
    assert rows[9][1:] == pytest.approx(tuple(run.metrics["loss"][9] for run in found))
    assert rows[20][2] is None


def test_the_example_is_sampled_in_one_click(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def start(run: runs.Run, sample: SampleConfig) -> runs.Run:
        started.append((run.name, sample.num_samples, 0 < sample.steps <= 20))
        return run

    monkeypatch.setattr(launch, "start_sampling", start)
    at = app_page.open_page("home.py")
    assert len(at.get("image")) == 3, "what will come"
    assert list(runs_dir.iterdir()) == [], "looking makes no run"
    at.button(key="example").click().run()
    assert not at.exception
    assert started == [("example", 16, True)]


def test_a_quick_start_begins_the_tour(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "start_training", lambda run: None)
    at = app_page.open_page("home.py")
    at.button(key="quick_start").click().run()
    assert not at.exception
    assert at.session_state[tour.WANTED]
    assert len({step["title"] for step in tour.STEPS}) == 4
