"""What the user says of a run: read strictly, written while it trains, and never in the way of the run itself."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from raising import raises_error

from ddpm.runs import about, manifests, runs
from ddpm.runs.about import About
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker

FakeRun = Callable[..., Run]


def test_nothing_is_said_of_a_run_of_an_earlier_version(fake_run: FakeRun) -> None:
    run = fake_run("old")
    assert run.about() == run.read_about() == About()
    assert (run.title, run.about_problem()) == ("old", "")
    assert not (run.folder / "about.json").exists()


def test_what_is_said_is_read_again(fake_run: FakeRun) -> None:
    run = fake_run()
    saved = (run.folder / "saves" / "000040.json").read_bytes()
    run.describe(
        title=" Кошки *&* 猫 <b>🐈</b>  ![x](http://y) ", add=["cosine", "Seed 3", "#a,b"], notes="one\r\n\ttwo \n"
    )
    run.describe(star=True, add=["COSINE"])
    found = Run(run.folder).about()
    assert found == About("Кошки *&* 猫 <b>🐈</b> ![x](http://y)", ("cosine", "Seed-3", "a-b"), "one\n\ttwo", True)
    assert Run(run.folder).title == found.title
    assert run.describe(remove=["Cosine", "unknown"], title="").tags == ("Seed-3", "a-b")
    assert run.title == "fake"
    assert run.describe(tags=["x", "y"], remove=["y"], star=False, archived=True) == About(
        tags=("x",), notes="one\n\ttwo", archived=True
    )
    # A checkpoint is what it was, and does not list the file.
    assert (run.folder / "saves" / "000040.json").read_bytes() == saved
    assert all(about.NAME not in checkpoint.files for checkpoint in run.checkpoints())


def test_characters_that_cannot_be_shown_are_left_out(fake_run: FakeRun) -> None:
    run = fake_run()
    run.describe(
        title="a\x00\x1b[31mb\u202ec\u2066d\ud800e\x85f\u2028g", notes="a\u2029b\x07\nc", add=["\u200b", "t\x7fu"]
    )
    assert run.about() == About("a[31mbcd?e f g", ("tu",), "a\nb\nc")
    run.describe(title="\u200b\u0301\x00")
    assert run.title == "fake"


@pytest.mark.parametrize(
    ("what", "size"),
    [("title", about.MOST_TITLE), ("notes", about.MOST_NOTES)],
)
def test_what_is_too_long_is_refused(fake_run: FakeRun, what: str, size: int) -> None:
    run = fake_run()
    run.describe(**{what: "猫" * size})
    assert len(getattr(Run(run.folder).read_about(), what)) == size
    with raises_error("bad-value", f"{size + 1:,}", f"{size:,}"):
        run.describe(**{what: "猫" * (size + 1)})
    with raises_error("bad-value", about.MOST_TAG):
        run.describe(add=["a" * (about.MOST_TAG + 1)])
    with raises_error("bad-value", about.MOST_TAGS):
        run.describe(add=[f"tag{k}" for k in range(about.MOST_TAGS + 1)])
    assert len(getattr(run.about(), what)) == size


HOSTILE = {
    "no JSON": b"{",
    "not UTF-8": b'{"title": "\xff"}',
    "a list": b"[]",
    "a number": b'{"title": 7}',
    "an unknown type": b'{"star": "yes"}',
    "a group": b'{"tags": {"a": 1}}',
    "too long": json.dumps({"title": "x" * 201}).encode(),
    "too many": json.dumps({"tags": ["x"] * 51}).encode(),
    "a long tag": json.dumps({"tags": ["x" * 51]}).encode(),
    "endless notes": json.dumps({"notes": "x" * 20_001}).encode(),
    "too deep": b'{"tags": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "twice": b'{"title": "a", "title": "b"}',
    "NaN": b'{"format": NaN}',
    "large": b'{"title": "' + b" " * 2**19 + b'"}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_file_is_said_in_a_sentence_and_the_run_is_shown_by_its_folder(fake_run: FakeRun, name: str) -> None:
    run = fake_run()
    (run.folder / "about.json").write_bytes(HOSTILE[name])
    assert run.title == "fake"
    assert run.about() == About()
    assert "about.json" in run.about_problem()
    assert run.problem() == ""  # it is a run like any other
    assert run.checkpoints()[-1].step == 40
    if name != "large":  # written anew; what is too large to be looked at stays
        assert run.describe(title="again").title == "again"
        assert run.about_problem() == ""
    else:
        with raises_error("too-large"):
            run.describe(title="again")


def test_what_is_no_file_is_not_read_or_replaced(fake_run: FakeRun, tmp_path: Path) -> None:
    run = fake_run()
    path = run.folder / "about.json"
    secret = tmp_path / "secret.json"
    secret.write_text('{"title": "secret"}')
    for make in (lambda: path.symlink_to(secret), path.mkdir, lambda: os.mkfifo(path)):
        make()
        assert run.title == "fake"
        assert "about.json" in run.about_problem()
        with raises_error("not-a-file"):
            run.describe(title="x")
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert secret.read_text() == '{"title": "secret"}'


def test_what_a_newer_version_wrote_is_left_alone(fake_run: FakeRun) -> None:
    run = fake_run()
    text = '{"format": 2, "title": {"en": "x"}}'
    (run.folder / "about.json").write_text(text)
    with raises_error("newer-format", 2):
        run.read_about()
    with raises_error("newer-format"):
        run.describe(title="x")
    assert (run.folder / "about.json").read_text() == text


def test_by_hand_with_characters_of_a_stranger(fake_run: FakeRun) -> None:
    run = fake_run()
    (run.folder / "about.json").write_text('{"title": "a\\u202e\\ud800\\u0007b", "tags": ["x y", "X-Y", ""], "new": 1}')
    assert run.read_about() == About("a?b", ("x-y",))


def test_said_while_it_trains(fake_run: FakeRun) -> None:
    run = fake_run()
    with Worker(run.folder) as worker:
        worker.beat(state="running", now=True)
        threads = [threading.Thread(target=run.describe, kwargs={"add": [f"tag{k}"]}) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert run.state() == "running"
        assert worker.poll_requests() == set()
    assert set(run.about().tags) == {f"tag{k}" for k in range(8)}


def test_of_a_run_that_was_deleted(fake_run: FakeRun) -> None:
    run = fake_run()
    run.folder.rename(run.folder.with_name("elsewhere"))
    with raises_error("not-found"):
        run.describe(title="x")
    assert not run.folder.exists()
    assert [found.name for found in runs.list_runs(run.folder.parent)] == ["elsewhere"]
    assert manifests.read_all(Run(run.folder.with_name("elsewhere")).content).wrong == {}
