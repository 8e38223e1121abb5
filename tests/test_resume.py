"""What a run goes on from: the same data wherever it lies now, checkpoints that are whole, and nothing written over."""

import dataclasses
import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from raising import raises_error

from ddpm.checkpoints import checkpoint_files, evaluated_images, loading
from ddpm.cli import main
from ddpm.config import codec, fields
from ddpm.config.tasks import AnalyticConfig, EvalConfig, SampleConfig
from ddpm.config.training import Config
from ddpm.data import datasets, lineage
from ddpm.data.datasets import Digest
from ddpm.runs import manifests, runs
from ddpm.runs.jobs import Status
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import files
from ddpm.training import resume, trainer
from ddpm.training.loop import TrainingLoop

COUNT = 12


def paint(folder: Path, names: list[str], shade: int = 0) -> Path:
    """Images of 8 x 8 pixels, each of a colour of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * k, shade, 0)).save(folder / name)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return paint(tmp_path / "images", [f"{'ab'[k % 2]}_{k:02}.png" for k in range(COUNT)])


Begin = Callable[..., Run]


@pytest.fixture
def begin(runs_dir: Path, tiny: Config, images: Path) -> Begin:
    """A run on the images that was trained for so many steps, with a checkpoint every other one."""

    def make(steps: int = 4, **settings: Any) -> Run:
        wanted = dict(data_dir=str(images), total_steps=8, save_interval=2, class_cond=True, **settings)
        run = runs.create_run(runs_dir, "mine", datasets.resolve(codec.replace(tiny, wanted)))
        train(run, steps)
        return Run(run.folder)

    return make


def train(run: Run, until: int = 8) -> TrainingLoop:
    """Train it on, and stop it after that step."""
    with Worker(run.folder, run.config.train.total_steps) as worker:
        session = TrainingLoop(run, worker)
        for report in session.train():
            if report.step == until - 1:  # it is heard after the next one
                run.request("stop")
    return session


def status_of(run: Run) -> Status:
    found = run.status()
    assert found is not None
    return found


def newest(run: Run) -> Run:
    """The one run that stands beside it."""
    (found,) = (other for other in runs.list_runs(run.folder.parent) if other != run)
    return found


def go_on(run: Run, *flags: str) -> int:
    return main.main(["train", "--resume", run.name, "--runs_dir", str(run.folder.parent), *flags])


def weights(run: Run, step: int = 8) -> dict[str, torch.Tensor]:
    return checkpoint_files.load_weights(run.checkpoint(step).path("model")).tensors


def alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


# --- where the data is


def test_paths_are_kept_from_the_root_of_the_disk(
    runs_dir: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed from a folder in which another one has its name, a run learns the same classes as before."""
    monkeypatch.chdir(images.parent)
    small = shlex.split(
        "--image_size 8 --num_channels 32 --num_res_blocks 1 --channel_mult 1 --attention_resolutions= "
        "--diffusion_steps 20 --noise_schedule cosine --sample_interval 0 --threads 1"
    )
    assert (
        main.main(
            [
                "train",
                "--data_dir",
                "images",
                *small,
                "--total_steps",
                "1",
                "--run",
                "mine",
                "--runs_dir",
                str(runs_dir),
            ]
        )
        == 0
    )
    run = Run(runs_dir / "mine")
    assert run.config.data.data_dir == str(images)
    elsewhere = paint(images.parent / "elsewhere" / "images", ["a_0.png"]).parent
    monkeypatch.chdir(elsewhere)
    run.save_config(codec.replace(run.config, {"total_steps": 2}))
    assert go_on(run) == 0
    assert weights_data(run, 2).count == COUNT


def weights_data(run: Run, step: int = 0) -> Digest:
    found = lineage.from_json(checkpoint_files.load_weights(run.checkpoint(step).path("model")).data)
    assert found is not None
    return found


def test_every_setting_that_is_a_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    sections = (*codec.SECTIONS.values(), SampleConfig, EvalConfig, AnalyticConfig)
    paths = [s for section in sections for s in fields.settings(section) if s.path]
    assert {s.name for s in paths} >= {"data_dir", "resume_checkpoint", "base_samples", "picture", "mask"}
    for s in paths:
        assert s.normalize("a/../b") == s.normalize("~/b") == str(tmp_path / "b"), s.name
        assert s.normalize("") == ""
        for name in s.names:
            assert s.normalize(name) == name
            assert s.normalize(f"./{name}") == str(tmp_path / name)


@pytest.mark.slow
def test_a_place_that_follows_from_where_training_began_is_asked_for(
    begin: Begin, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin()
    run.save_config(codec.replace(run.config, {"data_dir": "images"}))  # as earlier versions kept it
    monkeypatch.chdir(images.parent)
    with Worker(run.folder) as worker:
        TrainingLoop(Run(run.folder), worker)  # these are the images, by their digest
    other = paint(images.parent / "elsewhere" / "images", ["a_0.png", "b_1.png"]).parent
    monkeypatch.chdir(other)
    assert go_on(run) == 2
    assert "--data_dir" in capsys.readouterr().err
    assert go_on(run, "--data_dir", str(images)) == 0
    assert Run(run.folder).config.data.data_dir == str(images)


@pytest.mark.slow
def test_moved_data_goes_on_exactly(begin: Begin, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = begin()
    shutil.copytree(run.folder, run.folder.parent / "straight")
    straight = Run(run.folder.parent / "straight")
    assert go_on(straight) == 0
    moved = images.rename(images.parent / "moved")
    before = status_of(run)
    assert go_on(run) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert str(images) in said
    assert "--data_dir" in said
    after = status_of(run)
    assert (after.state, after.step, after.metrics) == ("failed", 4, before.metrics)
    assert go_on(run, "--data_dir", str(moved), "--enlarge", "True") == 0
    assert Run(run.folder).config.data == dataclasses.replace(straight.config.data, data_dir=str(moved), enlarge=True)
    assert alike(weights(straight), weights(run))
    status = status_of(run)
    assert "was trained" not in status.warning
    assert "as it would have" not in status.warning


def test_a_run_goes_on_with_other_threads(begin: Begin) -> None:
    run = begin()
    for wrong in ("-1", "2000"):
        assert go_on(run, "--threads", wrong) == 2
    assert go_on(run, "--threads", "2") == 0
    assert Run(run.folder).config.train.threads == 2
    status = status_of(run)
    assert (status.state, status.step) == ("finished", 8)
    assert "was changed" not in status.warning
    assert "with 2 threads" in run.log_path.read_text()


def test_other_settings_stay_what_they_were(begin: Begin, capsys: pytest.CaptureFixture[str]) -> None:
    run = begin()
    assert go_on(run, "--enlarge", "True", "--hold_out", "0.5") == 2
    assert "--hold_out was given too" in capsys.readouterr().err


def test_other_classes_are_refused_and_bind_nobody(begin: Begin, images: Path) -> None:
    run = begin()
    other = paint(images.parent / "other", ["a_1.png", "b_2.png", "c_3.png", "c_4.png"])
    assert go_on(run, "--data_dir", str(other)) == 2
    assert Run(run.folder).config.data.data_dir == str(images)


@pytest.mark.slow
def test_data_that_is_not_good_is_not_kept_with_a_run_that_begins_from_a_file(
    begin: Begin, runs_dir: Path, images: Path, tmp_path: Path
) -> None:
    begun = begin()
    wanted = dict(resume_checkpoint=str(begun.folder / "model000004.pt"), num_classes=2)
    run = runs.create_run(runs_dir, "from-file", codec.replace(begun.config, wanted))
    before = (run.folder / "config.json").read_bytes()
    (tmp_path / "empty").mkdir()
    small = paint(tmp_path / "small", ["a_1.png", "b_2.png"])
    Image.new("RGB", (4, 4)).save(small / "a_1.png")
    for wrong in (tmp_path / "empty", small):
        assert go_on(run, "--data_dir", str(wrong)) == 2
        assert (run.folder / "config.json").read_bytes() == before
    moved = images.rename(images.parent / "moved")
    assert go_on(run, "--data_dir", str(moved)) == 0
    assert Run(run.folder).config.data.data_dir == str(moved)
    assert status_of(run).step == 8


# --- what the data is


@pytest.mark.slow
@pytest.mark.parametrize("change", ["content", "count", "classes"])
def test_other_data_is_said(change: str, begin: Begin, images: Path) -> None:
    run = begin()
    match change:
        case "content":
            paint(images, [path.name for path in sorted(images.iterdir())], shade=99)
        case "count":
            paint(images, ["b_99.png"], shade=99)
        case _:
            (images / "a_00.png").rename(images / "b_00.png")
    train(run)
    status = status_of(run)
    assert (status.state, status.step) == ("finished", 8)
    assert "as it would have" in status.warning
    assert ("13 images" in status.warning) == (change == "count")
    assert weights_data(run, 4) != weights_data(run, 8), "each checkpoint tells what it was trained on"
    assert json.loads(json.dumps(lineage.to_json(weights_data(run)))) == lineage.to_json(weights_data(run))


@pytest.mark.parametrize("class_cond", [False, True])
def test_names_of_classes_are_compared_where_they_are_trained(
    class_cond: bool, runs_dir: Path, tiny: Config, tmp_path: Path
) -> None:
    place = paint(tmp_path / "sorted", [f"{'ab'[k // 6]}/{k}.png" for k in range(COUNT)])
    wanted = dict(data_dir=str(place), total_steps=8, class_cond=class_cond)
    run = runs.create_run(runs_dir, "mine", datasets.resolve(codec.replace(tiny, wanted)))
    train(run, 4)
    before = weights_data(run)
    (place / "b").rename(place / "c")
    opened = datasets.open_dataset(run.config.data, run.config.model)
    assert before.same(opened.digest, classes=False)
    assert not before.same(opened.digest)
    earlier = Digest(**{key: value for key, value in vars(before).items() if key != "content"})
    assert not earlier.same(opened.digest, classes=False), "what an earlier version kept is compared whole"
    assert earlier.same(before, classes=False)
    changed = lineage.check(run.config, before, opened, lineage.Remedy("", ""))
    assert (changed == "") == (not class_cond)
    (place / "a" / "0.png").rename(place / "c" / "0.png")
    assert "order" in lineage.check(
        run.config, before, datasets.open_dataset(run.config.data, run.config.model), lineage.Remedy("", "")
    )


@pytest.mark.slow
def test_what_is_held_out_by_content_stays_where_images_are_added(begin: Begin, images: Path) -> None:
    run = begin(hold_out=0.4)
    paint(images, ["a_97.png", "b_98.png", "b_99.png"], shade=50)
    session = train(run)
    assert session.images < COUNT + 3
    assert "15 images" in status_of(run).warning


def test_images_that_were_trained_on_are_never_measured_as_held_out(tmp_path: Path, tiny: Config) -> None:
    """Where the share leaves none, one is held out all the same; without it, it would be one that was trained on."""
    place = paint(tmp_path / "few", ["0.png", "1.png", "2.png"])
    config = codec.replace(tiny, dict(data_dir=str(place), hold_out=0.0001))
    opened = datasets.open_dataset(config.data, config.model)
    test = datasets.open_dataset(config.data, config.model, split="test")
    assert len(test) == 1
    (held,) = (k for k in range(3) if (opened.images[k] == test.take([0])[0]).all())  # type: ignore[arg-type]
    (place / f"{held}.png").unlink()
    remedy = lineage.Remedy("ELSEWHERE", "ANEW")
    for split in ("train", "test"):
        now = datasets.open_dataset(config.data, config.model, split=split)  # type: ignore[arg-type]
        with raises_error("mixed-test-part"):
            lineage.check(config, opened.digest, now, remedy)
    assert "2 images" in lineage.check(config, opened.digest, now, remedy, part="train")


@pytest.mark.slow
def test_what_an_earlier_version_held_out_is_not_measured(begin: Begin, capsys: pytest.CaptureFixture[str]) -> None:
    """It chose by position, and kept nothing of it."""
    run = begin(hold_out=0.4)
    forget(run)
    where = ["--run", run.name, "--runs_dir", str(run.folder.parent), "--num_samples", "1", "--threads", "1"]
    with raises_error("changed-data", "--data_dir"):
        main.execute(["nll", *where])
    assert main.main(["nll", *where, "--split", "train"]) == 0
    assert go_on(run) == 2
    command = capsys.readouterr().err.split("`")[-2]
    assert main.main(shlex.split(command)[1:]) == 0, "a new run from its weights"
    new = newest(run)
    assert "may have been trained on images that are held out now" in status_of(new).warning


@pytest.fixture
def apart(runs_dir: Path, tiny: Config, tmp_path: Path) -> Run:
    """A run on images of which some are set apart for testing in a folder of their own, stopped at step 2."""
    place = tmp_path / "apart"
    paint(place / "train", [f"{k}.png" for k in range(8)])
    paint(place / "test", [f"{k}.png" for k in range(3)], shade=200)
    wanted = dict(data_dir=str(place), total_steps=8, save_interval=2)
    run = runs.create_run(runs_dir, "apart", datasets.resolve(codec.replace(tiny, wanted)))
    train(run, 2)
    return run


@pytest.mark.slow
def test_an_image_that_was_ever_trained_on_is_not_tested_on(apart: Run, capsys: pytest.CaptureFixture[str]) -> None:
    place = Path(apart.config.data.data_dir)
    nll = ["nll", "--run", apart.name, "--runs_dir", str(apart.folder.parent), "--num_samples", "1", "--threads", "1"]
    away = (place / "train" / "5.png").rename(place.parent / "away.png")
    train(apart, 4)
    assert weights_data(apart).count == 7
    shutil.copy(away, place / "test" / "new.png")
    assert go_on(apart) == 2
    said = capsys.readouterr().err
    assert "1 was trained on" in said
    assert main.main(nll) == 2
    assert main.main([*nll, "--split", "train"]) == 0
    assert main.main([*shlex.split(said.split("`")[-2])[1:], "--total_steps", "6"]) == 0, "a new run from its weights"
    new = newest(apart)
    assert "may have been trained on images that are held out now" in status_of(new).warning
    new.save_config(codec.replace(new.config, {"total_steps": 8}))
    assert go_on(new) == 0, "that was said when it began"
    (place / "test" / "new.png").unlink()
    assert go_on(apart) == 0
    assert checkpoint_files.train_ids_in(checkpoint_files.read(apart.checkpoint().path("state"))).shape == (8,)  # type: ignore[union-attr]


@pytest.mark.slow
def test_images_that_are_new_may_be_trained_on_and_tested_on(apart: Run) -> None:
    place = Path(apart.config.data.data_dir)
    paint(place / "train", ["new.png", "twice.png"], shade=50)
    paint(place / "test", ["new.png"], shade=150)
    shutil.copy(place / "train" / "twice.png", place / "test" / "twice.png")  # the data itself has it in both
    train(apart, 4)
    assert status_of(apart).step == 4
    assert go_on(apart) == 0
    assert "as it would have" not in status_of(apart).warning
    assert (
        main.main(
            ["nll", "--run", apart.name, "--runs_dir", str(apart.folder.parent), "--num_samples", "1", "--threads", "1"]
        )
        == 0
    )


@pytest.mark.slow
def test_where_nobody_says_who_was_trained_on_the_digest_decides(
    apart: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = apart.checkpoint()
    state = checkpoint_files.read(newest.path("state"))
    del state["learnt"]
    newest.files[newest.path("state").name] = files.write(
        newest.path("state"), lambda file: torch.save(state, file)
    )._asdict()
    manifests.commit(newest)
    train(apart, 4)
    assert checkpoint_files.train_ids_in(checkpoint_files.read(apart.checkpoint(4).path("state"))) is None, (
        "nor from then on"
    )
    place = Path(apart.config.data.data_dir)
    paint(place / "train", ["new.png"], shade=50)
    paint(place / "test", ["new.png"], shade=150)
    assert go_on(apart) == 2
    assert "may be among them" in capsys.readouterr().err


def test_the_one_that_was_trained_on_as_no_other_was_left_is_not_held_out(tmp_path: Path, tiny: Config) -> None:
    """Where the share holds out all, one is trained on all the same, and would be held out once others come."""
    place = paint(tmp_path / "few", ["0.png", "1.png", "2.png"])
    config = codec.replace(tiny, dict(data_dir=str(place), hold_out=0.999999))
    now = datasets.open_dataset(config.data, config.model)
    (k,) = now.indices  # type: ignore[misc]
    last = (place / f"{k}.png").rename(tmp_path / "last.png")  # the one that comes later
    before = datasets.open_dataset(config.data, config.model)
    assert (len(before.train_ids), len(before.held_out_ids)) == (1, 1)  # type: ignore[arg-type]
    train_ids = lineage.merge_train_ids(np.empty(0, np.uint64), before)
    assert np.array_equal(train_ids, before.train_ids)  # type: ignore[arg-type]
    last.rename(place / f"{k}.png")
    with raises_error("mixed-test-part", 1):
        lineage.check(config, before.digest, now, lineage.Remedy("ELSEWHERE", ""), train_ids=train_ids)
    assert "3 images" in lineage.check(config, before.digest, now, lineage.Remedy("", ""), "train", train_ids)


def forget(run: Run) -> None:
    """Have its newest checkpoint tell no digest, as those of earlier versions."""
    newest = run.checkpoint()
    for kind in (*newest.weights, "state"):
        content = torch.load(newest.path(kind), weights_only=True)
        if kind == "state":
            del content["data"], content["learnt"]
        else:
            del content._metadata[checkpoint_files.METADATA]["data"]
        written = files.write(newest.path(kind), lambda file, content=content: torch.save(content, file))  # type: ignore[misc]
        newest.files[newest.path(kind).name] = written._asdict()
    manifests.commit(newest)


def test_the_held_out_part_is_measured_wherever_it_is_now(begin: Begin, images: Path) -> None:
    run = begin(hold_out=0.4)
    moved = images.rename(images.parent / "moved")
    _, about, _ = evaluated_images.open_images(run.config, EvalConfig(data_dir=str(moved)), None, weights_data(run))
    assert about["part"] == "test"
    assert 0 < about["count"] < COUNT
    _, about, _ = evaluated_images.open_images(run.config, EvalConfig(data_dir=str(moved)), None)
    assert (about["part"], about["count"]) == ("all", COUNT), "other data is measured whole"


# --- nothing is written over


def content(folder: Path) -> dict[str, bytes]:
    """What may not change: weights, states, log."""
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".pt" or path.name == "progress.csv"
    }


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["saves", "manifests", "weights", "all but the log", "unreadable"])
def test_a_run_that_lost_files_is_not_begun_anew(lost: str, begin: Begin, capsys: pytest.CaptureFixture[str]) -> None:
    run = begin()
    saves = run.folder / "saves"
    if lost == "manifests":
        for path in saves.iterdir():
            path.unlink()
    elif lost == "unreadable":
        for path in saves.iterdir():
            path.write_text("{")
    else:
        shutil.rmtree(saves)
    if lost in ("weights", "all but the log"):
        for path in run.folder.glob("*.pt"):
            path.unlink()
    if lost == "all but the log":
        (run.folder / "status.json").unlink()
    before = content(run.folder)
    assert go_on(run) == 2
    assert content(run.folder) == before
    said = capsys.readouterr().err.splitlines()[-1]
    assert "saves/" in said
    assert status_of(run).state == "failed"
    assert main.main(shlex.split(said.split("`")[-2])[1:]) == 0, "the command that it names"
    new = newest(run)
    first = (new.folder / "progress.csv").read_text().splitlines()[1].split(",")
    columns = (new.folder / "progress.csv").read_text().splitlines()[0].split(",")
    begins_at = int(first[columns.index("step")])
    assert begins_at == (5 if list(run.folder.glob("*.pt")) else 1), "from the weights, where there are some"
    assert content(run.folder) == before


def test_a_run_of_which_only_the_log_is_left_is_not_begun_anew(
    begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped and saved before the first checkpoint was due, it may have lost that one."""
    run = begin(3, log_interval=1)
    run.save_config(codec.replace(run.config, {"save_interval": 100}))
    shutil.rmtree(run.folder / "saves")
    for path in (*run.folder.glob("*.pt"), run.folder / "status.json"):
        path.unlink()
    before = content(run.folder)
    for _ in range(2):  # the first one leaves a status.json
        assert go_on(run) == 2
        assert content(run.folder) == before
        said = capsys.readouterr().err.splitlines()[-1]
        assert "step 3" in said
        assert "status.json" in said
    assert main.main(shlex.split(said.split("`")[-2])[1:]) == 0, "the command that it names"


def test_a_run_killed_before_its_first_checkpoint_begins_again(
    begin: Begin, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log goes on, and the files that it was writing are of no worth."""

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "commit", killed)
        with pytest.raises(SystemExit):
            begin()
    run = runs.find_run(runs_dir, "mine")
    assert run.checkpoints() == []
    assert list(run.folder.glob("*.pt"))
    log = run.progress_path.read_text()
    assert go_on(run) == 0
    assert run.checkpoint().step == 8
    assert run.progress_path.read_text().startswith(log)
    assert not list(run.folder.glob("saves/*.begun"))
    assert not list(run.folder.glob("*.pt.*"))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["state000004.pt", "opt000004.pt", "model000004.pt", "saves/000004.json"])
def test_what_is_left_of_a_checkpoint_is_kept_while_its_step_is_done_again(
    file: str, begin: Begin, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin()
    straight = weights(run, 4)
    (run.folder / file).unlink()
    left = content(run.folder)
    monkeypatch.setattr(resume.log, "propagate", True)
    train(run)
    assert any("4" in record.message for record in caplog.records if record.levelname == "WARNING")
    assert alike(straight, weights(run, 4))
    assert checkpoint_files.damage(run.checkpoint(4)) == ""
    for name in (name for name in left if "000004" in name):
        assert (run.folder / f"{name}.1").read_bytes() == left[name]


@pytest.mark.slow
def test_a_run_of_which_no_checkpoint_is_whole_names_the_weights_that_are(
    begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin()
    for path in run.folder.glob("state*.pt"):
        path.unlink()
    before = content(run.folder)
    assert go_on(run) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert str(run.folder / "model000004.pt") in said
    assert content(run.folder) == before
    assert main.main(shlex.split(said.split("`")[-2])[1:]) == 0


def spoil(run: Run, step: int, *kinds: str) -> None:
    """Put NaN into these files of that step's checkpoint, with checksums that are right."""
    checkpoint = run.checkpoint(step)
    for kind in kinds:
        path = checkpoint.path(kind)
        content = torch.load(path, weights_only=True)
        next(iter(content.values())).fill_(float("nan"))
        checkpoint.files[path.name] = files.write(
            path, lambda file, content=content: torch.save(content, file)
        )._asdict()  # type: ignore[misc]
    manifests.commit(checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [["model"], ["ema_0.9"], ["model", "ema_0.9", "ema_0.99"]])
def test_the_last_step_is_saved_again_where_its_weights_were_not_numbers(kinds: list[str], begin: Begin) -> None:
    run = begin(6)
    train(run, 9)
    straight = weights(run)
    spoil(run, 8, *kinds)
    left = content(run.folder)
    assert go_on(run) == 0
    assert status_of(run).state == "finished"
    assert checkpoint_files.fault(run.checkpoint(8)) == ""
    assert alike(straight, weights(run))
    for name in (name for name in left if "000008" in name):
        assert (run.folder / f"{name}.1").read_bytes() == left[name]


@pytest.mark.slow
def test_a_set_that_is_replaced_counts_no_more_before_its_files_go(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(4)
    spoil(run, 4, "model")

    def killed(*_: object) -> None:
        assert [c.step for c in run.checkpoints()] == [2]
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "set_aside", killed)
        with pytest.raises(SystemExit):
            train(run)
    train(run)
    assert [c.step for c in run.checkpoints() if checkpoint_files.fault(c) == ""] == [2, 4, 6, 8]


@pytest.mark.slow
@pytest.mark.parametrize("finite", ["ema_0.9_000002.pt", ""])
def test_only_finite_weights_are_named_to_begin_from(
    finite: str, begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin(4)
    for step in (2, 4):
        spoil(
            run,
            step,
            *(kind for kind in run.checkpoint(step).weights if run.checkpoint(step).path(kind).name != finite),
        )
    before = content(run.folder)
    assert go_on(run) == 2
    assert content(run.folder) == before
    command = shlex.split(capsys.readouterr().err.splitlines()[-1].split("`")[-2])[1:]
    assert ("--resume_checkpoint" in command) == bool(finite)
    if finite:
        assert command[command.index("--resume_checkpoint") + 1] == str(run.folder / finite)
    assert main.main(command) == 0, "the command that it names"


def test_a_resume_that_is_stopped_at_once_shows_what_is_saved(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin()
    log = run.progress_path
    log.write_bytes(log.read_bytes() + log.read_bytes().splitlines(keepends=True)[-1].replace(b"4", b"7"))
    lost = {**vars(status_of(run)), "state": "running", "step": 7, "metrics": {"loss": 7.0}}
    files.write_json(run.folder / "status.json", lost)
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "empty"))  # so that images are to be read first
    monkeypatch.setattr(Worker, "poll_requests", lambda self: {"stop"})
    assert go_on(run) == 0
    status = status_of(run)
    assert (status.state, status.step, status.saved) == ("stopped", 4, 4)
    assert status.metrics["step"] == 4
    assert status.total_steps == 8


def test_a_damaged_manifest_is_said(begin: Begin) -> None:
    run = begin()
    (run.folder / "saves" / "000004.json").write_text('{"step": 4, "files": []}')
    (run.folder / "saves" / "notes.json").write_text("{")
    assert [c.step for c in run.checkpoints()] == [2]
    with raises_error("lost-checkpoints", "000004.json"):
        run.checkpoint(4)
    assert set(run.manifests()[1]) == {4}


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"format": 1, "train": {"lr": "x"}}', "\0" * 100])
def test_settings_come_back_from_a_checkpoint(begin: Begin, content: str | None) -> None:
    run = begin()
    path = run.folder / "config.json"
    before = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert go_on(run) == 0
    assert path.read_bytes() == before
    assert (run.folder / "config.json.1").exists() == (content is not None)
    assert status_of(run).state == "finished"


def test_settings_of_a_newer_version_are_left_alone(begin: Begin, capsys: pytest.CaptureFixture[str]) -> None:
    run = begin()
    path = run.folder / "config.json"
    newer = path.read_text().replace('"format": 1', '"format": 2')
    path.write_text(newer)
    before = content(run.folder)
    assert go_on(run) == 2
    assert path.read_text() == newer
    assert content(run.folder) == before


def test_a_checkpoint_of_a_newer_version_is_left_alone(begin: Begin, capsys: pytest.CaptureFixture[str]) -> None:
    run = begin()
    path = run.checkpoint(4).manifest_path
    path.write_text('{"format": 3}')
    before = content(run.folder)
    assert go_on(run) == 2
    assert content(run.folder) == before
    assert path.read_text() == '{"format": 3}'
    assert str(path) in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("what", ["checkpoint", "log", "cut log", "settings"])
def test_what_is_found_damaged_is_shown(what: str, begin: Begin) -> None:
    run = begin()
    straight = weights(run, 4)
    file = {"checkpoint": "opt000004.pt", "settings": "config.json"}.get(what, "progress.csv")
    path = run.folder / file
    changed = bytearray(path.read_bytes())
    if what == "settings":
        changed = bytearray(changed.replace(b'"log_interval": 1', b'"log_interval": 2'))
    elif what == "cut log":
        del changed[-3:]
    else:
        changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    found = resume.newest(Run(run.folder))
    assert found.checkpoint is not None
    assert found.checkpoint.step == (2 if what == "checkpoint" else 4)
    assert file in found.notice
    assert found.bad == ({4} if what == "checkpoint" else set())
    assert go_on(run) == 0
    assert checkpoint_files.newest_intact(Run(run.folder))[1] == []
    assert alike(straight, weights(run, 4))


@pytest.mark.slow
def test_a_run_whose_weights_were_spoilt_keeps_its_last_good_checkpoint(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(4)
    run.save_config(codec.replace(run.config, {"keep_checkpoints": 1}))
    steps = trainer.Trainer.steps

    def spoilt(self: trainer.Trainer) -> Iterator[trainer.Report]:
        for report in steps(self):
            if report.step == 5:
                next(iter(self.ema.weights("0.9").values())).view(-1)[0] = float("nan")
            yield report

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "steps", spoilt)
        assert go_on(run) == 2
    status = status_of(run)
    assert (status.state, status.saved) == ("failed", 4)
    assert [c.step for c in run.checkpoints()] == [2, 4]
    assert go_on(run) == 0
    assert [c.step for c in run.checkpoints()] == [8]


# --- checkpoints that go while they are read


def test_the_newest_is_taken_again_where_training_removes_it(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin()
    newer = run.checkpoint(4)
    manifest = newer.manifest_path.read_bytes()
    newer.manifest_path.unlink()  # comes while that of step 2 is read
    real = checkpoint_files.load_checkpoint

    def pruned(path: Path, *check: Any) -> checkpoint_files.LoadedCheckpoint:
        if path.name.endswith("000002.pt"):
            files.write_bytes(newer.manifest_path, manifest)
            checkpoint_files.prune(run, 1)
        return real(path, *check)

    monkeypatch.setattr(checkpoint_files, "load_checkpoint", pruned)
    assert loading.open_model(run, SampleConfig()).origin["step"] == 4


def test_one_that_is_read_before_it_goes_is_enough(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin()
    real = checkpoint_files.load_checkpoint

    def pruned(path: Path, *check: Any) -> checkpoint_files.LoadedCheckpoint:
        loaded = real(path, *check)
        run.checkpoint().manifest_path.unlink()
        path.unlink()
        return loaded

    monkeypatch.setattr(checkpoint_files, "load_checkpoint", pruned)
    opened = loading.open_model(run, SampleConfig())
    assert (opened.weights.step, opened.path.exists()) == (4, False)
    assert len(opened.sha256) == 64


def test_a_step_that_was_named_is_not_another(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin()

    def pruned(path: Path, *check: Any) -> checkpoint_files.LoadedCheckpoint:
        checkpoint_files.prune(run, 1)
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(checkpoint_files, "load_checkpoint", pruned)
    with raises_error("unknown-step", 2):
        loading.open_model(run, SampleConfig(step=2))


def test_files_that_go_while_they_are_checked(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin()

    def gone(path: Path) -> str:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(files, "sha256", gone)
    assert "missing" in checkpoint_files.damage(run.checkpoint())
