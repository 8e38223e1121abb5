"""Hostile run folders: what lies in them shows one error, hangs nothing, and reaches nothing outside of them.

A part of them; `make faults PARTS=folders` tries them all.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import app_page
import pytest
from faults import hostile_folders, promise_folders
from faults.hostile_folders import STEP, Case
from raising import raises_error

from ddpm.cli import main
from ddpm.errors import UserError
from ddpm.runs import launch, runs
from ddpm.runs.log_file import LogFile
from ddpm.runs.progress_log import MetricWriter
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import files, paths, strict_json, untrusted
from ddpm.storage.untrusted import Folder
from pages.ui.frame import run_store

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has other links, and no named pipes")

CASES = {case.name: case for case in hostile_folders.cases()}
ALONE = (
    "config.json-lineqr",
    "config.json-fifo",
    "status.json-deep",
    "status.json-step-list",
    "saves-N.json-up",
    "saves-link",
    "progress.csv-link",
    "log.txt-link",
    "run.lock-fifo",
    "samples-N.png-device",
    "run-link",
    "about.json-tags-many",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_folders.healthy(tmp_path_factory.mktemp("base")).folder


def test_there_are_many() -> None:
    assert len(CASES) == len(list(hostile_folders.cases())) >= 300


@pytest.mark.parametrize("name", ALONE)
def test_some_of_them(name: str, base: Path, tmp_path: Path) -> None:
    assert promise_folders.play(CASES[name], base, tmp_path / "one") == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in ALONE][::5])
def test_more_of_them(name: str, base: Path, tmp_path: Path) -> None:
    assert promise_folders.play(CASES[name], base, tmp_path / "one") == ""


# --- pages


@pytest.fixture
def many(base: Path, runs_dir: Path, tmp_path: Path, runs_here: None) -> Iterator[list[Case]]:
    """All cases side by side, beside a healthy run."""
    other = hostile_folders.outside(tmp_path / "outside")
    for case in CASES.values():
        hostile_folders.build(runs_dir, base, case, other)
    hostile_folders.healthy(runs_dir)
    before = hostile_folders.snapshot(other)
    yield list(CASES.values())
    assert hostile_folders.snapshot(other) == before


@pytest.mark.slow
def test_home_with_all_of_them(many: list[Case], runs_dir: Path) -> None:
    """The page itself reads none of them; the table that it shows asks for their rows."""
    at = promise_folders.timed(lambda: app_page.open_page("home.py"))
    assert not at.exception
    index = run_store.store(runs_dir).index
    rows = {row["name"]: row for row in promise_folders.timed(index.rows, seconds=120)}
    assert "healthy" in rows
    missing = [case.name for case in many if hostile_folders.expected_in_list(case) and case.name not in rows]
    assert missing == []
    promise_folders.timed(lambda: [None for _ in iter(index.work, False)], seconds=120)
    assert "a secret" not in app_page.said(at) + json.dumps(index.rows())


@pytest.mark.slow
@pytest.mark.parametrize("page", promise_folders.PAGES)
def test_pages_of_some(page: str, many: list[Case]) -> None:
    shown = [case for case in many if hostile_folders.expected_in_list(case)]
    for case in shown[promise_folders.PAGES.index(page) :: 10]:
        assert promise_folders.page_of(case, page) == "", case.name


@pytest.mark.parametrize("name", ALONE)
def test_monitor_of_some(name: str, base: Path, runs_dir: Path, tmp_path: Path, runs_here: None) -> None:
    other = hostile_folders.outside(tmp_path / "outside")
    hostile_folders.build(runs_dir, base, CASES[name], other)
    hostile_folders.healthy(runs_dir)
    run = name if hostile_folders.expected_in_list(CASES[name]) else "healthy"
    at = promise_folders.timed(lambda: app_page.open_page("pages/monitor.py", run=run), seconds=60)
    assert not at.exception
    assert "a secret" not in app_page.said(at)


# --- the door


@pytest.fixture(params=[True, False], ids=["handles", "no handles"])
def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With handles of folders and without, as on Windows."""
    monkeypatch.setattr(untrusted, "HANDLES", request.param and untrusted.HANDLES)
    if not request.param:
        monkeypatch.setattr(untrusted, "_NO_LINK", 0)


def make(path: Path, kind: str, target: Path) -> None:
    match kind:
        case "link":
            path.symlink_to(target)
        case "device":
            path.symlink_to("/dev/zero")
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize("kind", ["link", "device", "fifo", "folder"])
def test_only_regular_files_are_opened_and_removed(kind: str, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"kept")
    (tmp_path / "run").mkdir()
    folder = Folder(tmp_path / "run")
    make(tmp_path / "run" / "x", kind, tmp_path / "target")
    for action in (folder.open_file, folder.stat, folder.remove, folder.exists):
        with raises_error("not-a-file"):
            action("x")
    if kind != "folder":
        with raises_error("not-a-file"):
            folder.append("x")
    assert folder.files() == []
    assert os.path.lexists(tmp_path / "run" / "x")
    assert (tmp_path / "target").read_bytes() == b"kept"


@pytest.mark.usefixtures("door")
def test_a_dangling_link_makes_no_file(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(tmp_path / "made")
    for append in (Folder(tmp_path).append, lambda name: files.appending(tmp_path / name)):
        with raises_error("not-a-file"):
            append("x")
    assert not (tmp_path / "made").exists()


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../x", "a\\b", "a\nb", "x" * 300])
def test_a_name_is_one_part(name: str, tmp_path: Path) -> None:
    for action in (Folder(tmp_path).open_file, Folder(tmp_path).remove, Folder(tmp_path).append):
        with raises_error("bad-name"):
            action(name)


@pytest.mark.usefixtures("door")
def test_folders_are_no_links(tmp_path: Path) -> None:
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "real" / "inner" / "x").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "link").symlink_to(tmp_path / "real" / "inner")
    assert Folder(tmp_path / "real", "inner").read("x", 9) == b"1"
    for folder in (Folder(tmp_path / "link", "inner"), Folder(tmp_path / "real", "link")):
        for action in (folder.files, folder.folders, folder.make, lambda folder=folder: folder.read("x", 9)):
            with raises_error("not-a-folder"):
                action()  # type: ignore[operator]
    assert Folder(tmp_path / "link" / "inner").read("x", 9) == b"1", "the user named the folders above"


@pytest.mark.usefixtures("door")
def test_too_much_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert Folder(tmp_path).read("x", 5) == b"12345"
    with raises_error("too-large"):
        Folder(tmp_path).read("x", 4)


@pytest.mark.usefixtures("door")
def test_folders_are_made_and_files_appended_to(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run", "a", "b").make()
    for _ in range(2):
        with folder.append("x") as file:
            file.write(b"1")
    assert (tmp_path / "run" / "a" / "b" / "x").read_bytes() == b"11"
    assert (folder.files(), Folder(tmp_path / "run").folders()) == (["x"], ["a"])
    folder.remove("x")
    folder.remove("x")
    assert folder.files() == []


def test_runs_may_lie_behind_a_link(base: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    hostile_folders.healthy(tmp_path / "real")
    (tmp_path / "runs").symlink_to(tmp_path / "real")
    run = runs.find_run(tmp_path / "runs", "healthy")
    assert [c.step for c in run.checkpoints()] == [STEP]
    assert run.problem() == ""


@pytest.mark.parametrize("writer", [LogFile, MetricWriter])
def test_nothing_is_written_through_a_link(writer: Any, base: Path, tmp_path: Path) -> None:
    """A log.txt that links to a shell's start file would have that run what is logged."""
    (tmp_path / "profile").write_text("# mine\n")
    for name in ("log.txt", "progress.csv"):
        (tmp_path / name).symlink_to(tmp_path / "profile")
        with raises_error("not-a-file"):
            writer(tmp_path / name)
    assert (tmp_path / "profile").read_text() == "# mine\n"


def test_a_process_is_not_started_with_a_linked_log(base: Path, tmp_path: Path, runs_dir: Path) -> None:
    run = hostile_folders.healthy(runs_dir)
    run.log_path.unlink()
    run.log_path.symlink_to(tmp_path / "profile")
    with raises_error("not-a-file"):
        launch.start_training(run)
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("name", ["saves", "samples", "tb", ""])
def test_no_process_works_where_a_folder_is_a_link(name: str, runs_dir: Path, tmp_path: Path) -> None:
    run = hostile_folders.healthy(runs_dir)
    path = run.folder / name
    if path.exists():
        path.rename(tmp_path / "real")
    else:
        (tmp_path / "real").mkdir()
    path.symlink_to(tmp_path / "real")
    before = hostile_folders.snapshot(tmp_path / "real")
    with raises_error("not-a-folder"), Worker(run.folder):
        pass
    assert hostile_folders.snapshot(tmp_path / "real") == before


# --- JSON


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b"[" * 40 + b"]" * 40,
        b'{"a": 1, "a": 2}',
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"1" + b"0" * 30,
        b"1" + b"0" * 5000,
        b"\xff\xfe\xfa",
        b'"\xff"',
        b"",
        b"{",
    ],
)
def test_what_is_not_strictly_json(text: bytes) -> None:
    with pytest.raises(strict_json.Invalid):
        strict_json.parse(text)


def test_what_is_json() -> None:
    value = {"a": [1, -2.5, None, True, "\u00e4\U0001f600"], "b": {"c": {}}, "n": 2**64 - 1}
    for coding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert strict_json.parse(json.dumps(value).encode(coding)) == value


# --- processes


def test_a_process_takes_no_module_from_where_it_is_started(
    base: Path, runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    (here / "ddpm").mkdir(parents=True)
    (here / "ddpm" / "__init__.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    (here / "json.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", "")
    started = []

    def popen(words: list[str], **settings: Any) -> Any:
        started.append((words, settings))
        raise OSError(0, "not now")

    monkeypatch.setattr(subprocess, "Popen", popen)
    run = hostile_folders.healthy(runs_dir)
    with raises_error("process-failed"):
        launch.start_training(run)
    ((words, settings),) = started
    assert words[:4] == [sys.executable, "-P", "-m", "ddpm"]
    monkeypatch.undo()
    done = subprocess.run(
        [*words[:4], "runs", "--runs_dir", str(runs_dir)], cwd=settings["cwd"], env=settings["env"], capture_output=True
    )
    assert done.returncode == 0
    assert b"healthy" in done.stdout
    assert not (tmp_path / "run").exists()


# --- folders of the system


def test_a_temporary_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = paths.user_temp_folder("x")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert paths.user_temp_folder("x").stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with raises_error("no-folder"):
        paths.user_temp_folder("x")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_a_temporary_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths.tempfile, "gettempdir", lambda: str(tmp_path))
    os.chown(paths.user_temp_folder("x"), 54321, 54321)
    with raises_error("no-folder"):
        paths.user_temp_folder("x")


def test_kernels_come_only_from_a_private_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ddpm.models.native import build

    folder = tmp_path / "a" / "kernels"
    folder.mkdir(parents=True)
    monkeypatch.setenv("DDPM_KERNEL_CACHE", str(folder))
    with build._folder() as place:
        assert place == folder
    for bad in (folder, folder.parent):
        bad.chmod(0o777)
        with build._folder() as place:
            assert place not in (folder, *folder.parents)
        assert not paths.is_private(folder)
        bad.chmod(0o755)
    folder.parent.chmod(0o1777)  # as /tmp is: others make their own there, and cannot replace ours
    assert paths.is_private(folder)
    (folder / "x.so").write_bytes(b"")
    assert paths.is_own_file(folder / "x.so")
    (folder / "x.so").chmod(0o777)
    (folder / "y.so").symlink_to(folder / "x.so")
    assert not paths.is_own_file(folder / "x.so")
    assert not paths.is_own_file(folder / "y.so")


def test_the_shell_says_what_is_wrong(base: Path, runs_dir: Path, tmp_path: Path, capsys: Any) -> None:
    run = hostile_folders.build(runs_dir, base, CASES["config.json-lineqr"], tmp_path)
    with raises_error("bad-value", "lineqr"):
        _ = Run(run.folder).config
    with pytest.raises(UserError):
        run.check_files()
    assert main.main(["runs", "--runs_dir", str(runs_dir)]) == 0
    assert "lineqr" in capsys.readouterr().err
