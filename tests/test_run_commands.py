"""`ddpm runs ACTION`: what the commands do, and what they say to programs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddpm.cli import main, run_actions
from ddpm.runs import runs, trash
from ddpm.runs.about import About
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker

FakeRun = Callable[..., Run]
Ask = Callable[..., Any]


@pytest.fixture
def ask(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs `ddpm runs WORDS`, which must succeed, and returns its document."""

    def ask(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert main.main(["runs", *words, "--runs_dir", str(runs_dir), "--json", "True"]) == code
        document = json.loads(capsys.readouterr().out)
        return document if code == 0 else document["error"]["code"]

    return ask


def listed(document: Any) -> list[str]:
    return sorted(run["run"] for run in document["runs"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["runs"], ["runs"]),
        (["runs", "--json", "True"], ["runs", "--json", "True"]),
        (["runs", "mine"], ["runs", "show", "mine"]),
        (
            ["runs", "--runs_dir", "x", "mine", "--json=True"],
            ["runs", "show", "--runs_dir", "x", "mine", "--json=True"],
        ),
        (["runs", "--json", "True", "tag", "a"], ["runs", "tag", "--json", "True", "a"]),
        (["runs", "show", "tag"], ["runs", "show", "tag"]),
        (["runs", "--help"], ["runs", "--help"]),
        (["train", "tag"], ["train", "tag"]),
        ([], []),
    ],
)
def test_which_action_is_meant(words: list[str], expected: list[str]) -> None:
    assert run_actions.with_action(words) == expected


def test_words_of_the_user(fake_run: FakeRun, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = fake_run("one"), fake_run("two")
    assert [run["tags"] for run in ask("tag", "one", "two", "--add", "a,b c")["runs"]] == [["a", "b", "c"]] * 2
    assert ask("tag", "one", "--remove", "B,c")["runs"][0]["tags"] == ["a"]
    assert ask("note", "one", "--title", "猫", "--notes", "x\ny", "--star", "True")["notes"] == "x\ny"
    assert one.about() == About("猫", ("a",), "x\ny", True)
    assert listed(ask("--tag", "B")) == ["two"]
    ask("archive", "one", "two")
    assert listed(ask()) == []
    assert listed(ask("--archived", "True")) == ["one", "two"]
    ask("unarchive", "two")
    (document,) = ask()["runs"]
    assert (document["run"], document["title"], document["tags"]) == ("two", "", ["a", "b", "c"])
    assert two.about().archived is False
    described = ask("one")
    assert (described["title"], described["notes"], described["star"], described["archived"]) == (
        "猫",
        "x\ny",
        True,
        True,
    )
    assert main.main(["runs", "--archived", "True", "--runs_dir", str(one.folder.parent)]) == 0
    assert "猫" in capsys.readouterr().out


def test_folders(fake_run: FakeRun, ask: Ask, runs_dir: Path) -> None:
    run = fake_run("one")
    assert ask("rename", "one", "new")["run"] == "new"
    assert ask("rename", "one", "x", code=2) == "unknown-run"
    copy = ask("duplicate", "new", "copy", "--at_step", "20")
    assert (copy["run"], copy["state"], copy["step"]) == ("copy", "stopped", 20)
    assert ask("duplicate", "new")["run"] == "new-copy"
    (deleted,) = ask("delete", "new")["deleted"]
    assert Path(deleted["folder"]).parent == runs_dir.absolute() / ".trash"
    (entry,) = ask("bin")["entries"]
    assert (entry["name"], entry["run"], entry["samples"]) == ("new", "new", None)
    assert entry["bytes"] == ask("bin")["bytes"] > 1000
    assert ask("restore", "new", "--run", "old")["restored"] == [str(runs_dir.absolute() / "old")]
    assert ask("delete", "old", "copy", "unknown", code=2) == "unknown-run"
    assert len(runs.list_runs(runs_dir)) == 3
    with Worker(runs_dir / "copy") as worker:
        worker.beat(state="running", now=True)
        assert ask("delete", "old", "copy", code=2) == "still-running"
        worker.beat(state="stopped", now=True)
    assert len(runs.list_runs(runs_dir)) == 3, "nothing is done where one cannot be"
    ask("delete", "old", "copy", "new-copy")
    assert ask("empty", "copy")["bytes"] > 0
    assert ask("empty")["bytes"] > 0
    assert trash.entries(runs_dir) == []
    assert ask("restore", "old", code=2) == "not-found"
    assert not run.folder.exists()


def test_old_checkpoints(fake_run: FakeRun, ask: Ask) -> None:
    run = fake_run("one", steps=100)
    dry = ask("clean", "one", "--keep", "2", "--dry_run", "True")
    assert (dry["dry_run"], dry["runs"][0]["removed"], dry["runs"][0]["kept"]) == (True, [20, 40, 60], [80, 100])
    assert len(run.checkpoints()) == 5
    assert ask("clean", "one", "--only", "20,30", code=2) == "unknown-step"
    assert ask("clean", "one", "--only", "20,100")["runs"][0]["why"] == {"100": "it is the newest that is whole"}
    done = ask("clean", "one", "--keep", "2")
    assert done["runs"][0]["removed"] == [40, 60]
    assert 0 < done["bytes"] < dry["bytes"]
    assert [c.step for c in run.checkpoints()] == [80, 100]
