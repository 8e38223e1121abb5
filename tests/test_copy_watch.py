"""A training watches its previews for near-copies of training images."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from app_page import open_page, said
from PIL import Image
from test_tar_shards import shard

from ddpm.config import codec
from ddpm.config.training import Config, DataConfig
from ddpm.data import datasets
from ddpm.data.datasets import Dataset
from ddpm.errors import UserError
from ddpm.quality import copies
from ddpm.runs import near_copies, runs
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import files
from ddpm.training import copy_watch, loop, preview
from ddpm.training.copy_watch import CopyWatch
from pages.ui.results import copy_pairs


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch does not wait until a hundred times as long has been trained."""
    monkeypatch.setattr(copy_watch, "SHARE", float("inf"))


@pytest.fixture
def noise() -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3), dtype=np.uint8)
    return Dataset(pixels, None, (), (), indices=np.arange(0, 300, 2))


def watched(runs_dir: Path, config: Config, dataset: Dataset) -> tuple[Run, CopyWatch, Worker]:
    run = runs.create_run(runs_dir, "watched", config)
    worker = Worker(run.folder)
    return run, CopyWatch(run, worker.__enter__(), dataset), worker


@pytest.mark.usefixtures("at_once")
def test_near_copies_among_previews_are_reported(runs_dir: Path, tiny: Config, noise: Dataset) -> None:
    run, watch, worker = watched(runs_dir, tiny, noise)
    fresh = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    watch.check(fresh, 10)
    found = near_copies.read(run)
    assert found is not None
    assert (found.checked, found.copied, found.step, watch.notice) == (4, 0, 10, "")
    assert (found.training, found.compared, found.unseen, found.held_out) == (150, 150, 150, False)
    numbers = np.array([7, 101])
    watch.check(np.concatenate([fresh, noise.images[2 * numbers]])[:, :, ::-1], 20)
    found = near_copies.read(run)
    assert found is not None
    assert (found.checked, found.copied, found.step) == (6, 2, 20)
    assert watch.notice.startswith("2 of 6 previews")
    assert [(pair.sample, pair.training, pair.mirrored, pair.copied) for pair in found.pairs[:2]] == [
        (4, 7, True, True),
        (5, 101, True, True),
    ]
    assert not any(pair.copied for pair in found.pairs[2:])
    pairs = near_copies.pairs_in(run, len(found.pairs))
    assert pairs.shape == (6, 2, 8, 8, 3)
    assert (pairs[0, 0] == noise.images[14][:, ::-1]).all()
    assert (pairs[:2, 1] == noise.images[2 * numbers]).all()
    worker.__exit__(None, None, None)


def test_it_waits_until_it_is_a_small_part_of_the_training(
    runs_dir: Path, tiny: Config, noise: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, watch, worker = watched(runs_dir, tiny, noise)
    now = [watch._began]
    monkeypatch.setattr(copy_watch.time, "monotonic", lambda: now[0])
    least = watch._estimate(4) / copy_watch.SHARE
    now[0] += 0.9 * least
    watch.check(noise.images[:4], 10)
    assert near_copies.read(run) is None
    now[0] += 0.2 * least
    watch.check(noise.images[:4], 20)
    assert near_copies.read(run) is not None
    worker.__exit__(None, None, None)


@pytest.mark.usefixtures("at_once")
def test_of_many_training_images_some_are_compared(
    runs_dir: Path, tiny: Config, noise: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_watch, "MOST_BYTES", 50 * 8 * 8 * 3)
    run, watch, worker = watched(runs_dir, tiny, noise)
    watch.check(noise.images[::2], 10)
    found = near_copies.read(run)
    assert found is not None
    assert (found.compared, found.training, found.checked) == (50, 150, copy_watch.MOST_PREVIEWS)
    assert 10 <= found.copied <= 35, "a third of them"
    assert "50 of 150 training images" in watch.notice
    worker.__exit__(None, None, None)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("count", "written"), [(1, False), (2, False), (12, True)])
def test_few_training_images(runs_dir: Path, tiny: Config, noise: Dataset, count: int, written: bool) -> None:
    few = Dataset(np.repeat(noise.images[:count], 3, axis=0), None, (), ())
    run, watch, worker = watched(runs_dir, tiny, few)
    watch.check(few.images[:4], 10)
    found = near_copies.read(run)
    assert (found is not None) == written
    if found:
        assert (found.duplicates, found.copied) == (2 * count, 4)
    worker.__exit__(None, None, None)


@pytest.mark.usefixtures("at_once")
def test_a_disk_that_is_full_ends_no_training(
    runs_dir: Path, tiny: Config, noise: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise files.DiskFull(runs_dir)

    run, watch, worker = watched(runs_dir, tiny, noise)
    with monkeypatch.context() as patch:
        patch.setattr(near_copies, "save_pairs", refuse)
        watch.check(noise.images[:4], 10)
    assert near_copies.read(run) is None
    watch.check(noise.images[:4], 20)
    assert near_copies.read(run) is not None
    worker.__exit__(None, None, None)


def test_a_training_warns_and_learns_what_it_would_have_learnt(
    runs_dir: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = datasets.resolve(codec.replace(tiny, {"total_steps": 6, "sample_interval": 3, "save_interval": 3}))
    planted = datasets.open_dataset(config.data, config.model, seed=config.train.seed).take(np.arange(4))[0]
    monkeypatch.setattr(preview, "save", lambda *_: planted)
    kept = []
    for name, share in (("without", 0.0), ("with", float("inf"))):
        monkeypatch.setattr(copy_watch, "SHARE", share)
        monkeypatch.setattr(copy_watch, "LAST_SHARE", share)
        run = runs.create_run(runs_dir, name, config)
        with Worker(run.folder, total_steps=6) as worker:
            training = loop.TrainingLoop(run, worker)
            list(training.train())
        kept.append({**training.trainer.weights()["model"]})
        status = run.status()
        assert status is not None
        assert ("near-cop" in status.warning) == (name == "with")
    assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])
    found = near_copies.read(run)
    assert found is not None
    assert (found.step, found.checked) == (6, 4)
    assert [pair.training for pair in sorted(found.pairs, key=lambda pair: pair.sample)] == [0, 1, 2, 3]


def test_what_others_left_is_refused(runs_dir: Path, tiny: Config) -> None:
    run = runs.create_run(runs_dir, "damaged", tiny)
    assert near_copies.read(run) is None
    files.write_json(run.folder / near_copies.NAME, {"checked": "many"})
    with pytest.raises(UserError) as refused:
        near_copies.read(run)
    assert refused.value.code == "bad-value"
    for pixels in (np.zeros((9, 16, 3), np.uint8), np.zeros((16, 9, 3), np.uint8)):
        near_copies.images.save_png(run.folder / near_copies.PAIRS, pixels)
        with pytest.raises(UserError) as refused:
            near_copies.pairs_in(run, 2)
        assert refused.value.code == "wrong-file"


@pytest.mark.usefixtures("at_once", "runs_here")
@pytest.mark.parametrize(("size", "channels"), [(8, 3), (28, 1), (64, 4)])
def test_monitor_shows_the_pairs(runs_dir: Path, tiny: Config, size: int, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, size, size, channels), dtype=np.uint8)
    run, watch, worker = watched(runs_dir, tiny, Dataset(pixels, None, (), ()))
    watch.check(np.concatenate([pixels[5:7], 255 - pixels[:1]]), 10)
    worker.__exit__(None, None, None)
    at = open_page("pages/monitor.py")
    assert f"#{copy_pairs.ANCHOR}" in said(at)
    assert "2 of 3 previews of step 10" in said(at)
    alts = [one.alt for image in at.get("image") for one in image.proto.imgs]
    assert alts[:2] == ["Preview 0 beside training image 5", "Preview 1 beside training image 6"]
    assert said(at).count("distance 0.00, ratio 0.00") == 2
    (run.folder / near_copies.PAIRS).unlink()
    at.run()
    assert near_copies.PAIRS in "".join(error.value for error in at.error)
    files.write_json(run.folder / near_copies.NAME, {"checked": "<script>"})
    assert near_copies.NAME in "".join(error.value for error in open_page("pages/monitor.py").error)


def test_the_threshold_of_few_images_lets_none_through() -> None:
    assert copies.calibrate(np.array([0.1, 0.2])) == 0.1


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_of_shards_few_are_decoded_and_a_stop_is_heard(runs_dir: Path, tiny: Config, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        noise = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(20)]
        shard(tmp_path / "data" / f"{number}.tar", *((f"{k}.png", encoded(image)) for k, image in enumerate(noise)))
    data = datasets.open_dataset(DataConfig(str(tmp_path / "data")), codec.replace(tiny, {"image_size": 8}).model)
    _, watch, worker = watched(runs_dir, tiny, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copy_watch, "MOST_DECODED", 40)
        patch.setattr(copy_watch, "SHARE", float("inf"))
        pixels = data.take(np.arange(4))[0]
        watch.check(pixels, 1, cancelled=lambda: True)
        assert near_copies.read(watch._run) is None
        watch.check(pixels, 2)
    found = near_copies.read(watch._run)
    assert found is not None
    assert (found.training, found.compared) == (60, 40)
    worker.__exit__(None, None, None)
