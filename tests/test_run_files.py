"""What is done with whole runs: rename, copy, bin and back, clean-up, more steps.  No torch."""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from raising import raises_error
from waiting import until_finished

from ddpm.config import codec
from ddpm.runs import about, cleanup, copying, extending, launch, progress_log, renaming, runs, trash
from ddpm.runs.jobs import Job
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Stopped, Worker
from ddpm.storage import files, folders

FakeRun = Callable[..., Run]


def content(folder: Path) -> dict[str, tuple[str, int]]:
    """Checksum and time of every file below a folder, by its path there."""
    return {
        path.relative_to(folder).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def samples_of(run: Run, name: str = "20260102-030405", state: str = "finished") -> SampleJob:
    """Samples as they are left by a process that has ended, or is about to start."""
    job = SampleJob(run.folder / "samples" / name)
    files.write_json(job.folder / "status.json", {"state": state, "updated_at": time.time(), "pid": 0})
    files.write_bytes(job.folder / "images" / "00000.png", b"image")
    return job


def beginning_from(fake_run: FakeRun, path: Path, state: str = "queued") -> Run:
    """A training that is about to begin from a file, and has saved nothing."""
    run = fake_run("later", steps=4, save_every=5, state=state, resume_checkpoint=str(path.absolute()))
    (run.folder / "progress.csv").unlink()
    return run


# --- while somebody works there


def test_nothing_is_done_to_a_run_in_which_a_process_works(fake_run: FakeRun) -> None:
    run = fake_run()
    job = samples_of(run)
    actions: list[Callable[[], object]] = [
        lambda: renaming.rename_run(run, "other"),
        lambda: trash.trash_run(run),
        lambda: copying.copy_run(run),
        lambda: extending.extend(run, 100),
    ]
    for folder in (run.folder, job.folder):
        with Worker(folder) as worker:
            worker.beat(state="running", now=True)
            before = content(run.folder)
            for action in actions:
                with raises_error("still-running"):
                    action()
            assert {k: v for k, v in content(run.folder).items() if "lease" not in k and "status" not in k} == {
                k: v for k, v in before.items() if "lease" not in k and "status" not in k
            }
            worker.beat(state="finished", now=True)
    assert renaming.rename_run(run, "other").state() == "finished"


def test_nor_while_another_training_is_about_to_begin_from_it(fake_run: FakeRun) -> None:
    run = fake_run(keep_checkpoints=0)
    later = beginning_from(fake_run, run.checkpoints()[0].path("model"))
    assert later.state() == "starting"
    with raises_error("still-running", "later"):
        trash.trash_run(run)
    with raises_error("still-running", "later"):
        renaming.rename_run(run, "other")
    plan = cleanup.clean(run)
    assert [c.step for c in plan.remove] == []
    assert list(plan.why) == [20]
    assert [c.step for c in run.checkpoints()] == [20, 40]
    files.write_json(later.folder / "status.json", {"state": "failed"})
    assert [c.step for c in cleanup.clean(run).remove] == [20]


# --- names


def test_rename(fake_run: FakeRun) -> None:
    run, other = fake_run("one"), fake_run("two")
    before = content(run.folder)
    with raises_error("already-exists"):
        renaming.rename_run(run, "two")
    for name in ("", "../x", "a/b", ".x", "con"):
        with raises_error("bad-name"):
            renaming.rename_run(run, name)
    assert renaming.rename_run(run, "one") == run
    moved = renaming.rename_run(run, "Three")
    assert (moved.name, content(moved.folder)) == ("Three", before)
    assert not run.folder.exists()
    with raises_error("not-found"):
        renaming.rename_run(run, "four")
    assert {found.name for found in runs.list_runs(other.folder.parent)} == {"Three", "two"}


def test_the_longest_name_of_a_folder(fake_run: FakeRun) -> None:
    name = "n" * 255
    first = trash.trash_run(fake_run(name))
    second = trash.trash_run(fake_run(name))
    assert (first.name, second.name) == (name, "n" * 253 + "-2")
    assert trash.restore(second).name == name
    assert renaming.rename_run(runs.find_run(first.parent.parent, name), "short").name == "short"


# --- copies


def test_a_copy_of_all(fake_run: FakeRun) -> None:
    run = fake_run()
    run.describe(title="Мой", add=["a"], star=True, archived=True)
    samples_of(run)
    files.write_bytes(run.folder / "run.lock", b"")
    before = content(run.folder)
    copy = copying.copy_run(run)
    assert copy.name == "fake-copy"
    assert content(run.folder) == before
    own = {"status.json", "about.json", "run.lock"}
    there = {name: sha for name, (sha, _) in content(copy.folder).items() if name not in own | {".ballast"}}
    assert there == {name: sha for name, (sha, _) in before.items() if name not in own | {".ballast"}}
    assert copy.about() == about.About("Мой (copy)", ("a",))
    assert (copy.state(), copy.status().step if copy.status() else 0) == ("finished", 40)  # type: ignore[union-attr]
    assert [job.name for job in copy.sample_jobs()] == ["20260102-030405"]
    assert copying.copy_run(run).name == "fake-copy-2"
    with raises_error("already-exists"):
        copying.copy_run(run, "fake")
    with raises_error("bad-name"):
        copying.copy_run(run, "a/b")


def test_a_copy_tells_how_far_it_is_and_may_be_given_up(fake_run: FakeRun) -> None:
    run = fake_run()
    seen: list[tuple[int, int]] = []
    copying.copy_run(run, "one", progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {copying.size(run)}
    assert seen == sorted(seen)
    assert seen[-1][0] == copying.size(run)

    def give_up(done: int, total: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        copying.copy_run(run, "two", progress=give_up)
    assert sorted(path.name for path in run.folder.parent.iterdir() if path.is_dir()) == ["fake", "one"]


def test_a_copy_in_a_process_of_its_own(fake_run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    run = fake_run()
    job = launch.start_copying(run, "new")
    with raises_error("still-running"):
        launch.start_copying(run, "another")
    until_finished(job)
    status = job.status()
    assert status is not None
    assert (status.step, status.total_steps) == (1, 1)  # megabytes
    assert [c.step for c in Run(run.folder.with_name("new")).checkpoints()] == [20, 40]


def test_a_copy_as_it_was_at_a_checkpoint(fake_run: FakeRun) -> None:
    run = fake_run()
    samples_of(run)
    files.write_bytes(run.folder / "analytic_model000020.json", b"{}")
    copy = copying.copy_run(run, "branch", step=20)
    assert [c.step for c in copy.checkpoints()] == [20]
    assert copy.checkpoints()[0]._replace(folder=run.folder) == run.checkpoint(20)
    assert list(copy.metrics["step"]) == list(range(1, 21))
    assert copy.progress_path.read_bytes() == run.progress_path.read_bytes()[: run.checkpoint(20).log_bytes]
    assert [step for step, _ in copy.previews()] == [20]
    assert (copy.folder / "analytic_model000020.json").exists()
    assert copy.sample_jobs() == []
    status = copy.status()
    assert status is not None
    assert (copy.state(), status.step, status.saved, status.total_steps) == ("stopped", 20, 20, 40)
    assert status.metrics["loss"] == pytest.approx(20**-0.5, rel=1e-5)
    assert copying.copy_run(run, step=40).name == "fake-40"
    assert copying.size(run, 20) < copying.size(run)
    with raises_error("unknown-step", 21):
        copying.copy_run(run, step=21)


def test_a_copy_of_a_run_that_trains(fake_run: FakeRun) -> None:
    run = fake_run()
    with Worker(run.folder) as worker:
        worker.beat(state="running", now=True)
        assert copying.copy_run(run, step=20).state() == "stopped"
        worker.beat(state="finished", now=True)


def test_of_a_copy_that_fails_nothing_is_left(fake_run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run()
    (run.folder / "opt000020.pt").write_bytes(b"opt000020.pT")
    with raises_error("damaged-checkpoint"):
        copying.copy_run(run, step=20)
    monkeypatch.setattr(files, "free_bytes", lambda folder: 10)
    with raises_error("disk-full"):
        copying.copy_run(run, step=40)
    assert [path.name for path in run.folder.parent.iterdir() if not path.name.startswith(".lock")] == ["fake"]


def test_links_are_not_copied(fake_run: FakeRun, tmp_path: Path) -> None:
    run = fake_run()
    (tmp_path / "secret").write_bytes(b"secret")
    (run.folder / "notes.txt").symlink_to(tmp_path / "secret")
    (run.folder / "more").symlink_to(tmp_path)
    copy = copying.copy_run(run)
    assert not os.path.lexists(copy.folder / "notes.txt")
    assert not os.path.lexists(copy.folder / "more")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_folder_of_another_program_that_was_opened_in_place(fake_run: FakeRun, tmp_path: Path) -> None:
    run = fake_run()
    for path in (run.folder / "saves").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"theirs": True}))
    run.folder.rename(tmp_path / "theirs")
    run.folder.symlink_to(tmp_path / "theirs", target_is_directory=True)
    before = content(tmp_path / "theirs")
    assert [c.step for c in run.checkpoints()] == [20, 40]
    copy = copying.copy_run(run, step=20)
    assert (copy.folder.is_symlink(), [c.step for c in copy.checkpoints()]) == (False, [20])
    assert cleanup.clean(run).why == {20: "another program wrote it"}
    trashed = trash.trash_run(renaming.rename_run(run, "other"))
    assert trashed.is_symlink()
    assert trash.entries(run.folder.parent)[0].bytes == 0
    back = trash.restore(trashed)
    assert (back.name, back.is_symlink()) == ("other", True)
    trash.trash_run(Run(back))
    trash.empty(run.folder.parent)
    assert content(tmp_path / "theirs") == before


# --- the bin


def test_a_run_comes_back_to_the_byte(fake_run: FakeRun) -> None:
    run = fake_run()
    run.describe(title="猫")
    samples_of(run)
    before, stats = content(run.folder), run.folder.stat()
    runs_dir = run.folder.parent
    trashed = trash.trash_run(run)
    (entry,) = trash.entries(runs_dir)
    assert (entry.folder, entry.label) == (trashed, "fake")
    assert entry.origin is not None
    assert abs(entry.origin.deleted_at - time.time()) < 60
    assert entry.bytes == sum((trashed / name).stat().st_size for name in before)
    fake_run("fake")
    with raises_error("already-exists"):
        trash.restore(trashed)
    assert content(trashed) == before
    back = trash.restore(trashed, "again")
    assert (back.name, content(back)) == ("again", before)
    assert (back.stat().st_ino, back.stat().st_mtime_ns) == (stats.st_ino, stats.st_mtime_ns)
    assert trash.entries(runs_dir) == []
    with raises_error("not-found"):
        trash.restore(trashed)


def test_samples_come_back_to_their_run(fake_run: FakeRun) -> None:
    run = fake_run()
    job = samples_of(run)
    before, runs_dir = content(job.folder), run.folder.parent
    trashed = trash.trash_samples(job)
    assert trash.entries(runs_dir)[0].label == "fake/samples/20260102-030405"
    with raises_error("not-applicable"):
        trash.restore(trashed, "other")
    gone = trash.trash_run(run)
    with raises_error("not-found", "fake"):
        trash.restore(trashed)
    assert [entry.name for entry in trash.entries(runs_dir)] == [gone.name, trashed.name]
    trash.restore(trash.find(runs_dir, "fake").folder)
    assert content(trash.restore(trashed)) == before


def test_a_bin_of_an_earlier_version(fake_run: FakeRun) -> None:
    run = fake_run("a-samples-20260102-030405")  # a run's name may look like that
    sampled = samples_of(fake_run("b"))
    runs_dir = run.folder.parent
    trash.trash_run(run)
    trash.trash_samples(sampled)
    (runs_dir / ".trash" / ".index.json").write_text('{"entries": {"x": {"run": "../../x"}}}')
    (runs_dir / ".trash" / "other").mkdir()
    labels = {entry.name: entry.label for entry in trash.entries(runs_dir)}
    assert labels == {
        run.name: run.name,
        "b-samples-20260102-030405": "b/samples/20260102-030405",
        "other": "other",
    }
    with raises_error("not-applicable"):
        trash.restore(runs_dir / ".trash" / "other")
    assert trash.restore(runs_dir / ".trash" / "b-samples-20260102-030405") == sampled.folder
    assert trash.restore(trash.find(runs_dir, run.name).folder) == run.folder


@pytest.mark.parametrize("origin", [{"run": "../evil"}, {"run": "a/b"}, {"run": ".x"}, {"run": "b", "samples": "../c"}])
def test_a_bin_that_would_lead_elsewhere(fake_run: FakeRun, origin: dict[str, str]) -> None:
    runs_dir = fake_run("b").folder.parent
    trashed = trash.trash_run(fake_run("a"))
    (runs_dir / ".trash" / ".index.json").write_text(json.dumps({"entries": {"a": origin}}))
    assert trash.restore(trashed) == runs_dir / "a"


def test_emptying_the_bin(fake_run: FakeRun, tmp_path: Path) -> None:
    run = fake_run("a")
    runs_dir = run.folder.parent
    assert trash.empty(runs_dir) == 0
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"stays")
    (run.folder / "link").symlink_to(tmp_path / "outside")
    size = folders.size(run.folder)
    trash.trash_run(run)
    trash.trash_run(fake_run("b"))
    (runs_dir / ".trash" / "linked").symlink_to(tmp_path / "outside")
    assert trash.empty(runs_dir, ["a"]) == size
    assert {entry.name for entry in trash.entries(runs_dir)} == {"b", "linked"}
    assert trash.empty(runs_dir) > size / 2
    assert trash.entries(runs_dir) == []
    assert (tmp_path / "outside" / "file").read_bytes() == b"stays"


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_bin_that_is_a_link_is_none(fake_run: FakeRun, tmp_path: Path) -> None:
    run = fake_run("a")
    runs_dir = run.folder.parent
    (tmp_path / "home" / "documents").mkdir(parents=True)
    (tmp_path / "home" / "documents" / "file").write_bytes(b"stays")
    (runs_dir / ".trash").symlink_to(tmp_path / "home")
    assert trash.entries(runs_dir) == []
    with raises_error("not-a-folder"):
        trash.empty(runs_dir)
    with raises_error("not-a-folder"):
        trash.trash_run(run)
    assert (tmp_path / "home" / "documents" / "file").read_bytes() == b"stays"
    assert run.folder.exists()


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_samples_do_not_go_back_through_a_link(fake_run: FakeRun, tmp_path: Path) -> None:
    run = fake_run("a")
    trashed = trash.trash_samples(samples_of(run))
    (run.folder / "samples").rename(tmp_path / "elsewhere")
    (run.folder / "samples").symlink_to(tmp_path / "elsewhere")
    with raises_error("not-a-folder"):
        trash.restore(trashed)
    assert trashed.is_dir()


# --- clean-up


def test_a_clean_up_says_beforehand_what_it_frees(fake_run: FakeRun) -> None:
    run = fake_run(steps=100)
    files.write_bytes(run.folder / "analytic_model000020.json", b"12345")
    plan = cleanup.plan(run, keep=2)
    assert ([c.step for c in plan.remove], [c.step for c in plan.keep]) == ([20, 40, 60], [80, 100])
    assert len(run.checkpoints()) == 5
    before = folders.size(run.folder)
    manifests = sum((run.folder / "saves" / f"{step:06d}.json").stat().st_size for step in (20, 40, 60))
    assert cleanup.clean(run, keep=2).bytes == plan.bytes
    assert before - folders.size(run.folder) == plan.bytes + manifests
    assert [c.step for c in run.checkpoints()] == [80, 100]
    assert not (run.folder / "analytic_model000020.json").exists()
    assert cleanup.plan(run, keep=5)[1:2] == cleanup.plan(run, keep=3)[1:2] == ((),)
    assert cleanup.plan(run, keep=2).bytes == 0


def test_the_newest_whole_checkpoint_stays(fake_run: FakeRun) -> None:
    run = fake_run(steps=80)
    (run.folder / "model000080.pt").write_bytes(b"model000080.pT")  # of the same length
    (run.folder / "opt000060.pt").unlink()
    plan = cleanup.clean(run)
    assert [c.step for c in plan.remove] == [20, 60]
    assert list(plan.why) == [40]
    assert [c.step for c in run.checkpoints()] == [40, 80]


def test_chosen_checkpoints_are_removed(fake_run: FakeRun) -> None:
    run = fake_run(steps=60)
    with raises_error("unknown-step", 30):
        cleanup.plan(run, steps=[30])
    plan = cleanup.clean(run, steps=[20, 60])
    assert [c.step for c in plan.remove] == [20]
    assert list(plan.why) == [60]
    assert [c.step for c in run.checkpoints()] == [40, 60]


def test_a_clean_up_of_a_run_that_trains_or_starts(fake_run: FakeRun) -> None:
    run = fake_run(steps=60)
    with Worker(run.folder) as worker:
        with raises_error("still-running", "starting"):
            cleanup.clean(run)
        worker.beat(state="running", now=True)
        assert [c.step for c in cleanup.clean(run).remove] == [20, 40]
        worker.beat(state="finished", now=True)


# --- more steps


def test_a_finished_run_is_given_more_steps(fake_run: FakeRun) -> None:
    run = fake_run()
    for total in (0, 40):
        with raises_error("nothing-left", 40):
            extending.extend(run, total)
    with raises_error("out-of-range"):
        extending.extend(run, 2 * 10**9)
    extending.extend(run, 100)
    assert codec.differences(fake_run("other").config, Run(run.folder).config) == {"total_steps": (40, 100)}
    assert "--total_steps 80" in fake_run("third").finished_message


def test_an_annealed_learning_rate_goes_on(fake_run: FakeRun) -> None:
    run = fake_run(lr_anneal_steps=40, lr=1e-3)
    assert "5e-4" in extending.note(run.config, 40, 80)
    assert extending.note(fake_run("constant").config, 40, 80) == ""
    extending.extend(run, 80)
    train = Run(run.folder).config.train
    assert (train.total_steps, train.lr_anneal_steps) == (80, 80)


def test_a_run_with_only_an_average_is_begun_from_anew(fake_run: FakeRun) -> None:
    run = fake_run()
    path = run.folder / "saves" / "000040.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {"ema_0.9_000040.pt": manifest["files"]["ema_0.9_000040.pt"]}
    path.write_text(json.dumps(manifest))
    with raises_error("not-applicable", "ema_0.9_000040.pt"):
        extending.extend(run, 100)


def test_the_log_of_a_copy_can_be_gone_on_with(fake_run: FakeRun) -> None:
    copy = copying.copy_run(fake_run(), step=20)
    assert progress_log.row_before(copy.progress_path)["step"] == 20
    assert Job(copy.folder).requests() == {}
