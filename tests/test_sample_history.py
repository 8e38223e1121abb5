"""Earlier samples on the Sample page: shown, resumed, noted on, compared, deleted, their settings opened again."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from app_page import AppTest, button, open_page, said

from ddpm.config.tasks import SampleConfig
from ddpm.planning import summary
from ddpm.runs.jobs import Status
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import files, images
from pages.ui.forms import inputs_form, reopen
from pages.ui.frame import job_progress
from pages.ui.results import sampler_comparison, samples
from pages.ui.results.sample_history import key_of

pytestmark = pytest.mark.usefixtures("runs_here")


@pytest.fixture
def run(fake_run: Callable[..., Run]) -> Run:
    return fake_run("shapes", diffusion_steps=1000)


def recipe(run: Run, sample: SampleConfig) -> dict:
    checkpoint = run.checkpoint()
    name = checkpoint.path("ema_0.9").name
    about = dict(
        path=str(run.folder / name), step=checkpoint.step, weights="ema_0.9", sha256=checkpoint.files[name]["sha256"]
    )
    return dict(sample=dataclasses.asdict(sample), checkpoint=about, command="ddpm sample --seed 3", class_names=[])


def earlier(
    run: Run, name: str = "20260102-030405", count: int = 3, state: str = "finished", **settings: object
) -> SampleJob:
    """A sampling as `ddpm sample` leaves it."""
    job = SampleJob(run.folder / "samples" / name)
    sample = SampleConfig(**{"num_samples": count, "sampler": "ddim", "steps": 10, **settings})  # type: ignore[arg-type]
    reported = recipe(run, sample)
    files.write_json(job.folder / "settings.json", reported)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    for k, image in enumerate(pixels):
        images.save_png(job.folder / "images" / f"{k:05d}.png", image, reported)
    images.save_png(job.grid, images.grid(pixels))
    status = Status(
        state,
        step=10,
        total_steps=10,
        steps_per_second=5.0,
        pid=1,
        message="" if state == "finished" else "It ended early.",
    )  # type: ignore[arg-type]
    files.write_json(job.folder / "status.json", dataclasses.asdict(status))
    return job


@pytest.mark.parametrize("state", ["stopped", "failed", "finished"])
def test_a_sampling_that_ended_early_goes_on(run: Run, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = earlier(run, state=state, num_samples=3 if state == "finished" else 9)
    resumed: list[SampleJob] = []
    monkeypatch.setattr("ddpm.runs.launch.resume_sampling", resumed.append)
    at = open_page("pages/sample.py")
    assert ("Resume" in [b.label for b in at.button]) == (state != "finished")
    if state != "finished":
        button(at, "Resume").click().run()
        assert resumed == [job]


def test_the_settings_and_the_command_of_what_is_shown(run: Run) -> None:
    earlier(run, seed=77, steps=25)
    at = open_page("pages/sample.py")
    assert "ddpm sample --seed 3" in said(at)
    button(at, "Use these settings").click().run()
    assert at.number_input(key="sample.seed").value == 77
    assert at.select_slider(key="sample.steps").value == 25


def test_a_reconstruction_error(run: Run) -> None:
    job = earlier(run, task="invert")
    files.write_json(job.folder / "result.json", dict(rmse=[1.5, 2.5, 3.5], mean=2.5, unit="pixel values, 0 to 255"))
    at = open_page("pages/sample.py")
    metric = next(m for m in at.metric if m.label == "Reconstruction error")
    assert metric.value == "2.5"
    assert "0 to 255" in metric.help
    assert "Per image: 1.5, 2.5, 3.5" in said(at)


def test_an_interpolation_is_a_strip(run: Run) -> None:
    strip = samples.image(earlier(run, count=5, task="interpolate"))
    assert strip
    assert strip.size == (5 * 8 + 4 * 2, 8)
    assert open_page("pages/sample.py")


def note_of(at: AppTest, job: SampleJob):  # type: ignore[no-untyped-def]
    return next(field for field in at.text_input if (field.key or "").startswith(f"note_{key_of(job)}-"))


def test_a_note(run: Run) -> None:
    job = earlier(run)
    at = open_page("pages/sample.py")
    note_of(at, job).set_value("the *best* so far").run()
    assert job.note == "the *best* so far"
    assert "the *best* so far" in said(at)
    note_of(at, job).set_value("").run()
    assert job.note == ""
    (job.folder / "note.txt").write_text("as an editor saves it", encoding="utf-8-sig")
    assert job.note == "as an editor saves it"


def test_a_run_and_its_duplicate_have_notes_and_marks_of_their_own(run: Run, fake_run: Callable[..., Run]) -> None:
    job, other = earlier(run), earlier(fake_run("shapes-copy", diffusion_steps=1000))
    at = open_page("pages/sample.py", run=run.name)
    note_of(at, job).set_value("of the first").run()
    at.checkbox(key=f"compare_{key_of(job)}").check().run()
    at.query_params["run"] = "shapes-copy"
    at.run()
    assert note_of(at, other).value == ""
    assert not at.checkbox(key=f"compare_{key_of(other)}").value
    other.set_note("typed elsewhere")
    at.run()
    assert note_of(at, other).value == "typed elsewhere"


@pytest.mark.slow
def test_deleted_after_a_question_and_brought_back(run: Run) -> None:
    job, other = earlier(run), earlier(run, "20260103-000000")
    at = open_page("pages/sample.py")
    at.button(key=f"delete_{key_of(job)}").click().run()
    at.button(key="drawing_cancel").click().run()
    assert job.folder.is_dir()
    for each in (other, job):  # until there is none
        at.button(key=f"delete_{key_of(each)}").click().run()
        at.button(key="drawing_sure").click().run()
        assert not each.folder.exists()
    assert "were deleted" in said(at)
    at.button(key="drawing_undo").click().run()
    assert len(job.images) == 3
    assert "were deleted" not in said(at)
    assert at.button(key=f"show_{key_of(job)}")


def test_one_that_is_sampled_cannot_be_deleted(run: Run) -> None:
    job = earlier(run, state="running")
    with Worker(job.folder) as worker:
        worker.beat(state="running", now=True)
        at = open_page("pages/sample.py")
        at.button(key=f"delete_{key_of(job)}").click().run()
        at.button(key="drawing_sure").click().run()
        assert job.folder.is_dir()
        assert "stop it before deleting it" in at.error[0].value


def test_one_that_begins_says_nothing_of_its_settings_yet(run: Run) -> None:
    job = SampleJob(run.folder / "samples" / "20260102-030405")
    files.write_json(job.folder / "status.json", dataclasses.asdict(Status("failed", pid=1, message="No room.")))
    assert job.sample_config is None
    at = open_page("pages/sample.py")
    assert "10,000" not in said(at)
    assert "Use these settings" not in [b.label for b in at.button]


def test_two_are_compared(run: Run) -> None:
    first = earlier(run, seed=1)
    second = earlier(run, "20260103-000000", seed=2, sampler="unipc-3")
    third = earlier(run, "20260104-000000", seed=1, task="vary", picture="a.png")
    at = open_page("pages/sample.py")
    at.checkbox(key=f"compare_{key_of(first)}").check().run()
    assert "Comparison" not in [s.value for s in at.header]
    at.checkbox(key=f"compare_{key_of(second)}").check().run()
    assert "Comparison" in [s.value for s in at.header]
    assert sampler_comparison.differences(first, second) == [("Seed", "1", "2"), ("Sampler", "ddim", "unipc-3")]
    at.checkbox(key=f"compare_{key_of(third)}").check().run()  # takes the place of the first
    assert [at.checkbox(key=f"compare_{key_of(job)}").value for job in (first, second, third)] == [False, True, True]
    labels = {row[0] for row in sampler_comparison.differences(first, third)}
    assert labels == {"Task", "Input image", "Strength"}
    at.checkbox(key=f"compare_{key_of(third)}").uncheck().run()
    assert "Comparison" not in [s.value for s in at.header]


def test_the_same_settings_are_said_to_be(run: Run) -> None:
    earlier(run)
    theirs = earlier(run, "20260103-000000", sampler="auto", use_ddim=True)  # the same in other words
    at = open_page("pages/sample.py")
    for name in ("20260102-030405", theirs.name):
        at.checkbox(key=f"compare_shapes/{name}").check().run()
    assert "sampled with the same settings" in said(at)


def upload(at, content: bytes):  # type: ignore[no-untyped-def]
    field = next(f for f in at.get("file_uploader") if "sampled by this program" in f.label)
    field.set_value([("star.png", content, "image/png")]).run()
    assert not at.exception, at.exception


def test_settings_out_of_a_image(run: Run, fake_run: Callable[..., Run]) -> None:
    job = earlier(run, seed=41, steps=15, eta=0.5)
    at = open_page("pages/sample.py", run="shapes")
    upload(at, job.images[1].read_bytes())
    assert at.number_input(key="sample.seed").value == 41
    assert at.slider(key="sample.eta").value == 0.5
    assert (
        at.success[0].value.replace("\\", "")
        == "The settings have been loaded: sampled from shapes with ema_0.9 of step 40."
    )
    other = fake_run("other", diffusion_steps=1000)
    found = dict(
        recipe(run, SampleConfig()), checkpoint=dict(recipe(run, SampleConfig())["checkpoint"], sha256="0" * 64)
    )
    kind, sentence = reopen.origin(other, found)
    assert kind == "warning"
    assert "was sampled from shapes with ema_0.9 of step 40, but the selected run is other" in sentence
    kind, sentence = reopen.origin(run, found)
    assert "which shapes no longer has" in sentence
    odd: list[object] = [[], {}, 7, None]
    for value in odd:  # of another program
        found["checkpoint"]["sha256"] = value
        assert reopen.origin(run, found) == (kind, sentence)


def test_a_image_without_settings(run: Run) -> None:
    at = open_page("pages/sample.py")
    upload(at, images.encode_png(np.zeros((8, 8, 3), np.uint8)))
    assert "star.png carries no settings" in said(at)
    reported = dict(recipe(run, SampleConfig()), format=10**6)
    upload(at, images.encode_png(np.zeros((8, 8, 3), np.uint8), reported))
    assert "newer version" in said(at)


def test_what_each_was_is_reported_in_short(run: Run) -> None:
    def describe(**settings: object) -> str:
        return summary.describe(run.config, SampleConfig(**{"num_samples": 4, "steps": 10, **settings}))  # type: ignore[arg-type]

    assert describe(sampler="heun", steps=11, guidance_scale=2.5) == "4 images · Heun, 11 NFE, guidance 2.5 · seed 0"
    assert (
        describe(task="interpolate", sampler="plms", to_seed=3) == "Interpolate · 4 images · PLMS, 10 NFE · seed 0 to 3"
    )
    assert describe(task="invert", num_samples=1) == "Invert · 1 image · DDIM, 20 NFE"
    assert describe(sampler="ddpm", classes="star,ring") == "4 images · DDPM, 10 NFE · seed 0 · star, ring"


def test_no_two_are_called_alike(run: Run) -> None:
    """A choice is found by its label, and of two that are alike the wrong one would be shown."""
    names = ("20260102-030405", "20260102-030406", "20260102-030406-2", "by hand")
    labels = [job_progress.started_at(earlier(run, name)) for name in names]
    assert len({*labels}) == 4
    assert labels[3] == "by hand"


def test_settings_come_with_the_checkpoint_that_they_were_used_with(run: Run) -> None:
    sample, saved = SampleConfig(num_samples=3), run.checkpoints()
    old, newest = saved[0], saved[-1]
    assert old.step < newest.step

    def origin(step: int, weights: str = "ema_0.9", of: Checkpoint = old) -> dict[str, object]:
        return {"step": step, "weights": weights, "sha256": of.files[of.path("ema_0.9").name]["sha256"]}

    for about, found in (
        (origin(old.step), (old.step, "ema_0.9")),
        (origin(newest.step, of=newest), (0, "")),
        (origin(7), (0, "")),
        (origin(old.step, "ema_0.1"), (0, "")),
        (origin(old.step, of=newest), (0, "")),  # of another run
        ({}, (0, "")),
        (None, (0, "")),
    ):
        pinned = reopen.pinned(sample, about, saved)
        assert (pinned.step, pinned.weights) == found


def test_what_was_chosen_is_offered_however_old_it_is(run: Run) -> None:
    jobs = [SampleJob(run.folder / "samples" / f"{k:03}") for k in range(inputs_form.NEWEST + 5)]
    assert inputs_form.listed(jobs, None) == jobs[: inputs_form.NEWEST]
    assert inputs_form.listed(jobs, jobs[-1].name) == [*jobs[: inputs_form.NEWEST], jobs[-1]]


def test_one_at_a_time_whatever_is_shown(run: Run) -> None:
    earlier(run)
    other = earlier(run, "20260102-030406", state="running")
    with Worker(other.folder) as worker:
        worker.beat(state="running", step=3, total_steps=10, now=True)
        at = open_page("pages/sample.py")
        at.button(key="show_shapes/20260102-030405").click().run()
        assert button(at, "Sample").disabled
        assert at.button(key=f"cancel-samples-{other.name}")
