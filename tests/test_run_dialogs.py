"""The menu of a run and its dialogs, without a browser: what a button does to the folders."""

import tempfile
from pathlib import Path
from typing import Any

import fake_run
import pytest
from app_page import open_page, said
from streamlit.testing.v1 import AppTest

from ddpm.runs import launch, runs, trash
from ddpm.runs.about import About
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from pages.ui.frame import run_dialogs, run_menu


@pytest.fixture(autouse=True)
def runs_dir(runs_here: None, runs_dir: Path) -> Path:
    return runs_dir


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Trainings that a dialog started: their names, and what was asked for."""
    found: list[tuple[str, dict[str, Any]]] = []

    def start(run: Run, data_dir: str = "", enlarge: bool = False, total_steps: int = 0) -> None:
        found.append((run.name, {"data_dir": data_dir, "total_steps": total_steps}))

    monkeypatch.setattr(launch, "start_training", start)
    return found


def monitor(name: str, action: str) -> AppTest:
    """Monitor with a dialog of the menu open."""
    at = open_page("pages/monitor.py", run=name)
    at.menu_button(key=f"actions-{name}").click(action).run()
    assert not at.exception, at.exception
    return at


def press(at: AppTest, key: str = "dialog_sure") -> None:
    at.button(key=key).click().run()
    assert not at.exception, at.exception


def test_what_is_said_of_a_run(runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "one", steps=4)
    fake_run.write(runs_dir, "two", steps=4).describe(add=["known"])
    at = monitor("one", "describe")
    assert at.multiselect(key="dialog_Tags").options == ["known"]
    at.text_input(key="dialog_title").input("Кот ![x](http://y)")
    at.multiselect(key="dialog_Tags").set_value(["known"])
    at.text_area(key="dialog_notes").input("a\nb")
    press(at)
    assert run.about() == About("Кот ![x](http://y)", ("known",), "a\nb")
    at = open_page("home.py")
    assert "**Кот ![x](http://y)**" in said(at)
    at = monitor("one", "archive")
    assert run.about().archived
    at = monitor("one", "star")
    assert run.about().star
    assert {"unstar", "unarchive"} <= set(run_menu.available(run))
    marks = [value.value for value in open_page("home.py").markdown if "badge" in value.value]
    assert [sum(word in mark for mark in marks) for word in ("starred", "archived")] == [1, 1]


def test_several_at_once(runs_dir: Path) -> None:
    names = ["a", "b", "c"]
    found = [fake_run.write(runs_dir, name, steps=4) for name in names]
    found[0].describe(add=["old"])

    def ask(action: str, names: list[str]) -> AppTest:
        at = open_page("home.py")
        at.session_state["_action"] = run_menu.Asked(action, tuple(names))
        at.run()
        assert not at.exception, at.exception
        return at

    at = ask("tag", names)
    at.multiselect(key="dialog_remove").set_value(["old"]).run()
    press(at)
    assert [run.about().tags for run in found] == [()] * 3
    at = ask("delete", names)
    press(at)
    assert runs.list_runs(runs_dir) == []
    assert {entry.label for entry in trash.entries(runs_dir)} == set(names)
    at = ask("bin", [])
    press(at, "dialog_restore-b")
    assert [run.name for run in runs.list_runs(runs_dir)] == ["b"]
    assert at.button(key="dialog_sure").disabled
    at.checkbox(key="dialog_for_good").check().run()
    press(at)
    assert trash.entries(runs_dir) == []


def test_rename_from_the_page_of_the_run(runs_dir: Path) -> None:
    fake_run.write(runs_dir, "one", steps=4)
    fake_run.write(runs_dir, "two", steps=4)
    at = monitor("one", "rename")
    at.text_input(key="dialog_name").input("two").run()
    assert at.button(key="dialog_sure").disabled
    at.text_input(key="dialog_name").input("three").run()
    press(at)
    assert {run.name for run in runs.list_runs(runs_dir)} == {"two", "three"}
    assert at.selectbox(key="run").value == "three"


def test_duplicate_and_continue(runs_dir: Path, started: list[tuple[str, dict[str, Any]]]) -> None:
    run = fake_run.write(runs_dir, "one", steps=40)
    press(monitor("one", "duplicate"))
    assert {found.name for found in runs.list_runs(runs_dir)} == {"one", "one-copy"}
    at = monitor("one", "continue")
    at.number_input(key="dialog_total-40").set_value(100).run()
    press(at)
    assert started == [("one-40", {"data_dir": "", "total_steps": 100})]
    copy = runs.find_run(runs_dir, "one-40")
    assert [c.step for c in copy.checkpoints()] == [40]
    assert copy.config == run.config


def test_a_typed_name_stays_when_another_checkpoint_is_chosen(runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "one", steps=40)
    fake_run.save_checkpoint(run, 20, 0)
    at = monitor("one", "continue")
    assert at.text_input(key="dialog_name").value == "one-40"
    at.selectbox(key="dialog_step").set_value(20).run()
    assert at.text_input(key="dialog_name").value == "one-20"
    at.text_input(key="dialog_name").input("mine").run()
    at.selectbox(key="dialog_step").set_value(40).run()
    assert at.text_input(key="dialog_name").value == "mine"


def test_a_large_run_is_copied_beside_the_page(runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    monkeypatch.setattr(run_dialogs, "AT_ONCE", 0)
    run = fake_run.write(runs_dir, "one", steps=4)
    begun: list[str] = []
    monkeypatch.setattr(launch, "start_copying", lambda run, name: begun.append(name))
    at = monitor("one", "duplicate")
    press(at)
    assert begun == ["one-copy"]

    job = launch.copy_job(run)
    with Worker(job.folder) as worker:
        worker.beat(state="running", step=1, total_steps=4, now=True)
        at = monitor("one", "duplicate")  # opened again while it is copied
        assert not [b for b in at.button if b.key == "dialog_sure"]
        (cancel,) = (b for b in at.button if b.label == "Cancel")
        cancel.click().run()
        assert "stop" in worker.poll_requests()
        worker.beat(state="stopped", now=True)
    at.run()
    assert at.button(key="dialog_sure")
    assert {found.name for found in runs.list_runs(runs_dir)} == {"one"}


def test_more_steps(runs_dir: Path, started: list[tuple[str, dict[str, Any]]]) -> None:
    fake_run.write(runs_dir, "one", steps=40)
    at = open_page("pages/monitor.py", run="one")
    press(at, "train_more")
    assert at.number_input(key="dialog_steps").value == 40
    assert "--total_steps 80" in said(at)
    at.number_input(key="dialog_steps").set_value(10).run()
    press(at)
    assert started == [("one", {"data_dir": "", "total_steps": 50})]


def test_old_checkpoints(runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "one", steps=40)
    fake_run.save_checkpoint(run, 20, 100)
    at = monitor("one", "clean")
    assert at.button(key="dialog_sure").disabled
    at.number_input(key="dialog_keep").set_value(1).run()
    press(at)
    assert [c.step for c in run.checkpoints()] == [40]


def test_change_and_start_again_leads_to_train(runs_dir: Path) -> None:
    fake_run.write(runs_dir, "one", steps=40)
    at = monitor("one", "again")
    assert at.title[0].value == "Train"
    assert at.query_params["like"] in ("one", ["one"])


def test_change_and_start_again_fills_the_form_anew(runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "one", steps=40)
    fake_run.save_checkpoint(run, 20, 100)
    at = open_page("pages/train.py", like="one", step="20")
    assert at.text_input(key="train.resume_checkpoint").value
    at.number_input(key="train.total_steps").set_value(77).run()
    at.switch_page("pages/monitor.py").run()
    at.menu_button(key="actions-one").click("again").run()
    assert not at.exception
    assert at.title[0].value == "Train"
    assert at.text_input(key="train.resume_checkpoint").value == ""
    assert at.number_input(key="train.total_steps").value == 40
    at.switch_page("pages/train.py").run()
    at.number_input(key="train.total_steps").set_value(78).run()
    assert at.number_input(key="train.total_steps").value == 78, "a rerun keeps what was changed"


def test_a_dialog_stays_on_the_page_where_it_was_asked_for(runs_dir: Path) -> None:
    for name in ("one", "two"):
        fake_run.write(runs_dir, name, steps=40)
    at = monitor("one", "delete")
    assert at.button(key="dialog_sure")
    at.switch_page("home.py").run()
    assert not [button for button in at.button if button.key == "dialog_sure"]
    at = monitor("one", "continue")
    at.query_params["run"] = "two"
    at.run()
    assert not [button for button in at.button if button.key == "dialog_sure"]


def test_what_came_into_the_bin_meanwhile_stays(runs_dir: Path) -> None:
    for name in ("a", "b"):
        fake_run.write(runs_dir, name, steps=4)
    trash.trash_run(Run(runs_dir / "a"))
    at = open_page("home.py")
    at.button(key="bin").click().run()
    at.checkbox(key="dialog_for_good").check().run()
    trash.trash_run(Run(runs_dir / "b"))
    press(at)
    assert {entry.label for entry in trash.entries(runs_dir)} <= {"b"}


def test_a_run_that_failed_offers_it_first(runs_dir: Path) -> None:
    fake_run.write(runs_dir, "one", steps=40, total=100, state="failed", message="It diverged.")
    at = open_page("pages/monitor.py", run="one")
    press(at, "again")
    assert at.title[0].value == "Train"


def test_a_new_run_begins_from_the_weights_of_a_checkpoint(runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "one", steps=40)
    fake_run.save_checkpoint(run, 20, 100)
    at = open_page("pages/train.py", like="one", step="20")
    assert at.text_input(key="train.resume_checkpoint").value == str((run.folder / "model000020.pt").absolute())
    assert at.number_input(key="train.total_steps").value == 40
    at = open_page("pages/train.py", like="one", step="40")
    assert at.number_input(key="train.total_steps").value == 80
    assert open_page("pages/train.py", like="one").text_input(key="train.resume_checkpoint").value == ""
    assert [e.value for e in open_page("pages/train.py", like="one", step="30").error]
    assert not open_page("pages/train.py", like="one", step="4" * 5000).error


def test_a_message_leaves_when_it_is_no_longer_true(runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "one", steps=40, total=100)
    with Worker(run.folder, 100) as worker:
        worker.beat(state="running", step=40, now=True)
        at = open_page("pages/monitor.py", run="one")
        at.button(key="save").click().run()
        assert "save" in run.requests()
        assert len(at.success) == 1
        at.run()
        assert len(at.success) == 1
        fake_run.save_checkpoint(run, 45, 0)
        at.run()
        assert len(at.success) == 0
        at.button(key="preview").click().run()
        at.button(key="save").click().run()
        assert len(at.success) == 1, "one at a time"
        worker.beat(state="stopped", now=True)


def test_runs_are_chosen_by_title_and_archived_ones_stand_last(runs_dir: Path) -> None:
    for name in ("one", "two", "three"):
        fake_run.write(runs_dir, name, steps=4)
    runs.find_run(runs_dir, "three").describe(archived=True)
    runs.find_run(runs_dir, "one").describe(title="Cosine, 10 %")
    at = open_page("pages/monitor.py", run="one")
    assert at.selectbox(key="run").options == ["two", "Cosine, 10 % · one", "three (archived)"]
    at.selectbox(key="run").set_value("two").run()
    assert at.query_params["run"] in ("two", ["two"])
    at = open_page("pages/monitor.py")
    assert at.selectbox(key="run").value == "two"


def test_nothing_is_asked_about_a_run_that_trains(runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "one", steps=40, total=100)
    with Worker(run.folder, 100) as worker:
        worker.beat(state="running", step=40, now=True)
        for action in ("rename", "delete", "duplicate", "more"):
            at = monitor("one", action)
            assert len(at.error) == 1
            assert not [b for b in at.button if b.key == "dialog_sure"]
        worker.beat(state="stopped", now=True)
    at = monitor("one", "delete")
    press(at)
    assert runs.list_runs(runs_dir) == []
