"""The nearest training images of a sample, and two samples that differ."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from app_page import open_page, said
from PIL import Image
from waiting import until

from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.data import distances
from ddpm.data.datasets import Dataset, open_dataset
from ddpm.errors import UserError
from ddpm.reports import downloads
from ddpm.runs.jobs import Status
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.storage import files, images
from pages.ui.results import nearest


@pytest.fixture
def data() -> Dataset:
    """300 images of noise, of which the split holds every other one."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3), dtype=np.uint8)
    return Dataset(pixels, None, (), (), indices=np.arange(0, 300, 2))


@pytest.mark.parametrize("flipped", [False, True])
def test_a_planted_copy_is_found(data: Dataset, flipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "BLOCK", 8 * 8 * 3 * 4 * 7)  # seven images at once
    image = data.images[2 * 101].astype(int) + np.random.default_rng(1).integers(-2, 3, (8, 8, 3))
    image = image.clip(0, 255).astype(np.uint8)
    seen: list[tuple[int, int]] = []
    found = distances.nearest(data, image[:, ::-1] if flipped else image, 5, lambda *done: seen.append(done))
    assert (found[0].number, found[0].flipped) == (101, flipped)
    assert found[0].distance < 2
    assert [one.distance for one in found] == sorted(one.distance for one in found)
    assert min(one.distance for one in found[1:]) > 50
    assert len(found) == 5
    assert seen[-1] == (150, 150)
    exact = distances.nearest(data, data.images[2 * 7], 1)
    assert exact == [distances.Neighbour(7, 0.0, False)]


def test_the_distance_is_that_of_the_pixels(data: Dataset) -> None:
    image = data.images[1]
    for one in distances.nearest(data, image, 3):
        other = data.images[2 * one.number][:, ::-1] if one.flipped else data.images[2 * one.number]
        assert one.distance == pytest.approx(np.sqrt(np.square(image.astype(float) - other).mean()), rel=1e-5)


def test_two_that_differ_most() -> None:
    pixels = np.zeros((4, 2, 2, 3), np.uint8)
    for k, level in enumerate((0, 200, 90, 255)):
        pixels[k] = level
    assert distances.most_different(pixels) == (0, 3)
    assert distances.most_different(pixels, np.array([0, 1, 0, 1])) == (0, 2)
    assert distances.most_different(pixels[:1]) is None


def sampled(run: Run, image: np.ndarray) -> SampleJob:
    job = SampleJob(run.folder / "samples" / "20260102-030405")
    files.write_json(job.folder / "settings.json", {"sample": SampleConfig(num_samples=1).__dict__, "command": "x"})
    images.save_png(job.folder / "images" / "00000.png", image, {"sample": {"seed": 7}})
    files.write_json(job.folder / "status.json", Status("finished", pid=1).__dict__)
    return job


@pytest.mark.usefixtures("runs_here")
def test_the_page_shows_the_training_image_that_a_sample_copies(fake_run: Callable[..., Run], tiny: Config) -> None:
    run = fake_run("shapes", data_dir="shapes")
    training = open_dataset(run.config.data, run.config.model, seed=run.config.train.seed)
    job = sampled(run, training.images[1234])
    search = nearest.Search(run.config, training.images[1234])
    until(lambda: search.ended)
    assert search.found is not None, search.error
    assert search.found.neighbours[0].distance == 0
    assert (search.found.pixels[0] == training.images[1234]).all()
    at = open_page("pages/sample.py")
    at.session_state[nearest.SHOWN] = (job.name, 0)
    at.run()
    until(lambda: "near 0 it is a copy" in said(at.run()))
    assert "0.0" in said(at)
    at.button(key="nearest_close").click().run()
    assert "near 0 it is a copy" not in said(at)


def test_data_that_is_gone_is_reported(fake_run: Callable[..., Run], tmp_path: Path) -> None:
    run = fake_run("moved", data_dir=str(tmp_path / "nowhere"))
    search = nearest.Search(run.config, np.zeros((8, 8, 3), np.uint8))
    until(lambda: search.ended)
    assert search.found is None
    assert "nowhere" in search.error


@pytest.mark.usefixtures("runs_here")
def test_data_that_came_back_is_searched_again(fake_run: Callable[..., Run], tmp_path: Path) -> None:
    data = tmp_path / "mounted"
    run = fake_run("moved", data_dir=str(data))
    image = np.full((8, 8, 3), 90, np.uint8)
    job = sampled(run, image)
    at = open_page("pages/sample.py")
    nearest_asked = {nearest.SHOWN: (job.name, 0), nearest.ANEW: True}
    for key, value in nearest_asked.items():
        at.session_state[key] = value
    until(lambda: "mounted" in " ".join(e.value for e in at.run().error))
    data.mkdir()
    for level in (90, 91):
        Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(data / f"{level}.png")
    assert at.run().error, "not before it is asked for again"
    at.session_state[nearest.ANEW] = True
    until(lambda: "near 0 it is a copy" in said(at.run()))


def test_downloads_are_enlarged_pixel_by_pixel(fake_run: Callable[..., Run]) -> None:
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    job = sampled(fake_run("shapes"), image)
    with zipfile.ZipFile(io.BytesIO(downloads.samples_zip(job, 4))) as archive:
        content = archive.read("00000.png")
    assert (np.asarray(Image.open(io.BytesIO(content))) == image.repeat(4, axis=0).repeat(4, axis=1)).all()
    assert images.settings_in(content) == {"sample": {"seed": 7}}
    whole = job.read(job.images[0])
    assert downloads.enlarged(whole, 1) == whole
    with pytest.raises(UserError) as refused:
        downloads.enlarged(whole, 2000)
    assert refused.value.code == "too-large"
