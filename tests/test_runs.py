"""Runs on disk: names, making them, their checkpoints, their order, the bin."""

import dataclasses
import os
import shlex
import shutil
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from raising import raises_error
from waiting import PATIENCE, until, until_it_beats

from ddpm.cli import main
from ddpm.config import codec
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.runs import in_use, queue, renaming, run_names, runs, trash
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Stopped, Worker
from ddpm.storage import files, leases

FakeRun = Callable[..., Run]


# --- names


@pytest.mark.parametrize("name", ["a", "run-1", "0", "A.b_c-d", "x" * 255, "console", "com10"])
def test_good_names(name: str) -> None:
    run_names.check_name(name)


BAD_NAMES = [
    "",
    ".",
    "..",
    "a/b",
    "../a",
    "/tmp/a",
    "a\\b",
    "a b",
    ".hidden",
    "-rf",
    "x" * 256,
    "ä",
    "a\n",
    "a.",
    "a:b",
    "con",
    "NUL",
    "com1",
    "lpt9.txt",
    "a\x00",
    "~",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(name: str, runs_dir: Path, tiny: Config) -> None:
    with raises_error("bad-name", 255):
        runs.create_run(runs_dir, name, tiny)
    with pytest.raises(UserError) as found:
        runs.find_run(runs_dir, name)
    assert found.value.code in ("unknown-run", "bad-name")
    assert list(runs_dir.iterdir()) == []


RENAMED = ["mein Lauf (2)", "猫 run", "прогон №3", "a'b", "x" * 200, "*_[$`", "-rf", "CON", "a,b;c&d", "end."]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", RENAMED)
def test_a_folder_that_was_renamed_by_hand_is_a_run(name: str, fake_run: FakeRun) -> None:
    before = fake_run("before")
    config, folder = before.config, before.folder.rename(before.folder.with_name(name))
    run = runs.find_run(folder.parent, name)
    assert (run.folder, run.config, run.checkpoint().step) == (folder, config, 40)
    assert [r.name for r in runs.list_runs(folder.parent)] == [name]
    assert shlex.split(run.shell("sample", "--run", more=["--steps", "5"])) == [
        "ddpm",
        "sample",
        "--run",
        name,
        "--steps",
        "5",
        "--runs_dir",
        str(folder.parent),
    ]
    run_names.check_name(run_names.free_name(folder.parent, f"{name}-again"))
    binned = trash.trash_run(run)
    assert binned.name == name
    assert runs.list_runs(folder.parent) == []


def test_letters_that_systems_write_in_two_ways(fake_run: FakeRun) -> None:
    before = fake_run("before")
    folder = before.folder.rename(before.folder.with_name(unicodedata.normalize("NFD", "Läufe")))
    assert runs.find_run(folder.parent, unicodedata.normalize("NFC", "Läufe")).folder.samefile(folder)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../runs/one", "one/", "./one", "/one", "a\\b", ".hidden", "one\n", "\x00", "x" * 256]
)
def test_a_path_is_no_name(name: str, fake_run: FakeRun) -> None:
    run = fake_run("one")
    shutil.copytree(run.folder, run.folder.parent / ".hidden")
    with raises_error("bad-name"):
        runs.find_run(run.folder.parent, name)


def test_a_folder_that_is_no_run_is_not_to_be_resumed(runs_dir: Path, tiny: Config) -> None:
    (runs_dir / "one").mkdir()
    with raises_error("already-exists"):
        runs.create_run(runs_dir, "one", tiny)


@pytest.mark.parametrize("base", ["shapes", "My run!", "", "***", "con", "a" * 100, "../../etc", "x.", "ä b"])
def test_free_names_are_good_and_free(runs_dir: Path, tiny: Config, base: str) -> None:
    names = []
    for _ in range(3):
        names.append(run_names.free_name(runs_dir, base))
        runs.create_run(runs_dir, names[-1], tiny)
    assert len(set(names)) == 3
    assert names[1] == f"{names[0]}-2"


# --- making them


def test_create_and_find(runs_dir: Path, tiny: Config) -> None:
    run = runs.create_run(runs_dir, "one", tiny)
    assert run == runs.find_run(runs_dir, "one")
    assert run.config == runs.find_run(runs_dir, "one").config == tiny
    assert run.state() == "stopped"
    assert (run.checkpoints(), run.previews(), run.sample_jobs()) == ([], [], [])


def test_a_taken_name(runs_dir: Path, tiny: Config) -> None:
    runs.create_run(runs_dir, "one", tiny)
    before = (runs_dir / "one" / "config.json").read_bytes()
    with raises_error("already-exists"):
        runs.create_run(runs_dir, "one", codec.replace(tiny, dict(seed=1)))
    assert (runs_dir / "one" / "config.json").read_bytes() == before


def test_of_many_at_once_one_gets_the_name(runs_dir: Path, tiny: Config) -> None:
    made = []

    def make() -> None:
        try:
            made.append(runs.create_run(runs_dir, "one", tiny))
        except UserError as error:
            made.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(result, Run) for result in made) == 1
    assert len(made) == 8


def test_create_is_whole_or_nothing(runs_dir: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: object) -> None:
        path.parent.mkdir(parents=True)
        raise files.DiskFull(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", full)
        with raises_error("disk-full"):
            runs.create_run(runs_dir, "one", tiny)
    assert [path.name for path in runs_dir.iterdir()] == [".lock"]
    assert runs.create_run(runs_dir, "one", tiny).config == tiny


def test_a_runs_folder_that_cannot_be(tmp_path: Path, tiny: Config) -> None:
    (tmp_path / "file").write_text("")
    with raises_error("not-writable"):
        runs.create_run(tmp_path / "file", "one", tiny)
    assert runs.list_runs(tmp_path / "nowhere") == []
    with raises_error("unknown-run", "none yet"):
        runs.find_run(tmp_path / "nowhere", "one")


def test_find_says_which_there_are(runs_dir: Path, tiny: Config) -> None:
    runs.create_run(runs_dir, "other", tiny)
    with raises_error("unknown-run", "other"):
        runs.find_run(runs_dir, "one")


def test_newest_first_and_nothing_but_runs(runs_dir: Path, tiny: Config) -> None:
    for number, name in enumerate(["a", "c", "b"]):
        run = runs.create_run(runs_dir, name, tiny)
        os.utime(run.folder / "config.json", (1000 + number, 1000 + number))
    (runs_dir / "stray").mkdir()
    (runs_dir / "file").write_text("")
    assert [run.name for run in runs.list_runs(runs_dir)] == ["b", "c", "a"]


def test_a_config_that_is_not_one(runs_dir: Path) -> None:
    cases: list[tuple[str, tuple[Any, ...]]] = [
        ("{", ("damaged-json", "config.json")),
        ("[]", ("newer-format", "list")),
        ('{"format": 99}', ("newer-format", 99)),
    ]
    for content, error in cases:
        folder = runs_dir / "bad"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(content)
        with raises_error(*error):
            _ = Run(folder).config
    (folder / "config.json").unlink()
    with raises_error("not-a-run"):
        _ = Run(folder).config


# --- checkpoints


def test_checkpoints_are_those_with_a_manifest(fake_run: FakeRun) -> None:
    run = fake_run(steps=40, save_every=20)
    (run.folder / "model000030.pt").write_bytes(b"written, not committed")
    (run.folder / "saves" / "000031.json").write_text("{")
    (run.folder / "saves" / "000032.json").write_text('{"step": 32}')
    (run.folder / "saves" / "000033.json").write_text("[1]")
    (run.folder / "saves" / f"{files.TEMPORARY}1-000034.json").write_text("{}")
    assert [c.step for c in run.checkpoints()] == [20, 40]
    newest = run.checkpoint()
    assert newest == run.checkpoint(40)
    assert newest.weights == ["ema_0.9", "ema_0.99", "model"]
    assert newest.path("ema_0.9") == run.folder / "ema_0.9_000040.pt"
    assert newest.path("model") == run.folder / "model000040.pt"
    assert newest.path("opt") == run.folder / "opt000040.pt"
    for name, entry in newest.files.items():
        assert files.sha256(run.folder / name) == entry["sha256"]
    with raises_error("unknown-step", 30, "20, 40"):
        run.checkpoint(30)


def test_no_checkpoint(runs_dir: Path, tiny: Config) -> None:
    run = runs.create_run(runs_dir, "one", tiny)
    with raises_error("no-checkpoint", "ddpm train --resume one"):
        run.checkpoint()
    with Worker(run.folder) as worker:
        worker.beat(state="running", now=True)
        with raises_error("no-checkpoint"):
            run.checkpoint()


def test_steps_of_more_than_six_digits(runs_dir: Path, tiny: Config, save_checkpoint: Callable[..., None]) -> None:
    run = runs.create_run(runs_dir, "one", tiny)
    save_checkpoint(run, 2_000_000, 0)
    save_checkpoint(run, 999_999, 0)
    assert [c.step for c in run.checkpoints()] == [999_999, 2_000_000]
    assert run.checkpoint().weights == ["ema_0.9", "model"]
    assert run.checkpoint().path("ema_0.9").exists()


def test_previews_in_order(fake_run: FakeRun) -> None:
    run = fake_run(steps=40, save_every=10)
    (run.folder / "samples" / "note.png").write_bytes(b"")
    assert [step for step, _ in run.previews()] == [10, 20, 30, 40]


# --- samples


def test_sample_jobs(fake_run: FakeRun) -> None:
    run = fake_run()
    first = run.new_result_folder("samples")
    assert list(first.iterdir()) == []
    files.write_json(first / "status.json", dict(state="finished"))
    second = run.new_result_folder("samples")
    assert second != first
    sample = SampleConfig(num_samples=3, sigma_small=True)
    files.write_json(second / "settings.json", dict(sample=dataclasses.asdict(sample)))
    files.write_json(second / "status.json", dict(state="finished"))
    assert {job.folder for job in run.sample_jobs()} == {first, second}
    job = SampleJob(second)
    assert job.config == sample
    assert SampleJob(first).config == SampleConfig()
    assert (job.npz, job.images) == (None, [])
    files.write_bytes(second / "samples_3x8x8x3.npz", b"")
    assert job.npz == second / "samples_3x8x8x3.npz"


def test_folders_of_the_same_second_are_several(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = [*pool.map(lambda _: runs.timestamped_folder(tmp_path), range(40))]
    assert len({*folders}) == 40
    assert {*folders} == {*tmp_path.iterdir()}


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "samples").write_bytes(b"")
    with raises_error("not-writable"):
        runs.timestamped_folder(tmp_path / "samples")


# --- the bin


def test_trash_can_be_undone(fake_run: FakeRun) -> None:
    run = fake_run("one")
    bin_folder = trash.trash_run(run)
    runs_dir = run.folder.parent
    assert runs.list_runs(runs_dir) == []
    assert Run(bin_folder).checkpoints()[-1].step == 40
    again = fake_run("one")
    assert trash.trash_run(again) != bin_folder
    bin_folder.rename(runs_dir / "one")
    assert [r.name for r in runs.list_runs(runs_dir)] == ["one"]


def test_what_is_at_work_is_not_thrown_away(fake_run: FakeRun) -> None:
    run = fake_run("one")
    with Worker(run.folder) as worker:
        worker.beat(state="running")
        with raises_error("still-running"):
            trash.trash_run(run)
    assert run.folder.exists()


def test_new_settings_do_not_make_it_younger(runs_dir: Path, tiny: Config) -> None:
    run = runs.create_run(runs_dir, "old", tiny)
    os.utime(run.folder / "config.json", (1e9, 1e9))
    run.save_config(codec.replace(tiny, {"total_steps": tiny.train.total_steps + 1}))
    assert Run(run.folder).config.train.total_steps == tiny.train.total_steps + 1
    assert run.created_at == 1e9


def test_settings_are_those_of_now(runs_dir: Path, tiny: Config) -> None:
    """Also where another process replaced them more than once: the time of the file stays, and so may its size."""
    watched = runs.create_run(runs_dir, "old", codec.replace(tiny, {"total_steps": 1000}))
    os.utime(watched.folder / "config.json", (1e9, 1e9))
    found = []
    for total in (2000, 3000, 4000):
        assert watched.config.train.total_steps == total - 1000
        Run(watched.folder).save_config(codec.replace(tiny, {"total_steps": total}))
        found.append(watched.config.train.total_steps)
    assert found == [2000, 3000, 4000]
    kept = Run(watched.folder).with_config()
    Run(watched.folder).save_config(codec.replace(tiny, {"total_steps": 5000}))
    assert kept.config.train.total_steps == 4000, "for a process that trains"
    kept.save_config(codec.replace(tiny, {"total_steps": 6000}))
    assert (kept.config.train.total_steps, watched.config.train.total_steps) == (6000, 6000)


def test_what_was_last_heard_of_before_a_reboot_is_lost_after_a_while(
    runs_dir: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.create_run(runs_dir, "cut", tiny)
    owner = dict(host="here", boot="before", pid=1, start=1.0)
    lease = run.folder / "run.lease" / "000001.json"
    lease.parent.mkdir()
    files.write_json(lease, dict(owner, token="a", beat=1, renewed=1e9, released=False))
    os.utime(lease, (1e9, 1e9))
    files.write_json(run.folder / "status.json", dict(owner, state="running", monotonic=1e9))
    monkeypatch.setattr(leases, "EXPIRY", 2.0)
    assert run.state() == "running", "one look does not tell"
    in_use.check_idle(run, "deleting it")
    assert run.state() == "lost"


# --- taking turns


@pytest.mark.slow
def test_trainings_wait_for_their_turn(runs_dir: Path, tiny: Config) -> None:
    first, second = (runs.create_run(runs_dir, name, tiny) for name in ("first", "second"))
    order = []
    with Worker(first.folder, state="queued") as one:
        queue.wait_in_queue(first, one)
        one.beat(state="running")

        def wait() -> None:
            with Worker(second.folder, state="queued") as two:
                order.append("queued")
                queue.wait_in_queue(second, two)
                order.append("turn")

        waiting = threading.Thread(target=wait)
        waiting.start()
        until(lambda: second.state() == "queued")
        until_it_beats(second)  # it has looked again
        assert second.state() == "queued"
        order.append("first ends")
        one.beat(state="finished")
    waiting.join(PATIENCE)
    assert order == ["queued", "first ends", "turn"]


def test_one_that_waits_can_be_stopped(runs_dir: Path, tiny: Config, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (runs.create_run(runs_dir, name, tiny) for name in ("first", "second"))
    with Worker(first.folder) as one, caplog.at_level("INFO", "ddpm"):
        one.beat(state="running")
        with Worker(second.folder, state="queued") as two:
            second.request("stop")
            with pytest.raises(Stopped):
                queue.wait_in_queue(second, two)
    assert ["first" in record.message for record in caplog.records] == [True], "it says once for whom it waits"


def test_the_bin_is_emptied_of_what_is_named(fake_run: FakeRun, runs_dir: Path) -> None:
    """Two runs of one name lie there under names of their own."""
    kept = [trash.trash_run(fake_run("twice")).name for _ in range(2)]
    assert kept[0] == "twice" != kept[1]
    assert main.main(["runs", "empty", "twice", "--runs_dir", str(runs_dir)]) == 0
    assert [entry.name for entry in trash.entries(runs_dir)] == [kept[1]]
    assert main.main(["runs", "empty", "twice", "--runs_dir", str(runs_dir)]) == 0, "the only one of that run"
    assert trash.entries(runs_dir) == []


def test_a_queue_that_cannot_look_for_long_goes_on_waiting(
    runs_dir: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, tries = runs.create_run(runs_dir, "first", tiny), 0
    guard = queue.guard

    def sometimes(folder: Path) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise UserError("Another process has been changing runs for half a minute.", code="busy")
        return guard(folder)

    monkeypatch.setattr(queue, "guard", sometimes)
    with Worker(run.folder, state="queued") as worker:
        queue.wait_in_queue(run, worker)
        assert (tries, worker.status.state) == (2, "starting")


def test_samples_in_the_bin_go_back_to_a_run_that_was_renamed(fake_run: FakeRun, runs_dir: Path) -> None:
    run = fake_run("a")
    deleted = []
    for name in ("20261101-120000", "20261101-120001"):
        (run.folder / "samples" / name).mkdir(parents=True)
        deleted.append(trash.trash_samples(SampleJob(run.folder / "samples" / name)))
    renamed = renaming.rename_run(run, "b")
    fake_run("a")
    assert trash.restore(deleted[0]) == renamed.folder / "samples" / "20261101-120000"

    in_bin = trash.trash_run(renamed)
    restored = trash.restore(in_bin, "c")
    assert trash.restore(deleted[1]) == restored / "samples" / "20261101-120001"


def test_samples_in_the_bin_stay_with_the_run_that_had_the_name_before(
    fake_run: FakeRun, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(trash.time, "time", lambda: now)
    first = fake_run("a")
    (first.folder / "samples" / "20261101-120000").mkdir(parents=True)
    samples = trash.trash_samples(SampleJob(first.folder / "samples" / "20261101-120000"))
    now += 1
    deleted = trash.trash_run(first)
    now += 1
    second = renaming.rename_run(fake_run("a"), "b")
    now += 1
    third = renaming.rename_run(second, "a")
    also_deleted = trash.trash_run(third)
    trash.restore(also_deleted, "c")
    assert trash.restore(deleted) == first.folder
    assert trash.restore(samples) == first.folder / "samples" / "20261101-120000"


def test_a_rename_is_done_though_the_bin_cannot_be_written(
    fake_run: FakeRun, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise files.DiskFull(runs_dir)

    monkeypatch.setattr(trash, "follow", full)
    assert renaming.rename_run(fake_run("a"), "b").folder.is_dir()
