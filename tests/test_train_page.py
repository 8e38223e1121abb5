"""The Train form without a browser: what is kept, what is marked, and every setting at its extremes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from app_page import button, open_page, said
from PIL import Image
from streamlit.testing.v1 import AppTest
from test_prepare import parts
from test_starting import ALL, extremes

from ddpm.cli import main
from ddpm.config.fields import Setting
from ddpm.config.presets import PRESETS
from ddpm.data_sets import ARCHIVES
from ddpm.runs import launch, runs
from ddpm.runs.jobs import Status
from ddpm.runs.runs import Run
from ddpm.storage import files
from pages.ui.forms import data_form, image_check
from pages.ui.frame import run_store

TRAIN = "pages/train.py"


@pytest.fixture(autouse=True)
def here(own_cache: Path, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DDPM_RUNS", str(runs_dir))
    monkeypatch.setattr("ddpm.storage.files.free_bytes", lambda folder: 10**18)
    yield
    run_store.store.clear()


def links(at: AppTest, key: str) -> list[str]:
    """Labels of the links of the rail that lead to fields."""
    found = [json.loads(part.proto.json) for part in at.get("bidi_component") if key in part.proto.id]
    return [link["label"] for data in found for link in data["data"]["links"]]


def of_page(at: AppTest, s: Setting, value: Any) -> None:
    """Puts a value into the field of a setting, as it would be typed."""
    at.session_state[f"train.{s.name}"] = value
    at.run()
    assert not at.exception, (s.name, value, at.exception)


def test_no_setting_at_any_extreme_shows_an_exception() -> None:
    """One at a time, and then what is left together: all least, all most, all empty."""
    at = open_page(TRAIN)
    shown = [s for s in ALL if s.name not in ("data_dir", "small_size")]
    for s in shown:
        before = at.session_state[f"train.{s.name}"]
        numbers = [value for value in extremes(s) if s.type in (int, float)]
        tried = numbers[:2] if numbers else list(extremes(s))[1:4]
        for value in tried:
            if value != before:
                of_page(at, s, value)
        at.session_state[f"train.{s.name}"] = before
    for which in (0, 1):
        for s in shown:
            if s.type in (int, float):
                at.session_state[f"train.{s.name}"] = s.type((s.low, s.high)[which])  # type: ignore[arg-type]
        at.run()
        assert not at.exception, at.exception
        assert button(at, "Start").disabled
    for s in shown:
        if s.type in (int, float):
            at.session_state[f"train.{s.name}"] = None
    at.run()
    assert not at.exception, at.exception
    assert button(at, "Start").disabled


def test_too_few_classes_are_said_at_their_field() -> None:
    at = open_page(TRAIN)
    at.number_input(key="train.num_classes").set_value(4).run()
    assert not at.exception
    assert "Classes is 4, and the data has 8 classes" in said(at)
    assert button(at, "Start").disabled
    at.button(key="train-field-num_classes-0-0").click().run()
    assert at.number_input(key="train.num_classes").value is None
    assert not button(at, "Start").disabled


def test_what_works_but_hardly_as_meant_can_be_kept() -> None:
    at = open_page(TRAIN)
    at.number_input(key="train.save_interval").set_value(5000).run()
    assert button(at, "Start").disabled
    at.button(key="train-field-save_interval-0-keep").click().run()
    assert not button(at, "Start").disabled
    at.number_input(key="train.save_interval").set_value(6000).run()
    assert button(at, "Start").disabled, "another value"
    at.button(key="train-field-save_interval-0-0").click().run()
    assert at.number_input(key="train.save_interval").value == 250
    assert not button(at, "Start").disabled


def test_no_steps() -> None:
    at = open_page(TRAIN)
    at.number_input(key="train.total_steps").set_value(0).run()
    assert "Training steps is 0" in said(at)
    assert button(at, "Start").disabled
    at.button(key="train-field-total_steps-0-0").click().run()
    assert at.number_input(key="train.total_steps").value == 1000


def test_a_form_is_there_again_in_another_session(runs_dir: Path) -> None:
    at = open_page(TRAIN)
    at.run()
    other = open_page(TRAIN)
    assert other.number_input(key="train.batch_size").value == 16
    at.number_input(key="train.batch_size").set_value(24)
    at.number_input(key="train.lr").set_value(1.0)
    at.number_input(key="train.keep_checkpoints").set_value(3)
    at.text_input(key="train.name").set_value("mine").run()
    again = open_page(TRAIN)
    kept = {name: again.number_input(key=f"train.{name}").value for name in ("batch_size", "lr", "keep_checkpoints")}
    assert kept == dict(batch_size=24, lr=1.0, keep_checkpoints=3)
    assert again.text_input(key="train.name").value == "mine"
    assert not list(runs_dir.iterdir())


def test_a_form_of_an_earlier_version_lacks_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have the values of the preset that it began with, in the fields too."""
    monkeypatch.setenv("DDPM_STATE", str(tmp_path / "state"))
    at = open_page(TRAIN)
    at.number_input(key="train.batch_size").set_value(24).run()
    [file] = (tmp_path / "state" / "drafts").iterdir()
    kept = json.loads(file.read_text())
    for name in ("ema_warmup", "lr", "schedule_sampler"):
        del kept["values"][name]
    file.write_text(json.dumps(kept))
    again = open_page(TRAIN)
    again.run()
    assert again.number_input(key="train.batch_size").value == 24
    assert again.number_input(key="train.lr").value == at.number_input(key="train.lr").value
    assert again.session_state["train.ema_warmup"] == at.session_state["train.ema_warmup"]
    assert again.session_state["train.schedule_sampler"] == at.session_state["train.schedule_sampler"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"format": 1, "base": 3}', '{"format": 1, "base": "x", "values": {"lr": "a"}}']
)
def test_a_damaged_one_is_as_none(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDPM_STATE", str(tmp_path / "state"))
    at = open_page(TRAIN)
    at.number_input(key="train.batch_size").set_value(24).run()
    [file] = (tmp_path / "state" / "drafts").iterdir()
    file.write_text(text)
    assert open_page(TRAIN).number_input(key="train.batch_size").value == 16


def test_what_differs_from_a_run_is_marked_and_put_back(fake_run: Callable[..., Run]) -> None:
    fake_run("parent", num_channels=64, lr=0.003, data_dir="shapes")
    at = open_page(TRAIN, like="parent")
    assert at.number_input(key="train.lr").value == 0.003
    assert links(at, "train_changes") == []
    at.number_input(key="train.lr").set_value(0.001)
    at.number_input(key="train.num_channels").set_value(32).run()
    assert links(at, "train_changes") == ["Channels", "Learning rate"]
    again = open_page(TRAIN, like="parent")
    assert again.number_input(key="train.lr").value == 0.001, "a reload keeps what was changed"
    again.button(key="train-back-lr").click().run()
    assert again.number_input(key="train.lr").value == 0.003
    assert links(again, "train_changes") == ["Channels"]
    again.button(key="choose_quick-start").click().run()
    assert links(again, "train_changes") == []
    assert "like" not in again.query_params


def test_data_is_put_back_too(fake_run: Callable[..., Run]) -> None:
    fake_run("parent", data_dir="cifar10-mini")
    at = open_page(TRAIN, like="parent")
    at.button_group(key="train.source").set_value("shapes").run()
    assert links(at, "train_changes") == ["Data"]
    assert open_page(TRAIN, like="parent").button_group(key="train.source").value == "shapes"


def test_the_cost_is_there_before_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(launch, "start_getting", lambda *arguments: started.append(arguments))
    at = open_page(TRAIN)
    at.button(key="choose_cifar10-cpu").click().run()
    assert {m.label: m.value for m in at.metric}["Epochs"] == "4.8"
    assert button(at, "Start").disabled
    at.button(key="download").click().run()
    at.text_input(key="train.archive").set_value("/tmp/cifar-10-python.tar.gz").run()
    at.button(key="use_archive").click().run()
    assert started == [("cifar10",), ("cifar10", "/tmp/cifar-10-python.tar.gz")]
    files.write_json(launch.data_job("cifar10").folder / "status.json", Status("failed", message="No route.").__dict__)
    at.run()
    assert "No route." in said(at)


def test_an_archive_becomes_the_data_of_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(launch, "_spawn", lambda job, arguments: started.append(arguments))
    at = open_page(TRAIN)
    for preset, archive in (("upsample-cond", "imagenet"), ("lsun-uncond", "lsun"), ("imagenet64-cond", "imagenet64")):
        at.button(key=f"choose_{preset}").click().run()
        assert ARCHIVES[archive].where in said(at)
    assert {m.label: m.value for m in at.metric}["Epochs"] == "399.6"  # 250,000 batches of 2048
    assert button(at, "Start").disabled
    assert at.button(key="convert_archive").disabled
    parts(tmp_path)
    at.text_input(key="train.archive-imagenet64").set_value(str(tmp_path)).run()
    at.text_input(key="train.images-imagenet64").set_value(str(tmp_path / "made")).run()
    at.button(key="convert_archive").click().run()
    assert button(at, "Cancel")
    assert main.main(started[0]) == 0
    at.run()
    at.button(key="use_made").click().run()
    assert at.text_input(key="train.path").value == str(tmp_path / "made")
    assert "32 images" in said(at)
    assert at.button(key="choose_imagenet64-cond").disabled  # it is that preset still, with its data


def test_one_broken_image_keeps_a_run_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(6):
        Image.new("RGB", (40, 36), (k * 40, 0, 0)).save(folder / f"{k}.png")
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:60])
    at = open_page(TRAIN)
    at.toggle(key="train.class_cond").set_value(False)
    at.button_group(key="train.source").set_value(data_form.PATH).run()
    at.text_input(key="train.path").set_value(str(folder)).run()
    assert "1 of 6 images cannot be read (4.png)" in said(at)
    assert button(at, "Start").disabled
    at.button(key="train-field-data_dir-0-0").click().run()
    assert at.toggle(key="train.skip_broken").value
    assert not button(at, "Start").disabled


def test_many_images_are_looked_at_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(3):
        Image.new("RGB", (40, 36), (k * 40, 0, 0)).save(folder / f"{k}.png")

    def start(data_dir: str, state: str) -> None:
        started.append(data_dir)
        job = launch.check_job(state)
        files.write_json(job.folder / "status.json", Status("running", step=1, total_steps=3).__dict__)

    monkeypatch.setattr(image_check, "FEW", 2)
    monkeypatch.setattr(launch, "start_checking", start)
    monkeypatch.setattr("ddpm.runs.jobs.Job.state", lambda job: "running" if "check-" in job.name else "starting")
    at = open_page(TRAIN)
    at.toggle(key="train.class_cond").set_value(False)
    at.button_group(key="train.source").set_value(data_form.PATH).run()
    at.text_input(key="train.path").set_value(str(folder)).run()
    at.run()
    assert started == [str(folder)]
    assert button(at, "Start").disabled
    assert links(at, "train_waits") == ["Data"]
    assert links(at, "train_problems") == []
    button(at, "Start without waiting").click().run()
    assert not button(at, "Start").disabled


def test_a_check_that_was_cancelled_can_be_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(3):
        Image.new("RGB", (40, 36), (k * 40, 0, 0)).save(folder / f"{k}.png")

    def start(data_dir: str, state: str, command: str = "check") -> None:
        started.append(command)
        files.write_json(launch.check_job(state).folder / "status.json", Status("stopped", pid=1).__dict__)

    monkeypatch.setattr(image_check, "FEW", 2)
    monkeypatch.setattr(launch, "start_checking", start)
    at = open_page(TRAIN)
    at.button_group(key="train.source").set_value(data_form.PATH).run()
    at.text_input(key="train.path").set_value(str(folder)).run()
    at.run()
    assert started == ["check"], "not by itself"
    button(at, "Try again").click().run()
    assert started == ["check", "check"]


def test_a_run_starts_as_the_form_says(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(launch, "start_training", lambda run: started.append(run.name))
    at = open_page(TRAIN)
    at.number_input(key="train.keep_checkpoints").set_value(2).run()
    button(at, "Start").click().run()
    [run] = runs.list_runs(runs_dir)
    assert started == [run.name]
    assert run.config.train.keep_checkpoints == 2
    assert run.config.train.lr == PRESETS["quick-start"].config.train.lr


def test_a_run_of_the_page_leaves_alone_what_is_typed_meanwhile() -> None:
    """A value that a page sets replaces what stands in the browser: a second run sets none."""
    at = open_page(TRAIN).run()
    fields = [*at.number_input, *at.text_input]
    assert len(fields) > 20
    assert [field.key for field in fields if field.proto.set_value] == []
