"""Run folders of every version so far open, are charted, sampled from and resumed; those of a newer one are left alone.

tests/data/runs_of_versions holds one for each format there was: a training of six steps that was killed at the fifth,
and a sample, written by the program of that time.  All but 2 of 32 channels are zero, so that the archives are small.

first        the first version: config.json of format 1
objectives   every objective, held-out images, how timesteps are sampled
kernels      what computes, solvers, the settings of a sample in its images
digests      the data's digest, and which images were seen
rooms        settings in four sections, results by kind
manifest2    manifests of version 2, with their own checksum, and a lease
about        about.json: title, tags, notes and star
"""

import dataclasses
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from app_page import open_page
from asking import charts, metrics_of
from faults import hostile_folders

from ddpm.checkpoints import checkpoint_files
from ddpm.cli import main
from ddpm.runs import runs
from ddpm.runs.about import About
from ddpm.runs.runs import Run
from ddpm.storage import processes

FOLDER = Path(__file__).parent / "data" / "runs_of_versions"
VERSIONS = ("first", "objectives", "kernels", "digests", "rooms", "manifest2", "about")


def unpacked(name: str, folder: Path) -> Run:
    with tarfile.open(FOLDER / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for path in (folder / name).rglob("*.json"):  # trained on this machine, by a process that is no more
        path.write_text(re.sub(r'("boot": ?)"[^"]+"', rf'\1"{processes.boot()}"', path.read_text()))
    return runs.find_run(folder, name)


@pytest.fixture
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDPM_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def test_all_are_tried() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(f"{name}.tar.xz" for name in VERSIONS)


@pytest.mark.parametrize("name", VERSIONS)
def test_it_opens_and_is_listed(name: str, runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = unpacked(name, runs_dir)
    assert (run.config.model.image_size, run.config.train.total_steps, run.config.train.seed) == (8, 6, 3)
    assert run.state() == "lost"
    (checkpoint,) = run.checkpoints()
    assert (checkpoint.step, checkpoint.weights) == (4, ["ema_0.9", "model"])
    assert checkpoint_files.fault(checkpoint) == ""
    assert list(run.metrics["step"])[:4] == [1, 2, 3, 4]
    assert [step for step, _ in run.previews()] == [4]
    (job,) = run.sample_jobs()
    assert (job.state(), job.shape) == ("finished", (1, 8, 8, 3))
    assert main.main(["runs", "--json", "True"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["runs"]
    assert (listed["run"], listed["state"]) == (name, "lost")


@pytest.mark.slow
@pytest.mark.parametrize("name", VERSIONS)
def test_it_is_charted_sampled_from_and_resumed(name: str, runs_dir: Path) -> None:
    run = unpacked(name, runs_dir)
    monitor = open_page("pages/monitor.py", run=name)
    assert "Loss" in {m.label for m in monitor.metric}
    assert [run["name"] for run in charts(monitor)[0]["runs"]] == [name]
    head, lines = metrics_of(run=name, columns="loss")
    assert lines["loss"].tolist() == run.metrics["loss"].tolist()
    assert head["rows"] == len(run.metrics)
    open_page("pages/sample.py", run=name)
    assert main.main(["sample", "--run", name, "--num_samples", "1", "--steps", "2"]) == 0
    assert main.main(["train", "--resume", name]) == 0
    after = Run(run.folder)
    assert after.state() == "finished"
    assert list(after.metrics["step"]) == [1, 2, 3, 4, 5, 6]
    assert checkpoint_files.fault(after.checkpoint(6)) == ""


def test_what_is_said_of_it_is_read_and_changed(runs_dir: Path) -> None:
    run = unpacked("about", runs_dir)
    said = About("Кошки 猫 & <b>dogs</b>", ("cosine", "seed-3"), "first line\nsecond line", True)
    assert (run.read_about(), run.title) == (said, said.title)
    assert run.describe(add=["more"], star=False) == dataclasses.replace(said, tags=(*said.tags, "more"), star=False)
    assert all(unpacked(name, runs_dir).read_about() == About() for name in ("first", "manifest2"))


NEWER: dict[str, dict[str, Any]] = {
    "config.json": {"format": 99},
    "saves/000004.json": {"format": 99},
}


@pytest.mark.parametrize("name", NEWER)
def test_a_newer_version_is_left_alone(name: str, runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = unpacked("manifest2", runs_dir)
    path = run.folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **NEWER[name], "what is this": 1}))
    before = hostile_folders.snapshot(run.folder)
    assert main.main(["runs", "--json", "True"]) == 0
    assert "manifest2" in capsys.readouterr().out
    open_page("pages/monitor.py", run="manifest2")
    assert main.main(["train", "--resume", "manifest2", "--json", "True"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "newer-format"
    assert hostile_folders.snapshot(run.folder) == before


def test_a_status_of_a_newer_version_is_shown(runs_dir: Path) -> None:
    run = unpacked("manifest2", runs_dir)
    path = run.folder / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "what is this": [1]}))
    status = Run(run.folder).status()
    assert status
    assert (status.total_steps, Run(run.folder).state()) == (6, "lost")
