"""Evaluations of sample quality: what is compared with what, the same again, resumed, refused, shown in the page."""

import copy
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest
from app_page import button, open_page, plain, said
from PIL import Image

import ddpm
from ddpm.checkpoints import loading
from ddpm.cli import main
from ddpm.config import codec
from ddpm.config.quality import QualityConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import quality_figures
from ddpm.quality import distances, evaluation, memorisation
from ddpm.reports import quality_sheet
from ddpm.runs import launch
from ddpm.runs.jobs import Status
from ddpm.runs.results import QualityJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Stopped, Worker
from ddpm.storage import arrays, files

pytestmark = pytest.mark.usefixtures("runs_here", "threads_afterwards")
N = quality_figures.LEAST


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals and references are small: they are not what is looked at."""
    monkeypatch.setattr(distances, "RESAMPLES", 4)
    monkeypatch.setattr(distances, "GROUPS", 2)
    monkeypatch.setattr(evaluation, "MOST_REFERENCE", 300)
    monkeypatch.setattr(memorisation, "MOST_BYTES", 300 * 8 * 8 * 3)
    monkeypatch.setattr(memorisation, "MOST_UNSEEN", 50)


@pytest.fixture
def trained(tiny: Config, runs_dir: Path) -> Run:
    """A run of two steps with held-out images, whose weights can be loaded."""
    flags = codec.to_flags(codec.replace(tiny, {"total_steps": 2, "save_interval": 2, "hold_out": 0.2}))
    assert main.main(["train", *flags, "--run", "one", "--runs_dir", str(runs_dir)]) == 0
    return Run(runs_dir / "one")


def measure(run: Run, folder: Path, stop_after: int = 10**9, **settings: Any) -> dict[str, Any]:
    """Measures into a folder, and stops after so many reports."""
    with Worker(folder) as worker:
        asked = QualityConfig(**{"num_samples": N, "steps": 2, "precision": "fp32", "threads": 1, **settings})
        for number, _ in enumerate(evaluation.measure_source(folder, worker, run, asked, {}), start=1):
            if number == stop_after:
                break
    return QualityJob(folder).result


def reference(run: Run, **settings: Any) -> evaluation.Reference:
    asked = QualityConfig(**settings)
    return evaluation.read_reference(run.config, asked, loading.open_model(run, asked), None)


def refused(run: Run, folder: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        measure(run, folder, **settings)
    return error.value.code


def test_the_same_seeds_give_the_same_figures_and_one_that_is_resumed_too(trained: Run, tmp_path: Path) -> None:
    first = measure(trained, tmp_path / "a", batch_size=100)
    assert measure(trained, tmp_path / "b", batch_size=100, stop_after=3) == {}
    job = QualityJob(tmp_path / "b")
    assert [path.name for path in job.batch_paths()] == ["batch_0000000.npy"]
    second = measure(trained, tmp_path / "b", batch_size=64)
    assert json.dumps(second["rows"]) == json.dumps(first["rows"])
    assert second["about"] == first["about"]
    assert job.batch_paths() == []
    with job.open_file(job.npz, 2**30) as file:  # type: ignore[arg-type]
        samples = arrays.read_npz(file)["arr_0"]
    assert samples.shape == (N, 8, 8, 3)

    about = first["about"]
    assert (about["n"], about["nfe"], about["sampler"], about["seed"], about["step"]) == (N, 2, "unipc-2", 0, 2)
    assert (about["weights"], about["precision"], about["part"]) == ("ema_0.9", "fp32", "test")
    assert {row["name"]: row["n"] for row in first["rows"]} == {"samples": N, "real": N, "noise": N, "blurred": N}
    figures = {row["name"]: row["figures"] for row in first["rows"]}
    assert figures["real"]["fd"][0] < figures["samples"]["fd"][0], "two steps of training draw nothing"
    assert figures["real"]["coverage"][0] > 0.8

    # Existing images: the same samples from their file come to the same figures.
    given = measure(trained, tmp_path / "c", samples=str(job.npz))
    assert json.dumps(given["rows"]) == json.dumps(first["rows"])
    assert given["about"].get("sampler") is None
    quality_figures.check_comparable(given["about"], about)

    # And in Python, as an array.
    found = ddpm.evaluate_quality(trained, samples=samples, num_samples=N)
    assert {name: list(values) for name, values in found.figures.items()} == first["rows"][0]["figures"]
    assert len(trained.results("qualities")) == 0

    # The halves of the reference have nothing in common, and cannot be compared with each other.
    halves = [reference(trained, num_samples=N, half=half) for half in ("first", "second")]
    assert not {*map(bytes, halves[0].pixels)} & {*map(bytes, halves[1].pixels)}
    assert quality_figures.comparable({**about, **halves[0].about}, {**about, **halves[1].about})

    with pytest.raises(UserError) as error:
        measure(trained, tmp_path / "a")
    assert error.value.code == "already-exists"


def test_samples_of_another_evaluation_are_not_gone_on_with(trained: Run, tmp_path: Path) -> None:
    assert measure(trained, tmp_path / "a", batch_size=100, stop_after=3) == {}
    before = (tmp_path / "a" / "settings.json").read_bytes()
    for changes in ({"seed": 1}, {"steps": 3}, {"weights": "model"}, {"precision": "bf16"}):
        assert refused(trained, tmp_path / "a", **changes) == "already-exists", changes
    assert (tmp_path / "a" / "settings.json").read_bytes() == before
    settings = json.loads(before)
    del settings["sampled_with"]  # as an earlier version left it
    files.write_json(tmp_path / "a" / "settings.json", settings)
    assert refused(trained, tmp_path / "a", seed=1) == "already-exists"
    for odd in ([], {"precision": "fp16"}, {"seed": []}):  # of a stranger
        files.write_json(tmp_path / "a" / "settings.json", {**settings, "sampled_with": odd})
        assert refused(trained, tmp_path / "a", seed=1) in ("already-exists", "bad-value")
    files.write_json(tmp_path / "a" / "settings.json", settings)
    result = measure(trained, tmp_path / "a", num_samples=N + 4, split="train", copies=False)
    assert (result["about"]["n"], result["about"]["part"]) == (N + 4, "train")


def test_a_batch_that_a_loss_of_power_left_empty_is_sampled_again(trained: Run, tmp_path: Path) -> None:
    whole = measure(trained, tmp_path / "a", batch_size=100)
    assert measure(trained, tmp_path / "b", batch_size=100, stop_after=5) == {}
    job = QualityJob(tmp_path / "b")
    assert [path.name for path in job.batch_paths()] == ["batch_0000000.npy", "batch_0000100.npy"]
    assert job.count_kept() == 200
    job.batch_paths()[1].write_bytes(b"")
    assert [len(batch) for batch in job.batches()] == [100]
    assert job.count_kept() == 100
    again = measure(trained, tmp_path / "b", batch_size=100)
    assert json.dumps(again["rows"]) == json.dumps(whole["rows"])


def test_photographs_without_a_model_are_compared_at_a_size_that_fits(tmp_path: Path) -> None:
    for name, size, side in (("small", (40, 30), 30), ("large", (4000, 3000), evaluation.MOST_SIDE)):
        (tmp_path / name).mkdir()
        Image.new("RGB", size).save(tmp_path / name / "a.png")
        found = evaluation._config_of(QualityConfig(samples=str(tmp_path / name)))
        assert found.model.image_size == side


def test_training_images_stand_in_for_too_few_held_out_ones(tiny: Config, tmp_path: Path, runs_dir: Path) -> None:
    """As the presets for 1,000 images of one's own have: a tenth of them is held out."""
    pixels = np.random.default_rng(0).integers(0, 256, (3 * N, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", pixels)
    changes = {"total_steps": 2, "save_interval": 2, "hold_out": 0.1, "data_dir": str(tmp_path / "own.npz")}
    flags = codec.to_flags(codec.replace(tiny, changes))
    assert main.main(["train", *flags, "--run", "few", "--runs_dir", str(runs_dir)]) == 0
    run = Run(runs_dir / "few")
    asked = QualityConfig(num_samples=N)
    with Worker(tmp_path / "job") as worker:
        found = evaluation.read_reference(run.config, asked, loading.open_model(run, asked), worker)
        assert "64" in worker.status.warning, "how many are held out"
    assert found.about["part"] == "train"
    learnt = {pixels[k].tobytes() for k in range(len(pixels))}
    assert {*map(bytes, found.pixels)} < learnt
    assert not {*map(bytes, found.pixels)} & {*map(bytes, found.real)}
    assert refused(run, tmp_path / "a", split="test") == "too-few-images"
    assert refused(run, tmp_path / "b", half="first", num_samples=N) == "too-few-images", "neither part has two halves"


def test_real_images_are_not_those_of_the_reference(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = reference(trained, num_samples=N)
    assert (found.about["part"], len(found.real), len(found.pixels)) == ("test", N, 300)
    monkeypatch.setattr(evaluation, "MOST_REFERENCE", 600)
    many = reference(trained, num_samples=900)
    assert (many.about["real"], len(many.real), len(many.pixels)) == ("training images", 600, 600)


def test_given_images_are_a_fair_choice_and_compared_at_their_number(trained: Run, tmp_path: Path) -> None:
    """They may lie sorted by class, and be fewer than are asked for."""
    ordered = np.repeat(np.arange(300, dtype=np.uint8) // 2, 8 * 8 * 3).reshape(300, 8, 8, 3)
    np.savez(tmp_path / "sorted.npz", images=ordered)
    asked = QualityConfig(samples=str(tmp_path / "sorted.npz"), num_samples=N)
    with Worker(tmp_path / "job") as worker:
        chosen = evaluation._given(trained.config, asked, worker)
    assert len(chosen) == N
    assert chosen.mean() == pytest.approx(ordered.mean(), rel=0.03)
    found = measure(trained, tmp_path / "fewer", samples=str(tmp_path / "sorted.npz"), num_samples=2000)
    assert {row["name"]: row["n"] for row in found["rows"]} == {
        "samples": 300,
        "real": 300,
        "noise": 300,
        "blurred": 300,
    }
    same = measure(trained, tmp_path / "same", samples=str(tmp_path / "sorted.npz"), num_samples=300)
    assert quality_figures.comparable(found["about"], same["about"]) == []


def test_what_cannot_be_measured_is_refused(trained: Run, tmp_path: Path) -> None:
    assert refused(trained, tmp_path / "a", num_samples=128) == "too-few-images"
    few = tmp_path / "few.npz"
    np.savez(few, images=np.zeros((40, 8, 8, 3), np.uint8))
    assert refused(trained, tmp_path / "b", reference=str(few)) == "too-few-images"
    assert refused(trained, tmp_path / "c", samples=str(few)) == "too-few-images"
    enough = tmp_path / "enough.npz"
    np.savez(enough, images=np.random.default_rng(0).integers(0, 256, (N + 40, 8, 8, 3), np.uint8))
    assert refused(trained, tmp_path / "d", samples=str(enough), num_samples=40) == "too-few-images"
    assert refused(trained, tmp_path / "e", reference=str(enough)) == "too-few-images", "its halves are too small"
    assert not (tmp_path / "a" / "result.json").exists()


def test_the_command_needs_a_model_or_images(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--reference", "shapes"], ["--samples", "x.npz"]):
        assert main.main(["evaluate", "quality", *words, "--json", "True"]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "missing-value"
    assert main.main(["evaluate", "quality", "--resume", str(runs_dir), "--json", "True"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "not-a-run"


def test_classes_are_sampled_as_often_as_they_are_real(
    tiny: Config, runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.repeat([0, 1], [540, 60])
    np.savez(
        tmp_path / "odd.npz", arr_0=np.full((600, 8, 8, 3), labels[:, None, None, None] * 9, np.uint8), arr_1=labels
    )
    settings = {"total_steps": 2, "save_interval": 2, "class_cond": True, "cond_drop_prob": 0.1}
    flags = codec.to_flags(codec.replace(tiny, {**settings, "data_dir": str(tmp_path / "odd.npz")}))
    assert main.main(["train", *flags, "--run", "odd", "--runs_dir", str(runs_dir)]) == 0
    sampled: list[np.ndarray] = []
    original = evaluation.engine.sample

    def watched(network: Any, resolved: Any, *more: Any) -> Any:
        sampled.append(resolved.labels)
        return original(network, resolved, *more)

    monkeypatch.setattr(evaluation.engine, "sample", watched)
    about = measure(Run(runs_dir / "odd"), tmp_path / "out", copies=False)["about"]
    assert about["class_counts"] == [540, 60]
    assert np.bincount(sampled[0]).tolist() == [230, 26], "of 256, nine in ten"
    assert about["guidance_scale"] == 2.0, "as it was trained for"
    named = measure(Run(runs_dir / "odd"), tmp_path / "named", copies=False, classes="0,1", guidance_scale=1.0)["about"]
    assert (named["class_counts"], named["guidance_scale"]) == ([], 1.0)
    assert np.bincount(sampled[1]).tolist() == [128, 128]


def test_existing_images_may_lie_in_the_order_of_their_classes(trained: Run, tmp_path: Path) -> None:
    real = reference(trained, num_samples=300).pixels[:300]
    in_order = np.repeat(real, 3, axis=0)  # a perfect set, of which the first third shows a third of the images
    found = ddpm.evaluate_quality(trained, samples=in_order, num_samples=len(in_order))
    assert found.figures["coverage"][0] > 0.55


# --- comparison, by results as files


ABOUT = dict(
    n=2000,
    data_dir="photos",
    part="test",
    half="",
    reference_count=8000,
    reference_digest="ab" * 32,
    real="training images",
    features="c10v1-0123456789ab",
    version=1,
    shape=[8, 8, 3],
    step=40,
    weights="ema_0.9",
    sampler="unipc-2",
    nfe=25,
    guidance_scale=1.0,
    classes="",
    seed=0,
    precision="fp32",
)


def measured(
    run: Run, name: str = "20260102-000000", state: str = "finished", fd: float = 12.0, **about: Any
) -> QualityJob:
    """An evaluation as the process leaves it, with known figures."""
    job = QualityJob(run.folder / "qualities" / name)
    files.write_json(
        job.folder / "settings.json", {"quality": {"num_samples": 2000}, "command": "ddpm evaluate quality --run x"}
    )
    rows = [
        {
            "name": row,
            "n": 2000,
            "figures": {key: [fd * times, 0.9 * fd * times, 1.1 * fd * times] for key in quality_figures.FIGURES},
        }
        for row, times in (("samples", 1), ("real", 0.1), ("blurred", 2), ("noise", 10))
    ]
    if state == "finished":
        files.write_json(
            job.folder / "result.json",
            {
                "about": ABOUT | about,
                "rows": rows,
                "nearness": 1.0,
                "farthest_class": 50.0,
                "spectra": {"samples": [1.0, 2.0], "reference": [3.0, 4.0]},
            },
        )
    files.write_json(job.folder / "status.json", Status(state, pid=1).__dict__)  # type: ignore[arg-type]
    return job


@pytest.mark.parametrize(
    "change",
    [dict(n=500), dict(half="first"), dict(reference_digest="cd" * 32), dict(features="c10v1-x"), dict(version=2)],
    ids=str,
)
def test_what_differs_in_what_matters_is_not_compared(
    fake_run: Callable[..., Run], change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = fake_run("shapes")
    one, other = measured(run, "20260101-000000", **change), measured(run)
    assert len(quality_figures.comparable(one.result["about"], other.result["about"])) == 1
    assert main.main(["evaluate", "quality", "--compare", str(one.folder), str(other.folder), "--json", "True"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "not-comparable"


def test_what_is_compared_may_differ_and_is_said(
    fake_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = fake_run("shapes")
    one, other = measured(run, "20260101-000000", step=20, nfe=10), measured(run, fd=6.0)
    assert quality_figures.comparable(one.result["about"], other.result["about"]) == []
    also = quality_figures.also_differ(one.result["about"], other.result["about"])
    assert also == ["training step (20 and 40)", "model evaluations (10 and 25)"]
    assert main.main(["evaluate", "quality", "--compare", str(one.folder), str(other.folder)]) == 0
    text = capsys.readouterr().out
    assert "12 (10.8 to 13.2)" in text
    assert "6 (5.4 to 6.6)" in text
    assert main.main(["evaluate", "quality", "--compare", str(run.folder), str(other.folder), "--json", "True"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "not-found"


def test_data_unlike_photographs_is_said_to_be() -> None:
    near, far = {"nearness": 10.0, "farthest_class": 50.0}, {"nearness": 60.0, "farthest_class": 50.0}
    assert quality_figures.applicability(near) == ""
    assert quality_figures.applicability(far) != ""


def test_no_figure_is_called_what_it_is_not() -> None:
    texts = [word for figure in quality_figures.FIGURES.values() for word in (figure.title, figure.words)]
    assert not [text for text in texts if "FID" in text]


def test_the_workbook_has_the_figures(fake_run: Callable[..., Run]) -> None:
    book = openpyxl.load_workbook(io.BytesIO(quality_sheet.workbook(measured(fake_run("shapes")))))
    rows = list(book["Quality"].values)
    assert rows[0][:5] == ("Set", "Images", "Figure", "Unit", "Value")
    assert rows[1] == ("Samples", 2000, "FD-c10v1", None, 12, 10.8, pytest.approx(13.2), "lower")
    assert len(rows) == 1 + 4 * len(quality_figures.FIGURES)
    assert ("features", "c10v1-0123456789ab") in list(book["Measured with"].values)
    assert list(book["Spectra"].values)[1] == (0, 1, 3)


# --- the page


def open_quality(**query: str) -> Any:
    at = open_page("pages/evaluate.py", **query)
    at.button_group(key="evaluate_part").set_value(":material/compare: Sample quality").run()
    assert not at.exception, at.exception
    return at


def test_start_measures_what_the_form_says(fake_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, QualityConfig]] = []
    run = fake_run("shapes", hold_out=0.2)
    monkeypatch.setattr(launch, "start_result", lambda run, kind, s, more=(): asked.append((kind, s)) or measured(run))
    at = open_quality()
    assert "How near samples are to real images" in said(at)
    at.number_input(key="quality.num_samples").set_value(100).run()
    assert button(at, "Start").disabled
    at.number_input(key="quality.num_samples").set_value(500)
    at.number_input(key="quality.steps").set_value(10)
    at.selectbox(key="quality.half").set_value("first").run()
    assert "--half first" in said(at)
    assert "held-out images" in said(at)
    button(at, "Start").click().run()
    assert [(kind, s.num_samples, s.steps, s.half) for kind, s in asked] == [("qualities", 500, 10, "first")]
    assert run.results("qualities")
    assert {plain(m.label): m.value for m in at.metric}["FD-c10v1"] == "12"


def test_a_result_is_shown_among_sets_of_known_quality(fake_run: Callable[..., Run]) -> None:
    measured(fake_run("shapes"))
    at = open_quality()
    table = at.dataframe[0].value
    assert list(table.columns) == [
        "Figure",
        "Samples (2,000)",
        "Real images (2,000)",
        "Real images, blurred (2,000)",
        "Noise (2,000)",
        "Better",
    ]
    assert table["Samples (2,000)"][0] == "12 (10.8 to 13.2)"
    assert "seeds 0 to 1999" in said(at)
    assert "unlike the photographs" not in said(at)
    labels = [plain(d.label) for d in at.get("download_button")]
    assert labels == ["Workbook (xlsx)", "Result (JSON)"]


def test_the_page_refuses_to_compare_what_it_cannot(fake_run: Callable[..., Run]) -> None:
    run = fake_run("shapes")
    measured(run, "20260101-000000", n=500)
    measured(run, "20260102-000000", step=20, fd=6.0)
    measured(run, "20260103-000000")
    at = open_quality()
    beside = at.selectbox(key="quality.beside")
    beside.set_value("20260101-000000").run()
    assert "the number of samples (2,000 and 500)" in plain(at.error[0].value)
    assert len(at.dataframe) == 1
    at.selectbox(key="quality.beside").set_value("20260102-000000").run()
    assert not at.error
    assert at.dataframe[1].value.iloc[0, 1:3].tolist() == ["12 (10.8 to 13.2)", "6 (5.4 to 6.6)"]


def test_one_that_was_stopped_can_be_resumed(fake_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    spawned: list[list[str]] = []
    monkeypatch.setattr(launch, "_spawn", lambda job, arguments: spawned.append(list(arguments)))
    job = measured(fake_run("shapes"), state="stopped")
    arrays.write_npy(job.batch_path(0), np.zeros((30, 8, 8, 3), np.uint8))
    at = open_quality()
    button(at, "Resume").click().run()
    assert spawned == [["evaluate", "quality", "--resume", str(job.folder.absolute())]]


def test_one_in_hand_can_be_cancelled(fake_run: Callable[..., Run]) -> None:
    job = measured(fake_run("shapes"), state="running")
    with Worker(job.folder) as worker:
        worker.beat(
            state="running", step=300, total_steps=1000, seconds_left=7.0, message="Sampling 2,000 images", now=True
        )
        at = open_quality()
        assert button(at, "Start").disabled
        button(at, "Cancel").click().run()
        assert "stop" in job.requests()


@pytest.mark.parametrize("raised", [False, True], ids=["it ends", "it raises"])
def test_a_stop_in_python_leaves_nothing_that_seems_finished(
    raised: bool, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C is a request to stop, which the measurement answers."""

    def measured(*_: Any) -> Iterator[evaluation.Progress]:
        yield evaluation.Progress(1)
        if raised:
            raise Stopped

    monkeypatch.setattr(evaluation, "measure_source", measured)
    with pytest.raises(KeyboardInterrupt):
        ddpm.evaluate_quality(trained, num_samples=N, keep=True)
    (job,) = trained.results("qualities")
    assert job.state() == "stopped"


def test_a_result_that_lacks_a_figure_is_refused(trained: Run, tmp_path: Path) -> None:
    measure(trained, tmp_path / "job")
    whole = json.loads((tmp_path / "job" / "result.json").read_text())
    for row, figure in ((0, None), (0, "fd"), (1, "coverage")):
        other = copy.deepcopy(whole)
        if figure:
            del other["rows"][row]["figures"][figure]
        else:
            del other["rows"][row]
        files.write_json(tmp_path / "job" / "result.json", other)
        with pytest.raises(UserError) as error:
            _ = QualityJob(tmp_path / "job").result
        assert error.value.code == "bad-value"
