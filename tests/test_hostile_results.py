"""Hostile results of a run: what pages, downloads and resumed samplings read of them never leads out of the run.

A part of them; `make faults PARTS=results` tries them all.
"""

import os
import shutil
from pathlib import Path

import app_page
import numpy as np
import pytest
from faults import hostile_folders, hostile_results, promise_results
from faults.promise_results import Shown
from raising import raises_error

from ddpm.config.tasks import SampleConfig
from ddpm.runs.runs import Run
from ddpm.sampling.job import with_copies
from ddpm.storage import images
from pages.ui.results import samples

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has other links, and no named pipes")

CASES = {case.case.name: case for case in hostile_results.cases()}
ALONE = ("samples-T-grid.png-link", "microscopes-T-trajectory.npz-fifo", "evaluations-T-vb_terms.npz-large")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_results.healthy(tmp_path_factory.mktemp("base")).folder


def test_there_are_many() -> None:
    assert len(CASES) == len(list(hostile_results.cases())) >= 250


@pytest.mark.parametrize("name", ALONE)
def test_some_of_them(name: str, base: Path, tmp_path: Path) -> None:
    assert promise_results.play(CASES[name], base, tmp_path / "one") == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in ALONE][::15])
def test_more_of_them(name: str, base: Path, tmp_path: Path) -> None:
    assert promise_results.play(CASES[name], base, tmp_path / "one") == ""


@pytest.mark.usefixtures("runs_here")
def test_what_is_shown_would_be_noticed(base: Path, runs_dir: Path, tmp_path: Path) -> None:
    """Images and downloads of a whole result are seen by what looks for those from outside."""
    other = hostile_folders.outside(tmp_path / "outside")
    shutil.copytree(base, runs_dir / "whole")
    shutil.copyfile(other / "secret.png", runs_dir / "whole" / hostile_folders.SAMPLES / "pairs.png")
    shown = Shown()
    with shown.watching():
        app_page.open_page("pages/sample.py", run="whole")
    assert shown.holds_secret(other)
    assert any(data.startswith(b"PK") for data in shown.all), "downloads are looked at, too"


def test_nothing_is_written_where_a_folder_became_a_link(base: Path, runs_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(base, runs_dir / "one")
    run = Run(runs_dir / "one")
    (job,) = run.sample_jobs()
    job.folder.rename(tmp_path / "moved")
    job.folder.symlink_to(tmp_path / "moved")
    before = hostile_folders.snapshot(tmp_path / "moved")
    for write in (lambda: job.set_note("a note"), lambda: job.request("stop")):
        with raises_error("not-a-folder"):
            write()
    run.folder.rename(tmp_path / "run")
    run.folder.symlink_to(tmp_path / "run")
    with raises_error("not-a-folder"):
        run.request("stop")
    assert hostile_folders.snapshot(tmp_path / "moved") == before
    assert (tmp_path / "run" / "control.json").read_text().strip() == "{}"


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "device"])
def test_a_file_of_a_job_is_a_regular_one(kind: str, base: Path, runs_dir: Path, tmp_path: Path) -> None:
    run = hostile_folders.build(runs_dir, base, CASES[f"samples-T-mask.png-{kind}"].case, tmp_path)
    (job,) = Run(run.folder).sample_jobs()
    for action in (job.read, job.has, job.open_file, job.changed_at):
        with raises_error("not-a-file"):
            action(job.mask)


def test_where_a_grid_cannot_be_used_the_preview_is_shown(base: Path, runs_dir: Path) -> None:
    shutil.copytree(base, runs_dir / "one")
    (job,) = Run(runs_dir / "one").sample_jobs()
    for path in (job.pairs, job.grid):
        path.write_bytes(b"not an image")
    images.save_png(job.preview, np.zeros((8, 8, 3), np.uint8))
    found = samples.image(job)
    assert found
    assert found.size == (8, 8)
    job.preview.write_bytes(b"nor this")
    with raises_error("not-an-image"):
        samples.image(job)


def test_a_link_among_the_images_that_were_given_is_not_followed(base: Path, runs_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(base, runs_dir / "one")
    (job,) = Run(runs_dir / "one").sample_jobs()
    images.save_png(tmp_path / "private.png", np.zeros((8, 8, 3), np.uint8))
    shutil.rmtree(job.given, ignore_errors=True)
    job.given.mkdir()
    for name in ("00000.png", "00001.png"):
        shutil.copyfile(tmp_path / "private.png", job.given / name)
    assert with_copies(job, SampleConfig()).picture == str(job.given.absolute())
    (job.given / "00002.png").symlink_to(tmp_path / "private.png")
    with raises_error("not-a-file"):
        with_copies(job, SampleConfig())
