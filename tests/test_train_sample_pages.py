"""The Train and Sample pages without a browser."""

import dataclasses
import io
import shlex
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import app_page
import numpy as np
import pytest
from app_page import button, open_page, said
from PIL import Image

from ddpm import formatting
from ddpm.cli import main
from ddpm.cli.shared import given
from ddpm.config import codec
from ddpm.config.presets import DEFAULT, OWN, PRESETS
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.planning import durations, summary
from ddpm.reports import downloads
from ddpm.runs import commands, launch, runs
from ddpm.runs.jobs import Status
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import files
from pages.ui.components import thumbnails
from pages.ui.forms import data_form
from pages.ui.frame import run_store
from pages.ui.results import training_cost
from pages.ui.results.sample_history import key_of


@pytest.fixture(autouse=True)
def here(runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DDPM_RUNS", str(runs_dir))
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))  # of decoded images, and of measured speeds
    monkeypatch.setattr("ddpm.storage.files.free_bytes", lambda folder: 10**15)
    yield
    run_store.store.clear()


def draw(
    run: Run, name: str = "20260102-030405", count: int = 3, state: str = "finished", **settings: object
) -> SampleJob:
    """A folder as `ddpm sample` leaves it."""
    job = SampleJob(run.folder / "samples" / name)
    sample = SampleConfig(num_samples=count, use_ddim=True, timestep_respacing="ddim10", **settings)  # type: ignore[arg-type]
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    about = dict(
        sample=sample.__dict__, checkpoint=dict(step=40, weights="ema_0.9"), command="ddpm sample --model_path ema.pt"
    )
    files.write_json(job.folder / "settings.json", about)
    if state == "finished":
        for k, image in enumerate(pixels):
            files.write_bytes(job.folder / "images" / f"{k:05d}.png", thumbnails.png(Image.fromarray(image)))
        files.write_bytes(job.grid, thumbnails.png(Image.fromarray(np.concatenate(pixels, axis=1))))
        packed = io.BytesIO()
        np.savez(packed, pixels)
        files.write_bytes(job.folder / f"samples_{count}x8x8x3.npz", packed.getvalue())
    status = Status(
        state,
        step=10,
        total_steps=10,
        steps_per_second=5.0,
        message="" if state == "finished" else "The sun was in my eyes.",
        pid=1,
    )  # type: ignore[arg-type]
    files.write_json(job.folder / "status.json", status.__dict__)
    return job


# Train


def test_train_begins_with_a_preset_that_can_start() -> None:
    at = open_page("pages/train.py")
    assert not button(at, "Start").disabled
    assert at.text_input(key="train.name").value == "quick-start"
    assert {m.label for m in at.metric} >= {"Parameters", "Memory", "Time per step", "Total time", "Finish", "Epochs"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_every_field(name: str) -> None:
    at = open_page("pages/train.py")
    if name != "quick-start":
        at.button(key=f"choose_{name}").click().run()
    wanted = PRESETS[name].config
    assert at.number_input(key="train.num_channels").value == wanted.model.num_channels
    assert at.number_input(key="train.total_steps").value == wanted.train.total_steps
    assert at.selectbox(key="train.noise_schedule").value == wanted.diffusion.noise_schedule
    assert at.button(key=f"choose_{name}").label == "Selected"
    only_data = [line for line in said(at).splitlines() if ":red[" in line]
    data_lines = ["CIFAR-10 is not on this computer", "pixels: use a smaller image size", "has no classes"]
    data_lines += ["Data is empty"] if PRESETS[name].group == OWN else []
    assert all(any(why in line for why in data_lines) for line in only_data)  # all else is right


def test_a_bad_setting_is_reported_at_its_field_and_keeps_the_run_from_starting() -> None:
    at = open_page("pages/train.py")
    at.number_input(key="train.image_size").set_value(30).run()
    assert "cannot be halved" in said(at)
    assert button(at, "Start").disabled
    assert "cannot be halved" in button(at, "Start").help
    at.number_input(key="train.image_size").set_value(16).run()
    assert not button(at, "Start").disabled


def test_data_that_is_not_there_is_reported(tmp_path: Path) -> None:
    at = open_page("pages/train.py")
    at.button_group(key="train.source").set_value(data_form.PATH).run()
    assert button(at, "Start").disabled
    at.text_input(key="train.path").set_value(str(tmp_path / "nowhere")).run()
    assert "There is no folder or file" in said(at)
    assert button(at, "Start").disabled


def classes_of_ones_own(tmp_path: Path, *names: str) -> Path:
    """A folder with two images in each of some classes."""
    for name in names:
        (tmp_path / "mine" / "train" / name).mkdir(parents=True)
        for k in range(2):
            Image.new("RGB", (40, 36), (k * 80, 0, 0)).save(tmp_path / "mine" / "train" / name / f"{k}.png")
    return tmp_path / "mine"


def test_what_is_read_and_what_is_left_out_is_shown(tmp_path: Path) -> None:
    folder = classes_of_ones_own(tmp_path, "cat", "dog")
    for name in ("sheet.jpg", "a.heic", "note.txt"):
        shutil.copy(folder / "train" / "cat" / "0.png", folder / name)
    at = open_page("pages/train.py")
    at.button_group(key="train.source").set_value(data_form.PATH).run()
    at.text_input(key="train.path").set_value(str(folder)).run()
    shown = said(at)
    for words_ in (
        "classes by folder",
        "2 classes: cat (2), dog (2)",
        "1 image outside",
        "sheet.jpg",
        "1 .heic file",
        "1 .txt file",
    ):
        assert words_ in shown


@pytest.mark.slow
def test_start_takes_the_classes_as_they_are_then(
    tmp_path: Path, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(launch, "start_training", lambda run: started.append(run.name))
    folder = classes_of_ones_own(tmp_path, "cat", "dog")
    at = open_page("pages/train.py")
    at.button_group(key="train.source").set_value(data_form.PATH).run()
    at.text_input(key="train.path").set_value(str(folder)).run()
    at.number_input(key="train.image_size").set_value(16).run()
    classes_of_ones_own(tmp_path, "cow")
    at.run()
    button(at, "Start").click().run()
    assert any("cat, cow, dog" in error.value for error in at.error), "they are not those that were shown"
    assert not started
    assert not list(runs_dir.iterdir())
    at.run()
    assert "3 classes: cat (2), cow (2), dog (2)" in said(at)
    button(at, "Start").click().run()
    (run,) = runs.list_runs(runs_dir)
    assert (run.config.class_names, run.config.model.num_classes) == (("cat", "cow", "dog"), 3)
    assert started == [run.name]


@pytest.mark.slow
def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    folder = tmp_path / "my pictures"
    folder.mkdir()
    for k in range(3):
        Image.new("RGB", (40, 36), (k * 80, 0, 0)).save(folder / f"{k}.png")
    at = open_page("pages/train.py")
    at.button_group(key="train.source").set_value(data_form.PATH).run()
    at.text_input(key="train.path").set_value(f'"{folder}" ').run()  # as a file manager copies it
    assert "3 images" in said(at)
    assert "The data has no classes" in said(at)  # the preset learns classes
    at.toggle(key="train.class_cond").set_value(False).run()
    assert not button(at, "Start").disabled
    assert at.text_input(key="train.name").value == "my-pictures"
    assert shlex.quote(str(folder)) in app_page.commands(at)[0]
    at.number_input(key="train.image_size").set_value(64).run()
    assert "3 of 3 images have fewer than 64 pixels" in said(at)
    at.toggle(key="train.enlarge").set_value(True).run()
    assert not button(at, "Start").disabled


def test_a_taken_name_and_a_name_with_a_path(fake_run: Callable[..., Run]) -> None:
    fake_run("mine")
    at = open_page("pages/train.py")
    at.text_input(key="train.name").set_value("mine").run()
    assert "already a run named mine: mine-2 is free" in said(at)
    assert button(at, "Start").disabled
    at.text_input(key="train.name").set_value("../mine").run()
    assert "'../mine' is not valid" in said(at)
    assert button(at, "Start").disabled
    at.text_input(key="train.name").set_value("other").run()
    assert not button(at, "Start").disabled


def test_start_makes_the_run_and_its_process(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Run] = []
    monkeypatch.setattr("ddpm.runs.launch.start_training", started.append)
    at = open_page("pages/train.py")
    at.number_input(key="train.total_steps").set_value(300)
    at.text_input(key="train.name").set_value("first").run()
    button(at, "Start").click().run()
    assert [run.name for run in started] == ["first"]
    config = runs.find_run(runs_dir, "first").config
    assert config.train.total_steps == 300
    assert config.model.num_classes == len(config.class_names) == 8


def test_a_failed_start_is_reported_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise files.DiskFull(Path("runs/x/config.json"))

    monkeypatch.setattr("ddpm.runs.runs.create_run", refuse)
    at = open_page("pages/train.py")
    button(at, "Start").click().run()
    assert "No room to write" in at.error[0].value


def test_a_run_that_trains_makes_the_next_one_wait(fake_run: Callable[..., Run]) -> None:
    run = fake_run("busy", state="running")
    with Worker(run.folder, 100) as worker:
        worker.beat(state="running", now=True)
        assert "busy is training: this run will wait in the queue" in said(open_page("pages/train.py"))


def test_fields_stay_when_the_page_is_left(fake_run: Callable[..., Run]) -> None:
    fake_run("any")
    at = open_page("pages/train.py")
    at.number_input(key="train.batch_size").set_value(24).run()
    at.switch_page("pages/sample.py").run()
    at.switch_page("pages/train.py").run()
    assert at.number_input(key="train.batch_size").value == 24


def test_a_run_can_be_forked(fake_run: Callable[..., Run]) -> None:
    fake_run("parent", num_channels=64, lr=0.003)
    at = open_page("pages/train.py", **{"from": "parent"})
    assert at.number_input(key="train.num_channels").value == 64
    assert at.number_input(key="train.lr").value == 0.003
    assert at.text_input(key="train.name").value == "parent-2"


def test_the_measured_speed_gives_the_time_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Config] = []
    monkeypatch.setattr("ddpm.runs.launch.start_measuring", lambda config, again=False: started.append(config))
    monkeypatch.setattr("ddpm.runs.jobs.Job.request", lambda job, what: None)
    at = open_page("pages/train.py")
    assert not started, "the form has just been filled"
    monkeypatch.setattr(training_cost, "QUIET", 0.0)
    at.run()
    metrics = dict(seconds_per_step=0.5, seconds_per_preview=10.0, peak_bytes=4e8)
    status = Status(
        "finished", metrics=metrics, pid=1, sharing="2 processes share 2 cores: this one goes on with 1 thread."
    )
    files.write_json(launch.cost_job(started[0]).folder / "status.json", status.__dict__)
    at.run()
    shown = {m.label: m.value for m in at.metric}
    assert (shown["Time per step"], shown["Memory"]) == ("0.5 s", "400 MB")
    assert "Measured while other jobs were running. 2 processes share 2 cores" in said(at)
    train = PRESETS[DEFAULT].config.train
    assert shown["Total time"] == formatting.duration(
        train.total_steps * 0.5 + train.total_steps // train.sample_interval * 10
    )
    at.number_input(key="train.lr").set_value(0.01).run()  # costs the same
    assert {m.label: m.value for m in at.metric}["Time per step"] == "0.5 s"
    at.number_input(key="train.batch_size").set_value(32).run()
    assert {m.label: m.value for m in at.metric}["Time per step"] == "–"


def test_beside_a_training_the_time_is_a_first_guess(
    fake_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddpm.runs.launch.start_measuring", lambda config, again=False: pytest.fail("it would disturb"))
    monkeypatch.setattr(training_cost, "QUIET", 0.0)
    with Worker(fake_run("busy", state="running").folder, 40):
        at = open_page("pages/train.py")
        config, *_ = data_form.costed(PRESETS[DEFAULT].config, data_form.inspect("shapes"))
        whole = durations.guess_step(config) * config.train.total_steps
        assert f"{formatting.duration(whole)} in all" in said(at)


def test_a_failed_measurement_says_why() -> None:
    at = open_page("pages/train.py")
    config, *_ = data_form.costed(PRESETS["quick-start"].config, data_form.inspect("shapes"))
    status = Status("failed", message="Not enough memory.", pid=1)
    files.write_json(launch.cost_job(config).folder / "status.json", status.__dict__)
    at.run()
    assert "Not enough memory." in said(at)
    assert button(at, "Measure again")


@pytest.mark.parametrize("changes", [{}, {"lr": 1e-5, "channel_mult": "", "microbatch": 2}])
@pytest.mark.parametrize("name", PRESETS)
def test_the_command_gives_the_same_settings(name: str, changes: dict, runs_dir: Path) -> None:
    config = codec.replace(PRESETS[name].config, changes)
    words_ = shlex.split(commands.train(config, "a-run", runs_dir))
    options = main._parser().parse_args(words_[1:])
    base = PRESETS[options.preset].config if options.preset else Config()
    assert codec.replace(base, given(options, *codec.SECTIONS.values())) == config
    assert options.run == "a-run"


def test_super_resolution_is_a_switch() -> None:
    at = open_page("pages/train.py")
    assert not [n for n in at.number_input if n.key == "train.small_size"]
    at.toggle(key="train.super_res").set_value(True).run()
    assert at.number_input(key="train.small_size").value == 8  # a quarter
    assert "--small_size 8" in app_page.commands(at)[0]
    assert not button(at, "Start").disabled
    at.number_input(key="train.small_size").set_value(32).run()
    assert "nothing to upsample" in said(at)
    assert button(at, "Start").disabled
    at.number_input(key="train.small_size").set_value(12).run()
    assert not button(at, "Start").disabled
    assert "12 → 32 pixels" in said(at)
    at.toggle(key="train.super_res").set_value(False).run()
    assert "--small_size" not in app_page.commands(at)[0]
    assert not [n for n in at.number_input if n.key == "train.small_size"]


def test_a_super_resolution_run_can_be_forked(fake_run: Callable[..., Run]) -> None:
    fake_run("parent", small_size=4)
    at = open_page("pages/train.py", **{"from": "parent"})
    assert at.toggle(key="train.super_res").value
    assert at.number_input(key="train.small_size").value == 4


# Sample


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[SampleConfig]:
    """What samples are started with; none really is."""
    found: list[SampleConfig] = []

    def start(run: Run, sample: SampleConfig) -> SampleJob:
        found.append(sample)
        return SampleJob(run.folder / "samples" / "20260102-030405")

    monkeypatch.setattr("ddpm.runs.launch.start_sampling", start)
    return found


@pytest.mark.slow
def test_a_grid_of_all_classes(fake_run: Callable[..., Run], asked: list[SampleConfig]) -> None:
    fake_run("shapes", class_cond=True, num_classes=3, class_names=("circle", "star", "ring"))
    at = open_page("pages/sample.py")
    at.button_group(key="sample.count").set_value("Per class").run()
    assert not [n for n in at.number_input if n.key == "sample.num_samples"]
    at.number_input(key="sample.rows").set_value(5).run()
    button(at, "Sample").click().run()
    at.multiselect(key="sample.classes").set_value(["ring", "star"]).run()
    button(at, "Sample").click().run()
    assert [(s.num_samples, s.classes) for s in asked] == [(15, ""), (10, "ring,star")]
    at.number_input(key="sample.rows").set_value(None).run()
    assert button(at, "Sample").disabled


def test_labels_without_names_are_asked_for(fake_run: Callable[..., Run], asked: list[SampleConfig]) -> None:
    fake_run("reference", class_cond=True, num_classes=1000)
    at = open_page("pages/sample.py")
    assert "does not say which of them it has learnt" in said(at)
    assert button(at, "Sample").disabled
    at.text_input(key="sample.classes").set_value("5-3").run()
    assert "runs backwards" in said(at)
    at.text_input(key="sample.classes").set_value("0-9").run()
    at.button_group(key="sample.count").set_value("Per class").run()
    at.number_input(key="sample.rows").set_value(2).run()
    button(at, "Sample").click().run()
    assert (asked[0].classes, asked[0].num_samples) == ("0-9", 20)


def test_a_super_resolution_run_samples_from_its_data_with_one_click(
    fake_run: Callable[..., Run], asked: list[SampleConfig], tmp_path: Path
) -> None:
    fake_run("large", small_size=4)
    at = open_page("pages/sample.py")
    button(at, "Sample").click().run()
    assert asked[0].base_samples == "data"
    at.button_group(key="sample.base").set_value("path").run()
    assert "No low-resolution images are selected yet" in said(at)
    assert button(at, "Sample").disabled
    folder = tmp_path / "small"
    files.write_bytes(folder / "0.png", thumbnails.png(Image.new("RGB", (5, 4))))
    at.text_input(key="sample.base_path").set_value(str(folder)).run()
    assert "has 5 x 4 pixels, and this model enlarges 4 x 4" in said(at)
    files.write_bytes(folder / "1.png", thumbnails.png(Image.new("RGB", (4, 4))))
    (folder / "0.png").unlink()
    at.run()
    button(at, "Sample").click().run()
    assert asked[1].base_samples == str(folder)


def test_images_of_another_run_are_enlarged(
    fake_run: Callable[..., Run], asked: list[SampleConfig], runs_dir: Path
) -> None:
    job = draw(fake_run("small"))  # of 8 pixels
    draw(fake_run("other", image_size=16, small_size=4), "20260102-030406")
    fake_run("large", image_size=16, small_size=8)
    draw(fake_run("damaged"), "20260102-030407").npz.unlink()
    (runs_dir / "damaged" / "samples").rename(runs_dir / "elsewhere")
    (runs_dir / "damaged" / "samples").symlink_to(runs_dir / "elsewhere")
    at = open_page("pages/sample.py", run="large")
    at.button_group(key="sample.base").set_value("drawn").run()
    assert [option.split(",")[0] for option in at.selectbox(key="sample.base_drawn").options] == ["other", "small"]
    at.selectbox(key="sample.base_drawn").set_value(str(job.npz)).run()
    button(at, "Sample").click().run()
    assert asked[0].base_samples == str(job.npz)


def test_small_images_are_uploaded(fake_run: Callable[..., Run], asked: list[SampleConfig]) -> None:
    run = fake_run("large", small_size=4)
    at = open_page("pages/sample.py")
    at.button_group(key="sample.base").set_value("upload").run()
    assert button(at, "Sample").disabled
    small = thumbnails.png(Image.new("RGB", (4, 4)))
    at.get("file_uploader")[0].set_value([("cat_1.png", small, "image/png"), ("cat_2.png", small, "image/png")]).run()
    button(at, "Sample").click().run()
    folder = Path(asked[0].base_samples)
    assert folder.parent == (run.folder / "uploads").absolute()
    assert sorted(path.name for path in folder.iterdir()) == ["cat_1.png", "cat_2.png"]
    other = thumbnails.png(Image.new("RGB", (4, 4), "red"))
    upload = [("a.png", small), ("A.png", other), ("a.png", other), ("a.png", small), ("a-2.png", small)]
    at.get("file_uploader")[0].set_value([(name, data, "image/png") for name, data in upload]).run()
    button(at, "Sample").click().run()
    kept = {path.name: path.read_bytes() for path in Path(asked.pop().base_samples).iterdir()}
    assert kept == {"a.png": small, "A-2.png": other, "a-2-2.png": small}
    packed = io.BytesIO()
    np.savez(packed, np.zeros((2, 4, 4, 3), np.uint8))
    mixed = [("a.npz", packed.getvalue(), "application/octet-stream"), ("cat_1.png", small, "image/png")]
    at.get("file_uploader")[0].set_value(mixed).run()
    assert "together with other files" in said(at)
    at.get("file_uploader")[0].set_value(mixed[:1]).run()
    button(at, "Sample").click().run()
    assert asked[1].base_samples.endswith("a.npz")


def test_pairs_are_shown_and_taken_home(fake_run: Callable[..., Run]) -> None:
    run = fake_run("large", small_size=4)
    job = draw(run, base_samples="shapes")
    files.write_bytes(job.pairs, thumbnails.png(Image.new("RGB", (34, 18))))
    at = open_page("pages/sample.py")
    assert "low-resolution image on the left" in said(at)
    assert "Pairs (PNG)" in [d.label for d in at.get("download_button")]
    at.button(key=f"use_{key_of(job)}").click().run()
    assert at.text_input(key="sample.base_path").value == "shapes"


def test_without_a_run_sample_offers_samples_of_the_example(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, int]] = []

    def start(run: Run, sample: SampleConfig) -> Run:
        started.append((run.name, sample.num_samples))
        return run

    monkeypatch.setattr("ddpm.runs.launch.start_sampling", start)
    at = open_page("pages/sample.py")
    assert len(at.get("image")) == 1, "what it samples"
    assert list(runs_dir.iterdir()) == [], "a page that is looked at creates nothing"
    at.button(key="use_example").click().run()
    assert started == [("example", 16)]
    assert [path.name for path in runs_dir.iterdir() if path.name[0] != "."] == ["example"]
    assert "This is the included example model" in said(at)


def test_a_run_without_checkpoint_says_so(fake_run: Callable[..., Run]) -> None:
    fake_run("young", steps=5)
    assert "has no checkpoint yet" in said(open_page("pages/sample.py"))


def test_a_live_run_without_checkpoint_can_save_one(fake_run: Callable[..., Run]) -> None:
    run = fake_run("young", steps=5, state="running")
    with Worker(run.folder, 100) as worker:
        worker.beat(state="running", now=True)
        at = open_page("pages/sample.py")
        button(at, "Save now").click().run()
        assert "save" in run.requests()


def test_sample_starts_a_process_with_what_the_form_says(
    fake_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_run("shapes", diffusion_steps=1000, class_cond=True, num_classes=2, class_names=("circle", "star"))
    asked: list[SampleConfig] = []

    def start(run: Run, sample: SampleConfig) -> SampleJob:
        asked.append(sample)
        return draw(run)

    monkeypatch.setattr("ddpm.runs.launch.start_sampling", start)
    at = open_page("pages/sample.py")
    assert at.selectbox(key="sample.step").options == ["Newest (step 40)", "Step 40", "Step 20"]
    at.selectbox(key="sample.step").set_value(20)
    at.button_group(key="sample.weights").set_value("model")
    at.selectbox(key="sample.sampler").set_value("ddim")
    at.select_slider(key="sample.steps").set_value(20)
    at.run()
    at.slider(key="sample.eta").set_value(0.5)
    at.number_input(key="sample.num_samples").set_value(4)
    at.multiselect(key="sample.classes").set_value(["star"])
    at.number_input(key="sample.seed").set_value(7).run()
    button(at, "Sample").click().run()
    first = SampleConfig(
        weights="model", step=20, num_samples=4, batch_size=0, sampler="ddim", steps=20, eta=0.5, classes="star", seed=7
    )
    assert asked == [first]
    at.selectbox(key="sample.sampler").set_value("ddpm").run()
    with pytest.raises(KeyError):
        at.slider(key="sample.eta")
    button(at, "Sample").click().run()
    assert asked[1] == dataclasses.replace(first, sampler="ddpm", eta=0.0)


def test_an_impossible_respacing_is_reported(fake_run: Callable[..., Run]) -> None:
    fake_run("shapes")
    at = open_page("pages/sample.py")
    at.text_input(key="sample.timestep_respacing").set_value("ddim13").run()
    assert "no whole stride" in said(at)
    assert button(at, "Sample").disabled


def test_a_finished_sampling_can_be_taken_home(fake_run: Callable[..., Run]) -> None:
    job = draw(fake_run("shapes"))
    at = open_page("pages/sample.py")
    assert [d.label for d in at.get("download_button")] == [
        "Grid (PNG)",
        "Images (zip)",
        "Arrays (npz)",
        "Settings (JSON)",
    ]
    assert "ddpm sample --model_path ema.pt" in said(at)
    assert "about 16 s" in said(at)  # 16 images where 3 took 2 s, and the start
    with zipfile.ZipFile(io.BytesIO(downloads.samples_zip(job))) as archive:
        assert archive.namelist() == ["00000.png", "00001.png", "00002.png"]
        assert Image.open(archive.open("00001.png")).size == (8, 8)


def test_earlier_drawings_are_shown_again_and_their_settings_used(fake_run: Callable[..., Run]) -> None:
    run = fake_run("shapes", diffusion_steps=1000)
    draw(run, "20260101-000000", seed=5, eta=0.25)
    draw(run, "20260102-000000", seed=6)
    at = open_page("pages/sample.py")
    assert at.button(key="show_shapes/20260102-000000").disabled  # the newest one is shown
    at.button(key="show_shapes/20260101-000000").click().run()
    assert at.button(key="show_shapes/20260101-000000").disabled
    at.button(key="use_shapes/20260101-000000").click().run()
    assert at.number_input(key="sample.seed").value == 5
    assert at.slider(key="sample.eta").value == 0.25
    assert at.select_slider(key="sample.steps").value == 10


def test_a_failed_sampling_says_why(fake_run: Callable[..., Run]) -> None:
    draw(fake_run("shapes"), state="failed")
    assert "The sun was in my eyes." in said(open_page("pages/sample.py"))


def test_a_sampling_in_hand_can_be_cancelled(fake_run: Callable[..., Run]) -> None:
    job = draw(fake_run("shapes"), state="running")
    with Worker(job.folder) as worker:
        worker.beat(state="running", step=3, total_steps=10, seconds_left=7.0, now=True)
        at = open_page("pages/sample.py")
        assert button(at, "Sample").disabled
        button(at, "Cancel").click().run()
        assert "stop" in job.requests()


@pytest.mark.parametrize(
    "sample",
    [
        SampleConfig(num_samples=5, use_ddim=True, timestep_respacing="ddim25", eta=0.5, seed=3),
        SampleConfig(num_samples=5, timestep_respacing="10,15,20", sigma_small=True),
        SampleConfig(num_samples=5, timestep_respacing="13", classes="1,0", clip_denoised=False),
        SampleConfig(num_samples=5),
    ],
)
def test_settings_used_again_are_the_same_settings(
    sample: SampleConfig, fake_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fake_run("shapes", diffusion_steps=1000, class_cond=True, num_classes=2)
    job = draw(run)
    files.write_json(job.folder / "settings.json", dict(sample=sample.__dict__))
    asked: list[SampleConfig] = []
    monkeypatch.setattr("ddpm.runs.launch.start_sampling", lambda run, sample: asked.append(sample) or job)
    at = open_page("pages/sample.py")
    at.button(key=f"use_{key_of(job)}").click().run()
    button(at, "Sample").click().run()
    assert not at.exception
    assert asked == [dataclasses.replace(summary.normal_form(sample), weights="ema_0.9")]


# Words and images


def test_durations_and_amounts_as_people_say_them() -> None:
    said = [formatting.duration(s) for s in (None, float("nan"), 0.5, 5, 42, 185, 7500, 90000)]
    assert said == ["–", "–", "0.5 s", "5.0 s", "42 s", "3 min 05 s", "2 h 05 min", "1 day 1 h"]
    assert [formatting.amount(n) for n in (950, 12400, 1.9e6, 2.1e9)] == ["950", "12.4 k", "1.9 M", "2.1 G"]


@pytest.mark.parametrize("size", [(8, 8), (134, 134), (67, 30), (1000, 500), (1, 1)])
def test_images_are_fitted_to_one_size(size: tuple[int, int]) -> None:
    assert max(thumbnails.fitted(Image.new("RGB", size), 460).size) == 460


def test_enlarged_pixels_are_not_blurred() -> None:
    two = Image.fromarray(np.array([[[0, 0, 0], [255, 255, 255]]] * 2, dtype=np.uint8))
    assert set(np.unique(np.asarray(thumbnails.fitted(two, 100)))) == {0, 255}


def test_what_a_sampling_was_is_reported_in_short() -> None:
    config = codec.replace(Config(), dict(diffusion_steps=1000))
    sample = SampleConfig(num_samples=1, use_ddim=True, timestep_respacing="ddim50", eta=0.5, seed=3)
    assert summary.describe(config, sample) == "1 image · DDIM, 50 NFE, eta 0.5 · seed 3"


def test_images_in_memory_are_limited_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = SampleJob(tmp_path / "job")
    paths = [job.folder / f"{k}.png" for k in range(3)]
    for path in paths:
        files.write_bytes(
            path, thumbnails.png(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))
        )
    monkeypatch.setattr(thumbnails, "_kept", OrderedDict())
    size = len(thumbnails.shown(job, paths[0], 64) or b"")
    monkeypatch.setattr(thumbnails, "KEPT", 2 * size)
    for path in paths:
        thumbnails.shown(job, path, 64)
    assert [Path(key[0]).name for key in thumbnails._kept] == ["1.png", "2.png"]
    files.write_bytes(paths[2], thumbnails.png(Image.new("RGB", (64, 64))))
    thumbnails.shown(job, paths[2], 64)
    assert [Path(key[0]).name for key in thumbnails._kept] == ["1.png", "2.png"], "once, as it is now"
